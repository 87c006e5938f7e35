// The host's ends of connections over the virtio socket device. vsock(7), unix(7).
//
// Bytes from the guest arrive on a vCPU's thread with the device's lock held, wait in a ring as
// large as the credit that the guest has, and go to the socket on the loop's thread. A bit for each
// byte of the ring says where a message ends; messages go on when they are whole. Bytes from the
// socket wait there while the guest has no room. A message without bytes is none: to a reader of a
// Unix socket it looks like the end. Whoever holds the device's lock may take the one
// here, never the reverse.
#include "vmm/vsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "control/agent_wire.h"
#include "host/passing.h"
#include "vmm/run.h"

#define PIECE (16 * KIB) // of a stream
#define PIECES_A_TURN 16 // then others on the loop have theirs

struct vsock_end {
    struct vsock *vsock;
    struct loop_fd fd;
    enum vsock_type type;
    bool watched; // fd is on the loop
    bool waits;   // for the guest to connect
    bool tell;
    bool told;
    bool peer_gone;         // the socket's other end is closed: what is in it can still be read
    bool all_read;          // no more comes from the socket
    bool all_sent;          // the socket knows that no more comes from the guest
    bool write_full;        // the socket takes no more now
    uint32_t port;          // of the host, where it waits
    size_t held, held_at;   // bytes of from_host that the guest had no room for
    struct vsock_end *next; // guarded by the lock from here on
    int number;             // of the connection; -1: none yet
    uint32_t guest_port;
    bool opened, ended, closed;
    uint32_t head, len; // bytes of the ring: only the loop's thread takes some out
    uint64_t message_ends[VSOCK_CREDIT / 64];
    uint8_t ring[VSOCK_CREDIT];
    size_t from_host_bytes;
    uint8_t from_host[];
};

// --- from the device: any thread, its lock held

static struct vsock *enter(void *opaque)
{
    struct vsock *vsock = &((struct run *)opaque)->vsock;
    pthread_mutex_lock(&vsock->lock);
    return vsock;
}

static void leave(struct vsock *vsock)
{
    pthread_mutex_unlock(&vsock->lock);
    loop_post(vsock->loop, &vsock->work);
}

static struct vsock_end *waiting_at(struct vsock *vsock, enum vsock_type type, uint32_t port)
{
    for (struct vsock_end *end = vsock->ends; end; end = end->next)
        if (end->waits && end->number < 0 && end->type == type && end->port == port)
            return end;
    return NULL;
}

// Ports below 1024 are the guest's root's.
static bool from_agent(enum vsock_type type, uint32_t guest_port, uint32_t host_port)
{
    return type == VSOCK_STREAM && host_port == AGENT_PORT && guest_port == AGENT_READY_PORT;
}

static bool request(void *opaque, unsigned connection, enum vsock_type type, uint32_t guest_port,
                    uint32_t host_port)
{
    struct vsock *vsock = enter(opaque);
    struct vsock_end *end = waiting_at(vsock, type, host_port);
    bool agent = from_agent(type, guest_port, host_port) && vsock->agent < 0;
    if (agent) {
        vsock->agent = (int)connection;
    } else if (end) {
        end->number = (int)connection;
        end->guest_port = guest_port;
        end->opened = true;
        vsock->by_number[connection] = end;
    }
    leave(vsock);
    return agent || end;
}

static void asked(void *opaque, unsigned connection)
{
    struct vsock *vsock = enter(opaque);
    vsock->asking->number = (int)connection;
    vsock->by_number[connection] = vsock->asking;
    leave(vsock);
}

static void opened(void *opaque, unsigned connection)
{
    struct vsock *vsock = enter(opaque);
    if (vsock->by_number[connection])
        vsock->by_number[connection]->opened = true;
    leave(vsock);
}

// The agent has nothing to say there beyond its being there: what it sends uses up its credit.
static void received(void *opaque, unsigned connection, const uint8_t *data, size_t len,
                     bool message_end)
{
    struct vsock *vsock = enter(opaque);
    struct vsock_end *end = vsock->by_number[connection];
    for (size_t part; end && len; data += part, len -= part) {
        uint32_t at = (end->head + end->len) % VSOCK_CREDIT;
        part = min_u64(len, VSOCK_CREDIT - at);
        memcpy(end->ring + at, data, part);
        end->len += (uint32_t)part;
    }
    if (end && end->len && message_end) {
        uint32_t last = (end->head + end->len - 1) % VSOCK_CREDIT;
        end->message_ends[last / 64] |= 1ull << last % 64;
    }
    leave(vsock);
}

static void ended(void *opaque, unsigned connection)
{
    struct vsock *vsock = enter(opaque);
    if (vsock->by_number[connection])
        vsock->by_number[connection]->ended = true;
    leave(vsock);
}

static void resume(void *opaque, unsigned connection)
{
    leave(enter(opaque)); // all ends are looked after
}

static void closed(void *opaque, unsigned connection)
{
    struct vsock *vsock = enter(opaque);
    if (vsock->agent == (int)connection)
        vsock->agent = -1;
    if (vsock->by_number[connection])
        vsock->by_number[connection]->closed = true;
    else
        vsock->left[connection] = true;
    leave(vsock);
}

const struct vsock_host vsock_host = {.request = request,
                                      .asked = asked,
                                      .opened = opened,
                                      .received = received,
                                      .ended = ended,
                                      .resume = resume,
                                      .closed = closed};

// --- the loop's side

static void unwatch(struct vsock_end *end)
{
    if (end->watched)
        loop_fd_remove(end->vsock->loop, &end->fd);
    end->watched = false;
}

static void drop(struct vsock_end *end)
{
    struct vsock *vsock = end->vsock;
    pthread_mutex_lock(&vsock->lock);
    struct vsock_end **p = &vsock->ends;
    while (*p != end)
        p = &(*p)->next;
    *p = end->next;
    int number = end->number;
    if (number >= 0)
        vsock->by_number[number] = NULL;
    pthread_mutex_unlock(&vsock->lock);
    if (number >= 0)
        vm_vsock_release(vsock->vm, (unsigned)number);
    unwatch(end);
    close(end->fd.fd);
    vsock->count--;
    free(end);
}

// The bytes that can go to the socket: of a stream all, of messages the first that is whole. With
// the lock held.
static uint32_t due(const struct vsock_end *end)
{
    if (end->type == VSOCK_STREAM)
        return end->len;
    for (uint32_t n = 0; n < end->len; n++) {
        uint32_t at = (end->head + n) % VSOCK_CREDIT;
        uint64_t word = end->message_ends[at / 64];
        if (word >> at % 64 & 1)
            return n + 1;
        if (!(word >> at % 64))
            n += 63 - at % 64;
    }
    return 0;
}

static void take_out(struct vsock_end *end, uint32_t len)
{
    uint32_t last = (end->head + len - 1) % VSOCK_CREDIT;
    if (end->type == VSOCK_SEQPACKET && len)
        end->message_ends[last / 64] &= ~(1ull << last % 64);
    end->head = (end->head + len) % VSOCK_CREDIT;
    end->len -= len;
}

// As much as the socket takes, which is all of a message; what nobody will read is dropped. A
// socket that can never take a message (its owner made its buffer that small) is of no use.
static uint32_t pass_on(struct vsock_end *end, uint32_t head, uint32_t len)
{
    uint32_t part = (uint32_t)min_u64(len, VSOCK_CREDIT - head);
    struct iovec parts[] = {{end->ring + head, part}, {end->ring, len - part}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (end->peer_gone)
        return len;
    ssize_t n = sendmsg(end->fd.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
        return 0;
    if (n < 0 && errno == EAGAIN) {
        end->write_full = true;
        return 0;
    }
    if (n < 0 && errno == EMSGSIZE)
        shutdown(end->fd.fd, SHUT_RDWR);
    return n < 0 ? len : (uint32_t)n;
}

static void greet(struct vsock_end *end)
{
    char line[24];
    int len = snprintf(line, sizeof line, "OK %u\n", end->guest_port);
    if (end->tell && !end->told && !end->peer_gone)
        (void)!passing_send(end->fd.fd, line, (size_t)len, -1, MSG_DONTWAIT);
    end->told = true;
}

static void drain(struct vsock_end *end)
{
    struct vsock *vsock = end->vsock;
    for (int i = 0; i < PIECES_A_TURN && !end->write_full; i++) {
        pthread_mutex_lock(&vsock->lock);
        uint32_t head = end->head, len = due(end);
        pthread_mutex_unlock(&vsock->lock);
        if (!len)
            return;
        uint32_t gone = pass_on(end, head, len);
        pthread_mutex_lock(&vsock->lock);
        take_out(end, gone);
        pthread_mutex_unlock(&vsock->lock);
        vm_vsock_consumed(vsock->vm, (unsigned)end->number, gone);
    }
    if (!end->write_full)
        loop_post(vsock->loop, &vsock->work); // there may be more
}

// More bytes, or a message, into from_host. Descriptors that somebody sends along are not taken. A
// message that is too long ends the connection.
static bool read_socket(struct vsock_end *end)
{
    struct iovec iov = {end->from_host, end->from_host_bytes};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n = recvmsg(end->fd.fd, &message, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (message.msg_flags & MSG_TRUNC) {
        shutdown(end->fd.fd, SHUT_RDWR);
        n = 0;
    }
    end->all_read = n <= 0;
    end->held = n > 0 ? (size_t)n : 0;
    end->held_at = 0;
    return n > 0;
}

static void feed(struct vsock_end *end)
{
    unsigned number = (unsigned)end->number;
    for (int i = 0; i < PIECES_A_TURN || end->peer_gone; i++) {
        if (!end->held && (end->all_read || !read_socket(end)))
            break;
        size_t taken =
            vm_vsock_send(end->vsock->vm, number, end->from_host + end->held_at, end->held);
        end->held -= taken;
        end->held_at += taken;
        if (end->held)
            return; // resume() follows
    }
    if (end->all_read)
        vm_vsock_shutdown(end->vsock->vm, number, end->peer_gone);
}

static void watch(struct vsock_end *end)
{
    bool reads = end->told && !end->held && !end->all_read;
    if (end->watched)
        loop_fd_set(end->vsock->loop, &end->fd,
                    (reads ? EPOLLIN : 0u) | (end->write_full ? EPOLLOUT : 0u));
}

// All that can be done for an end now. It may be gone afterwards.
static void serve(struct vsock_end *end)
{
    struct vsock *vsock = end->vsock;
    pthread_mutex_lock(&vsock->lock);
    bool is_open = end->opened, is_closed = end->closed;
    bool connected = end->number >= 0; // and then it stays the same
    end->waits &= !connected;
    pthread_mutex_unlock(&vsock->lock);
    if (!connected) {
        if (end->peer_gone)
            drop(end);
        return;
    }
    if (is_open) {
        greet(end);
        drain(end);
    }
    if (is_open && !is_closed)
        feed(end);
    pthread_mutex_lock(&vsock->lock);
    bool no_more = (end->ended || is_closed) && !due(end);
    pthread_mutex_unlock(&vsock->lock);
    if (no_more && is_closed) {
        drop(end);
        return;
    }
    if (no_more && !end->all_sent && !end->peer_gone)
        shutdown(end->fd.fd, SHUT_WR);
    end->all_sent |= no_more;
    watch(end);
}

// A socket whose other end is closed reports that for ever.
static void ready(void *opaque, uint32_t events)
{
    struct vsock_end *end = opaque;
    if (events & EPOLLOUT)
        end->write_full = false;
    if (events & (EPOLLHUP | EPOLLERR)) {
        end->peer_gone = true;
        end->write_full = false;
        unwatch(end);
    }
    serve(end);
}

static void tell_agent(struct vsock *vsock)
{
    pthread_mutex_lock(&vsock->lock);
    bool there = vsock->agent >= 0;
    pthread_mutex_unlock(&vsock->lock);
    if (there != vsock->agent_told) {
        vsock->agent_told = there;
        vsock->agent_changed(vsock->opaque, there);
    }
}

static void release_left(struct vsock *vsock)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
        pthread_mutex_lock(&vsock->lock);
        bool left = vsock->left[i];
        vsock->left[i] = false;
        pthread_mutex_unlock(&vsock->lock);
        if (left)
            vm_vsock_release(vsock->vm, i);
    }
}

// Ends are taken off the list on this thread only.
static void work(void *opaque)
{
    struct vsock *vsock = opaque;
    release_left(vsock);
    tell_agent(vsock);
    for (struct vsock_end *end = vsock->ends, *next; end; end = next) {
        next = end->next;
        serve(end);
    }
}

void vsock_init(struct vsock *vsock, struct loop *loop)
{
    vsock->loop = loop;
    vsock->agent = -1;
    vsock->work = (struct loop_work){.run = work, .opaque = vsock};
    pthread_mutex_init(&vsock->lock, NULL);
}

void vsock_release(struct vsock *vsock)
{
    while (vsock->ends)
        drop(vsock->ends);
    if (vsock->loop)
        pthread_mutex_destroy(&vsock->lock);
}

bool vsock_ask_down(struct vsock *vsock)
{
    static const char words[] = "request=shutdown\0how=poweroff";
    uint8_t frame[AGENT_HEADER + sizeof words] = {[4] = AGENT_REQUEST};
    pthread_mutex_lock(&vsock->lock);
    int agent = vsock->agent;
    pthread_mutex_unlock(&vsock->lock);
    if (agent < 0)
        return false;
    store_le32(frame, sizeof words);
    memcpy(frame + AGENT_HEADER, words, sizeof words);
    return vm_vsock_send(vsock->vm, (unsigned)agent, frame, sizeof frame) == sizeof frame;
}

// --- new ends

static void publish(struct vsock *vsock, struct vsock_end *end)
{
    pthread_mutex_lock(&vsock->lock);
    end->next = vsock->ends;
    vsock->ends = end;
    vsock->count++;
    pthread_mutex_unlock(&vsock->lock);
}

// The guest's answer can come before this returns.
static err_t ask_guest(struct vsock *vsock, struct vsock_end *end, uint32_t port, struct error *e)
{
    end->guest_port = port;
    vsock->asking = end;
    if (vm_vsock_connect(vsock->vm, end->type, port) >= 0)
        return OK;
    return error_set(e, ERR_UNSUPPORTED,
                     "the guest has no driver for virtio sockets%s, or none yet; Linux needs the "
                     "module vmw_vsock_virtio_transport",
                     end->type == VSOCK_SEQPACKET ? " with messages" : "");
}

static enum vsock_type type_of(int fd)
{
    int type = 0;
    socklen_t len = sizeof type;
    return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_SEQPACKET
               ? VSOCK_SEQPACKET
               : VSOCK_STREAM;
}

static struct vsock_end *new_end(enum vsock_type type)
{
    size_t bytes = type == VSOCK_SEQPACKET ? VSOCK_CREDIT : PIECE;
    struct vsock_end *end = calloc(1, sizeof *end + bytes);
    if (end) {
        end->type = type;
        end->from_host_bytes = bytes;
    }
    return end;
}

err_t vsock_open(struct vsock *vsock, int fd, bool accept, uint32_t port, bool tell,
                 struct error *e)
{
    if (vsock->count == VSOCK_ENDS_MAX)
        return error_set(e, ERR_BUSY, "%d sockets lead to this guest already; try again later",
                         VSOCK_ENDS_MAX);
    struct vsock_end *end = new_end(type_of(fd));
    if (!end)
        return error_set(e, ERR_NO_MEMORY, "no memory for one more socket");
    end->vsock = vsock;
    end->waits = accept;
    end->tell = tell;
    end->port = port;
    end->number = -1;
    end->fd = (struct loop_fd){.fd = fd, .ready = ready, .opaque = end};
    err_t err = loop_fd_add(vsock->loop, &end->fd, e);
    end->watched = !err;
    if (!err && !accept)
        err = ask_guest(vsock, end, port, e);
    if (err) {
        unwatch(end);
        free(end);
        return err;
    }
    publish(vsock, end);
    return OK;
}
