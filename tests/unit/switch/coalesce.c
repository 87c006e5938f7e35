// Segments are joined only when cutting them up again gives back what came in.
#include "switch/coalesce.h"

#include "frames.h"
#include "test.h"

#define SEGMENT 1000

static const uint8_t vm[6] = {0x52, 0x54, 0, 0, 0, 1}, gateway[6] = {0x52, 0x55, 0, 0, 0, 1};
static struct coalesce c;

static struct {
    unsigned packets, segments;
    uint8_t sent[40][1100], cut[40][1100]; // frames with headers' slots cleared, in and out
    size_t sent_len[40], cut_len[40];
    unsigned sent_count;
} seen;

static void cut(void *opaque, uint8_t *packet, size_t len)
{
    unsigned n = seen.segments++;
    seen.cut_len[n] = len - NET_HEADER_BYTES;
    memcpy(seen.cut[n], packet + NET_HEADER_BYTES, seen.cut_len[n]);
}

static void emit(void *opaque, uint8_t *packet, size_t len)
{
    static uint8_t scratch[NET_PACKET_MAX];
    seen.packets++;
    CHECK(net_packet_valid(packet, len, NET_TAKES_ALL));
    net_packet_lower(packet, len, 0, scratch, cut, NULL);
}

static void begin(void)
{
    memset(&seen, 0, sizeof seen);
    c = (struct coalesce){.emit = emit};
}

struct segment {
    uint32_t seq, ack;
    uint16_t port, window, data;
    uint8_t flags;
    bool v6;
};

static void add(const struct segment *s)
{
    struct made m;
    struct frame f;
    uint8_t *ip = make_eth(&m, vm, gateway, s->v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4);
    uint8_t *tcp = ip + (s->v6 ? 40 : 20);
    size_t bytes = 20u + s->data;
    store_be16(tcp, s->port);
    store_be16(tcp + 2, 80);
    store_be32(tcp + 4, s->seq);
    store_be32(tcp + 8, s->ack);
    tcp[12] = 0x50;
    tcp[13] = s->flags;
    store_be16(tcp + 14, s->window);
    for (unsigned i = 0; i < s->data; i++)
        tcp[20 + i] = (uint8_t)(s->seq + i * 7);
    if (s->v6) {
        ip[0] = 0x60;
        ip[6] = PROTOCOL_TCP;
        ip[7] = 64;
        ipv6_finish(ip, 40 + bytes);
    } else {
        ip[0] = 0x45;
        ip[8] = 64;
        ip[9] = PROTOCOL_TCP;
        store_be16(ip + 4, (uint16_t)(seen.sent_count)); // as cutting counts them
        ipv4_finish(ip, 20 + bytes);
    }
    m.len += (s->v6 ? 40 : 20) + bytes;
    seen.sent_len[seen.sent_count] = m.len - NET_HEADER_BYTES;
    memcpy(seen.sent[seen.sent_count++], m.packet + NET_HEADER_BYTES, m.len - NET_HEADER_BYTES);
    CHECK(frame_read(&f, m.packet, m.len));
    coalesce_add(&c, &f);
}

static void what_came_out_is_what_went_in(unsigned packets)
{
    coalesce_flush(&c);
    CHECK_EQ(seen.packets, packets);
    CHECK_EQ(seen.segments, seen.sent_count);
    for (unsigned i = 0; i < seen.sent_count; i++) {
        CHECK_EQ(seen.cut_len[i], seen.sent_len[i]);
        CHECK(memcmp(seen.cut[i], seen.sent[i], seen.sent_len[i]) == 0);
    }
}

static void a_train_of_segments_becomes_one_packet(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        struct segment s = {.seq = 0xfffff000, .flags = TCP_ACK, .data = SEGMENT, .v6 = v6};
        begin();
        for (int i = 0; i < 20; i++, s.seq += SEGMENT) {
            if (i == 19) {
                s.data = 7;
                s.flags |= 8; // PSH
            }
            add(&s);
        }
        what_came_out_is_what_went_in(1);
    }
}

static void what_does_not_follow_goes_by_itself(void)
{
    const struct segment first = {.seq = 1000, .flags = TCP_ACK, .data = SEGMENT};
    struct segment others[] = {first, first, first, first, first, first, first};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        others[i].seq += SEGMENT;
    others[0].seq++;
    others[1].ack = 5;
    others[2].port = 9;
    others[3].window = 9;
    others[4].flags |= TCP_FIN;
    others[5].data = 0;
    others[6].data = SEGMENT + 1;
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        begin();
        add(&first);
        add(&others[i]);
        coalesce_flush(&c);
        CHECK_EQ(seen.packets, 2);
    }
}

static void a_short_or_pushed_segment_ends_the_packet(void)
{
    struct segment s = {.seq = 1, .flags = TCP_ACK, .data = SEGMENT};
    begin();
    add(&s);
    s.seq += SEGMENT;
    s.data = 10;
    add(&s);
    s.seq += 10;
    add(&s);
    coalesce_flush(&c);
    CHECK_EQ(seen.packets, 2);
    begin();
    s.flags |= 8;
    add(&s);
    s.seq += 10;
    add(&s);
    coalesce_flush(&c);
    CHECK_EQ(seen.packets, 2);
}

TEST_MAIN(TEST(a_train_of_segments_becomes_one_packet), TEST(what_does_not_follow_goes_by_itself),
          TEST(a_short_or_pushed_segment_ends_the_packet))
