// Joins what cutting it up again (net_packet_lower()) would give back: segments of one connection
// that follow each other, all of one size but for the last, whose headers differ in nothing but
// sequence number, push flag, identification, lengths and checksums. Not joined: segments with
// other flags, IP options or extension headers.
#include "switch/coalesce.h"

#include <string.h>

#include "base/bytes.h"

enum { NEEDS_CSUM = 1, GSO_TCPV4 = 1, GSO_TCPV6 = 4, TCP_PSH = 8 };

#define IP_MAX 65535

static size_t tcp_header(const uint8_t *tcp)
{
    return (size_t)(tcp[12] >> 4) * 4;
}

static bool joinable(const struct frame *f)
{
    size_t ip = f->kind == FRAME_IPV6 ? 40 : 20;
    if (f->kind != FRAME_IPV4 && f->kind != FRAME_IPV6)
        return false;
    if (!f->l4 || f->protocol != PROTOCOL_TCP || f->more || f->l4 != f->l3 + ip)
        return false;
    size_t header = tcp_header(f->l4);
    return header >= 20 && header < f->l4_len && (f->tcp_flags & ~TCP_PSH) == TCP_ACK;
}

// Everything in IP's and TCP's headers that has to be the same.
static bool same_headers(const uint8_t *a, const uint8_t *b, bool v6, size_t tcp_bytes)
{
    const uint8_t *tcp_a = a + (v6 ? 40 : 20), *tcp_b = b + (v6 ? 40 : 20);
    bool ip = v6 ? !memcmp(a, b, 4) && !memcmp(a + 6, b + 6, 34)
                 : !memcmp(a, b, 2) && !memcmp(a + 6, b + 6, 4) && !memcmp(a + 12, b + 12, 8);
    return ip && !memcmp(tcp_a, tcp_b, 4) &&     // ports
           !memcmp(tcp_a + 8, tcp_b + 8, 5) &&   // acknowledged, header's length
           !memcmp(tcp_a + 14, tcp_b + 14, 2) && // window
           !memcmp(tcp_a + 18, tcp_b + 18, tcp_bytes - 18);
}

static bool follows(const struct coalesce *c, const struct frame *f)
{
    const uint8_t *held = c->packet + BRIDGE_HEADROOM, *tcp = held + c->l4;
    size_t header = tcp_header(tcp), old = c->len - c->data, more = f->l4_len - tcp_header(f->l4);
    bool v6 = f->kind == FRAME_IPV6;
    return memcmp(held + NET_HEADER_BYTES, f->eth, ETH_BYTES) == 0 &&
           (held[c->l3] >> 4 == 6) == v6 && header == tcp_header(f->l4) &&
           same_headers(held + c->l3, f->l3, v6, header) &&
           load_be32(tcp + 4) + (uint32_t)old == load_be32(f->l4 + 4) &&
           old == c->segment * c->count && !(tcp[13] & TCP_PSH) && more <= c->segment &&
           c->len - c->l3 + more <= IP_MAX;
}

static void hold(struct coalesce *c, const struct frame *f)
{
    c->l3 = (size_t)(f->l3 - f->packet);
    c->l4 = (size_t)(f->l4 - f->packet);
    c->data = c->l4 + tcp_header(f->l4);
    c->len = c->l4 + f->l4_len; // without what pads a short frame
    c->segment = c->len - c->data;
    c->count = 1;
    memcpy(c->packet + BRIDGE_HEADROOM, f->packet, c->len);
}

static void append(struct coalesce *c, const struct frame *f)
{
    size_t header = tcp_header(f->l4), more = f->l4_len - header;
    uint8_t *held = c->packet + BRIDGE_HEADROOM;
    memcpy(held + c->len, f->l4 + header, more);
    held[c->l4 + 13] |= f->tcp_flags & TCP_PSH;
    c->len += more;
    c->count++;
}

// The headers of a large packet, with the checksum left to whoever cuts it up.
static void finish(struct coalesce *c)
{
    uint8_t *packet = c->packet + BRIDGE_HEADROOM, *ip = packet + c->l3, *tcp = packet + c->l4;
    bool v6 = ip[0] >> 4 == 6;
    size_t tcp_bytes = c->len - c->l4;
    uint8_t rest[4] = {0, PROTOCOL_TCP};
    store_be16(rest + 2, (uint16_t)tcp_bytes);
    if (v6) {
        store_be16(ip + 4, (uint16_t)tcp_bytes);
    } else {
        store_be16(ip + 2, (uint16_t)(c->len - c->l3));
        store_be16(ip + 10, 0);
        store_be16(ip + 10, (uint16_t)~inet_sum(0, ip, 20));
    }
    uint16_t sum = inet_sum(0, ip + (v6 ? 8 : 12), v6 ? 32 : 8);
    store_be16(tcp + 16, inet_sum(sum, rest, sizeof rest));
    memset(packet, 0, NET_HEADER_BYTES);
    packet[0] = NEEDS_CSUM;
    packet[1] = v6 ? GSO_TCPV6 : GSO_TCPV4;
    store_le16(packet + 2, (uint16_t)(c->data - NET_HEADER_BYTES));
    store_le16(packet + 4, (uint16_t)c->segment);
    store_le16(packet + 6, (uint16_t)(c->l4 - NET_HEADER_BYTES));
    store_le16(packet + 8, 16);
}

void coalesce_flush(struct coalesce *c)
{
    size_t len = c->len;
    if (!len)
        return;
    if (c->count > 1)
        finish(c);
    c->len = 0;
    c->emit(c->opaque, c->packet + BRIDGE_HEADROOM, len);
}

void coalesce_add(struct coalesce *c, const struct frame *f)
{
    bool join = joinable(f);
    if (c->len && join && follows(c, f)) {
        append(c, f);
        return;
    }
    coalesce_flush(c);
    if (join)
        hold(c, f);
    else
        c->emit(c->opaque, f->packet, f->len);
}
