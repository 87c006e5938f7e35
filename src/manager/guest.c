// Programs in guests, over HTTP: whole, as one request with one answer; or as a stream of the
// agent's own protocol (docs/formats/agent.md), for whoever wants streams, a terminal or files.
//
// The manager reads nothing that a guest says: a process of berth exec talks to the agent, with
// bounded output and time.
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "control/agent_wire.h"
#include "host/clock.h"
#include "host/passing.h"
#include "manager/manager.h"

#define WORDS_MAX 64   // of a command
#define OUTPUT_MAX MIB // of a program, as JSON
#define RUNNING_MAX 32 // programs at a time
#define SECONDS_DEFAULT 60
#define KILL_STATUS 3

// One berth exec.
struct execution {
    struct manager *manager;
    struct promise *promise;
    struct loop_fd out, watch; // what it says; its pidfd
    struct loop_timer timer;
    struct buffer text;
    pid_t pid;
    bool late, long_winded, ended;
    int status;
    struct execution *next;
};

// --- its end

static void close_fd(struct loop *loop, struct loop_fd *fd)
{
    if (fd->fd < 0)
        return;
    loop_fd_remove(loop, fd);
    close(fd->fd);
    fd->fd = -1;
}

static void destroy(struct execution *x)
{
    struct loop *loop = x->manager->loop;
    for (struct execution **p = &x->manager->executions; *p; p = &(*p)->next) {
        if (*p == x) {
            *p = x->next;
            break;
        }
    }
    loop_timer_set(loop, &x->timer, NS_NEVER);
    close_fd(loop, &x->out);
    close_fd(loop, &x->watch);
    buffer_release(&x->text);
    free(x);
}

static err_t why_not(const struct execution *x, struct error *e)
{
    static const char prefix[] = "berth: ";
    const char *text = x->text.len ? (const char *)x->text.data : "it was killed\n";
    size_t skip = strncmp(text, prefix, strlen(prefix)) ? 0 : strlen(prefix);
    if (x->late)
        return error_set(e, ERR_BUSY, "the command has not ended in time; give it more seconds");
    if (x->long_winded)
        return error_set(e, ERR_UNSUPPORTED,
                         "the command says more than fits into an answer; use the stream 'agent'");
    return error_set(e, x->status == 2 ? ERR_INVALID : ERR_UNSUPPORTED, "%.*s",
                     (int)strcspn(text + skip, "\n"), text + skip);
}

static void settle(struct execution *x)
{
    struct error e;
    struct promise *promise = x->promise;
    buffer_append(&x->text, "", 1);
    json_t *result = x->late || x->long_winded || x->text.failed
                         ? NULL
                         : json_loads((const char *)x->text.data, 0, NULL);
    if (!json_is_object(result)) {
        json_decref(result);
        result = NULL;
        (void)why_not(x, &e);
    }
    destroy(x);
    promise_settle(promise, result, &e);
}

static void has_ended(void *opaque, uint32_t events)
{
    struct execution *x = opaque;
    siginfo_t info = {0};
    waitid(P_PIDFD, (id_t)x->watch.fd, &info, WEXITED | WNOHANG);
    x->status = info.si_code == CLD_EXITED ? info.si_status : KILL_STATUS;
    x->ended = true;
    close_fd(x->manager->loop, &x->watch);
    if (x->out.fd < 0)
        settle(x);
}

static void has_said(void *opaque, uint32_t events)
{
    struct execution *x = opaque;
    uint8_t data[16 * KIB];
    ssize_t n = read(x->out.fd, data, sizeof data);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0 && x->text.len + (size_t)n <= OUTPUT_MAX) {
        buffer_append(&x->text, data, (size_t)n);
        return;
    }
    x->long_winded = n > 0;
    close_fd(x->manager->loop, &x->out);
    if (x->long_winded && !x->ended)
        kill(x->pid, SIGKILL);
    if (x->ended)
        settle(x);
}

static void time_is_up(void *opaque)
{
    struct execution *x = opaque;
    x->late = true;
    if (!x->ended)
        kill(x->pid, SIGKILL);
    close_fd(x->manager->loop, &x->out); // somebody else may hold it open
    if (x->ended)
        settle(x);
}

void executions_end(struct manager *manager)
{
    while (manager->executions) {
        struct execution *x = manager->executions;
        struct error e;
        (void)!error_set(&e, ERR_IO, "the manager ends; ask again");
        struct promise *promise = x->promise;
        if (!x->ended && !kill(x->pid, SIGKILL))
            waitpid(x->pid, NULL, 0);
        destroy(x);
        promise_settle(promise, NULL, &e);
    }
}

// --- its beginning

struct words {
    const char *word[WORDS_MAX + 16];
    unsigned count;
};

static void add(struct words *w, const char *word)
{
    w->word[w->count++] = word;
}

static void add_option(struct words *w, const json_t *args, const char *name, const char *option)
{
    const char *value = request_text(args, name, NULL);
    if (!value)
        return;
    add(w, option);
    add(w, value);
}

static err_t make_words(const json_t *args, const struct managed *m, struct words *w,
                        struct error *e)
{
    const json_t *command = json_object_get(args, "command");
    size_t n = json_array_size(command);
    *w = (struct words){0};
    if (!n || n > WORDS_MAX)
        return error_set(e, ERR_INVALID, "command: give from 1 to %d words", WORDS_MAX);
    add(w, "berth");
    add(w, "exec");
    add(w, "--json");
    add_option(w, args, "user", "--user");
    add_option(w, args, "dir", "--dir");
    add(w, "--wait");
    add(w, "0");
    add(w, m->name);
    add(w, "--");
    for (size_t i = 0; i < n; i++)
        add(w, json_string_value(json_array_get(command, i)));
    return OK;
}

static int spawn(struct execution *x, const struct words *w, int out)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
    int failed = posix_spawn(&x->pid, x->manager->berth, &actions, &attributes,
                             (char *const *)w->word, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return failed;
}

static err_t begin(struct execution *x, const struct words *w, struct error *e)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return error_set(e, ERR_IO, "cannot make a pipe: %s", strerror(errno));
    fcntl(ends[1], F_SETFL, 0);
    x->out = (struct loop_fd){.fd = ends[0], .events = EPOLLIN, .ready = has_said, .opaque = x};
    int failed = spawn(x, w, ends[1]);
    close(ends[1]);
    if (failed) {
        close(ends[0]);
        return error_set(e, err_from_errno(failed), "cannot start '%s': %s", x->manager->berth,
                         strerror(failed));
    }
    int pidfd = (int)syscall(SYS_pidfd_open, x->pid, 0);
    x->watch = (struct loop_fd){.fd = pidfd, .events = EPOLLIN, .ready = has_ended, .opaque = x};
    err_t err = pidfd < 0 ? error_set(e, ERR_IO, "cannot watch a process: %s", strerror(errno))
                          : loop_fd_add(x->manager->loop, &x->watch, e);
    if (!err)
        err = loop_fd_add(x->manager->loop, &x->out, e);
    if (err) {
        kill(x->pid, SIGKILL);
        waitpid(x->pid, NULL, 0);
    }
    return err;
}

static err_t find_agent(struct manager *manager, const json_t *args, struct managed **out,
                        struct error *e)
{
    err_t err = managed_find(manager, request_text(args, "vm", ""), out, e);
    if (!err && !(*out)->link)
        err = error_set(e, ERR_INVALID, "'%s' does not run; berth start %s starts it", (*out)->name,
                        (*out)->name);
    if (!err && !(*out)->agent)
        err = error_set(e, ERR_UNSUPPORTED,
                        "the guest of '%s' has no agent, or none yet; man berth-exec says how it "
                        "gets one",
                        (*out)->name);
    return err;
}

static bool too_many(const struct manager *manager)
{
    unsigned n = 0;
    for (const struct execution *x = manager->executions; x; x = x->next)
        n++;
    return n >= RUNNING_MAX;
}

err_t exec_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    struct managed *m;
    struct words w;
    err_t err = find_agent(manager, args, &m, e);
    if (!err)
        err = make_words(args, m, &w, e);
    if (!err && too_many(manager))
        err = error_set(e, ERR_BUSY, "too many commands run in guests; try again later");
    struct execution *x = err ? NULL : calloc(1, sizeof *x);
    if (!err && !x)
        err = error_set(e, ERR_NO_MEMORY, "no memory for a command");
    if (err)
        return err;
    *x = (struct execution){.manager = manager, .out = {.fd = -1}, .watch = {.fd = -1}};
    x->timer = (struct loop_timer){.fire = time_is_up, .opaque = x};
    err = begin(x, &w, e);
    if (err) {
        free(x);
        return err;
    }
    x->next = manager->executions;
    manager->executions = x;
    x->promise = reply_later(reply);
    loop_timer_set(manager->loop, &x->timer,
                   host_now() +
                       (uint64_t)request_number(args, "seconds", SECONDS_DEFAULT) * NS_PER_SEC);
    return OK;
}

// --- the stream

// The VM takes its end of the stream over a connection of its own, since a descriptor goes along,
// and closes it where it cannot.
static err_t hand_over(int control, int end, struct error *e)
{
    char line[64];
    int len =
        snprintf(line, sizeof line, "{\"request\":\"vsock-connect\",\"port\":%d}\n", AGENT_PORT);
    return passing_send(control, line, (size_t)len, end, MSG_DONTWAIT) == len
               ? OK
               : error_set(e, ERR_BUSY, "the VM does not listen; try again");
}

err_t agent_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    int ends[2], control = -1;
    err_t err = find_agent(context, args, &m, e);
    if (!err)
        err = registry_connect(REGISTRY_VM, m->name, &control, e);
    if (err)
        return err;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        close(control);
        return error_set(e, ERR_IO, "cannot make a pair of sockets: %s", strerror(errno));
    }
    err = hand_over(control, ends[1], e);
    close(control);
    close(ends[1]);
    if (err)
        close(ends[0]);
    else
        reply->fd = ends[0];
    return err;
}
