// Frames for tests, put together from their parts.
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "switch/frame.h"

// A packet with room for a tag before it.
struct made {
    uint8_t room[VLAN_TAG_BYTES];
    uint8_t packet[2000];
    size_t len;
};

static inline uint8_t *make_eth(struct made *m, const uint8_t to[6], const uint8_t from[6],
                                uint16_t type)
{
    memset(m, 0, sizeof *m);
    uint8_t *eth = m->packet + NET_HEADER_BYTES;
    memcpy(eth, to, 6);
    memcpy(eth + 6, from, 6);
    store_be16(eth + 12, type);
    m->len = NET_HEADER_BYTES + ETH_BYTES;
    return eth + ETH_BYTES;
}

static inline void make_ipv4(struct made *m, const uint8_t to[6], const uint8_t from[6],
                             uint32_t source, uint32_t target, uint8_t protocol, uint16_t from_port,
                             uint16_t to_port)
{
    uint8_t *ip = make_eth(m, to, from, ETHERTYPE_IPV4);
    size_t l4 = protocol == PROTOCOL_TCP ? 20 : 16;
    ip[0] = 0x45;
    ip[8] = 64;
    ip[9] = protocol;
    store_be32(ip + 12, source);
    store_be32(ip + 16, target);
    store_be16(ip + 20, from_port);
    store_be16(ip + 22, to_port);
    if (protocol == PROTOCOL_TCP)
        ip[32] = 0x50;
    ipv4_finish(ip, 20 + l4);
    m->len += 20 + l4;
}

// An exact allocation, so that a sanitizer sees what is read beyond it.
static inline bool read_exactly(struct frame *f, const struct made *m, size_t len, uint8_t **copy)
{
    *copy = malloc(len ? len : 1);
    memcpy(*copy, m->packet, len);
    return frame_read(f, *copy, len);
}
