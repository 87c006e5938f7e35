// Namespaces, empty roots, capabilities. clone(2), user_namespaces(7), fsmount(2), capset(2),
// prctl(2) (PR_SCHED_CORE). Not modelled: a namespace of time, since a VM's clocks are the host's.
#include "host/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK (64 * KIB)
#define NAMESPACES \
    (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

// --- ids

// Each range that we have ourselves, under its own number. False: there is none.
static bool copy_map(const char *path, char *map, size_t size)
{
    unsigned inside, outside, count;
    size_t len = 0;
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%u %u %u", &inside, &outside, &count) == 3 && len + 64 < size)
        len += (size_t)snprintf(map + len, size - len, "%u %u %u\n", inside, inside, count);
    if (f)
        fclose(f);
    return len > 0;
}

// The kernel takes a map by one write only.
static bool put(pid_t child, const char *file, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)child, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t len = (ssize_t)strlen(text);
    bool done = fd >= 0 && write(fd, text, (size_t)len) == len;
    close(fd);
    return done;
}

// Root's child has all users that we have, since it opens files of others; anybody else's only the
// one, as root of its own namespace, so that exec leaves it the capabilities to set that up.
static bool give_ids(pid_t child)
{
    char users[1024], groups[1024];
    if (geteuid() == 0 && copy_map("/proc/self/uid_map", users, sizeof users) &&
        copy_map("/proc/self/gid_map", groups, sizeof groups))
        return put(child, "uid_map", users) && put(child, "gid_map", groups);
    snprintf(users, sizeof users, "0 %u 1\n", geteuid());
    snprintf(groups, sizeof groups, "0 %u 1\n", getegid());
    return put(child, "uid_map", users) && put(child, "setgroups", "deny") &&
           put(child, "gid_map", groups);
}

// --- the child

// It borrows our memory, errno included: so one of the two always waits for the other. They do so
// at the ends of a pair of sockets: ours and the child's.
struct birth {
    const struct isolate_options *options;
    int ours, childs;
};

static int begin(void *opaque)
{
    const struct birth *birth = opaque;
    char go;
    close(birth->ours);
    if (read(birth->childs, &go, 1) != 1)
        _exit(1);
    return birth->options->run(birth->options->opaque);
}

// Until it has exec'd, which closes its end, or ended.
static void release(const struct birth *birth)
{
    char none;
    if (send(birth->ours, "", 1, MSG_NOSIGNAL) == 1) {
        while (read(birth->ours, &none, 1) < 0 && errno == EINTR)
            ;
    }
}

static pid_t start(const struct isolate_options *options, void *stack, int namespaces)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    struct birth birth = {options, pair[0], pair[1]};
    pid_t child = clone(begin, (char *)stack + STACK, CLONE_VM | SIGCHLD | namespaces, &birth);
    int error = child < 0 ? errno : 0;
    close(pair[1]);
    if (child > 0 && namespaces && !give_ids(child))
        error = errno;
    if (!error)
        release(&birth);
    close(pair[0]); // one that was not released ends
    if (child > 0 && error)
        waitpid(child, NULL, 0);
    errno = error;
    return error ? -1 : child;
}

pid_t isolate_start(const struct isolate_options *options, int *refusal)
{
    void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        return -1;
    pid_t child = start(options, stack, NAMESPACES | (options->same_pids ? 0 : CLONE_NEWPID));
    *refusal = child < 0 ? errno : 0;
    if (child < 0)
        child = start(options, stack, 0);
    int error = errno;
    munmap(stack, STACK);
    errno = error;
    return child;
}

// --- the child's program

int isolate_prepare(void)
{
    prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, 1 /* the process: PIDTYPE_TGID */, 0);
    int fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
        close(fs);
        return -1;
    }
    int root =
        (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
                     MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    close(fs);
    return root;
}

err_t isolate_empty_root(int root, struct error *e)
{
    if (root < 0)
        return OK;
    if (fchdir(root) == 0 && chroot(".") == 0)
        return OK;
    return error_set(e, ERR_UNSUPPORTED, "cannot give up the host's files: %s", strerror(errno));
}

void isolate_drop_capabilities(unsigned keep)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (syscall(SYS_capget, &header, data) < 0)
        return;
    for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        data[i].permitted &= i ? 0 : keep;
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    syscall(SYS_capset, &header, data);
}

pid_t isolate_host_pid(void)
{
    char number[16] = "";
    ssize_t len = readlink("/proc/self", number, sizeof number - 1);
    return len > 0 ? atoi(number) : getpid();
}

// --- what can be had

static int succeed(void *opaque)
{
    _exit(0);
}

int isolate_probe(void)
{
    const struct isolate_options options = {.run = succeed};
    int refusal = 0;
    pid_t child = isolate_start(&options, &refusal);
    if (child < 0)
        return errno;
    waitpid(child, NULL, 0);
    return refusal;
}

int isolate_probe_core(void)
{
    unsigned long long cookie;
    return prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, 0, &cookie) == 0 ? 0 : errno;
}
