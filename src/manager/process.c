// Supervisors. posix_spawn(3), pidfd_open(2), flock(2). A process that an earlier manager started
// is no child of ours, so how it ended is never asked of the kernel: it leaves that in its folder.
#include "manager/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOCK_FD 3
#define PID_TRIES 100 // of a millisecond: a supervisor that has just started writes its id

static void shut(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void ended(void *opaque, uint32_t events)
{
    struct process *p = opaque;
    waitid(P_PIDFD, (id_t)p->watch.fd, &(siginfo_t){0}, WEXITED | WNOHANG); // only a child of ours
    process_release(p);
    p->ended(p->opaque);
}

void process_init(struct process *p, struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
    *p = (struct process){.loop = loop, .watch = {.fd = -1}, .ended = fn, .opaque = opaque};
}

static err_t watch(struct process *p, pid_t pid, struct error *e)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH ? error_set(e, ERR_NOT_FOUND, "no such process")
                              : error_set(e, ERR_IO, "cannot watch a process: %s", strerror(errno));
    p->pid = pid;
    p->watch = (struct loop_fd){.fd = fd, .events = EPOLLIN, .ready = ended, .opaque = p};
    err_t err = loop_fd_add(p->loop, &p->watch, e);
    if (err) {
        close(fd);
        p->watch.fd = -1;
    }
    return err;
}

static int open_in(const char *folder, const char *name, int flags)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

// --- starting

struct descriptors {
    int lock, out[2], said;
};

static err_t open_all(struct descriptors *d, const char *folder, struct error *e)
{
    *d = (struct descriptors){.lock = open_in(folder, PROCESS_LOCK, O_RDWR | O_CREAT),
                              .out = {-1, -1},
                              .said = open_in(folder, PROCESS_SAID, O_WRONLY | O_CREAT | O_TRUNC)};
    if (d->lock < 0 || d->said < 0 || pipe2(d->out, O_CLOEXEC) < 0)
        return error_set(e, err_from_errno(errno), "cannot use '%s': %s", folder, strerror(errno));
    if (flock(d->lock, LOCK_EX | LOCK_NB) < 0)
        return error_set(e, ERR_BUSY, "it is running already");
    return ftruncate(d->lock, 0) == 0 ? OK : error_set(e, ERR_IO, "cannot write '%s'", folder);
}

static int spawn(pid_t *pid, const char *path, char *const *argv, const char *folder,
                 const struct descriptors *d)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawn_file_actions_addchdir_np(&actions, folder);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, d->out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, d->said, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&actions, d->lock, LOCK_FD);
    int failed = posix_spawn(pid, path, &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return failed;
}

err_t process_start(struct process *p, const char *path, char *const *argv, const char *folder,
                    int *out, struct error *e)
{
    struct descriptors d;
    pid_t pid = -1;
    err_t err = open_all(&d, folder, e);
    int failed = err ? 0 : spawn(&pid, path, argv, folder, &d);
    if (failed)
        err = error_set(e, err_from_errno(failed), "cannot start '%s': %s", path, strerror(failed));
    if (!err)
        err = watch(p, pid, e);
    if (err && pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    shut(d.lock);
    shut(d.said);
    shut(d.out[1]);
    if (err)
        shut(d.out[0]);
    else
        *out = d.out[0];
    return err;
}

// --- finding

static pid_t read_pid(int fd)
{
    for (int i = 0; i < PID_TRIES; i++) {
        char text[24] = "";
        if (pread(fd, text, sizeof text - 1, 0) > 0 && strchr(text, '\n'))
            return (pid_t)atol(text);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return 0;
}

err_t process_adopt(struct process *p, const char *folder, struct error *e)
{
    int lock = open_in(folder, PROCESS_LOCK, O_RDONLY);
    if (lock < 0 || flock(lock, LOCK_SH | LOCK_NB) == 0) {
        shut(lock);
        return error_set(e, ERR_NOT_FOUND, "it does not run");
    }
    pid_t pid = read_pid(lock);
    err_t err = pid > 0 ? watch(p, pid, e) : error_set(e, ERR_NOT_FOUND, "it says no process id");
    // Its id may have become somebody else's, unless it still holds the lock.
    if (!err && flock(lock, LOCK_SH | LOCK_NB) == 0) {
        process_release(p);
        err = error_set(e, ERR_NOT_FOUND, "it has just ended");
    }
    close(lock);
    return err;
}

// --- while it runs

bool process_runs(const struct process *p)
{
    return p->watch.fd >= 0;
}

// "PID (NAME) STATE PARENT ...", where the name may hold anything.
bool process_has_child(const struct process *p, pid_t pid)
{
    char path[64], text[256];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = process_runs(p) && pid > 0 ? fopen(path, "re") : NULL;
    if (!f)
        return false;
    size_t len = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[len] = '\0';
    const char *name_end = strrchr(text, ')');
    return name_end && sscanf(name_end, ") %*c %d", &parent) == 1 && parent == p->pid;
}

void process_signal(const struct process *p, int signal)
{
    if (process_runs(p))
        syscall(SYS_pidfd_send_signal, p->watch.fd, signal, NULL, 0);
}

void process_release(struct process *p)
{
    if (!process_runs(p))
        return;
    loop_fd_remove(p->loop, &p->watch);
    close(p->watch.fd);
    p->watch.fd = -1;
}
