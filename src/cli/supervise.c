// Watches over one berth-vmm: starts it, passes signals on, and gives the terminal back whatever
// happens. Should berth itself be killed, the kernel tells berth-vmm (PR_SET_PDEATHSIG), which then
// restores the terminal and ends. signalfd(2), memfd_create(2), pidfd_open(2).
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cables.h"
#include "cli/cli.h"
#include "cli/keeper.h"
#include "host/clock.h"
#include "host/file.h"
#include "host/isolate.h"
#include "host/program.h"
#include "host/terminal.h"

// The definition as a file without a name, read from its start by whoever inherits it.
static int definition_fd(const char *text)
{
    int fd = memfd_create("berth-definition", 0);
    if (fd < 0)
        return -1;
    if (host_write_all(fd, text, strlen(text)) || lseek(fd, 0, SEEK_SET) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

#define KILL_AFTER (2 * NS_PER_SEC)

static void watched_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGCHLD);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGQUIT);
}

#define ARGUMENTS_MAX (5 + VM_NICS_MAX) // options, each with a number

// berth-vmm's command line.
struct arguments {
    char *argv[2 * ARGUMENTS_MAX + 2];
    char number[ARGUMENTS_MAX][12];
    unsigned count;
};

static void add(struct arguments *a, char *option, int number)
{
    snprintf(a->number[a->count], sizeof a->number[0], "%d", number);
    a->argv[2 * a->count + 1] = option;
    a->argv[2 * a->count + 2] = a->number[a->count];
    a->count++;
}

// Preparing for it takes a process, which is too late once the VM's has read its definition.
static bool may_run_directly(const struct vm_config *config)
{
    struct vm_engine engine;
    const char *text = config->engine ? config->engine : "auto";
    return vm_engine_parse(text, &engine, NULL) == OK && engine.direct != VM_DIRECT_OFF &&
           strcmp(engine.name, "kvm") != 0;
}

static void describe(struct arguments *a, int definition, const struct run_sockets *sockets,
                     const struct cables *cables, const struct keeper *keeper)
{
    *a = (struct arguments){.argv = {"berth-vmm"}};
    add(a, "--definition", definition);
    add(a, "--control", sockets->control);
    add(a, "--vnc", sockets->vnc);
    add(a, "--shared", keeper->vm_end);
    add(a, "--cages", may_run_directly(cables->config));
    for (uint32_t i = 0; i < cables->config->nics; i++)
        add(a, "--port", cables->fd[i]);
}

// What the child needs until it is berth-vmm; it borrows our memory, so nothing here is its own.
struct child {
    const char *path;
    struct arguments arguments;
    const struct run_sockets *sockets;
    const struct cables *cables;
    const struct keeper *keeper;
    int parent;    // a descriptor of our process
    sigset_t mask; // of signals while it prepares
};

// Should we end before the kernel has been told to tell it, it is seen here.
static bool orphaned(const struct child *c)
{
    struct pollfd parent = {.fd = c->parent, .events = POLLIN};
    return poll(&parent, 1, 0) > 0;
}

static int become_vmm(void *opaque)
{
    const struct child *c = opaque;
    prctl(PR_SET_PDEATHSIG, SIGHUP, 0, 0, 0);
    if (orphaned(c))
        _exit(EXIT_HOST);
    sigprocmask(SIG_SETMASK, &c->mask, NULL);
    fcntl(c->sockets->control, F_SETFD, 0); // they go along
    fcntl(c->sockets->vnc, F_SETFD, 0);
    for (unsigned i = 0; i < ARRAY_LEN(c->cables->fd); i++)
        fcntl(c->cables->fd[i], F_SETFD, 0);
    keeper_become(c->keeper);
    execv(c->path, c->arguments.argv);
    complain(EXIT_HOST, "cannot start '%s': %s", c->path, strerror(errno));
    _exit(EXIT_HOST);
}

// A VM on a terminal shares our processes' numbers, and signals have their default effect until it
// receives them through a descriptor: before that there is nothing to tidy up. Elsewhere it is the
// first of its namespace, which has no default effects, so they wait.
static pid_t start_child(struct child *c, bool terminal, const sigset_t *before,
                         const sigset_t *watched)
{
    const struct isolate_options options = {.run = become_vmm, .opaque = c, .same_pids = terminal};
    int refusal;
    c->mask = terminal ? *before : *watched;
    c->parent = pidfd_open(getpid(), 0);
    pid_t child = isolate_start(&options, &refusal);
    int error = errno;
    close(c->parent);
    errno = error;
    return child;
}

// What a VM's process that hangs does not hear is followed by what cannot be overheard.
struct ending {
    uint64_t kill_at; // host_now(); NS_NEVER: nobody asked for an end at once
};

static void take_signals(int from, pid_t child, struct ending *ending)
{
    struct signalfd_siginfo info;
    while (read(from, &info, sizeof info) == sizeof info) {
        // A signal that a key made reached berth-vmm as well, since both are in the terminal's
        // foreground group; one that somebody sent reached only us.
        if (info.ssi_signo != SIGCHLD && info.ssi_code != SI_KERNEL)
            kill(child, (int)info.ssi_signo);
        if (info.ssi_signo == SIGQUIT || info.ssi_signo == SIGHUP)
            ending->kill_at = host_now() + KILL_AFTER;
    }
}

// In ms; -1: for ever.
static int patience(const struct ending *ending, const struct cables *cables)
{
    int wait = cables_wait(cables);
    uint64_t now = host_now();
    if (ending->kill_at == NS_NEVER)
        return wait;
    int left = ending->kill_at > now ? (int)((ending->kill_at - now) / NS_PER_MS) + 1 : 0;
    return wait < 0 || left < wait ? left : wait;
}

// Until the child has ended; returns its status.
static int wait_for(pid_t child, int signals, struct cables *cables, struct keeper *keeper)
{
    struct ending ending = {.kill_at = NS_NEVER};
    for (;;) {
        int status;
        if (waitpid(child, &status, WNOHANG) == child)
            return status;
        struct pollfd ready[2 + KEEPER_POLLS] = {{.fd = signals, .events = POLLIN},
                                                 {.fd = cables_fd(cables), .events = POLLIN}};
        unsigned kept = keeper_poll(keeper, ready + 2);
        int n = poll(ready, 2 + kept, patience(&ending, cables));
        if (host_now() >= ending.kill_at)
            kill(child, SIGKILL);
        if (n > 0 && ready[0].revents)
            take_signals(signals, child, &ending);
        if (n > 0)
            keeper_work(keeper, ready + 2);
        if (n == 0 || (n > 0 && ready[1].revents))
            cables_work(cables, n > 0);
    }
}

static int died(int signal)
{
    if (signal == SIGSYS)
        return complain(EXIT_HOST, "the VM's process made a forbidden system call and was killed; "
                                   "please report this");
    if (signal == SIGKILL)
        return complain(EXIT_HOST, "the VM's process was killed; if the host ran out of memory, "
                                   "try a smaller -m");
    if (signal == SIGBUS)
        return complain(EXIT_HOST, "the host had no memory for a page of the guest's, or that "
                                   "memory is damaged; its kernel's log says which");
    if (signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGQUIT)
        return EXIT_GUEST; // stopped while it was still preparing
    return complain(EXIT_HOST, "the VM's process died: %s; please report this", strsignal(signal));
}

int run_supervise(const char *definition, bool terminal, const struct run_sockets *sockets,
                  struct cables *cables, struct keeper *keeper)
{
    char path[4096];
    struct error e = {0};
    if (host_find_program("berth-vmm", path, sizeof path, &e))
        return complain(EXIT_HOST, "%s", e.text);
    int fd = definition_fd(definition);
    if (fd < 0)
        return complain(EXIT_HOST, "cannot pass on the VM's definition: %s", strerror(errno));
    struct host_terminal saved = {.fd = -1};
    if (terminal)
        host_terminal_save(&saved, STDIN_FILENO);

    sigset_t signals, before;
    watched_signals(&signals);
    signal(SIGCHLD, SIG_DFL); // whoever started us may have ignored it, and then no status is kept
    sigprocmask(SIG_BLOCK, &signals, &before);
    int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    struct child c = {.path = path, .sockets = sockets, .cables = cables, .keeper = keeper};
    describe(&c.arguments, fd, sockets, cables, keeper);
    terminal = terminal && isatty(STDIN_FILENO);
    pid_t child = signal_fd < 0 ? -1 : start_child(&c, terminal, &before, &signals);
    close(fd);
    if (child < 0)
        return complain(EXIT_HOST, "cannot start a process for the VM: %s", strerror(errno));
    cables_close_here(cables);
    keeper_started(keeper);
    cables_watch(cables);
    int status = wait_for(child, signal_fd, cables, keeper);
    host_terminal_restore(&saved);
    close(signal_fd);
    sigprocmask(SIG_SETMASK, &before, NULL);
    int result = WIFEXITED(status) ? WEXITSTATUS(status) : died(WTERMSIG(status));
    keeper_ended(keeper, result);
    return result;
}
