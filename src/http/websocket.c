// A stream of bytes as a WebSocket: what a serial console and a screen are to a browser. RFC 6455;
// the frames are libwslay's. Each message's bytes go to the stream, binary or text; what the stream
// sends becomes binary messages. Not modelled: extensions.
//
// Neither side makes us keep more than one message or PENDING bytes: the other one is not read
// until it has been taken.
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wslay/wslay.h>

#include "host/clock.h"
#include "http/http_impl.h"

#define MESSAGE_MAX (256 * KIB) // from the client
#define PENDING (64 * KIB)      // on its way to the client
#define PING (20 * NS_PER_SEC)  // how often; two without an answer, and it is gone
#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 1.3

struct websocket {
    struct http *http;
    struct listener *listener;
    struct MHD_UpgradeResponseHandle *upgrade;
    wslay_event_context_ptr frames;
    struct loop_fd client, stream;
    struct loop_timer timer;
    struct buffer early; // came with the handshake
    size_t early_taken;
    struct buffer in; // for the stream
    size_t in_sent;
    unsigned unanswered; // pings
    bool watched;        // the stream, by the loop
    bool ended;          // the stream: the client is told when it has all
    struct websocket *next;
};

static size_t unsent(const struct websocket *w)
{
    return w->in.len - w->in_sent;
}

// Not at all where nothing is wanted of it: a stream that has ended would say so for ever.
static bool watch_stream(struct websocket *w, uint32_t events)
{
    struct loop *loop = w->http->options.loop;
    struct error e;
    if (!events && w->watched) {
        loop_fd_remove(loop, &w->stream);
        w->watched = false;
    } else if (events && !w->watched) {
        w->stream.events = events;
        w->watched = !loop_fd_add(loop, &w->stream, &e);
    } else if (events) {
        loop_fd_set(loop, &w->stream, events);
    }
    return w->watched || !events;
}

static void drop(struct websocket *w)
{
    struct loop *loop = w->http->options.loop;
    for (struct websocket **p = &w->http->sockets; *p; p = &(*p)->next) {
        if (*p == w) {
            *p = w->next;
            break;
        }
    }
    loop_timer_set(loop, &w->timer, NS_NEVER);
    loop_fd_remove(loop, &w->client);
    watch_stream(w, 0);
    close(w->stream.fd);
    MHD_upgrade_action(w->upgrade, MHD_UPGRADE_ACTION_CLOSE);
    listener_kick(w->listener);
    wslay_event_context_free(w->frames);
    buffer_release(&w->early);
    buffer_release(&w->in);
    free(w);
}

// --- libwslay's side

static ssize_t client_recv(wslay_event_context_ptr frames, uint8_t *data, size_t len, int flags,
                           void *opaque)
{
    struct websocket *w = opaque;
    size_t early = w->early.len - w->early_taken;
    if (early) {
        len = len < early ? len : early;
        memcpy(data, w->early.data + w->early_taken, len);
        w->early_taken += len;
        return (ssize_t)len;
    }
    ssize_t n = unsent(w) ? -1 : recv(w->client.fd, data, len, MSG_DONTWAIT);
    if (n > 0) {
        w->unanswered = 0;
        return n;
    }
    bool later = unsent(w) || (n < 0 && (errno == EAGAIN || errno == EINTR));
    wslay_event_set_error(frames, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static ssize_t client_send(wslay_event_context_ptr frames, const uint8_t *data, size_t len,
                           int flags, void *opaque)
{
    struct websocket *w = opaque;
    ssize_t n = send(w->client.fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0)
        return n;
    bool later = errno == EAGAIN || errno == EINTR;
    wslay_event_set_error(frames, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static void client_message(wslay_event_context_ptr frames,
                           const struct wslay_event_on_msg_recv_arg *arg, void *opaque)
{
    struct websocket *w = opaque;
    if (!wslay_is_ctrl_frame(arg->opcode))
        buffer_append(&w->in, arg->msg, arg->msg_length);
}

// --- both ways

// What a stream no longer takes is dropped: it may still have something to say, and its end comes
// after that.
static void to_stream(struct websocket *w)
{
    while (unsent(w)) {
        ssize_t n =
            send(w->stream.fd, w->in.data + w->in_sent, unsent(w), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        w->in_sent = n < 0 ? w->in.len : w->in_sent + (size_t)n;
    }
    w->in.len = w->in_sent = 0;
}

static bool is_full(const struct websocket *w)
{
    return wslay_event_get_queued_msg_length(w->frames) >= PENDING;
}

static bool from_stream(struct websocket *w)
{
    uint8_t data[16 * 1024];
    if (w->ended || is_full(w) || !wslay_event_get_write_enabled(w->frames))
        return true;
    ssize_t n = recv(w->stream.fd, data, sizeof data, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    w->ended = n <= 0;
    if (w->ended)
        return true;
    const struct wslay_event_msg message = {WSLAY_BINARY_FRAME, data, (size_t)n};
    return !wslay_event_queue_msg(w->frames, &message);
}

static bool from_client(struct websocket *w)
{
    bool alive = !wslay_event_recv(w->frames) && !w->in.failed;
    to_stream(w);
    return alive;
}

// libwslay would send the close frame before the messages that wait.
static bool to_client(struct websocket *w)
{
    bool alive = !wslay_event_send(w->frames);
    if (alive && w->ended && wslay_event_get_write_enabled(w->frames) &&
        !wslay_event_want_write(w->frames))
        alive = !wslay_event_queue_close(w->frames, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0) &&
                !wslay_event_send(w->frames);
    return alive;
}

static void pump(struct websocket *w, bool client, bool stream)
{
    to_stream(w);
    bool alive = !client || from_client(w);
    if (alive && stream)
        alive = from_stream(w);
    if (alive)
        alive = to_client(w);
    bool reads = alive && wslay_event_want_read(w->frames),
         writes = alive && wslay_event_want_write(w->frames);
    bool closing = !wslay_event_get_write_enabled(w->frames);
    bool more = !w->ended && !closing && !is_full(w);
    if (!alive || (!reads && !writes) || (closing && !writes) ||
        !watch_stream(w, (more ? EPOLLIN : 0u) | (unsent(w) ? EPOLLOUT : 0u))) {
        drop(w);
        return;
    }
    loop_fd_set(w->http->options.loop, &w->client,
                (reads && !unsent(w) ? EPOLLIN : 0u) | (writes ? EPOLLOUT : 0u));
}

static void client_ready(void *opaque, uint32_t events)
{
    pump(opaque, true, false);
}

static void stream_ready(void *opaque, uint32_t events)
{
    pump(opaque, false, true);
}

static void ping(void *opaque)
{
    struct websocket *w = opaque;
    const struct wslay_event_msg message = {WSLAY_PING, NULL, 0};
    if (w->unanswered++ >= 2 || wslay_event_queue_msg(w->frames, &message)) {
        drop(w);
        return;
    }
    loop_timer_set(w->http->options.loop, &w->timer, host_now() + PING);
    pump(w, false, false);
}

// --- the handshake

static const char *key_of(struct MHD_Connection *c)
{
    const char *key = header(c, "Sec-WebSocket-Key");
    return key && strlen(key) == 24 ? key : NULL;
}

unsigned websocket_check(struct MHD_Connection *c, const char *method, struct error *e)
{
    const char *version = header(c, "Sec-WebSocket-Version");
    if (!access_has_word(header(c, "Upgrade"), "websocket") ||
        !access_has_word(header(c, "Connection"), "upgrade") || strcmp(method, "GET") != 0) {
        (void)!error_set(e, ERR_INVALID,
                         "this address is a WebSocket's; ask for an upgrade to one");
        return 426;
    }
    if (!key_of(c) || !version || strcmp(version, "13") != 0) {
        (void)!error_set(e, ERR_INVALID, "not a WebSocket's handshake of version 13");
        return 400;
    }
    return 0;
}

// RFC 6455 4.2.2. False: no memory.
static bool accept_key(const char *key, char out[32])
{
    char text[24 + sizeof GUID];
    uint8_t sha1[20];
    gnutls_datum_t encoded, plain = {sha1, sizeof sha1};
    int len = snprintf(text, sizeof text, "%s" GUID, key);
    if (gnutls_hash_fast(GNUTLS_DIG_SHA1, text, (size_t)len, sha1) ||
        gnutls_base64_encode2(&plain, &encoded))
        return false;
    snprintf(out, 32, "%.*s", (int)encoded.size, (const char *)encoded.data);
    gnutls_free(encoded.data);
    return true;
}

static err_t begin(struct websocket *w, struct error *e)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = client_recv,
        .send_callback = client_send,
        .on_msg_recv_callback = client_message,
    };
    if (wslay_event_context_server_init(&w->frames, &callbacks, w))
        return error_set(e, ERR_NO_MEMORY, "no memory for a WebSocket");
    wslay_event_config_set_max_recv_msg_length(w->frames, MESSAGE_MAX);
    fcntl(w->client.fd, F_SETFL, fcntl(w->client.fd, F_GETFL) | O_NONBLOCK);
    err_t err = loop_fd_add(w->http->options.loop, &w->client, e);
    if (!err && !watch_stream(w, EPOLLIN))
        err = error_set(e, ERR_IO, "cannot watch a stream");
    return err;
}

static void upgraded(void *opaque, struct MHD_Connection *c, void *state, const char *early,
                     size_t early_len, MHD_socket socket, struct MHD_UpgradeResponseHandle *upgrade)
{
    struct listener *listener = opaque;
    struct http *http = listener->http;
    struct exchange *x = state;
    struct websocket *w = calloc(1, sizeof *w);
    if (!w) {
        MHD_upgrade_action(upgrade, MHD_UPGRADE_ACTION_CLOSE);
        return;
    }
    *w = (struct websocket){
        .http = http, .listener = listener, .upgrade = upgrade, .next = http->sockets};
    w->client =
        (struct loop_fd){.fd = socket, .events = EPOLLIN, .ready = client_ready, .opaque = w};
    w->stream = (struct loop_fd){.fd = x->stream, .ready = stream_ready, .opaque = w};
    w->timer = (struct loop_timer){.fire = ping, .opaque = w};
    x->stream = -1;
    http->sockets = w;
    buffer_append(&w->early, early, early_len);
    struct error e;
    if (begin(w, &e) || w->early.failed) {
        drop(w);
        return;
    }
    loop_timer_set(http->options.loop, &w->timer, host_now() + PING);
    if (early_len)
        pump(w, true, false);
}

enum MHD_Result websocket_answer(struct listener *listener, struct MHD_Connection *c)
{
    char key[32];
    struct MHD_Response *response = MHD_create_response_for_upgrade(upgraded, listener);
    if (!response)
        return MHD_NO;
    if (!accept_key(key_of(c), key)) {
        MHD_destroy_response(response);
        return MHD_NO;
    }
    respond_header(response, "Upgrade", "websocket");
    respond_header(response, "Sec-WebSocket-Accept", key);
    if (access_has_word(header(c, "Sec-WebSocket-Protocol"), ACCESS_PROTOCOL))
        respond_header(response, "Sec-WebSocket-Protocol", ACCESS_PROTOCOL);
    return respond(c, 101, response);
}

void websocket_end_all(struct http *http)
{
    while (http->sockets)
        drop(http->sockets);
}
