// What a packet of net/net.h says, read once where it comes in: tag, addresses, protocol, ports.
// What the rest of the switch decides on is what the receiver will see, so that a packet whose
// sender left work to be done in the headers that were read is refused.
#pragma once

#include "net/net.h"

enum {
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_ARP = 0x0806,
    ETHERTYPE_VLAN = 0x8100,
    ETHERTYPE_QINQ = 0x88a8,
    ETHERTYPE_IPV6 = 0x86dd,

    PROTOCOL_ICMP = 1,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_FRAGMENT = 44,
    PROTOCOL_ICMPV6 = 58,

    TCP_FIN = 0x01,
    TCP_SYN = 0x02,
    TCP_RST = 0x04,
    TCP_ACK = 0x10,

    ETH_BYTES = 14,
    ARP_BYTES = 28,
    UDP_BYTES = 8,
    VLAN_TAG_BYTES = 4,
    VLAN_MAX = 4094,
};

enum frame_kind { FRAME_OTHER, FRAME_ARP, FRAME_IPV4, FRAME_IPV6 };

// Pointers lead into the packet.
struct frame {
    uint8_t *packet; // header and frame
    size_t len;
    uint8_t *eth;
    uint8_t *l3, *l4; // l4: NULL where there is none, or not its start
    size_t l4_len;    // bytes from l4 to the end of the IP datagram
    enum frame_kind kind;
    uint16_t type;     // Ethernet's, behind the tag
    uint16_t vlan;     // of the tag that was taken out; 0: none
    uint8_t protocol;  // of IP: the last header's
    bool fragment;     // not the first one: l4 is NULL
    bool more;         // some fragment follows
    uint16_t from, to; // ports of TCP and UDP; type and code of ICMP in `from`
    uint8_t tcp_flags;
};

// Takes a tag out, in place. False: no receiver should see this.
bool frame_read(struct frame *f, uint8_t *packet, size_t len);

// Puts a tag in. packet has room for VLAN_TAG_BYTES before it; returns where it starts now.
uint8_t *frame_tag(uint8_t *packet, uint16_t vlan);

static inline bool frame_is_multicast(const struct frame *f)
{
    return f->eth[0] & 1;
}

static inline const uint8_t *frame_mac_to(const struct frame *f)
{
    return f->eth;
}

static inline const uint8_t *frame_mac_from(const struct frame *f)
{
    return f->eth + NET_MAC_BYTES;
}

// --- sums (RFC 1071, 1624)

// Of the bytes, added to what was summed before; folded, not inverted.
uint16_t inet_sum(uint16_t before, const void *data, size_t len);
// A checksum in a packet after the bytes it covers changed from old to new.
void inet_fix(uint8_t *checksum, const void *old, const void *new, size_t len);
// Fills in a datagram's: IPv4 header, and TCP, UDP or ICMP over either IP. l4_len from the IP
// header.
void ipv4_finish(uint8_t *ip, size_t len);
void ipv6_finish(uint8_t *ip, size_t len);
