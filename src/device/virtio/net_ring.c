// Receive queues of virtio network cards: packets over merged buffers (VIRTIO 1.2, 5.1.6.4), which
// the guest sees all together.
#include "device/virtio/net_ring.h"

#include "base/bytes.h"
#include "net/net.h"

#define HEADER_NUM_BUFFERS 10

static void give_back(struct net_ring *ring, unsigned n)
{
    while (n-- > 0)
        virtq_unpop(ring->q, &(struct virtq_chain){.slots = ring->used[n].slots});
}

enum net_ring_result net_ring_receive(struct net_ring *ring, uint8_t *packet, size_t len,
                                      const char **why)
{
    unsigned max = ring->mergeable ? NET_RING_MERGED : 1, n = 0;
    struct virtq_spot num_buffers = {0};
    size_t done = 0;

    store_le16(packet + HEADER_NUM_BUFFERS, 1);
    while (done < len && n < max) {
        enum virtq_result result = virtq_pop(ring->q, &ring->chain, why);
        uint64_t room = ring->chain.writable_bytes;
        if (result == VIRTQ_EMPTY) {
            give_back(ring, n);
            return NET_RING_EMPTY;
        }
        if (result == VIRTQ_BROKEN)
            return NET_RING_BROKEN;
        if (room < NET_HEADER_BYTES) {
            *why = "a receive buffer is too small for its header";
            return NET_RING_BROKEN;
        }
        if (max == 1 && room < len) {
            virtq_unpop(ring->q, &ring->chain);
            return NET_RING_NEVER;
        }
        if (n == 0)
            num_buffers = virtq_spot(&ring->chain, HEADER_NUM_BUFFERS);
        ring->used[n] = virtq_fill(ring->q, &ring->chain, packet + done, len - done);
        done += ring->used[n++].written;
    }
    if (done < len) {
        give_back(ring, n);
        return NET_RING_NEVER;
    }
    if (n > 1)
        virtq_patch(ring->q, &num_buffers, (uint16_t)n);
    *why = "the used ring is not in RAM";
    return virtq_push_set(ring->q, ring->used, n) ? NET_RING_DONE : NET_RING_BROKEN;
}
