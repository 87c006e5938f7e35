// Watches over one berth-vmm: starts it, passes signals on, and gives the terminal back whatever
// happens. Should berth itself be killed, the kernel tells berth-vmm (PR_SET_PDEATHSIG), which then
// restores the terminal and ends. fork(2), sigwaitinfo(2), memfd_create(2).
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "host/file.h"
#include "host/terminal.h"

bool find_helper(const char *name, char *path, size_t size)
{
    ssize_t len = readlink("/proc/self/exe", path, size - 32);
    if (len > 0) {
        path[len] = '\0';
        char *slash = strrchr(path, '/');
        snprintf(slash + 1, size - (size_t)(slash + 1 - path), "%s", name);
        if (access(path, X_OK) == 0)
            return true;
    }
    snprintf(path, size, "%s/%s", BERTH_LIBEXECDIR, name);
    return access(path, X_OK) == 0;
}

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

static void watched_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGCHLD);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGQUIT);
}

// In the child, which borrows our memory until it is berth-vmm (vfork(2)). Signals have their
// default effect until berth-vmm receives them through a descriptor; before that there is nothing
// to tidy up.
_Noreturn static void become_vmm(const char *path, char *const *argv,
                                 const struct run_sockets *sockets, pid_t parent,
                                 const sigset_t *mask)
{
    prctl(PR_SET_PDEATHSIG, SIGHUP, 0, 0, 0);
    if (getppid() != parent)
        _exit(EXIT_HOST);
    sigprocmask(SIG_SETMASK, mask, NULL);
    fcntl(sockets->control, F_SETFD, 0); // they go along
    fcntl(sockets->vnc, F_SETFD, 0);
    execv(path, argv);
    complain(EXIT_HOST, "cannot start '%s': %s", path, strerror(errno));
    _exit(EXIT_HOST);
}

// A signal that a key made reached berth-vmm as well, since both are in the terminal's foreground
// group; one that somebody sent reached only us.
static void pass_on(pid_t child, const siginfo_t *info)
{
    if (info->si_code != SI_KERNEL)
        kill(child, info->si_signo);
}

static int wait_for(pid_t child, const sigset_t *signals)
{
    for (;;) {
        int status;
        if (waitpid(child, &status, WNOHANG) == child)
            return status;
        siginfo_t info;
        int signal = sigwaitinfo(signals, &info);
        if (signal > 0 && signal != SIGCHLD)
            pass_on(child, &info);
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
    if (signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGQUIT)
        return EXIT_GUEST; // stopped while it was still preparing
    return complain(EXIT_HOST, "the VM's process died: %s; please report this", strsignal(signal));
}

int run_supervise(const char *definition, bool terminal, const struct run_sockets *sockets)
{
    char path[4096];
    if (!find_helper("berth-vmm", path, sizeof path))
        return complain(EXIT_HOST,
                        "cannot find berth-vmm beside berth or in %s; install Berth "
                        "again, or run make",
                        BERTH_LIBEXECDIR);
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
    char numbers[3][16];
    snprintf(numbers[0], 16, "%d", fd);
    snprintf(numbers[1], 16, "%d", sockets->control);
    snprintf(numbers[2], 16, "%d", sockets->vnc);
    char *argv[] = {"berth-vmm", "--definition", numbers[0], "--control",
                    numbers[1],  "--vnc",        numbers[2], NULL};
    pid_t self = getpid(), child = vfork();
    if (child == 0)
        become_vmm(path, argv, sockets, self, &before);
    close(fd);
    if (child < 0)
        return complain(EXIT_HOST, "cannot start a process for the VM: %s", strerror(errno));
    int status = wait_for(child, &signals);
    host_terminal_restore(&saved);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return WIFEXITED(status) ? WEXITSTATUS(status) : died(WTERMSIG(status));
}
