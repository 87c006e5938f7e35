// Packets through the front end's virtqueues.
//
// The guest behind the front end is hostile: its rings are walked by device/virtio/queue.h, which
// bounds everything, and its packets are checked before they go to the port.
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bytes.h"
#include "vhost/adapter.h"

#define PACKETS_A_TURN 128

enum { RECEIVE = 0, TRANSMIT = 1 };

static bool has(const struct vhost *v, unsigned feature)
{
    return v->features >> feature & 1;
}

static bool running(const struct vhost *v, unsigned ring)
{
    return v->ring[ring].started && v->ring[ring].on && v->ring[ring].q.enabled;
}

static void broken(struct vhost *v, unsigned ring, const char *why)
{
    v->ring[ring].q.enabled = 0;
    v->ended(v->opaque, why);
}

static void tell_guest(struct vhost_ring *r)
{
    const uint64_t one = 1;
    if (virtq_wants_interrupt(&r->q) && r->call >= 0)
        (void)!write(r->call, &one, sizeof one);
}

bool vhost_start_ring(struct vhost *v, unsigned ring)
{
    struct vhost_ring *r = &v->ring[ring];
    uint16_t avail = r->q.avail;
    virtq_init(&r->q, &v->dev, VIRTQ_SIZE_MAX);
    r->q.avail = avail;
    r->q.size = (uint16_t)r->size;
    if (!vhost_memory_guest(&v->memory, r->desc, &r->q.desc) ||
        !vhost_memory_guest(&v->memory, r->avail, &r->q.driver) ||
        !vhost_memory_guest(&v->memory, r->used, &r->q.device))
        return false;
    const uint8_t *used = vhost_memory_at(&v->memory, r->q.device, 4);
    if (!used)
        return false;
    r->q.used = load_le16(used + 2);
    return virtq_enable(&r->q, v->features);
}

void vhost_stop_ring(struct vhost *v, unsigned ring)
{
    v->ring[ring].q.enabled = 0;
    if (ring == RECEIVE)
        v->held = false;
}

void vhost_kicked(struct vhost *v, unsigned ring)
{
    if (ring == TRANSMIT)
        vhost_transmit(v);
    else
        vhost_receive(v);
}

// --- from the guest

// False: the port has no room now.
static bool send(struct vhost *v, size_t len)
{
    if (!net_packet_valid(v->out, len, net_takes_of_device(v->features)))
        return true;
    for (;;) {
        if (write(v->port.fd, v->out, len) >= 0 || (errno != EAGAIN && errno != EINTR))
            return true; // with an error the port is going down
        if (errno == EAGAIN)
            return false;
    }
}

void vhost_transmit(struct vhost *v)
{
    struct vhost_ring *r = &v->ring[TRANSMIT];
    const char *why = "";
    enum virtq_result result = VIRTQ_EMPTY;
    bool pushed = true;
    for (int i = 0; i < PACKETS_A_TURN && running(v, TRANSMIT) && !v->full && pushed; i++) {
        result = virtq_pop(&r->q, &v->chain, &why);
        if (result != VIRTQ_GOT)
            break;
        if (!send(v, virtq_read(&v->chain, 0, v->out, sizeof v->out))) {
            virtq_unpop(&r->q, &v->chain);
            v->full = true;
            loop_fd_set(v->loop, &v->port, v->port.events | EPOLLOUT);
            break;
        }
        pushed = virtq_push(&r->q, &v->chain, 0);
    }
    if (result == VIRTQ_BROKEN || !pushed)
        broken(v, TRANSMIT, pushed ? why : "the used ring is not in memory");
    else if (running(v, TRANSMIT))
        tell_guest(r);
    const uint64_t again = 1;
    if (result == VIRTQ_GOT && !v->full && running(v, TRANSMIT) && r->kick.fd >= 0)
        (void)!write(r->kick.fd, &again, sizeof again); // others on the loop have their turn
}

// --- to the guest

static void deliver(void *opaque, uint8_t *packet, size_t len)
{
    struct vhost *v = opaque;
    const char *why;
    if (v->short_of_buffers || !running(v, RECEIVE))
        return;
    v->receive.q = &v->ring[RECEIVE].q;
    v->receive.mergeable = has(v, 15);
    switch (net_ring_receive(&v->receive, packet, len, &why)) {
    case NET_RING_DONE: break;
    case NET_RING_EMPTY: v->short_of_buffers = true; break;
    case NET_RING_NEVER: break;
    case NET_RING_BROKEN: broken(v, RECEIVE, why); break;
    }
}

// The next packet of the port. False: there is none now, or the port is gone.
static bool next_packet(struct vhost *v)
{
    for (;;) {
        ssize_t n = read(v->port.fd, v->packet, sizeof v->packet);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n <= 0) {
            v->ended(v->opaque, "the network has gone away");
            return false;
        }
        v->len = (size_t)n;
        if (net_packet_valid(v->packet, v->len, NET_TAKES_ALL))
            return true;
    }
}

void vhost_receive(struct vhost *v)
{
    for (int i = 0; i < PACKETS_A_TURN && (v->held || next_packet(v)); i++) {
        v->short_of_buffers = false;
        net_packet_lower(v->packet, v->len, net_takes_of_driver(v->features), v->part, deliver, v);
        v->held = v->short_of_buffers;
        if (v->held)
            break;
    }
    uint32_t events = (v->held ? 0u : EPOLLIN) | (v->full ? EPOLLOUT : 0u);
    loop_fd_set(v->loop, &v->port, events);
    if (running(v, RECEIVE))
        tell_guest(&v->ring[RECEIVE]);
}
