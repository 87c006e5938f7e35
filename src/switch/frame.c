// Reading Ethernet, IEEE 802.1Q, ARP (RFC 826), IPv4 (RFC 791), IPv6 (RFC 8200), TCP, UDP and ICMP
// headers, and writing tags and checksums. Not modelled: more than one tag (frames with two go as
// frames of an unknown kind), IPv6 jumbograms.
#include "switch/frame.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

#define NEEDS_CSUM 1
#define EXTENSIONS_MAX 8

// --- reading

static bool is_extension(uint8_t protocol)
{
    return protocol == 0 || protocol == 43 || protocol == 60; // options, routing
}

// Steps over IPv6's extension headers. False: they run over the end, or are too many.
static bool skip_extensions(struct frame *f, const uint8_t *end, uint8_t **at)
{
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        if (f->protocol == PROTOCOL_FRAGMENT) {
            if (end - *at < 8)
                return false;
            f->fragment = load_be16(*at + 2) & 0xfff8;
            f->more = (*at)[3] & 1;
            f->protocol = (*at)[0];
            *at += 8;
            if (f->fragment)
                return true;
        } else if (is_extension(f->protocol)) {
            if (end - *at < 8 || end - *at < ((*at)[1] + 1) * 8)
                return false;
            f->protocol = (*at)[0];
            *at += ((*at)[1] + 1) * 8;
        } else {
            return true;
        }
    }
    return false;
}

static bool read_transport(struct frame *f)
{
    static const uint8_t least[256] = {
        [PROTOCOL_ICMP] = 8, [PROTOCOL_TCP] = 20, [PROTOCOL_UDP] = 8, [PROTOCOL_ICMPV6] = 4};
    if (f->l4_len < least[f->protocol])
        return false;
    if (f->protocol == PROTOCOL_TCP || f->protocol == PROTOCOL_UDP) {
        f->from = load_be16(f->l4);
        f->to = load_be16(f->l4 + 2);
    } else if (f->protocol == PROTOCOL_ICMP || f->protocol == PROTOCOL_ICMPV6) {
        f->from = load_be16(f->l4);
    }
    if (f->protocol == PROTOCOL_TCP)
        f->tcp_flags = f->l4[13];
    return true;
}

// The datagram may be shorter than the frame (padding); a large frame's length field is not looked
// at by receivers of virtio's segments, but must not be beyond the frame either.
static bool read_ip(struct frame *f, size_t room)
{
    uint8_t *ip = f->l3, *at;
    size_t len;
    bool v6 = f->kind == FRAME_IPV6;
    if (room < (v6 ? 40u : 20u) || ip[0] >> 4 != (v6 ? 6 : 4))
        return false;
    if (v6) {
        len = 40 + load_be16(ip + 4);
        f->protocol = ip[6];
        at = ip + 40;
    } else {
        size_t header = (ip[0] & 15u) * 4u;
        len = load_be16(ip + 2);
        if (header < 20 || header > len)
            return false;
        f->protocol = ip[9];
        f->fragment = load_be16(ip + 6) & 0x1fff;
        f->more = ip[6] & 0x20;
        at = ip + header;
    }
    if (f->packet[1]) // segments to be made
        len = room;
    if (len > room || (v6 && !skip_extensions(f, ip + len, &at)))
        return false;
    if (f->fragment)
        return true;
    f->l4 = at;
    f->l4_len = (size_t)(ip + len - at);
    return read_transport(f);
}

// A checksum that is still to be filled in must be the transport's, at its place: anywhere else it
// would change what was read here.
static bool checksum_in_place(const struct frame *f)
{
    if (!(f->packet[0] & NEEDS_CSUM))
        return true;
    size_t start = load_le16(f->packet + 6), offset = load_le16(f->packet + 8);
    if (!f->l4 || f->more || f->eth + start != f->l4)
        return false;
    return (f->protocol == PROTOCOL_TCP && offset == 16) ||
           (f->protocol == PROTOCOL_UDP && offset == 6);
}

static bool take_tag_out(struct frame *f)
{
    if (f->len < NET_HEADER_BYTES + ETH_BYTES + VLAN_TAG_BYTES)
        return false;
    f->vlan = load_be16(f->eth + 14) & 0xfff;
    if (f->vlan > VLAN_MAX)
        return false;
    memmove(f->packet + VLAN_TAG_BYTES, f->packet, NET_HEADER_BYTES + 2 * NET_MAC_BYTES);
    f->packet += VLAN_TAG_BYTES;
    f->eth += VLAN_TAG_BYTES;
    f->len -= VLAN_TAG_BYTES;
    if (f->packet[0] & NEEDS_CSUM)
        store_le16(f->packet + 6, (uint16_t)(load_le16(f->packet + 6) - VLAN_TAG_BYTES));
    if (f->packet[1])
        store_le16(f->packet + 2, (uint16_t)(load_le16(f->packet + 2) - VLAN_TAG_BYTES));
    f->type = load_be16(f->eth + 12);
    return true;
}

bool frame_read(struct frame *f, uint8_t *packet, size_t len)
{
    if (!net_packet_valid(packet, len, NET_TAKES_ALL))
        return false;
    *f = (struct frame){.packet = packet, .len = len, .eth = packet + NET_HEADER_BYTES};
    f->type = load_be16(f->eth + 12);
    if (f->type == ETHERTYPE_VLAN && !take_tag_out(f))
        return false;
    size_t room = f->len - NET_HEADER_BYTES - ETH_BYTES;
    f->l3 = f->eth + ETH_BYTES;
    if (frame_mac_from(f)[0] & 1)
        return false;
    switch (f->type) {
    case ETHERTYPE_ARP: f->kind = FRAME_ARP; break;
    case ETHERTYPE_IPV4: f->kind = FRAME_IPV4; break;
    case ETHERTYPE_IPV6: f->kind = FRAME_IPV6; break;
    default: return checksum_in_place(f);
    }
    if (f->kind == FRAME_ARP && room < ARP_BYTES)
        return false;
    if (f->kind != FRAME_ARP && !read_ip(f, room))
        return false;
    return checksum_in_place(f);
}

uint8_t *frame_tag(uint8_t *packet, uint16_t vlan)
{
    uint8_t *to = packet - VLAN_TAG_BYTES, *tag = to + NET_HEADER_BYTES + 2 * NET_MAC_BYTES;
    memmove(to, packet, NET_HEADER_BYTES + 2 * NET_MAC_BYTES);
    store_be16(tag, ETHERTYPE_VLAN);
    store_be16(tag + 2, vlan);
    if (to[0] & NEEDS_CSUM)
        store_le16(to + 6, (uint16_t)(load_le16(to + 6) + VLAN_TAG_BYTES));
    if (to[1])
        store_le16(to + 2, (uint16_t)(load_le16(to + 2) + VLAN_TAG_BYTES));
    return to;
}

// --- sums

static uint16_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

uint16_t inet_sum(uint16_t before, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t sum = before;
    for (; len >= 2; p += 2, len -= 2)
        sum += load_be16(p);
    if (len)
        sum += (uint32_t)p[0] << 8;
    return fold(sum);
}

void inet_fix(uint8_t *checksum, const void *old, const void *new, size_t len)
{
    uint16_t gone = (uint16_t)~inet_sum(0, old, len);
    uint64_t sum = (uint16_t)~load_be16(checksum);
    sum += gone;
    sum += inet_sum(0, new, len);
    store_be16(checksum, (uint16_t)~fold(sum));
}

// Where the checksum is in a transport header; NULL: nowhere we know.
static uint8_t *checksum_of(uint8_t protocol, uint8_t *l4)
{
    switch (protocol) {
    case PROTOCOL_ICMP:
    case PROTOCOL_ICMPV6: return l4 + 2;
    case PROTOCOL_TCP: return l4 + 16;
    case PROTOCOL_UDP: return l4 + 6;
    default: return NULL;
    }
}

static void finish_transport(uint8_t protocol, const uint8_t *addresses, size_t addresses_len,
                             uint8_t *l4, size_t len)
{
    uint8_t *at = checksum_of(protocol, l4);
    if (!at)
        return;
    store_be16(at, 0);
    uint16_t sum = 0;
    if (protocol != PROTOCOL_ICMP) {
        sum = inet_sum(0, addresses, addresses_len);
        sum = fold((uint64_t)sum + protocol + len);
    }
    sum = (uint16_t)~inet_sum(sum, l4, len);
    store_be16(at, sum ? sum : 0xffff);
}

void ipv4_finish(uint8_t *ip, size_t len)
{
    store_be16(ip + 2, (uint16_t)len);
    store_be16(ip + 10, 0);
    store_be16(ip + 10, (uint16_t)~inet_sum(0, ip, 20));
    finish_transport(ip[9], ip + 12, 8, ip + 20, len - 20);
}

void ipv6_finish(uint8_t *ip, size_t len)
{
    store_be16(ip + 4, (uint16_t)(len - 40));
    finish_transport(ip[6], ip + 8, 32, ip + 40, len - 40);
}
