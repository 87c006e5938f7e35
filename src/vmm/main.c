// berth-vmm: one process, one VM. Started by berth with the VM's definition on an inherited
// descriptor:
//
//     berth-vmm --definition FD [--control FD] [--port FD]... [--vnc FD] [--shared FD] [--cages 1]
//
// with, on others, the sockets that it listens on: for requests (docs/control.md) and for viewers
// of the screen (docs/display.md); and one end of a shared console. --cages: user programs of the
// guest may run directly, so that what they run in must be prepared. For tests of the sandbox:
// berth-vmm --self-test-sandbox main|vcpu|display|block makes a system call that is not allowed
// there, and must die of SIGSYS.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "host/isolate.h"
#include "host/memory.h"
#include "host/sandbox.h"
#include "host/thread.h"
#include "vmm/run.h"

// From here on in this order. The process gives up what it does not need before it reads what
// others wrote, and is locked in before the first guest instruction.
static err_t (*const steps[])(struct run *run, struct error *e) = {
    run_make_loop, run_open_streams,  run_build_vm, run_serve, run_plug,
    run_show,      run_take_terminal, run_lock_in,  run_guest,
};

static void log_to_stderr(enum log_level level, const char *line)
{
    static const char *const names[] = {[LOG_ERROR] = "error: ",
                                        [LOG_WARN] = "warning: ",
                                        [LOG_INFO] = "",
                                        [LOG_DEBUG] = "debug: "};
    const struct events words = {0};
    events_say(&words, "%s%s", names[level], line);
}

// The definition asks for what is not there or cannot be: the person's to change. All else is the
// host.
static int status_of(err_t err)
{
    return err == ERR_INVALID || err == ERR_NOT_FOUND || err == ERR_EXISTS || err == ERR_CORRUPT
               ? VMM_USAGE
               : VMM_HOST_FAILED;
}

static int fail(struct run *run, const struct error *e)
{
    int status = status_of(e->code);
    events_tell(&run->events, "failed", "s:s, s:i", "text", e->text, "status", status);
    events_say(&run->events, "%s", e->text);
    run_release(run);
    return status;
}

// Descriptors from berth; -1 where there is none.
struct inherited {
    int definition, control, vnc, shared;
    int cages;             // 1: prepare for direct execution
    int port[VM_NICS_MAX]; // of the network cards, in their order
};

static bool read_descriptors(int argc, char **argv, struct inherited *out)
{
    const struct {
        const char *option;
        int *fd;
    } known[] = {
        {"--definition", &out->definition}, {"--control", &out->control}, {"--vnc", &out->vnc},
        {"--shared", &out->shared},         {"--cages", &out->cages},
    };
    *out = (struct inherited){-1, -1, -1, -1, -1};
    memset(out->port, -1, sizeof out->port);
    size_t ports = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port") && ports < ARRAY_LEN(out->port)) {
            out->port[ports++] = atoi(argv[i + 1]);
            continue;
        }
        size_t k = 0;
        while (k < ARRAY_LEN(known) && strcmp(argv[i], known[k].option))
            k++;
        if (k == ARRAY_LEN(known))
            return false;
        *known[k].fd = atoi(argv[i + 1]);
    }
    return argc % 2 && out->definition >= 0;
}

// Without them all code is translated.
static void prepare_cages(struct run *run, bool wanted)
{
    signal(SIGCHLD, SIG_IGN); // a process that ends leaves nothing behind
    err_t err = wanted ? cages_start(&run->cages, &run->no_cages)
                       : error_set(&run->no_cages, ERR_UNSUPPORTED, "nothing was prepared for it");
    (void)err;
}

static int run_vm(const struct inherited *fds)
{
    struct run *run = host_sparse_new(sizeof *run); // much of it is buffers of network cards
    if (!run)
        return VMM_HOST_FAILED;
    host_tsc_look(&run->begun);
    run->control_fd = fds->control;
    run->vnc_fd = fds->vnc;
    run->shared_fd = fds->shared;
    memcpy(run->port_fd, fds->port, sizeof run->port_fd);
    struct error e = {0};
    int status = VMM_HOST_FAILED;
    run->pid = (int)isolate_host_pid();
    run->empty_root = isolate_prepare();
    prepare_cages(run, fds->cages > 0);
    int keep[6 + VM_NICS_MAX] = {fds->definition, fds->control,
                                 fds->vnc,        fds->shared,
                                 run->empty_root, run->cages ? cages_socket(run->cages) : -1};
    memcpy(keep + 6, fds->port, sizeof fds->port);
    err_t err = sandbox_enter(keep, ARRAY_LEN(keep), &e);
    host_thread_guard(sandbox_confine);
    log_to(log_to_stderr, LOG_INFO);
    if (!err)
        err = run_read_definition(run, fds->definition, &e);
    for (size_t i = 0; !err && i < ARRAY_LEN(steps); i++)
        err = steps[i](run, &e);
    if (err) {
        status = fail(run, &e);
    } else {
        status = run->status;
        run_release(run);
    }
    host_sparse_free(run, sizeof *run);
    return status;
}

static int self_test_sandbox(const char *name)
{
    static const char *const names[] = {[HOST_THREAD_MAIN] = "main",
                                        [HOST_THREAD_VCPU] = "vcpu",
                                        [HOST_THREAD_DISPLAY] = "display",
                                        [HOST_THREAD_BLOCK] = "block"};
    struct error e = {0};
    if (sandbox_enter(NULL, 0, &e)) {
        fprintf(stderr, "berth-vmm: %s\n", e.text);
        return VMM_HOST_FAILED;
    }
    for (int i = 0; i < (int)ARRAY_LEN(names); i++) {
        if (strcmp(names[i], name))
            continue;
        sandbox_confine((enum host_thread_class)i);
        syscall(SYS_socket, 1, 1, 0);
        return VMM_GUEST_FAILED; // still alive
    }
    return VMM_USAGE;
}

int main(int argc, char **argv)
{
    struct inherited fds;
    if (read_descriptors(argc, argv, &fds))
        return run_vm(&fds);
    if (argc == 3 && !strcmp(argv[1], "--self-test-sandbox"))
        return self_test_sandbox(argv[2]);
    fprintf(stderr, "berth-vmm %s is started by berth; try berth run --help\n", BERTH_VERSION);
    return VMM_USAGE;
}
