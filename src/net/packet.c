// Packets with work left in them: checks of what senders claim, checksums, TCP and UDP
// segmentation, fragments of UDP datagrams.
//
// Sources: VIRTIO 1.3, 5.1.6.2 (what the header means); RFC 1071 (checksum), RFC 768, 791, 8200,
// 9293 (the headers that are cut and counted on). Not done: IPv6 extension headers in large frames
// (such a frame is refused), ECN bits of large frames (the header's ECN flag is refused).
#include "net/net.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

enum {
    NEEDS_CSUM = 1,
    DATA_VALID = 2,
    GSO_NONE = 0,
    GSO_TCPV4 = 1,
    GSO_UDP = 3, // to be cut by IP
    GSO_TCPV6 = 4,
    GSO_UDP_L4 = 5, // to be cut into datagrams

    // Bits of virtio's features
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_GUEST_UFO = 10,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_HOST_UFO = 14,
    F_GUEST_USO4 = 54,
    F_GUEST_USO6 = 55,
    F_HOST_USO = 56,

    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_IPV6 = 0x86dd,
    ETHERTYPE_VLAN = 0x8100,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_FRAGMENT = 44,
    UDP_BYTES = 8,
    FRAGMENT_BYTES = 8, // IPv6's extension header
    FRAGMENT_UNIT = 8,
    FRAGMENT_MAX = 32 * 1024, // so that it fits with its headers
    MORE_FRAGMENTS = 0x2000,
    TCP_FIN = 1,
    TCP_PSH = 8,
    TCP_CWR = 0x80,

    IP_LENGTH_MAX = 65535,
    SEGMENT_MIN = 48, // bytes: fewer would make very many segments of one packet
};

// Big-endian fields of network headers.
static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)(v >> 16));
    put16(p + 2, (uint16_t)v);
}

// The ones' complement sum of the bytes, not yet inverted.
static uint16_t sum_bytes(const uint8_t *p, size_t len)
{
    uint64_t sum = 0;
    for (; len >= 4; p += 4, len -= 4)
        sum += get32(p);
    if (len >= 2) {
        sum += get16(p);
        p += 2;
        len -= 2;
    }
    if (len)
        sum += (uint32_t)p[0] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

// Where the headers of a large frame are; offsets from the frame's first byte.
struct layout {
    size_t ip;
    size_t l4;
    size_t data;
    bool v6, udp;
};

// Bytes of a transport header; 0: it is not all there.
static size_t transport_bytes(const uint8_t *l4, size_t len, bool udp)
{
    size_t min = udp ? UDP_BYTES : 20;
    if (len < min)
        return 0;
    size_t bytes = udp ? min : (l4[12] >> 4) * 4u;
    return bytes < min ? 0 : bytes;
}

// The headers must all be there, and agree with each other.
static bool find_layout(const uint8_t *frame, size_t len, bool udp, struct layout *out)
{
    size_t ip = 14;
    uint16_t type = get16(frame + 12);
    if (type == ETHERTYPE_VLAN && len >= 18) {
        type = get16(frame + 16);
        ip = 18;
    }
    bool v6 = type == ETHERTYPE_IPV6;
    if ((type != ETHERTYPE_IPV4 && !v6) || len < ip + (v6 ? 40 : 20))
        return false;
    const uint8_t *h = frame + ip;
    size_t ip_bytes = v6 ? 40 : (h[0] & 15u) * 4u;
    if (h[0] >> 4 != (v6 ? 6 : 4) || ip_bytes < 20 || len < ip + ip_bytes ||
        h[v6 ? 6 : 9] != (udp ? PROTOCOL_UDP : PROTOCOL_TCP))
        return false;
    size_t l4 = ip + ip_bytes, l4_bytes = transport_bytes(frame + l4, len - l4, udp);
    if (!l4_bytes || l4 + l4_bytes >= len)
        return false;
    *out = (struct layout){ip, l4, l4 + l4_bytes, v6, udp};
    return true;
}

static bool is_udp(unsigned gso_type)
{
    return gso_type == GSO_UDP || gso_type == GSO_UDP_L4;
}

// The ability that a large frame needs; 0: it is of no kind that there is.
static unsigned gso_needs(unsigned gso_type, bool v6)
{
    switch (gso_type) {
    case GSO_TCPV4: return v6 ? 0 : NET_TAKES_TSO4;
    case GSO_TCPV6: return v6 ? NET_TAKES_TSO6 : 0;
    case GSO_UDP: return NET_TAKES_UFO;
    case GSO_UDP_L4: return v6 ? NET_TAKES_USO6 : NET_TAKES_USO4;
    default: return 0;
    }
}

static bool gso_valid(const uint8_t *packet, size_t frame_len, unsigned takes)
{
    struct layout at;
    unsigned type = packet[1], size = load_le16(packet + 4);
    bool udp = is_udp(type);
    if (size < SEGMENT_MIN || !(packet[0] & NEEDS_CSUM) ||
        !find_layout(packet + NET_HEADER_BYTES, frame_len, udp, &at))
        return false;
    unsigned needs = gso_needs(type, at.v6);
    return needs && (takes & needs) && load_le16(packet + 6) == at.l4 &&
           load_le16(packet + 8) == (udp ? 6 : 16);
}

bool net_packet_valid(const uint8_t *packet, size_t len, unsigned takes)
{
    if (len < NET_HEADER_BYTES + NET_FRAME_MIN || len > NET_PACKET_MAX)
        return false;
    size_t frame_len = len - NET_HEADER_BYTES;
    if (packet[0] & ~(NEEDS_CSUM | DATA_VALID))
        return false;
    if (packet[0] & NEEDS_CSUM) {
        size_t start = load_le16(packet + 6), at = start + load_le16(packet + 8);
        if (!(takes & NET_TAKES_CHECKSUM) || start < NET_FRAME_MIN || at + 2 > frame_len)
            return false;
    }
    return packet[1] == GSO_NONE || gso_valid(packet, frame_len, takes);
}

static unsigned bit(uint64_t features, unsigned which, unsigned takes)
{
    return features >> which & 1 ? takes : 0;
}

unsigned net_packet_pair(const uint8_t *packet, size_t len, unsigned pairs)
{
    const uint8_t *frame = packet + NET_HEADER_BYTES;
    bool v4 = frame[12] == 0x08 && frame[13] == 0x00, v6 = frame[12] == 0x86 && frame[13] == 0xdd;
    size_t at = v4 ? 26 : 22, end = v4 ? 38 : 58; // addresses, and ports where no options precede
    uint32_t hash = 2166136261u;

    if (pairs <= 1 || !(v4 || v6) || len < NET_HEADER_BYTES + end)
        return 0;
    for (; at < end; at++)
        hash = (hash ^ frame[at]) * 16777619u;
    return hash % pairs;
}

unsigned net_takes_of_device(uint64_t features)
{
    if (!bit(features, F_CSUM, 1))
        return 0;
    return NET_TAKES_CHECKSUM | bit(features, F_HOST_TSO4, NET_TAKES_TSO4) |
           bit(features, F_HOST_TSO6, NET_TAKES_TSO6) | bit(features, F_HOST_UFO, NET_TAKES_UFO) |
           bit(features, F_HOST_USO, NET_TAKES_USO4 | NET_TAKES_USO6);
}

unsigned net_takes_of_driver(uint64_t features)
{
    if (!bit(features, F_GUEST_CSUM, 1))
        return 0;
    return NET_TAKES_CHECKSUM | bit(features, F_GUEST_TSO4, NET_TAKES_TSO4) |
           bit(features, F_GUEST_TSO6, NET_TAKES_TSO6) | bit(features, F_GUEST_UFO, NET_TAKES_UFO) |
           bit(features, F_GUEST_USO4, NET_TAKES_USO4) |
           bit(features, F_GUEST_USO6, NET_TAKES_USO6);
}

unsigned net_packet_needs(const uint8_t *packet)
{
    const uint8_t *frame = packet + NET_HEADER_BYTES;
    uint16_t type = get16(frame + 12);
    bool v6 = (type == ETHERTYPE_VLAN ? get16(frame + 16) : type) == ETHERTYPE_IPV6;
    return (packet[0] & NEEDS_CSUM ? NET_TAKES_CHECKSUM : 0) |
           (packet[1] ? gso_needs(packet[1], v6) : 0);
}

// The sender has put the sum of the pseudo-header where the checksum goes.
static void finish_checksum(uint8_t *packet, size_t len)
{
    uint8_t *frame = packet + NET_HEADER_BYTES;
    size_t start = load_le16(packet + 6), at = start + load_le16(packet + 8);
    uint16_t sum = (uint16_t)~sum_bytes(frame + start, len - NET_HEADER_BYTES - start);
    put16(frame + at, sum ? sum : 0xffff);
    packet[0] &= (uint8_t)~NEEDS_CSUM;
}

// Nothing is left to do.
static void clear_header(uint8_t *packet)
{
    memset(packet, 0, NET_HEADER_BYTES);
    packet[10] = 1;
}

static void fill_checksum(uint8_t *packet, size_t len)
{
    finish_checksum(packet, len);
    clear_header(packet);
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

// IP's header of a packet with `bytes` behind it.
static void fix_ip(uint8_t *ip, const struct layout *at, size_t bytes)
{
    if (at->v6) {
        put16(ip + 4, (uint16_t)bytes);
        return;
    }
    put16(ip + 2, (uint16_t)(at->l4 - at->ip + bytes));
    put16(ip + 10, 0);
    put16(ip + 10, (uint16_t)~sum_bytes(ip, at->l4 - at->ip));
}

// The headers of one segment with `data` bytes of payload, its checksum left to fill_checksum().
static void fix_headers(uint8_t *frame, const struct layout *at, unsigned number, size_t offset,
                        size_t data, bool last)
{
    uint8_t *ip = frame + at->ip, *l4 = frame + at->l4;
    size_t bytes = at->data - at->l4 + data;
    if (!at->v6)
        put16(ip + 4, (uint16_t)(get16(ip + 4) + number));
    fix_ip(ip, at, bytes);
    uint32_t sum = at->v6 ? sum_bytes(ip + 8, 32) : sum_bytes(ip + 12, 8);
    if (at->udp) {
        put16(l4 + 4, (uint16_t)bytes);
        put16(l4 + 6, fold(sum + PROTOCOL_UDP + (uint32_t)bytes));
        return;
    }
    put32(l4 + 4, get32(l4 + 4) + (uint32_t)offset);
    if (!last)
        l4[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    if (number)
        l4[13] &= (uint8_t)~TCP_CWR;
    put16(l4 + 16, fold(sum + PROTOCOL_TCP + (uint32_t)bytes));
}

bool net_packet_whole(uint8_t *packet, size_t len)
{
    uint8_t *frame = packet + NET_HEADER_BYTES;
    size_t frame_len = len - NET_HEADER_BYTES;
    struct layout at;
    if (packet[1] != GSO_NONE) {
        if (packet[1] == GSO_UDP_L4 || !find_layout(frame, frame_len, is_udp(packet[1]), &at) ||
            frame_len - (at.v6 ? at.l4 : at.ip) > IP_LENGTH_MAX)
            return false;
        fix_headers(frame, &at, 0, 0, frame_len - at.data, true);
    }
    if (packet[0] & NEEDS_CSUM)
        fill_checksum(packet, len);
    return true;
}

// Where pieces go; the receiver has the first *taken of them.
struct out {
    uint8_t *scratch;
    bool (*emit)(void *opaque, uint8_t *packet, size_t len);
    void *opaque;
    uint32_t *taken;
};

static bool emit_piece(const struct out *to, uint8_t *packet, size_t len)
{
    if (!to->emit(to->opaque, packet, len))
        return false;
    ++*to->taken;
    return true;
}

static bool segment(const uint8_t *packet, size_t len, const struct out *to)
{
    const uint8_t *frame = packet + NET_HEADER_BYTES;
    size_t frame_len = len - NET_HEADER_BYTES, size = load_le16(packet + 4);
    struct layout at;
    if (!find_layout(frame, frame_len, is_udp(packet[1]), &at))
        return true;
    size_t total = frame_len - at.data;
    for (size_t offset = *to->taken * size; offset < total; offset += size) {
        size_t data = min_u64(size, total - offset);
        uint8_t *out = to->scratch + NET_HEADER_BYTES;
        memcpy(to->scratch, packet, NET_HEADER_BYTES);
        memcpy(out, frame, at.data);
        memcpy(out + at.data, frame + at.data + offset, data);
        fix_headers(out, &at, *to->taken, offset, data, offset + data == total);
        size_t bytes = NET_HEADER_BYTES + at.data + data;
        fill_checksum(to->scratch, bytes);
        if (!emit_piece(to, to->scratch, bytes))
            return false;
    }
    return true;
}

// --- fragments

// What tells a datagram's fragments from another's. Made of its content, since there is nobody here
// to count: datagrams that are alike may share it.
static uint32_t identify(const uint8_t *l4, size_t len)
{
    uint32_t hash = 2166136261u; // FNV-1a
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ l4[i]) * 16777619u;
    return hash;
}

// One fragment's headers behind the Ethernet header; returns their end.
static uint8_t *fragment_headers(uint8_t *out, const uint8_t *ip, const struct layout *at,
                                 uint32_t identity, size_t offset, size_t bytes, bool last)
{
    size_t ip_bytes = at->l4 - at->ip;
    memcpy(out, ip, ip_bytes);
    if (!at->v6) {
        if (!get16(ip + 4))
            put16(out + 4, (uint16_t)identity);
        put16(out + 6, (uint16_t)(offset / FRAGMENT_UNIT | (last ? 0 : MORE_FRAGMENTS)));
        fix_ip(out, at, bytes);
        return out + ip_bytes;
    }
    uint8_t *extension = out + ip_bytes;
    out[6] = PROTOCOL_FRAGMENT;
    fix_ip(out, at, FRAGMENT_BYTES + bytes);
    extension[0] = PROTOCOL_UDP;
    extension[1] = 0;
    put16(extension + 2, (uint16_t)(offset | (last ? 0 : 1)));
    put32(extension + 4, identity);
    return extension + FRAGMENT_BYTES;
}

static bool fragment(const uint8_t *packet, size_t len, const struct out *to)
{
    const uint8_t *frame = packet + NET_HEADER_BYTES;
    struct layout at;
    if (!find_layout(frame, len - NET_HEADER_BYTES, true, &at))
        return true;
    size_t total = len - NET_HEADER_BYTES - at.l4;
    size_t size = min_u64(load_le16(packet + 4), FRAGMENT_MAX) & ~(size_t)(FRAGMENT_UNIT - 1);
    uint32_t identity = identify(frame + at.l4, total);
    for (size_t offset = *to->taken * size; offset < total; offset += size) {
        size_t bytes = min_u64(size, total - offset);
        uint8_t *out = to->scratch + NET_HEADER_BYTES;
        clear_header(to->scratch);
        memcpy(out, frame, at.ip);
        uint8_t *data = fragment_headers(out + at.ip, frame + at.ip, &at, identity, offset, bytes,
                                         offset + bytes == total);
        memcpy(data, frame + at.l4 + offset, bytes);
        if (!emit_piece(to, to->scratch, (size_t)(data + bytes - to->scratch)))
            return false;
    }
    return true;
}

static bool hand_over(uint8_t *packet, size_t len, unsigned takes, const struct out *to)
{
    unsigned missing = net_packet_needs(packet) & ~takes;
    if (missing & ~(unsigned)(NET_TAKES_CHECKSUM | NET_TAKES_UFO))
        return segment(packet, len, to);
    if (missing & NET_TAKES_UFO) {
        if (packet[0] & NEEDS_CSUM) // else what was begun goes on
            finish_checksum(packet, len);
        return fragment(packet, len, to);
    }
    if (missing)
        fill_checksum(packet, len);
    return emit_piece(to, packet, len);
}

bool net_packet_hand_over(uint8_t *packet, size_t len, unsigned takes, uint8_t *scratch,
                          uint32_t *taken, bool (*emit)(void *opaque, uint8_t *packet, size_t len),
                          void *opaque)
{
    const struct out to = {scratch, emit, opaque, taken};
    bool all = hand_over(packet, len, takes, &to);
    if (all)
        *taken = 0;
    return all;
}

// A receiver that takes everything.
struct sink {
    void (*emit)(void *opaque, uint8_t *packet, size_t len);
    void *opaque;
};

static bool sink_piece(void *opaque, uint8_t *packet, size_t len)
{
    const struct sink *sink = opaque;
    sink->emit(sink->opaque, packet, len);
    return true;
}

void net_packet_lower(uint8_t *packet, size_t len, unsigned takes, uint8_t *scratch,
                      void (*emit)(void *opaque, uint8_t *packet, size_t len), void *opaque)
{
    struct sink sink = {emit, opaque};
    uint32_t taken = 0;
    (void)net_packet_hand_over(packet, len, takes, scratch, &taken, sink_piece, &sink);
}
