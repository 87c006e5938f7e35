// Logs, the shared console and the outcome of one VM. Everything that comes in is written by a
// guest or by a VM's process that may be its guest's: it is copied, never believed, and bounded. A
// viewer that does not read misses what has left the backlog meanwhile.
#include "cli/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "host/file.h"
#include "host/passing.h"

#define LOG_MAX (1 * MIB)
#define LOCK "lock"
#define LOCK_FD 3 // where the manager puts it
#define OUTCOME "outcome"
#define STEP 16384

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

// --- logs

static void log_open(struct kept_log *log)
{
    struct stat st;
    log->fd = openat(log->folder, log->name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW,
                     0600);
    log->size = log->fd >= 0 && fstat(log->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
}

// A full disk costs words, not the VM.
static void log_write(struct kept_log *log, const char *data, size_t len)
{
    char old[32];
    if (log->fd < 0)
        return;
    (void)!host_write_all(log->fd, data, len);
    log->size += len;
    if (log->size < LOG_MAX)
        return;
    snprintf(old, sizeof old, "%s.1", log->name);
    shut(&log->fd);
    renameat(log->folder, log->name, log->folder, old);
    log_open(log);
}

// --- beginning

void keeper_init(struct keeper *keeper)
{
    *keeper = (struct keeper){.folder = -1,
                              .lock = -1,
                              .said = {-1, -1},
                              .out = -1,
                              .vm = -1,
                              .vm_end = -1,
                              .listener = -1,
                              .console = {.folder = -1, .name = "console.log", .fd = -1},
                              .log = {.folder = -1, .name = "log", .fd = -1}};
    for (size_t i = 0; i < KEEPER_VIEWERS; i++)
        keeper->viewer[i].fd = -1;
}

static bool is_inherited(int folder)
{
    struct stat ours, theirs;
    return fstat(LOCK_FD, &ours) == 0 && fstatat(folder, LOCK, &theirs, AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static err_t take_lock(struct keeper *keeper, const char *folder, struct error *e)
{
    if (is_inherited(keeper->folder))
        keeper->lock = LOCK_FD;
    else
        keeper->lock = openat(keeper->folder, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (keeper->lock < 0)
        return error_set(e, err_from_errno(errno), "cannot write in '%s': %s", folder,
                         strerror(errno));
    fcntl(keeper->lock, F_SETFD, FD_CLOEXEC);
    if (flock(keeper->lock, LOCK_EX | LOCK_NB) < 0)
        return error_set(e, ERR_BUSY, "'%s' is another VM's; give --keep a folder of its own",
                         folder);
    char pid[24];
    int len = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (ftruncate(keeper->lock, 0) < 0 || pwrite(keeper->lock, pid, (size_t)len, 0) != len)
        return error_set(e, ERR_IO, "cannot write in '%s': %s", folder, strerror(errno));
    return OK;
}

// From here on standard output is the log, for this process and the VM's; the old one stays only
// until the VM can be talked to.
static err_t take_output(struct keeper *keeper, struct error *e)
{
    if (pipe2(keeper->said, O_CLOEXEC | O_NONBLOCK) < 0)
        return error_set(e, err_from_errno(errno), "cannot make a pipe: %s", strerror(errno));
    fcntl(keeper->said[1], F_SETFL, 0); // writers wait
    keeper->out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 4);
    if (dup2(keeper->said[1], STDOUT_FILENO) < 0)
        return error_set(e, ERR_IO, "cannot take standard output over: %s", strerror(errno));
    signal(SIGPIPE, SIG_IGN);
    return OK;
}

err_t keeper_keep(struct keeper *keeper, const char *folder, struct error *e)
{
    keeper->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (keeper->folder < 0)
        return error_set(e, err_from_errno(errno), "cannot keep anything in '%s': %s", folder,
                         strerror(errno));
    err_t err = take_lock(keeper, folder, e);
    if (!err)
        err = take_output(keeper, e);
    if (err)
        return err;
    unlinkat(keeper->folder, OUTCOME, 0);
    keeper->console.folder = keeper->log.folder = keeper->folder;
    log_open(&keeper->console);
    log_open(&keeper->log);
    return OK;
}

err_t keeper_share(struct keeper *keeper, int listener, struct error *e)
{
    int ends[2];
    keeper->listener = listener;
    keeper->backlog = malloc(KEEPER_BACKLOG);
    if (!keeper->backlog ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends))
        return error_set(e, ERR_NO_MEMORY, "cannot make a console to share: %s", strerror(errno));
    keeper->vm = ends[0];
    keeper->vm_end = ends[1];
    return OK;
}

void keeper_ready(struct keeper *keeper)
{
    if (keeper->out >= 0)
        (void)!host_write_all(keeper->out, "\n", 1);
    shut(&keeper->out);
}

void keeper_become(const struct keeper *keeper)
{
    if (keeper->vm_end >= 0)
        fcntl(keeper->vm_end, F_SETFD, 0);
    if (keeper->said[1] >= 0)
        dup2(keeper->said[1], STDERR_FILENO);
}

void keeper_started(struct keeper *keeper)
{
    shut(&keeper->vm_end);
}

// --- the VM's words

static void take_line(struct keeper *keeper, const char *line, size_t len)
{
    json_t *event = json_loadb(line, len, 0, NULL);
    const char *name = json_string_value(json_object_get(event, "event"));
    const char *reason = json_string_value(json_object_get(event, "reason"));
    const char *text = json_string_value(json_object_get(event, "text"));
    if (name && (!strcmp(name, "stopped") || !strcmp(name, "failed"))) {
        snprintf(keeper->reason, sizeof keeper->reason, "%s", reason ? reason : "failed");
        snprintf(keeper->text, sizeof keeper->text, "%s", text ? text : "");
    }
    json_decref(event);
}

static void take_words(struct keeper *keeper, const char *data, size_t len)
{
    log_write(&keeper->log, data, len);
    for (size_t i = 0; i < len; i++) {
        if (data[i] != '\n') {
            if (keeper->line_len < sizeof keeper->line)
                keeper->line[keeper->line_len++] = data[i];
            continue;
        }
        if (keeper->line_len && keeper->line[0] == '{')
            take_line(keeper, keeper->line, keeper->line_len);
        keeper->line_len = 0;
    }
}

static bool read_words(struct keeper *keeper)
{
    char data[STEP];
    ssize_t n = read(keeper->said[0], data, sizeof data);
    if (n > 0)
        take_words(keeper, data, (size_t)n);
    return n > 0;
}

// --- the console

static void drop_viewer(struct keeper *keeper, size_t i)
{
    shut(&keeper->viewer[i].fd);
}

static bool may_attach(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void attach(struct keeper *keeper)
{
    int fd = accept4(keeper->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (size_t i = 0; fd >= 0 && may_attach(fd) && i < KEEPER_VIEWERS; i++) {
        if (keeper->viewer[i].fd >= 0)
            continue;
        keeper->viewer[i].fd = fd;
        keeper->viewer[i].at = keeper->total > KEEPER_BACKLOG ? keeper->total - KEEPER_BACKLOG : 0;
        return;
    }
    if (fd >= 0)
        close(fd);
}

static void show(struct keeper *keeper, size_t i)
{
    uint64_t *at = &keeper->viewer[i].at;
    while (keeper->viewer[i].fd >= 0 && *at < keeper->total) {
        if (keeper->total - *at > KEEPER_BACKLOG)
            *at = keeper->total - KEEPER_BACKLOG;
        size_t from = *at % KEEPER_BACKLOG, len = keeper->total - *at;
        if (len > KEEPER_BACKLOG - from)
            len = KEEPER_BACKLOG - from;
        ssize_t n =
            passing_send(keeper->viewer[i].fd, keeper->backlog + from, len, -1, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            drop_viewer(keeper, i);
        else
            *at += (uint64_t)n;
    }
}

static void take_output_of_guest(struct keeper *keeper, const char *data, size_t len)
{
    log_write(&keeper->console, data, len);
    for (size_t done = 0; done < len;) {
        size_t to = keeper->total % KEEPER_BACKLOG, n = len - done;
        if (n > KEEPER_BACKLOG - to)
            n = KEEPER_BACKLOG - to;
        memcpy(keeper->backlog + to, data + done, n);
        keeper->total += n;
        done += n;
    }
    for (size_t i = 0; i < KEEPER_VIEWERS; i++)
        show(keeper, i);
}

static bool read_console(struct keeper *keeper)
{
    char data[STEP];
    ssize_t n = recv(keeper->vm, data, sizeof data, MSG_DONTWAIT);
    if (n > 0)
        take_output_of_guest(keeper, data, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        shut(&keeper->vm);
    return n > 0;
}

static void type(struct keeper *keeper)
{
    ssize_t n = passing_send(keeper->vm, keeper->input, keeper->input_len, -1, MSG_DONTWAIT);
    if (n <= 0)
        return;
    keeper->input_len -= (size_t)n;
    memmove(keeper->input, keeper->input + n, keeper->input_len);
}

static void read_viewer(struct keeper *keeper, size_t i)
{
    ssize_t n = recv(keeper->viewer[i].fd, keeper->input + keeper->input_len,
                     sizeof keeper->input - keeper->input_len, MSG_DONTWAIT);
    if (n > 0)
        keeper->input_len += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        drop_viewer(keeper, i);
}

// --- waiting

unsigned keeper_poll(const struct keeper *keeper, struct pollfd *fds)
{
    bool room = keeper->input_len < sizeof keeper->input;
    fds[0] = (struct pollfd){.fd = keeper->said[0], .events = POLLIN};
    fds[1] = (struct pollfd){.fd = keeper->vm,
                             .events = (short)(POLLIN | (keeper->input_len ? POLLOUT : 0))};
    fds[2] = (struct pollfd){.fd = keeper->listener, .events = POLLIN};
    for (size_t i = 0; i < KEEPER_VIEWERS; i++) {
        bool behind = keeper->viewer[i].at < keeper->total;
        fds[3 + i] =
            (struct pollfd){.fd = room || behind ? keeper->viewer[i].fd : -1,
                            .events = (short)((room ? POLLIN : 0) | (behind ? POLLOUT : 0))};
    }
    return 3 + KEEPER_VIEWERS;
}

void keeper_work(struct keeper *keeper, const struct pollfd *fds)
{
    if (fds[0].revents)
        read_words(keeper);
    if (fds[1].revents & (POLLIN | POLLHUP | POLLERR))
        read_console(keeper);
    for (size_t i = 0; i < KEEPER_VIEWERS; i++) {
        short events = fds[3 + i].fd >= 0 ? fds[3 + i].revents : 0;
        if (events & POLLOUT)
            show(keeper, i);
        if (events & (POLLIN | POLLHUP | POLLERR) && keeper->viewer[i].fd >= 0 &&
            keeper->input_len < sizeof keeper->input)
            read_viewer(keeper, i);
    }
    if (fds[2].revents)
        attach(keeper);
    if (keeper->input_len && keeper->vm >= 0)
        type(keeper);
    if (keeper->vm < 0)
        keeper->input_len = 0;
}

// --- the end

static void write_outcome(struct keeper *keeper, int status)
{
    json_t *outcome =
        json_pack("{s:i, s:s, s:s}", "status", status, "reason",
                  keeper->reason[0] ? keeper->reason : "crashed", "text", keeper->text);
    char *text = outcome ? json_dumps(outcome, JSON_COMPACT) : NULL;
    json_decref(outcome);
    int fd = openat(keeper->folder, OUTCOME ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0 && text && !host_write_all(fd, text, strlen(text)))
        renameat(keeper->folder, OUTCOME ".new", keeper->folder, OUTCOME);
    shut(&fd);
    free(text);
}

void keeper_ended(struct keeper *keeper, int status)
{
    while (keeper->vm >= 0 && read_console(keeper))
        ;
    while (keeper->said[0] >= 0 && read_words(keeper))
        ;
    if (keeper->folder >= 0)
        write_outcome(keeper, status);
}

void keeper_release(struct keeper *keeper)
{
    shut(&keeper->listener);
    for (size_t i = 0; i < KEEPER_VIEWERS; i++)
        drop_viewer(keeper, i);
    shut(&keeper->vm);
    shut(&keeper->vm_end);
    shut(&keeper->out);
    shut(&keeper->said[0]);
    shut(&keeper->said[1]);
    shut(&keeper->console.fd);
    shut(&keeper->log.fd);
    shut(&keeper->folder);
    shut(&keeper->lock); // last: what it says is there
    free(keeper->backlog);
    keeper->backlog = NULL;
}
