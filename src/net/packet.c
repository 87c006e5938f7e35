// Packets with work left in them: checks of what senders claim, checksums, TCP segmentation.
//
// Sources: VIRTIO 1.2, 5.1.6.2 (what the header means); RFC 1071 (checksum), RFC 791, 8200, 9293
// (the headers that are cut and counted on). Not done: IPv6 extension headers in large frames (such
// a frame is refused), UDP fragmentation, ECN bits of large frames (the header's ECN flag is
// refused).
#include "net/net.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

enum {
    NEEDS_CSUM = 1,
    DATA_VALID = 2,
    GSO_NONE = 0,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,

    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_IPV6 = 0x86dd,
    ETHERTYPE_VLAN = 0x8100,
    PROTOCOL_TCP = 6,
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
    size_t tcp;
    size_t data;
    bool v6;
};

// The headers must all be there, and agree with each other.
static bool find_layout(const uint8_t *frame, size_t len, bool v6, struct layout *out)
{
    size_t ip = 14;
    uint16_t type = get16(frame + 12);
    if (type == ETHERTYPE_VLAN && len >= 18) {
        type = get16(frame + 16);
        ip = 18;
    }
    if (type != (v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4) || len < ip + (v6 ? 40 : 20))
        return false;
    const uint8_t *h = frame + ip;
    size_t ip_bytes = v6 ? 40 : (h[0] & 15u) * 4u;
    if (h[0] >> 4 != (v6 ? 6 : 4) || ip_bytes < 20 || h[v6 ? 6 : 9] != PROTOCOL_TCP ||
        len < ip + ip_bytes + 20)
        return false;
    size_t tcp = ip + ip_bytes, data = tcp + (frame[tcp + 12] >> 4) * 4u;
    if (data < tcp + 20 || data >= len)
        return false;
    *out = (struct layout){ip, tcp, data, v6};
    return true;
}

static bool gso_valid(const uint8_t *packet, size_t frame_len, unsigned takes)
{
    struct layout at;
    unsigned type = packet[1], size = load_le16(packet + 4);
    bool v6 = type == GSO_TCPV6;
    if ((type != GSO_TCPV4 && !v6) || !(takes & (v6 ? NET_TAKES_TSO6 : NET_TAKES_TSO4)))
        return false;
    if (size < SEGMENT_MIN || !(packet[0] & NEEDS_CSUM) ||
        !find_layout(packet + NET_HEADER_BYTES, frame_len, v6, &at))
        return false;
    return load_le16(packet + 6) == at.tcp && load_le16(packet + 8) == 16;
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

unsigned net_packet_needs(const uint8_t *packet)
{
    unsigned needs = packet[0] & NEEDS_CSUM ? NET_TAKES_CHECKSUM : 0;
    if (packet[1] == GSO_TCPV4)
        needs |= NET_TAKES_TSO4;
    if (packet[1] == GSO_TCPV6)
        needs |= NET_TAKES_TSO6;
    return needs;
}

// The sender has put the sum of the pseudo-header where the checksum goes.
static void fill_checksum(uint8_t *packet, size_t len)
{
    uint8_t *frame = packet + NET_HEADER_BYTES;
    size_t start = load_le16(packet + 6), at = start + load_le16(packet + 8);
    uint16_t sum = (uint16_t)~sum_bytes(frame + start, len - NET_HEADER_BYTES - start);
    put16(frame + at, sum ? sum : 0xffff);
    memset(packet, 0, NET_HEADER_BYTES);
    packet[10] = 1;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

// The headers of one segment with `data` bytes of payload, its checksum left to fill_checksum().
static void fix_headers(uint8_t *frame, const struct layout *at, unsigned number, size_t offset,
                        size_t data, bool last)
{
    uint8_t *ip = frame + at->ip, *tcp = frame + at->tcp;
    size_t tcp_bytes = at->data - at->tcp + data;
    uint32_t sum;
    if (at->v6) {
        put16(ip + 4, (uint16_t)tcp_bytes);
        sum = sum_bytes(ip + 8, 32);
    } else {
        put16(ip + 2, (uint16_t)(at->tcp - at->ip + tcp_bytes));
        put16(ip + 4, (uint16_t)(get16(ip + 4) + number));
        put16(ip + 10, 0);
        put16(ip + 10, (uint16_t)~sum_bytes(ip, at->tcp - at->ip));
        sum = sum_bytes(ip + 12, 8);
    }
    put32(tcp + 4, get32(tcp + 4) + (uint32_t)offset);
    if (!last)
        tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    if (number)
        tcp[13] &= (uint8_t)~TCP_CWR;
    put16(tcp + 16, fold(sum + PROTOCOL_TCP + (uint32_t)tcp_bytes));
}

bool net_packet_whole(uint8_t *packet, size_t len)
{
    uint8_t *frame = packet + NET_HEADER_BYTES;
    size_t frame_len = len - NET_HEADER_BYTES;
    struct layout at;
    if (packet[1] != GSO_NONE) {
        if (!find_layout(frame, frame_len, packet[1] == GSO_TCPV6, &at) ||
            frame_len - (at.v6 ? at.tcp : at.ip) > IP_LENGTH_MAX)
            return false;
        fix_headers(frame, &at, 0, 0, frame_len - at.data, true);
    }
    if (packet[0] & NEEDS_CSUM)
        fill_checksum(packet, len);
    return true;
}

static void segment(const uint8_t *packet, size_t len, uint8_t *scratch,
                    void (*emit)(void *opaque, uint8_t *packet, size_t len), void *opaque)
{
    const uint8_t *frame = packet + NET_HEADER_BYTES;
    size_t frame_len = len - NET_HEADER_BYTES, size = load_le16(packet + 4);
    struct layout at;
    if (!find_layout(frame, frame_len, packet[1] == GSO_TCPV6, &at))
        return;
    size_t total = frame_len - at.data;
    unsigned number = 0;
    for (size_t offset = 0; offset < total; offset += size, number++) {
        size_t data = min_u64(size, total - offset);
        uint8_t *out = scratch + NET_HEADER_BYTES;
        memcpy(scratch, packet, NET_HEADER_BYTES);
        memcpy(out, frame, at.data);
        memcpy(out + at.data, frame + at.data + offset, data);
        fix_headers(out, &at, number, offset, data, offset + data == total);
        size_t bytes = NET_HEADER_BYTES + at.data + data;
        fill_checksum(scratch, bytes);
        emit(opaque, scratch, bytes);
    }
}

void net_packet_lower(uint8_t *packet, size_t len, unsigned takes, uint8_t *scratch,
                      void (*emit)(void *opaque, uint8_t *packet, size_t len), void *opaque)
{
    unsigned missing = net_packet_needs(packet) & ~takes;
    if (missing & (NET_TAKES_TSO4 | NET_TAKES_TSO6)) {
        segment(packet, len, scratch, emit, opaque);
        return;
    }
    if (missing)
        fill_checksum(packet, len);
    emit(opaque, packet, len);
}
