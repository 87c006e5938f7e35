// Packets through the front end's virtqueues.
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/vhost/back.h"

enum { RECEIVE = 0, TRANSMIT = 1, F_MERGEABLE = 15 }; // of each pair: ring number modulo 2

static bool running(const struct vhost_back *b, unsigned ring)
{
    return b->ring[ring].started && b->ring[ring].on && b->ring[ring].q.enabled;
}

bool vhost_back_runs(const struct vhost_back *b)
{
    return running(b, RECEIVE) && running(b, TRANSMIT);
}

static void broken(struct vhost_back *b, unsigned ring, const char *why)
{
    b->ring[ring].q.enabled = 0;
    b->ops->broken(b->opaque, why);
}

// A front end that reads no calls has enough of them to read.
static void tell_guest(struct vhost_back *b, unsigned ring)
{
    struct vhost_ring *r = &b->ring[ring];
    const uint64_t one = 1;
    uint8_t which[8] = {(uint8_t)ring};
    if (!virtq_wants_interrupt(&r->q))
        return;
    if (r->call >= 0)
        (void)!write(r->call, &one, sizeof one);
    else if (b->calls >= 0)
        (void)vhost_send(b->calls, VHOST_BACKEND_VRING_CALL, 0, which, sizeof which, -1);
}

bool vhost_start_ring(struct vhost_back *b, unsigned ring)
{
    struct vhost_ring *r = &b->ring[ring];
    uint16_t avail = r->q.avail;
    virtq_init(&r->q, &b->dev, VIRTQ_SIZE_MAX);
    r->q.avail = avail;
    r->q.size = (uint16_t)r->size;
    if (!vhost_memory_guest(&b->memory, r->desc, &r->q.desc) ||
        !vhost_memory_guest(&b->memory, r->avail, &r->q.driver) ||
        !vhost_memory_guest(&b->memory, r->used, &r->q.device))
        return false;
    const uint8_t *used = vhost_memory_at(&b->memory, r->q.device, 4);
    if (!used)
        return false;
    r->q.used = load_le16(used + 2);
    return virtq_enable(&r->q, b->features);
}

void vhost_stop_ring(struct vhost_back *b, unsigned ring)
{
    b->ring[ring].q.enabled = 0;
}

void vhost_kicked(struct vhost_back *b, unsigned ring)
{
    if (running(b, ring))
        (ring % 2 == TRANSMIT ? b->ops->sent : b->ops->room)(b->opaque);
}

// --- from the guest

static ssize_t pull(struct vhost_back *b, unsigned ring, uint8_t *packet, size_t room)
{
    struct virtq *q = &b->ring[ring].q;
    const char *why;
    if (!running(b, ring))
        return -1;
    enum virtq_result result = virtq_pop(q, &b->chain, &why);
    if (result == VIRTQ_BROKEN)
        broken(b, ring, why);
    if (result != VIRTQ_GOT)
        return -1;
    size_t len = virtq_read(&b->chain, 0, packet, room);
    if (!virtq_push(q, &b->chain, 0)) {
        broken(b, ring, "the used ring is not in memory");
        return -1;
    }
    return (ssize_t)len;
}

// One ring after the other has its turn. All have been asked for kicks when none has a packet.
ssize_t vhost_back_pull(struct vhost_back *b, uint8_t *packet, size_t room)
{
    for (unsigned i = 0; i < VHOST_PAIRS; i++) {
        unsigned pair = b->turn++ % VHOST_PAIRS;
        ssize_t len = pull(b, 2 * pair + TRANSMIT, packet, room);
        if (len >= 0)
            return len;
    }
    return -1;
}

void vhost_back_pulled(struct vhost_back *b)
{
    for (unsigned i = TRANSMIT; i < VHOST_RINGS; i += 2) {
        if (running(b, i))
            tell_guest(b, i);
    }
}

// --- to the guest

// A connection keeps to one of the rings that the guest uses, which are the first ones.
static unsigned receive_ring(const struct vhost_back *b, const uint8_t *packet, size_t len)
{
    unsigned pairs = 1;
    while (pairs < VHOST_PAIRS && running(b, 2 * pairs + RECEIVE))
        pairs++;
    return 2 * net_packet_pair(packet, len, pairs) + RECEIVE;
}

// A part of a packet; false: there is no buffer for it now.
static bool deliver(void *opaque, uint8_t *packet, size_t len)
{
    struct vhost_back *b = opaque;
    unsigned ring = receive_ring(b, packet, len);
    const char *why;
    if (!running(b, ring))
        return true;
    b->receive.q = &b->ring[ring].q;
    b->receive.mergeable = b->features >> F_MERGEABLE & 1;
    switch (net_ring_receive(&b->receive, packet, len, &why)) {
    case NET_RING_DONE: tell_guest(b, ring); break;
    case NET_RING_EMPTY: return false;
    case NET_RING_NEVER: break;
    case NET_RING_BROKEN: broken(b, ring, why); break;
    }
    return true;
}

bool vhost_back_give(struct vhost_back *b, uint8_t *packet, size_t len)
{
    unsigned takes = net_takes_of_driver(b->features);
    if (!running(b, RECEIVE)) {
        b->taken = 0;
        return false;
    }
    return net_packet_hand_over(packet, len, takes, b->part, &b->taken, deliver, b);
}
