// berthd: the manager of one user's VMs (docs/manager.md). Started by berth when it is first
// needed, or by systemd:
//
//     berthd
//
// SIGTERM and SIGINT end it; the VMs run on, and the next one finds them.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "manager/manager.h"

enum { STATUS_USAGE = 2, STATUS_HOST = 3 };

struct program {
    struct loop *loop;
    struct loop_fd signals;
    struct manager manager;
};

static void log_to_stderr(enum log_level level, const char *line)
{
    fprintf(stderr, "berthd: %s\n", line);
}

static void signal_ready(void *opaque, uint32_t events)
{
    struct program *program = opaque;
    loop_stop(program->loop);
}

static err_t take_signals(struct program *program, struct error *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return error_set(e, ERR_IO, "cannot receive signals: %s", strerror(errno));
    program->signals =
        (struct loop_fd){.fd = fd, .events = EPOLLIN, .ready = signal_ready, .opaque = program};
    return loop_fd_add(program->loop, &program->signals, e);
}

// Each running VM takes two descriptors here.
static void allow_many_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static err_t run(struct program *program, struct error *e)
{
    err_t err = loop_new(&program->loop, e);
    if (!err)
        err = take_signals(program, e);
    if (!err)
        err = manager_open(&program->manager, program->loop, e);
    if (!err)
        err = manager_serve(&program->manager, e);
    if (!err)
        loop_run(program->loop);
    manager_close(&program->manager);
    return err;
}

int main(int argc, char **argv)
{
    struct program program = {.manager.claim = REGISTRY_NO_CLAIM, .signals.fd = -1};
    struct error e = {0};
    if (argc > 1) {
        bool version = !strcmp(argv[1], "--version");
        fprintf(version ? stdout : stderr, version ? "berthd %s\n" : "usage: berthd\n",
                BERTH_VERSION);
        return version ? 0 : STATUS_USAGE;
    }
    log_to(log_to_stderr, LOG_INFO);
    umask(077);
    allow_many_descriptors();
    err_t err = run(&program, &e);
    if (err)
        fprintf(stderr, "berthd: %s\n", e.text);
    if (program.signals.fd >= 0) {
        loop_fd_remove(program.loop, &program.signals);
        close(program.signals.fd);
    }
    loop_free(program.loop);
    return err ? STATUS_HOST : 0;
}
