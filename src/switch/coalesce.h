// Joins TCP segments that come from the outside one after another into one large packet, as a
// network card with receive offload does. The guest handles it once instead of forty times, which
// counts most where its code is translated.
#pragma once

#include "switch/bridge.h"

struct coalesce {
    void (*emit)(void *opaque, uint8_t *packet, size_t len); // BRIDGE_HEADROOM before it
    void *opaque;
    size_t len;     // of the packet held, 0: none
    size_t l3, l4;  // offsets in it
    size_t data;    // offset of its TCP data
    size_t segment; // bytes of data in its first segment
    unsigned count; // of segments
    uint8_t packet[BRIDGE_HEADROOM + NET_PACKET_MAX];
};

// A packet with right checksums and no work left in it. Comes out by emit, now or later, in order.
void coalesce_add(struct coalesce *c, const struct frame *f);
void coalesce_flush(struct coalesce *c);
