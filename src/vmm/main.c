// berth-vmm: one process, one VM. Started by berth with the VM's definition on an inherited
// descriptor:
//
//     berth-vmm --definition FD [--control FD]
//
// with, on another, the socket that it listens on for requests (docs/control.md).
// For tests of the sandbox: berth-vmm --self-test-sandbox main|vcpu|block makes a system call that
// is not allowed there, and must die of SIGSYS.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "host/sandbox.h"
#include "host/thread.h"
#include "vmm/run.h"

// From here on in this order. The process gives up what it does not need before it reads what
// others wrote, and is locked in before the first guest instruction.
static err_t (*const steps[])(struct run *run, struct error *e) = {
    run_make_loop,     run_open_streams, run_build_vm, run_serve,
    run_take_terminal, run_lock_in,      run_guest,
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

static int run_vm(int definition, int control)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return VMM_HOST_FAILED;
    run->control_fd = control;
    struct error e = {0};
    int status = VMM_HOST_FAILED;
    const int keep[] = {definition, control};
    err_t err = sandbox_enter(keep, ARRAY_LEN(keep), &e);
    host_thread_guard(sandbox_confine);
    log_to(log_to_stderr, LOG_INFO);
    if (!err)
        err = run_read_definition(run, definition, &e);
    for (size_t i = 0; !err && i < ARRAY_LEN(steps); i++)
        err = steps[i](run, &e);
    if (err) {
        status = fail(run, &e);
    } else {
        status = run->status;
        run_release(run);
    }
    free(run);
    return status;
}

static int self_test_sandbox(const char *name)
{
    static const char *const names[] = {
        [HOST_THREAD_MAIN] = "main", [HOST_THREAD_VCPU] = "vcpu", [HOST_THREAD_BLOCK] = "block"};
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
    if (argc == 3 && !strcmp(argv[1], "--definition"))
        return run_vm(atoi(argv[2]), -1);
    if (argc == 5 && !strcmp(argv[1], "--definition") && !strcmp(argv[3], "--control"))
        return run_vm(atoi(argv[2]), atoi(argv[4]));
    if (argc == 3 && !strcmp(argv[1], "--self-test-sandbox"))
        return self_test_sandbox(argv[2]);
    fprintf(stderr, "berth-vmm %s is started by berth; try berth run --help\n", BERTH_VERSION);
    return VMM_USAGE;
}
