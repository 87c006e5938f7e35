// Clients of the control socket. unix(7), SO_PEERCRED and SCM_RIGHTS.
//
// A client is hostile until proven dull: it is served one request at a time and only once it has
// read the answer to the one before, so that what it can make us keep is one line in and one answer
// (or a bounded queue of events) out. A line that is begun must be finished, and an answer taken,
// within a deadline.
#include "control/server.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "host/clock.h"
#include "host/passing.h"

#define CLIENTS_MAX 16
#define EVENTS_MAX (256 * KIB)     // waiting to be read by one client
#define DEADLINE (10 * NS_PER_SEC) // for the rest of a line, and for taking an answer
#define IDLE (120 * NS_PER_SEC)    // without a request, unless it listens to events

enum waits { WAITS_IDLE, WAITS_LINE, WAITS_OUTPUT, WAITS_ANSWER };

struct client {
    struct server *server;
    struct loop_fd fd;
    struct loop_timer timer;
    enum waits waits; // what the timer is for
    char *in;         // REQUEST_LINE_MAX + 1 bytes
    size_t in_len;
    struct buffer out;
    size_t sent;           // bytes of out
    int pass;              // descriptor to go with the next byte sent; -1: none
    int given;             // descriptor that came with what is in `in`; -1: none
    struct promise *later; // of the answer to its request; NULL: it waits for none
    json_t *id;            // of that request
    bool events;           // wants them
    bool ended;            // sends no more
    bool closing;          // once out has been sent
    bool broken;           // to be dropped, but perhaps not on this stack
    struct client *next;
};

struct server {
    struct loop *loop;
    struct loop_fd listener;
    const struct request *table;
    void *context;
    uid_t user;
    struct client *clients;
    unsigned count, clients_max;
};

// --- life of a client

static void drop(struct client *c)
{
    struct server *server = c->server;
    for (struct client **p = &server->clients; *p; p = &(*p)->next) {
        if (*p == c) {
            *p = c->next;
            break;
        }
    }
    server->count--;
    loop_timer_set(server->loop, &c->timer, NS_NEVER);
    loop_fd_remove(server->loop, &c->fd);
    close(c->fd.fd);
    if (c->pass >= 0)
        close(c->pass);
    if (c->given >= 0)
        close(c->given);
    if (c->later)
        promise_forget(c->later);
    json_decref(c->id);
    buffer_release(&c->out);
    free(c->in);
    free(c);
}

static void too_late(void *opaque)
{
    drop(opaque);
}

static size_t unsent(const struct client *c)
{
    return c->out.len - c->sent;
}

// progress: something was done for the client since the timer was set.
static void watch(struct client *c, bool progress)
{
    if (c->broken)
        return;
    enum waits waits = unsent(c)   ? WAITS_OUTPUT
                       : c->later  ? WAITS_ANSWER
                       : c->in_len ? WAITS_LINE
                                   : WAITS_IDLE;
    uint32_t events = unsent(c) ? EPOLLOUT : c->ended || c->later ? 0 : EPOLLIN;
    loop_fd_set(c->server->loop, &c->fd, events);
    if (waits == c->waits && !progress)
        return;
    c->waits = waits;
    uint64_t when = host_now() + (waits == WAITS_IDLE ? IDLE : DEADLINE);
    bool patient = waits == WAITS_ANSWER || (waits == WAITS_IDLE && c->events);
    loop_timer_set(c->server->loop, &c->timer, patient ? NS_NEVER : when);
}

// --- output

// False: the client is gone.
static bool flush(struct client *c)
{
    while (unsent(c)) {
        ssize_t n = passing_send(c->fd.fd, c->out.data + c->sent, unsent(c), c->pass, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        c->sent += (size_t)n;
        if (c->pass >= 0) {
            close(c->pass);
            c->pass = -1;
        }
    }
    c->out.len = c->sent = 0;
    return true;
}

// What has been sent leaves the buffer, so that it holds no more than what waits.
static void compact(struct client *c)
{
    c->out.len -= c->sent;
    memmove(c->out.data, c->out.data + c->sent, c->out.len);
    c->sent = 0;
}

static bool queue(struct client *c, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return false;
    size_t len = strlen(text);
    text[len] = '\n'; // in place of the end
    buffer_append(&c->out, text, len + 1);
    free(text);
    return !c->out.failed;
}

static bool refuse(struct client *c, const struct error *e)
{
    c->closing = true;
    return queue(c, request_refusal(NULL, e));
}

// --- input

static void settled(void *opaque, json_t *result, const struct error *e);

static bool handle(struct client *c, const char *line, size_t len)
{
    struct reply reply;
    json_t *answer =
        request_handle(c->server->table, c->server->context, line, len, c->given, &reply);
    c->given = -1;
    c->events |= reply.events;
    if (reply.later) {
        c->later = reply.later;
        c->id = reply.id;
        promise_await(c->later, settled, c);
        return true;
    }
    if (!queue(c, answer)) {
        if (reply.fd >= 0)
            close(reply.fd);
        return false;
    }
    c->pass = reply.fd;
    return true;
}

// Handles complete lines until an answer waits to be taken.
static bool handle_lines(struct client *c, bool *progress)
{
    while (!unsent(c) && !c->closing && !c->later) {
        char *end = memchr(c->in, '\n', c->in_len);
        if (!end)
            break;
        size_t len = (size_t)(end - c->in);
        *progress = true;
        if (len && !handle(c, c->in, len))
            return false;
        c->in_len -= len + 1;
        memmove(c->in, end + 1, c->in_len);
        if (!flush(c))
            return false;
    }
    if (c->in_len <= REQUEST_LINE_MAX || unsent(c) || c->closing || c->later)
        return true;
    struct error e;
    (void)!error_set(&e, ERR_INVALID, "a request is longer than %llu bytes",
                     (unsigned long long)REQUEST_LINE_MAX);
    return refuse(c, &e) && flush(c);
}

static void keep_given(struct client *c, int fd)
{
    if (c->given >= 0)
        close(c->given);
    c->given = fd;
}

static bool receive(struct client *c)
{
    int fd;
    unsigned count;
    ssize_t n = passing_receive(c->fd.fd, c->in + c->in_len, REQUEST_LINE_MAX + 1 - c->in_len, &fd,
                                1, &count, MSG_DONTWAIT);
    if (count)
        keep_given(c, fd);
    if (n > 0)
        c->in_len += (size_t)n;
    else if (n == 0)
        c->ended = true;
    return n >= 0 || errno == EAGAIN || errno == EINTR;
}

// Nothing more will come, and nothing more is owed.
static bool done(const struct client *c)
{
    return !unsent(c) && !c->later && (c->closing || (c->ended && !c->events));
}

// What the client has to be told, or asks next, once the answer that it waited for is there.
static void settled(void *opaque, json_t *result, const struct error *e)
{
    struct client *c = opaque;
    bool progress = true;
    c->later = NULL;
    bool alive = !c->broken && queue(c, request_answer(c->id, result, e));
    json_decref(c->id);
    c->id = NULL;
    if (alive && flush(c) && handle_lines(c, &progress) && !done(c))
        watch(c, progress);
    else
        drop(c);
}

static void client_ready(void *opaque, uint32_t events)
{
    struct client *c = opaque;
    size_t before = unsent(c);
    bool alive = flush(c);
    bool progress = unsent(c) < before;
    if (alive && events & EPOLLIN && !unsent(c) && !c->later)
        alive = receive(c);
    if (alive)
        alive = handle_lines(c, &progress);
    if (alive && events & (EPOLLHUP | EPOLLERR) && (c->ended || c->later))
        alive = false;
    if (!alive || c->broken || done(c))
        drop(c);
    else
        watch(c, progress);
}

// --- arrivals

static err_t check_peer(const struct server *server, int fd, struct error *e)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return error_set(e, ERR_DENIED, "cannot tell who asks");
    if (peer.uid != server->user && peer.uid != 0)
        return error_set(e, ERR_DENIED, "it belongs to another user");
    return server->count < server->clients_max
               ? OK
               : error_set(e, ERR_BUSY, "%u programs talk to it already; try again later",
                           server->clients_max);
}

static void tell_and_close(int fd, const struct error *e)
{
    json_t *answer = request_refusal(NULL, e);
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    if (text) {
        size_t len = strlen(text);
        text[len] = '\n';
        ssize_t ignored = write(fd, text, len + 1);
        (void)ignored;
    }
    free(text);
    json_decref(answer);
    close(fd);
}

static err_t welcome(struct server *server, int fd, struct error *e)
{
    err_t err = check_peer(server, fd, e);
    if (err)
        return err;
    struct client *c = calloc(1, sizeof *c);
    char *in = malloc(REQUEST_LINE_MAX + 1);
    if (!c || !in) {
        free(c);
        free(in);
        return error_set(e, ERR_NO_MEMORY, "no memory for one more client");
    }
    *c = (struct client){
        .server = server, .in = in, .pass = -1, .given = -1, .next = server->clients};
    c->fd = (struct loop_fd){.fd = fd, .events = EPOLLIN, .ready = client_ready, .opaque = c};
    c->timer = (struct loop_timer){.fire = too_late, .opaque = c};
    err = loop_fd_add(server->loop, &c->fd, e);
    if (err) {
        free(in);
        free(c);
        return err;
    }
    server->clients = c;
    server->count++;
    watch(c, true);
    return OK;
}

static void arrival(void *opaque, uint32_t events)
{
    struct server *server = opaque;
    int fd = accept4(server->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct error e;
    if (fd >= 0 && welcome(server, fd, &e))
        tell_and_close(fd, &e);
}

// --- the server

err_t server_new(const struct server_options *options, struct server **out, struct error *e)
{
    struct server *server = calloc(1, sizeof *server);
    if (!server)
        return error_set(e, ERR_NO_MEMORY, "no memory for the control socket");
    *server =
        (struct server){.loop = options->loop,
                        .table = options->table,
                        .context = options->context,
                        .clients_max = options->clients_max ? options->clients_max : CLIENTS_MAX,
                        .user = geteuid()};
    server->listener = (struct loop_fd){
        .fd = options->listen_fd, .events = EPOLLIN, .ready = arrival, .opaque = server};
    err_t err = loop_fd_add(server->loop, &server->listener, e);
    if (err) {
        free(server);
        return err;
    }
    *out = server;
    return OK;
}

static void linger(struct client *c, uint64_t until)
{
    while (flush(c) && unsent(c)) {
        uint64_t now = host_now();
        struct pollfd ready = {.fd = c->fd.fd, .events = POLLOUT};
        if (now >= until || poll(&ready, 1, (int)((until - now) / NS_PER_MS) + 1) <= 0)
            return;
    }
}

void server_free(struct server *server, int flush_ms)
{
    if (!server)
        return;
    uint64_t until = host_now() + (uint64_t)flush_ms * NS_PER_MS;
    while (server->clients) {
        linger(server->clients, until);
        drop(server->clients);
    }
    loop_fd_remove(server->loop, &server->listener);
    close(server->listener.fd);
    free(server);
}

// A handler may be what tells, so a client is not dropped here but by its timer.
static void tell(struct client *c, const char *line, size_t len)
{
    bool first = !unsent(c);
    if (c->sent)
        compact(c);
    if (unsent(c) + len <= EVENTS_MAX)
        buffer_append(&c->out, line, len);
    else
        c->broken = true;
    if (c->out.failed || !flush(c))
        c->broken = true;
    if (c->broken)
        loop_timer_set(c->server->loop, &c->timer, 0);
    else
        watch(c, first);
}

void server_tell(struct server *server, const char *line, size_t len)
{
    for (struct client *c = server->clients; c; c = c->next) {
        if (c->events && !c->broken)
            tell(c, line, len);
    }
}
