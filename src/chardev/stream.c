// Moves bytes between two descriptors and a device: the ring, flow control both ways, hang-ups.
// Not modelled: baud rates, modem lines (the serial port's own), reading ahead of the user.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "chardev/stream_impl.h"
#include "host/clock.h"

#define CTRL_RIGHT_BRACKET 0x1d

static struct stream *stream_of(struct chardev *chr)
{
    return container_of(chr, struct stream, chr);
}

// --- output

// Copies into the ring what fits. A detached stream makes room by forgetting its oldest bytes.
static size_t ring_put(struct stream *s, const uint8_t *data, size_t len)
{
    if (s->detached) {
        if (len > STREAM_RING) {
            data += len - STREAM_RING;
            len = STREAM_RING;
        }
        size_t over = s->len + len > STREAM_RING ? s->len + len - STREAM_RING : 0;
        s->head = (s->head + over) % STREAM_RING;
        s->len -= over;
    }
    size_t room = STREAM_RING - s->len, n = len < room ? len : room;
    for (size_t i = 0; i < n; i++)
        s->ring[(s->head + s->len + i) % STREAM_RING] = data[i];
    s->len += n;
    return n;
}

static size_t stream_write(struct chardev *chr, const uint8_t *data, size_t len)
{
    struct stream *s = stream_of(chr);
    pthread_mutex_lock(&s->lock);
    size_t taken = s->discard ? len : ring_put(s, data, len);
    if (s->detached)
        taken = len;
    else if (taken < len)
        s->was_full = true;
    bool post = taken && !s->discard && !s->detached;
    pthread_mutex_unlock(&s->lock);
    if (post)
        loop_post(s->loop, &s->work);
    return taken;
}

enum flush { FLUSH_EMPTY, FLUSH_BLOCKED };

// Writes the ring out until it is empty or the descriptor would block. The bytes being written stay
// in the ring meanwhile; only this thread takes bytes out of an attached stream's ring.
static enum flush ring_flush(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    enum flush result = FLUSH_EMPTY;
    while (s->len && !s->discard) {
        size_t run = STREAM_RING - s->head;
        if (run > s->len)
            run = s->len;
        pthread_mutex_unlock(&s->lock);
        ssize_t n = write(s->out.fd, s->ring + s->head, run);
        int why = errno;
        pthread_mutex_lock(&s->lock);
        if (n >= 0) {
            s->head = (s->head + (size_t)n) % STREAM_RING;
            s->len -= (size_t)n;
        } else if (why == EAGAIN) {
            result = FLUSH_BLOCKED;
            break;
        } else if (why != EINTR) {
            s->discard = true; // the reader has gone away, or the file system is full
            s->len = 0;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return result;
}

static void tell_writable(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    bool tell = s->was_full && (s->len < STREAM_RING || s->discard || s->detached);
    if (tell)
        s->was_full = false;
    pthread_mutex_unlock(&s->lock);
    if (tell && s->chr.user.writable)
        s->chr.user.writable(s->chr.user.opaque);
}

static void pump_output(struct stream *s)
{
    if (s->out.fd < 0 || s->detached)
        return;
    if (ring_flush(s) == FLUSH_EMPTY) {
        loop_fd_remove(s->loop, &s->out);
    } else if (!s->out.added && loop_fd_add(s->loop, &s->out, NULL)) {
        pthread_mutex_lock(&s->lock);
        s->discard = true;
        pthread_mutex_unlock(&s->lock);
    }
    tell_writable(s);
}

static void out_ready(void *opaque, uint32_t events)
{
    pump_output(opaque);
}

// --- input

// Hands over what is waiting; true when all of it was taken.
static bool deliver(struct stream *s)
{
    while (s->input_at < s->input_len) {
        size_t n = s->chr.user.input(s->chr.user.opaque, s->input + s->input_at,
                                     s->input_len - s->input_at);
        if (!n)
            return false;
        s->input_at += n;
    }
    s->input_at = s->input_len = 0;
    return true;
}

// Descriptors are watched only while there is room: a hang-up is reported even to those who asked
// for nothing, and would make the loop spin.
static void pump_input(struct stream *s)
{
    if (s->in.fd < 0 || !s->attached || s->detached)
        return;
    if (!deliver(s))
        loop_fd_remove(s->loop, &s->in);
    else if (!s->in.added && loop_fd_add(s->loop, &s->in, NULL))
        s->in.fd = -1;
}

static void input_ended(struct stream *s)
{
    loop_fd_remove(s->loop, &s->in);
    if (s->reconnect.fire) {
        pty_hung_up(s);
        return;
    }
    close(s->in.fd);
    s->in.fd = -1;
}

static void in_ready(void *opaque, uint32_t events)
{
    struct stream *s = opaque;
    ssize_t n = read(s->in.fd, s->input, sizeof s->input);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        input_ended(s);
        return;
    }
    if (s->escape && memchr(s->input, CTRL_RIGHT_BRACKET, (size_t)n)) {
        s->leave(s->opaque);
        return;
    }
    s->input_at = 0;
    s->input_len = (size_t)n;
    pump_input(s);
}

// --- life

static void work_run(void *opaque)
{
    struct stream *s = opaque;
    pump_output(s);
    pump_input(s);
}

static void stream_resume(struct chardev *chr)
{
    struct stream *s = stream_of(chr);
    loop_post(s->loop, &s->work);
}

void stream_start(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->detached = false;
    pthread_mutex_unlock(&s->lock);
    work_run(s);
}

void stream_detach(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->detached = true;
    pthread_mutex_unlock(&s->lock);
    loop_fd_remove(s->loop, &s->in);
    loop_fd_remove(s->loop, &s->out);
    tell_writable(s);
}

static void stream_close(struct chardev *chr)
{
    struct stream *s = stream_of(chr);
    loop_fd_remove(s->loop, &s->in);
    loop_fd_remove(s->loop, &s->out);
    loop_timer_set(s->loop, &s->reconnect, NS_NEVER);
    if (s->in.fd >= 0)
        close(s->in.fd);
    if (s->out.fd >= 0)
        close(s->out.fd);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const struct chardev_type stream_type = {
    .name = "stream", .write = stream_write, .resume = stream_resume, .close = stream_close};

err_t stream_new(const struct chardev_options *options, int in_fd, int out_fd, struct stream **out,
                 struct error *e)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s) {
        if (in_fd >= 0)
            close(in_fd);
        if (out_fd >= 0)
            close(out_fd);
        return error_set(e, ERR_NO_MEMORY, "no memory for %s", options->name);
    }
    s->chr.type = &stream_type;
    s->loop = options->loop;
    s->leave = options->leave;
    s->opaque = options->opaque;
    s->in = (struct loop_fd){.fd = in_fd, .events = EPOLLIN, .ready = in_ready, .opaque = s};
    s->out = (struct loop_fd){.fd = out_fd, .events = EPOLLOUT, .ready = out_ready, .opaque = s};
    s->work = (struct loop_work){.run = work_run, .opaque = s};
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return OK;
}

void chardev_attach(struct chardev *chr, const struct chardev_user *user)
{
    chr->user = *user;
    if (chr->type != &stream_type)
        return;
    struct stream *s = stream_of(chr);
    s->attached = user->input != NULL;
    pump_input(s);
}

const char *chardev_where(const struct chardev *chr)
{
    if (chr->type != &stream_type)
        return NULL;
    const struct stream *s = container_of(chr, const struct stream, chr);
    return s->where[0] ? s->where : NULL;
}

static void flush_within(struct stream *s, unsigned wait_ms)
{
    if (s->out.fd < 0 || s->detached)
        return;
    uint64_t end = host_now() + wait_ms * NS_PER_MS;
    while (ring_flush(s) == FLUSH_BLOCKED && host_now() < end) {
        struct pollfd ready = {.fd = s->out.fd, .events = POLLOUT};
        poll(&ready, 1, (int)((end - host_now()) / NS_PER_MS) + 1);
    }
}

void chardev_close(struct chardev *chr, unsigned wait_ms)
{
    if (!chr)
        return;
    if (chr->type == &stream_type)
        flush_within(stream_of(chr), wait_ms);
    chr->type->close(chr);
}
