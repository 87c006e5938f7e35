// Packets into a receive queue of a virtio network card, for whoever owns the queue.
#pragma once

#include "device/virtio/queue.h"

#define NET_RING_MERGED 64 // buffers that one packet may be spread over

struct net_ring {
    struct virtq *q;
    bool mergeable; // VIRTIO_NET_F_MRG_RXBUF was accepted
    struct virtq_chain chain;
    struct virtq_used used[NET_RING_MERGED];
};

enum net_ring_result {
    NET_RING_DONE,   // the guest has the packet; it is to be told
    NET_RING_EMPTY,  // there are too few buffers now; nothing was taken
    NET_RING_NEVER,  // a buffer that is there is too small for it
    NET_RING_BROKEN, // *why says how
};

// The packet is a header and a frame (net/net.h); its num_buffers is filled in.
enum net_ring_result net_ring_receive(struct net_ring *ring, uint8_t *packet, size_t len,
                                      const char **why);
