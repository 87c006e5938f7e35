// The sandbox at work: installs the system-call filters that sandbox_rules.c describes and the
// build has compiled, landlock(7) by raw system calls, prctl(2), setrlimit(2). seccomp(2).
#include "host/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "host/isolate.h"
#include "host/sandbox_filter.h"
#include "sandbox_filters.h"

// A sanitizer's run-time makes system calls of its own (at the end even ptrace) and reads /proc, so
// such a build, which is for tests only, leaves filters and Landlock out.
static const bool filters_on = !BERTH_SANITIZED;

#define GROWTH (512 * MIB) // of a VM that runs, in private memory
#define DESCRIPTORS 1024   // of a VM's process

// --- seccomp

struct program {
    const struct sock_filter *insns;
    size_t count;
};

#define PROGRAM(filter)             \
    {                               \
        (filter), ARRAY_LEN(filter) \
    }

static const struct program setup = PROGRAM(setup_filter);
static const struct program classes[] = {
    [HOST_THREAD_MAIN] = PROGRAM(main_filter),       [HOST_THREAD_VCPU] = PROGRAM(vcpu_filter),
    [HOST_THREAD_DISPLAY] = PROGRAM(display_filter), [HOST_THREAD_BLOCK] = PROGRAM(block_filter),
    [HOST_THREAD_SWITCH] = PROGRAM(switch_filter),   [HOST_THREAD_NAT] = PROGRAM(nat_filter)};

// Puts the process's number where the filters have room for it. Errno, or 0.
static int install(const struct program *program)
{
    struct sock_filter insns[512];
    struct sock_fprog prog = {.len = (unsigned short)program->count, .filter = insns};
    if (program->count > ARRAY_LEN(insns))
        return E2BIG;
    memcpy(insns, program->insns, program->count * sizeof *insns);
    for (size_t i = 0; i < program->count; i++)
        if (insns[i].k == FILTER_PID)
            insns[i].k = (uint32_t)getpid();
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0 ? 0 : errno;
}

// --- Landlock

static int landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version < 0 ? 0 : (int)version;
}

// Lets files below a directory be read. One that is not there needs no leave.
static bool allow_reading(int rules, const char *folder)
{
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return true;
    const struct landlock_path_beneath_attr beneath = {
        .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE, .parent_fd = fd};
    bool done = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) == 0;
    close(fd);
    return done;
}

// Where the host's name servers are kept: the file itself, and what it is a link to.
static bool allow_resolver(int rules)
{
    static const char *const folders[] = {"/etc", "/run/systemd/resolve", "/run/NetworkManager",
                                          "/run/resolvconf", "/run/connman"};
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        if (!allow_reading(rules, folders[i]))
            return false;
    }
    return true;
}

// A rule set that handles all file access of its first version and allows none of it, but for what
// a network's way out follows while it runs. True also where there is no Landlock: the filters do
// not depend on it.
static bool deny_files(enum host_thread_class thread_class)
{
    if (!filters_on || !landlock_version())
        return true;
    const struct landlock_ruleset_attr attr = {
        .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1}; // its highest right
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (rules < 0)
        return false;
    bool done = thread_class != HOST_THREAD_NAT || allow_resolver(rules);
    done = done && syscall(SYS_landlock_restrict_self, rules, 0) == 0;
    close(rules);
    return done;
}

// --- the steps

static void probe_seccomp(struct sandbox_layer *layer)
{
    const uint32_t action = SECCOMP_RET_KILL_PROCESS;
    layer->usable = syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
    if (layer->usable)
        snprintf(layer->detail, sizeof layer->detail, "filters by %s%s", FILTERS_MADE_BY,
                 filters_on ? "" : ", off in this sanitizer build");
    else
        snprintf(layer->detail, sizeof layer->detail, "the kernel has no seccomp filters");
}

static void probe_landlock(struct sandbox_layer *layer)
{
    layer->usable = landlock_version() > 0;
    if (layer->usable) {
        snprintf(layer->detail, sizeof layer->detail, "version %d", landlock_version());
        return;
    }
    snprintf(layer->detail, sizeof layer->detail, "the kernel was built or started without it");
    snprintf(layer->fix, sizeof layer->fix, "add landlock to the kernel's lsm= parameter");
}

static void probe_namespaces(struct sandbox_layer *layer)
{
    int error = isolate_probe();
    layer->usable = !error;
    if (layer->usable) {
        snprintf(layer->detail, sizeof layer->detail,
                 "users, mounts, processes, network, IPC, host name, control groups");
        return;
    }
    snprintf(layer->detail, sizeof layer->detail, "the host refuses them: %s", strerror(error));
    snprintf(
        layer->fix, sizeof layer->fix,
        "allow user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
        "kernel.apparmor_restrict_unprivileged_userns, or the container's profile");
}

static void probe_core(struct sandbox_layer *layer)
{
    int error = isolate_probe_core();
    layer->usable = !error;
    if (error == ENODEV)
        snprintf(layer->detail, sizeof layer->detail, "this CPU runs one thread a core");
    else if (error)
        snprintf(layer->detail, sizeof layer->detail,
                 "the kernel was built without CONFIG_SCHED_CORE");
}

void sandbox_probe(struct sandbox_layer layers[SANDBOX_LAYERS])
{
    static const char *const names[] = {[SANDBOX_SECCOMP] = "seccomp",
                                        [SANDBOX_LANDLOCK] = "landlock",
                                        [SANDBOX_NO_NEW_PRIVS] = "no_new_privs",
                                        [SANDBOX_NAMESPACES] = "namespaces",
                                        [SANDBOX_CORE] = "core scheduling"};
    for (unsigned i = 0; i < SANDBOX_LAYERS; i++)
        layers[i] = (struct sandbox_layer){.name = names[i]};
    probe_seccomp(&layers[SANDBOX_SECCOMP]);
    probe_landlock(&layers[SANDBOX_LANDLOCK]);
    layers[SANDBOX_NO_NEW_PRIVS].usable = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0;
    probe_namespaces(&layers[SANDBOX_NAMESPACES]);
    probe_core(&layers[SANDBOX_CORE]);
}

// Closes the gaps between those that stay, lowest first.
static void close_strays(const int *keep, size_t keeps)
{
    unsigned from = 3;
    for (;;) {
        unsigned next = ~0u;
        for (size_t i = 0; i < keeps; i++) {
            if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
                next = (unsigned)keep[i];
        }
        if (next > from)
            close_range(from, next - (next != ~0u), 0);
        if (next == ~0u)
            return;
        from = next + 1;
    }
}

err_t sandbox_shed(const int *keep, size_t keeps, struct error *e)
{
    close_strays(keep, keeps);
    mallopt(M_ARENA_MAX, 1);           // other arenas open a file of /proc before they shrink
    const struct rlimit none = {1, 1}; // 0 does not count where cores go to a program
    setrlimit(RLIMIT_CORE, &none);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_set(e, ERR_UNSUPPORTED, "cannot give up privileges: %s", strerror(errno));
    return OK;
}

err_t sandbox_enter(const int *keep, size_t keeps, struct error *e)
{
    err_t err = sandbox_shed(keep, keeps, e);
    if (err || !filters_on)
        return err;
    int result = install(&setup);
    if (result)
        return error_set(e, ERR_UNSUPPORTED,
                         "cannot install the system-call filter: %s; Berth needs a kernel (and a "
                         "container) with seccomp",
                         strerror(result));
    return OK;
}

// What is allocated now, and room for what a VM's clients, screens and pauses still ask for.
static void limit_growth(void)
{
    unsigned long long data = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    bool known = f && fscanf(f, "%*u %*u %*u %*u %*u %llu", &data) == 1;
    if (f)
        fclose(f);
    const struct rlimit memory = {.rlim_cur = data * 4096 + GROWTH,
                                  .rlim_max = data * 4096 + GROWTH};
    if (known && filters_on)
        setrlimit(RLIMIT_DATA, &memory);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max = min_u64(files.rlim_cur, DESCRIPTORS);
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

err_t sandbox_seal(int root, struct error *e)
{
    limit_growth();
    if (filters_on)
        return isolate_empty_root(root, e);
    close(root);
    return OK;
}

void sandbox_confine(enum host_thread_class thread_class)
{
    isolate_drop_capabilities(thread_class == HOST_THREAD_NAT ? 1u << CAP_NET_BIND_SERVICE : 0);
    if (!deny_files(thread_class) || (filters_on && install(&classes[thread_class]))) {
        static const char words[] = "berth: cannot confine a thread: stopped\n";
        ssize_t ignored = write(STDERR_FILENO, words, sizeof words - 1);
        (void)ignored;
        abort();
    }
}
