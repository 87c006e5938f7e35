// berthd: the manager of one user's VMs (docs/manager.md). Started by berth when it is first
// needed, or by systemd:
//
//     berthd [--listen ADDRESS:PORT [--tls-cert FILE --tls-key FILE]]
//
// SIGTERM and SIGINT end it; the VMs run on, and the next one finds them.
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "manager/groups.h"
#include "manager/manager.h"

enum { STATUS_USAGE = 2, STATUS_HOST = 3 };

struct program {
    struct loop *loop;
    struct loop_fd signals;
    struct manager manager;
    struct web_options web;
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
    static const int signals[] = {SIGTERM, SIGINT, 0};
    signal(SIGHUP, SIG_IGN);
    program->signals = (struct loop_fd){.ready = signal_ready, .opaque = program};
    return loop_signals(program->loop, &program->signals, signals, e);
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
        err = web_open(&program->manager, &program->web, e);
    if (!err)
        loop_run(program->loop);
    manager_close(&program->manager);
    return err;
}

static const char usage[] =
    "usage: berthd [--listen ADDRESS:PORT [--tls-cert FILE --tls-key FILE]]\n"
    "\n"
    "Manages this user's VMs, for the berth command, the REST API and the web page. berth starts "
    "it\n"
    "when it is first needed; VMs outlive it.\n"
    "\n"
    "      --listen ADDRESS:PORT   serve HTTPS there, too, for who has a token (berth token "
    "create)\n"
    "      --tls-cert FILE         PEM certificate; without, a self-signed one is made and kept\n"
    "      --tls-key FILE          its key\n"
    "      --leave-groups          only divide this control group no more, for ExecStopPost=\n"
    "      --version               print the version\n";

// -1: go on; else the exit status.
static int parse(int argc, char **argv, struct web_options *web)
{
    static const struct option options[] = {{"listen", required_argument, NULL, 'l'},
                                            {"tls-cert", required_argument, NULL, 'c'},
                                            {"tls-key", required_argument, NULL, 'k'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"leave-groups", no_argument, NULL, 'g'},
                                            {0}};
    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (o) {
        case 'l': web->listen = optarg; break;
        case 'c': web->certificate = optarg; break;
        case 'k': web->key = optarg; break;
        case 'V': printf("berthd %s\n", BERTH_VERSION); return 0;
        case 'g': return groups_undivide(GROUPS_ROOT) ? 0 : STATUS_HOST;
        case 'h': fputs(usage, stdout); return 0;
        default: fputs(usage, stderr); return STATUS_USAGE;
        }
    }
    if (optind == argc && !web->certificate == !web->key && (web->listen || !web->key))
        return -1;
    fputs(optind < argc ? usage : "berthd: --listen, --tls-cert and --tls-key go together\n",
          stderr);
    return STATUS_USAGE;
}

int main(int argc, char **argv)
{
    struct program program = {.manager.claim = REGISTRY_NO_CLAIM, .signals.fd = -1};
    struct error e = {0};
    int status = parse(argc, argv, &program.web);
    if (status >= 0)
        return status;
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
