// One port's packets. unix(7), recvmmsg(2). A limit on what comes from the VM stops the reading, so
// that the VM is slowed down; one on what goes to it lets packets wait and, when too many do, drops
// them.
#include "switch/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "host/clock.h"

static void ready(void *opaque, uint32_t events);
static void go_on(void *opaque);
static void watch(struct link *link, uint64_t now);
static void limits_changed(struct link *link);
static const struct vhost_back_ops ring_ops;

static err_t open_socket(struct link *link, int fd, struct error *e)
{
    link->fd.fd = fd;
    err_t err = loop_fd_add(link->loop, &link->fd, e);
    if (err)
        link->fd.fd = -1;
    return err;
}

static err_t open_rings(struct link *link, int fd, struct error *e)
{
    struct vhost_back *rings = calloc(1, sizeof *rings);
    if (!rings)
        return error_set(e, ERR_NO_MEMORY, "no memory for one more port");
    rings->loop = link->loop;
    rings->ops = &ring_ops;
    rings->opaque = link;
    rings->careful = true;
    vhost_back_init(rings);
    link->rings = rings;
    return vhost_back_open(rings, fd, e);
}

static void release(struct link *link)
{
    if (link->fd.fd >= 0) {
        loop_fd_remove(link->loop, &link->fd);
        close(link->fd.fd);
    }
    if (link->rings)
        vhost_back_close(link->rings);
    free(link->rings);
    link->rings = NULL;
    outq_release(&link->out);
}

err_t link_open(struct link *link, bool rings, int *peer, struct error *e)
{
    int pair[2], size = 1 << 20, type = rings ? SOCK_STREAM : SOCK_SEQPACKET;
    if (socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(e, err_from_errno(errno), "cannot make a port: %s", strerror(errno));
    for (int i = 0; !rings && i < 2; i++)
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    link->fd = (struct loop_fd){.fd = -1, .events = EPOLLIN, .ready = ready, .opaque = link};
    link->timer = (struct loop_timer){.fire = go_on, .opaque = link};
    err_t err = OK;
    if (!outq_init(&link->out))
        err = error_set(e, ERR_NO_MEMORY, "no memory for one more port");
    if (!err)
        err = (rings ? open_rings : open_socket)(link, pair[0], e);
    if (err) {
        release(link);
        close(pair[0]);
        close(pair[1]);
        return err;
    }
    limits_changed(link);
    *peer = pair[1];
    return OK;
}

void link_close(struct link *link)
{
    loop_timer_set(link->loop, &link->timer, NS_NEVER);
    release(link);
}

// --- limits

static uint64_t lower(uint64_t a, uint64_t b)
{
    return a && b ? min_u64(a, b) : a | b;
}

static uint64_t limit_of(const struct link *link, enum block_op op)
{
    return op == BLOCK_READ ? lower(link->limit_in, link->bound_in)
                            : lower(link->limit_out, link->bound_out);
}

static uint64_t wait_for(const struct link *link, enum block_op op, uint64_t now)
{
    return limit_of(link, op) ? throttle_wait(&link->throttle, op, now) : 0;
}

static void take(struct link *link, enum block_op op, size_t len, uint64_t now)
{
    if (limit_of(link, op))
        throttle_take(&link->throttle, op, len - NET_HEADER_BYTES, now);
}

// What to wait for now: room in the socket while something waits to be sent, packets while they may
// be read, time where a limit says so.
static void watch(struct link *link, uint64_t now)
{
    uint64_t in = outq_empty(&link->out) ? 0 : wait_for(link, BLOCK_READ, now);
    uint64_t out = wait_for(link, BLOCK_WRITE, now);
    uint64_t wait = in && (!out || in < out) ? in : out;
    uint32_t events = out ? 0 : EPOLLIN;
    bool ring_waits = link->rings && !outq_empty(&link->out) && !link->blocked && !in;
    bool at_once = ring_waits || (link->more && !out);
    if (!outq_empty(&link->out) && !in)
        events |= EPOLLOUT;
    if (!link->rings)
        loop_fd_set(link->loop, &link->fd, events);
    if (wait || at_once || link->timer.armed)
        loop_timer_set(link->loop, &link->timer, at_once ? now : wait ? now + wait : NS_NEVER);
}

static void limits_changed(struct link *link)
{
    struct throttle_limits limits = {0};
    uint64_t now = host_now();
    limits.of[THROTTLE_BPS_READ].rate = limit_of(link, BLOCK_READ) / 8;
    limits.of[THROTTLE_BPS_WRITE].rate = limit_of(link, BLOCK_WRITE) / 8;
    throttle_set(&link->throttle, &limits, now);
    watch(link, now);
}

void link_limit(struct link *link, uint64_t in, uint64_t out)
{
    link->limit_in = in;
    link->limit_out = out;
    limits_changed(link);
}

void link_bound(struct link *link, uint64_t in, uint64_t out)
{
    link->bound_in = in;
    link->bound_out = out;
    limits_changed(link);
}

// --- to the VM

// False: it has no room now. A VM that is gone takes everything; its end is seen by ready().
static bool send_socket(struct link *link, const uint8_t *packet, size_t len)
{
    while (send(link->fd.fd, packet, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno == EAGAIN)
            return false;
        if (errno != EINTR)
            return true;
    }
    return true;
}

// Others may get the packet, too. What is changed of it for a receiver that takes it whole is the
// count of buffers, which means nothing to anybody else.
static bool send_rings(struct link *link, const uint8_t *packet, size_t len)
{
    uint8_t *own = (uint8_t *)packet;
    if (net_packet_needs(packet) & ~net_takes_of_driver(link->rings->features)) {
        own = link->buffers->out;
        memcpy(own, packet, len);
    }
    return vhost_back_give(link->rings, own, len);
}

static bool send_now(struct link *link, const uint8_t *packet, size_t len)
{
    if (!link->rings && !send_socket(link, packet, len))
        return false;
    link->blocked = link->rings && !send_rings(link, packet, len);
    if (link->blocked)
        return false;
    link->port->counters.packets_in++;
    link->port->counters.bytes_in += len - NET_HEADER_BYTES;
    return true;
}

void link_send(struct link *link, const uint8_t *packet, size_t len)
{
    uint64_t now = limit_of(link, BLOCK_READ) ? host_now() : 0;
    if (outq_empty(&link->out) && !wait_for(link, BLOCK_READ, now) && send_now(link, packet, len)) {
        take(link, BLOCK_READ, len, now);
        return;
    }
    bool first = outq_empty(&link->out);
    if (!outq_push(&link->out, packet, len, NULL, 0))
        link->port->counters.dropped[DROP_FULL]++;
    else if (first)
        watch(link, host_now());
}

static void flush(struct link *link)
{
    const uint8_t *packet;
    size_t len;
    uint64_t now = host_now();
    for (int i = 0; i < 4 * LINK_BATCH && (packet = outq_peek(&link->out, &len)); i++) {
        if (wait_for(link, BLOCK_READ, now) || !send_now(link, packet, len))
            return;
        take(link, BLOCK_READ, len, now);
        outq_pop(&link->out);
    }
}

// --- from the VM

#define PACKET_COST (64 * (int64_t)KIB) // what a packet costs the switch beside its bytes
#define TURN (LINK_BATCH * PACKET_COST)

// What a turn has to spend. A packet may cost more than is left; the next turns pay for it.
static int64_t turn(const struct link *link)
{
    return TURN * (1 + (int64_t)link->priority) * link->shares / LINK_SHARES;
}

// How many packets came; -1: the VM is gone.
static int receive(struct link *link, struct mmsghdr *message, unsigned count)
{
    struct iovec data[LINK_BATCH];
    for (unsigned i = 0; i < count; i++) {
        data[i] = (struct iovec){link->buffers->packet[i] + BRIDGE_HEADROOM, NET_PACKET_MAX + 1};
        message[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &data[i], .msg_iovlen = 1}};
    }
    int n = recvmmsg(link->fd.fd, message, count, MSG_DONTWAIT, NULL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    return n > 0 && message[0].msg_len == 0 ? -1 : n;
}

static void take_packet(struct link *link, uint8_t *packet, size_t len, uint64_t now)
{
    if (len <= NET_HEADER_BYTES) {
        link->credit -= PACKET_COST;
        link->port->counters.dropped[DROP_INVALID]++;
        return;
    }
    take(link, BLOCK_WRITE, len, now);
    link->credit -= PACKET_COST + (int64_t)len;
    bridge_input(link->bridge, link->port, packet, len, now);
}

// A limited port is read one by one, so that its debt is at most one packet.
static int read_batch(struct link *link, uint64_t now)
{
    struct mmsghdr message[LINK_BATCH];
    uint64_t left = (uint64_t)(link->credit / PACKET_COST) + 1;
    unsigned count = limit_of(link, BLOCK_WRITE) ? 1 : (unsigned)min_u64(left, LINK_BATCH);
    int n = receive(link, message, count);
    for (int i = 0; i < n; i++) {
        take_packet(link, link->buffers->packet[i] + BRIDGE_HEADROOM, message[i].msg_len, now);
    }
    return n;
}

static int read_ring(struct link *link, uint64_t now)
{
    uint8_t *packet = link->buffers->packet[0] + BRIDGE_HEADROOM;
    ssize_t len = vhost_back_pull(link->rings, packet, NET_PACKET_MAX + 1);
    if (len < 0)
        return 0;
    take_packet(link, packet, (size_t)len, now);
    return 1;
}

// False: the VM is gone.
static bool read_some(struct link *link)
{
    int64_t most = turn(link);
    uint64_t now = host_now();
    link->more = link->rings != NULL; // until there are none: rings say so once
    link->credit = link->credit + most < most ? link->credit + most : most;
    while (link->credit > 0 && !wait_for(link, BLOCK_WRITE, now)) {
        int n = link->rings ? read_ring(link, now) : read_batch(link, now);
        if (n < 0)
            return false;
        if (n == 0) {
            link->more = false;
            break;
        }
        now = host_now();
    }
    if (link->rings)
        vhost_back_pulled(link->rings);
    return true;
}

static void ready(void *opaque, uint32_t events)
{
    struct link *link = opaque;
    bool alive = true;
    if (events & EPOLLOUT)
        flush(link);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        alive = read_some(link);
    if (!alive || (events & (EPOLLHUP | EPOLLERR) && !(events & EPOLLIN)))
        link->gone(link->opaque, link);
    else
        watch(link, host_now());
}

static void go_on(void *opaque)
{
    struct link *link = opaque;
    flush(link);
    if (!read_some(link))
        link->gone(link->opaque, link);
    else
        watch(link, host_now());
}

// --- rings

static void ring_broken(void *opaque, const char *why)
{
    const struct link *link = opaque;
    log_line(LOG_WARN, "port of %s: its rings are stopped: %s", link->port->vm, why);
}

static void ring_gone(void *opaque, const char *why)
{
    struct link *link = opaque;
    if (*why)
        ring_broken(opaque, why);
    link->gone(link->opaque, link);
}

static const struct vhost_back_ops ring_ops = {go_on, go_on, ring_broken, ring_gone};
