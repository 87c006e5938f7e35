// Events to whoever asked for them: JSON lines (application/x-ndjson), or server-sent events (HTML
// Living Standard 9.2) where the client accepts text/event-stream.
//
// A connection with nothing to send is suspended, and resumed by the next event. An empty line or
// comment now and then finds out who has gone. Who does not read is dropped.
#include <stdlib.h>
#include <string.h>

#include "host/clock.h"
#include "http/http_impl.h"

#define HEARTBEAT (15 * NS_PER_SEC)

struct stream {
    struct http *http;
    struct listener *listener;
    struct MHD_Connection *connection;
    struct loop_timer timer;
    struct buffer out;
    size_t sent; // bytes of out
    bool server_sent;
    bool suspended;
    bool ended; // sends what it has and no more
    struct stream *next;
};

static void wake(struct stream *s)
{
    if (!s->suspended)
        return;
    s->suspended = false;
    MHD_resume_connection(s->connection);
    listener_kick(s->listener);
}

static void put(struct stream *s, const char *data, size_t len)
{
    if (s->ended)
        return;
    if (s->sent) {
        s->out.len -= s->sent;
        memmove(s->out.data, s->out.data + s->sent, s->out.len);
        s->sent = 0;
    }
    if (s->out.len + len > STREAM_MAX)
        s->ended = true;
    else
        buffer_append(&s->out, data, len);
    s->ended |= s->out.failed;
    wake(s);
}

static ssize_t read_stream(void *opaque, uint64_t at, char *data, size_t max)
{
    struct stream *s = opaque;
    size_t len = s->out.len - s->sent;
    if (len) {
        len = len < max ? len : max;
        memcpy(data, s->out.data + s->sent, len);
        s->sent += len;
        return (ssize_t)len;
    }
    if (s->ended)
        return MHD_CONTENT_READER_END_WITH_ERROR; // events are missing: the client shall know
    s->suspended = true;
    MHD_suspend_connection(s->connection);
    return 0;
}

static void beat(void *opaque)
{
    struct stream *s = opaque;
    put(s, s->server_sent ? ":\n\n" : "\n", s->server_sent ? 3 : 1);
    loop_timer_set(s->http->options.loop, &s->timer, host_now() + HEARTBEAT);
}

static void release(void *opaque)
{
    struct stream *s = opaque;
    for (struct stream **p = &s->http->streams; *p; p = &(*p)->next) {
        if (*p == s) {
            *p = s->next;
            break;
        }
    }
    loop_timer_set(s->http->options.loop, &s->timer, NS_NEVER);
    buffer_release(&s->out);
    free(s);
}

enum MHD_Result stream_answer(struct listener *listener, struct MHD_Connection *c)
{
    struct http *http = listener->http;
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return MHD_NO;
    *s =
        (struct stream){.http = http, .listener = listener, .connection = c, .next = http->streams};
    s->server_sent = access_has_word(header(c, "Accept"), "text/event-stream");
    s->timer = (struct loop_timer){.fire = beat, .opaque = s};
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_stream, s, release);
    if (!response) {
        free(s);
        return MHD_NO;
    }
    http->streams = s;
    beat(s); // the first byte tells the client that it listens
    respond_header(response, "Content-Type",
                   s->server_sent ? "text/event-stream" : "application/x-ndjson");
    return respond(c, 200, response);
}

void stream_tell(struct http *http, const char *line, size_t len)
{
    for (struct stream *s = http->streams; s; s = s->next) {
        if (s->server_sent)
            put(s, "data: ", 6);
        put(s, line, len);
        if (s->server_sent)
            put(s, "\n", 1);
    }
}

void stream_end_all(struct http *http)
{
    for (struct stream *s = http->streams; s; s = s->next) {
        s->ended = true;
        wake(s);
    }
}
