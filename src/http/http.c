// The listeners: a libmicrohttpd daemon each, run by the loop. libmicrohttpd's epoll descriptor is
// one of the loop's, and its next time limit a timer of the loop's, so that there is no thread.
//
// libmicrohttpd drops a connection on which nothing happens; one on which a byte happens now and
// then is ours to drop: each request must arrive whole within a limit.
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/clock.h"
#include "http/http_impl.h"

#define ARRIVAL (20 * NS_PER_SEC) // of the first request, from the connection on
#define IDLE (60 * NS_PER_SEC)    // of a later one, from the last answer on
#define SILENCE_SECONDS 30u       // without a byte either way
#define MEMORY (32 * KIB)         // of one connection: headers must fit

// --- connections

struct connection {
    struct listener *listener;
    struct loop_timer timer;
    int fd;
    bool allowed;
};

// libmicrohttpd then sees the end of the connection and clears it away.
static void too_late(void *opaque)
{
    struct connection *connection = opaque;
    shutdown(connection->fd, SHUT_RDWR);
}

static bool peer_allowed(const struct listener *listener, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (!listener->local)
        return true;
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
           (peer.uid == listener->user || peer.uid == 0);
}

static void connection_notify(void *opaque, struct MHD_Connection *c, void **context,
                              enum MHD_ConnectionNotificationCode what)
{
    struct listener *listener = opaque;
    struct connection *connection = *context;
    struct loop *loop = listener->http->options.loop;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED && connection) {
        loop_timer_set(loop, &connection->timer, NS_NEVER);
        free(connection);
        *context = NULL;
    }
    if (what != MHD_CONNECTION_NOTIFY_STARTED || !(connection = calloc(1, sizeof *connection)))
        return;
    connection->listener = listener;
    connection->fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    connection->allowed = peer_allowed(listener, connection->fd);
    connection->timer = (struct loop_timer){.fire = too_late, .opaque = connection};
    loop_timer_set(loop, &connection->timer, host_now() + ARRIVAL);
    *context = connection;
}

static struct connection *connection_of(struct MHD_Connection *c)
{
    return MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

bool connection_allowed(struct MHD_Connection *c)
{
    const struct connection *connection = connection_of(c);
    return connection && connection->allowed;
}

static void set_timer(struct MHD_Connection *c, uint64_t when)
{
    struct connection *connection = connection_of(c);
    if (connection)
        loop_timer_set(connection->listener->http->options.loop, &connection->timer, when);
}

void connection_arrived(struct MHD_Connection *c)
{
    set_timer(c, NS_NEVER);
}

void connection_idle(struct MHD_Connection *c)
{
    set_timer(c, host_now() + IDLE);
}

// --- a listener on the loop

static void run(struct listener *listener)
{
    MHD_UNSIGNED_LONG_LONG ms;
    MHD_run(listener->mhd);
    bool some = MHD_get_timeout(listener->mhd, &ms) == MHD_YES;
    loop_timer_set(listener->http->options.loop, &listener->timer,
                   some ? host_now() + ms * NS_PER_MS : NS_NEVER);
}

static void ready(void *opaque, uint32_t events)
{
    run(opaque);
}

static void fire(void *opaque)
{
    run(opaque);
}

static void again(void *opaque)
{
    run(opaque);
}

void listener_kick(struct listener *listener)
{
    loop_post(listener->http->options.loop, &listener->again);
}

// Addresses and arguments are ours to decode (route.c): libmicrohttpd is to leave them alone.
static size_t keep(void *opaque, struct MHD_Connection *c, char *text)
{
    return strlen(text);
}

static void *begin(void *opaque, const char *target, struct MHD_Connection *c)
{
    return exchange_begin(opaque, target, c);
}

static struct MHD_Daemon *start(struct listener *listener, int fd, const char *certificate,
                                const char *key)
{
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)key},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
        {MHD_OPTION_PER_IP_CONNECTION_LIMIT, CONNECTIONS_PER_ADDRESS, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE |
                     (certificate ? MHD_USE_TLS : 0u);
    return MHD_start_daemon(
        flags, 0, NULL, NULL, exchange_answer, listener, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, SILENCE_SECONDS,
        MHD_OPTION_NOTIFY_CONNECTION, connection_notify, listener, MHD_OPTION_URI_LOG_CALLBACK,
        begin, listener, MHD_OPTION_NOTIFY_COMPLETED, exchange_end, listener,
        MHD_OPTION_UNESCAPE_CALLBACK, keep, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_ARRAY, certificate ? tls : none,
        MHD_OPTION_END);
}

static err_t add(struct http *http, int fd, const char *certificate, const char *key,
                 struct error *e)
{
    struct listener *listener = &http->listener[http->listeners];
    if (http->listeners == LISTENERS_MAX)
        return error_set(e, ERR_INVALID, "at most %d addresses to listen on", LISTENERS_MAX);
    *listener = (struct listener){.http = http, .local = !certificate, .user = geteuid()};
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0); // libmicrohttpd's own, also where it fails
    if (copy < 0)
        return error_set(e, err_from_errno(errno), "cannot serve HTTP: %s", strerror(errno));
    listener->mhd = start(listener, copy, certificate, key);
    if (!listener->mhd) {
        close(copy);
        return error_set(e, ERR_INVALID, "cannot serve HTTP%s",
                         certificate ? "S; are certificate and key a pair of PEM files?" : "");
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(listener->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    listener->fd = (struct loop_fd){
        .fd = info->epoll_fd, .events = EPOLLIN, .ready = ready, .opaque = listener};
    listener->timer = (struct loop_timer){.fire = fire, .opaque = listener};
    listener->again = (struct loop_work){.run = again, .opaque = listener};
    err_t err = loop_fd_add(http->options.loop, &listener->fd, e);
    if (err) {
        MHD_stop_daemon(listener->mhd);
        return err;
    }
    http->listeners++;
    close(fd);
    run(listener);
    return OK;
}

err_t http_listen_local(struct http *http, int fd, struct error *e)
{
    return add(http, fd, NULL, NULL, e);
}

err_t http_listen_tls(struct http *http, int fd, const char *certificate, const char *key,
                      struct error *e)
{
    return add(http, fd, certificate, key, e);
}

// --- all of it

err_t http_new(const struct http_options *options, struct http **out, struct error *e)
{
    struct http *http = calloc(1, sizeof *http);
    if (!http)
        return error_set(e, ERR_NO_MEMORY, "no memory for the HTTP server");
    http->options = *options;
    *out = http;
    return OK;
}

void http_free(struct http *http)
{
    if (!http)
        return;
    http->ending = true;
    exchange_end_waiting(http);
    stream_end_all(http);
    websocket_end_all(http);
    for (unsigned i = 0; i < http->listeners; i++) {
        struct listener *listener = &http->listener[i];
        loop_timer_set(http->options.loop, &listener->timer, NS_NEVER);
        loop_fd_remove(http->options.loop, &listener->fd);
        MHD_run(listener->mhd); // takes back what was suspended or upgraded
        MHD_stop_daemon(listener->mhd);
    }
    free(http);
}

void http_tell(struct http *http, const char *line, size_t len)
{
    stream_tell(http, line, len);
}
