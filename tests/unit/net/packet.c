// Packets: what a sender may claim, and how work left undone is done.
#include "net/net.h"

#include "base/bytes.h"
#include "test.h"

enum { FIN_PSH_ACK = 0x19 };

struct packet {
    uint8_t bytes[NET_PACKET_MAX];
    size_t len;
};

static struct packet packet; // what a test makes

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static unsigned get16(const uint8_t *p)
{
    return (unsigned)(p[0] << 8 | p[1]);
}

// A checksum in the plain way of RFC 1071; 0 over data that hold their own right checksum.
static unsigned checksum(const uint8_t *p, size_t len, unsigned start)
{
    uint32_t sum = start;
    for (size_t i = 0; i < len; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static unsigned pseudo(const uint8_t *ip, bool v6, unsigned protocol, size_t bytes)
{
    const uint8_t *addresses = v6 ? ip + 8 : ip + 12;
    return (~checksum(addresses, v6 ? 32 : 8, protocol + (unsigned)bytes)) & 0xffff;
}

static unsigned pseudo_sum(const uint8_t *ip, bool v6, size_t bytes)
{
    return pseudo(ip, v6, 6, bytes);
}

// TCP data from a sender that leaves checksum and cutting to others; gso 0: only the checksum.
static void make_tcp(bool v6, size_t data, unsigned gso)
{
    uint8_t *frame = packet.bytes + NET_HEADER_BYTES, *ip = frame + 14;
    size_t ip_bytes = v6 ? 40 : 20;
    uint8_t *tcp = ip + ip_bytes;
    memset(&packet, 0, sizeof packet);
    packet.bytes[0] = 1;
    packet.bytes[1] = !gso ? 0 : v6 ? 4 : 1;
    store_le16(packet.bytes + 2, (uint16_t)(14 + ip_bytes + 20));
    store_le16(packet.bytes + 4, (uint16_t)gso);
    store_le16(packet.bytes + 6, (uint16_t)(14 + ip_bytes));
    store_le16(packet.bytes + 8, 16);
    put16(frame + 12, v6 ? 0x86dd : 0x0800);
    ip[0] = v6 ? 0x60 : 0x45;
    ip[v6 ? 6 : 9] = 6;
    put16(ip + (v6 ? 4 : 2), (unsigned)(v6 ? 20 + data : 40 + data));
    for (unsigned i = 0; i < (v6 ? 32 : 8); i++)
        ip[(v6 ? 8 : 12) + i] = (uint8_t)(i + 1);
    tcp[4] = 0xff; // the sequence number wraps
    tcp[5] = tcp[6] = 0xff;
    tcp[7] = 0xf0;
    tcp[12] = 0x50;
    tcp[13] = FIN_PSH_ACK;
    put16(tcp + 16, pseudo_sum(ip, v6, 20 + data));
    for (size_t i = 0; i < data; i++)
        tcp[20 + i] = (uint8_t)(i * 7);
    packet.len = NET_HEADER_BYTES + 14 + ip_bytes + 20 + data;
}

enum { UFO = 3, USO = 5 };

// A UDP datagram, or several in one, from a sender that leaves the cutting to others.
static void make_udp(bool v6, unsigned gso_type, size_t data, unsigned gso)
{
    uint8_t *ip = packet.bytes + NET_HEADER_BYTES + 14, *udp = ip + (v6 ? 40 : 20);
    make_tcp(v6, data, gso);
    packet.bytes[1] = (uint8_t)gso_type;
    store_le16(packet.bytes + 8, 6);
    packet.len -= 12;
    ip[v6 ? 6 : 9] = 17;
    put16(ip + (v6 ? 4 : 2), (unsigned)(v6 ? 8 + data : 28 + data));
    if (!v6)
        put16(ip + 4, 7); // identification
    memset(udp, 0, 20);
    put16(udp + 2, 9);
    put16(udp + 4, (unsigned)(8 + data));
    put16(udp + 6, pseudo(ip, v6, 17, 8 + data));
    for (size_t i = 0; i < data; i++)
        udp[8 + i] = (uint8_t)(i * 7);
}

// What comes out, looked at as a receiver would.
struct seen {
    unsigned segments, data, bad;
    unsigned last_flags, other_flags;
    bool v6, whole;
};

static void see(void *opaque, uint8_t *bytes, size_t len)
{
    struct seen *s = opaque;
    const uint8_t *frame = bytes + NET_HEADER_BYTES, *ip = frame + 14;
    size_t ip_bytes = s->v6 ? 40 : 20, tcp_bytes = len - NET_HEADER_BYTES - 14 - ip_bytes;
    const uint8_t *tcp = ip + ip_bytes;
    s->segments++;
    s->whole = bytes[0] || bytes[1];
    if (s->whole)
        return;
    s->bad += !s->v6 && (checksum(ip, 20, 0) != 0 || get16(ip + 2) != 20 + tcp_bytes ||
                         get16(ip + 4) != s->segments - 1);
    s->bad += s->v6 && get16(ip + 4) != tcp_bytes;
    s->bad += checksum(tcp, tcp_bytes, pseudo_sum(ip, s->v6, tcp_bytes)) != 0;
    s->bad += (get16(tcp + 4) << 16 | get16(tcp + 6)) != 0xfffffff0u + s->data;
    for (size_t i = 20; i < tcp_bytes; i++)
        s->bad += tcp[i] != (uint8_t)((s->data + i - 20) * 7);
    s->data += (unsigned)tcp_bytes - 20;
    s->other_flags |= s->last_flags;
    s->last_flags = tcp[13];
}

static void see_datagram(void *opaque, uint8_t *bytes, size_t len)
{
    struct seen *s = opaque;
    const uint8_t *ip = bytes + NET_HEADER_BYTES + 14, *udp = ip + (s->v6 ? 40 : 20);
    size_t udp_bytes = len - (size_t)(udp - bytes);
    s->whole = bytes[0] || bytes[1];
    s->bad += !s->v6 && (checksum(ip, 20, 0) != 0 || get16(ip + 2) != 20 + udp_bytes ||
                         get16(ip + 4) != 7 + s->segments);
    s->bad += s->v6 && get16(ip + 4) != udp_bytes;
    s->bad += get16(udp + 4) != udp_bytes || get16(udp + 2) != 9;
    s->bad += checksum(udp, udp_bytes, pseudo(ip, s->v6, 17, udp_bytes)) != 0;
    for (size_t i = 8; i < udp_bytes; i++)
        s->bad += udp[i] != (uint8_t)((s->data + i - 8) * 7);
    s->data += (unsigned)udp_bytes - 8;
    s->segments++;
}

static uint8_t together[NET_PACKET_MAX]; // what fragments carried

static void see_fragment(void *opaque, uint8_t *bytes, size_t len)
{
    struct seen *s = opaque;
    const uint8_t *ip = bytes + NET_HEADER_BYTES + 14, *extension = ip + 40;
    const uint8_t *data = ip + (s->v6 ? 48 : 20);
    size_t n = len - (size_t)(data - bytes);
    unsigned place = get16(s->v6 ? extension + 2 : ip + 6);
    unsigned at = s->v6 ? place & 0xfff8 : (place & 0x1fff) * 8;
    s->bad += bytes[0] || bytes[1] || at != s->data;
    s->whole = !(place & (s->v6 ? 1 : 0x2000)); // the last one
    s->bad += !s->v6 && (checksum(ip, 20, 0) != 0 || get16(ip + 2) != 20 + n || get16(ip + 4) != 7);
    s->bad += s->v6 && (get16(ip + 4) != 8 + n || ip[6] != 44 || extension[0] != 17);
    memcpy(together + s->data, data, n);
    s->data += (unsigned)n;
    s->segments++;
}

// A receiver with room for two parts at a time.
struct narrow {
    struct seen s;
    void (*look)(void *opaque, uint8_t *bytes, size_t len);
    unsigned room;
};

static bool take(void *opaque, uint8_t *bytes, size_t len)
{
    struct narrow *n = opaque;
    if (!n->room)
        return false;
    n->room--;
    n->look(&n->s, bytes, len);
    return true;
}

static struct seen lower_in_turns(bool v6, unsigned takes,
                                  void (*look)(void *opaque, uint8_t *bytes, size_t len))
{
    static uint8_t scratch[NET_PACKET_MAX];
    struct narrow n = {.s.v6 = v6, .look = look, .room = 2};
    uint32_t taken = 0;
    while (!net_packet_hand_over(packet.bytes, packet.len, takes, scratch, &taken, take, &n)) {
        CHECK_EQ(taken, n.s.segments);
        CHECK_EQ(n.room, 0);
        n.room = 2;
    }
    CHECK_EQ(taken, 0);
    return n.s;
}

static struct seen lower(bool v6, unsigned takes)
{
    static uint8_t scratch[NET_PACKET_MAX];
    struct seen s = {.v6 = v6};
    net_packet_lower(packet.bytes, packet.len, takes, scratch, see, &s);
    return s;
}

static void a_large_frame_may_be_finished_in_one_piece(void)
{
    for (unsigned v6 = 0; v6 < 2; v6++) {
        struct seen s = {.v6 = v6};
        make_tcp(v6, 40000, 1448);
        packet.bytes[NET_HEADER_BYTES + 14 + (v6 ? 40 : 20) + 16] ^= 0x55; // some leave lengths out
        CHECK(net_packet_whole(packet.bytes, packet.len));
        see(&s, packet.bytes, packet.len);
        CHECK_EQ(s.data, 40000);
        CHECK_EQ(s.bad, 0);
        CHECK_EQ(s.last_flags, FIN_PSH_ACK);
    }
    make_tcp(false, 65535 - 40, 1448);
    CHECK(net_packet_whole(packet.bytes, packet.len));
    make_tcp(false, 65536 - 40, 1448); // fits a tagged frame, but not IPv4's length
    CHECK(!net_packet_whole(packet.bytes, packet.len));
}

static void large_frames_become_right_segments(void)
{
    for (unsigned v6 = 0; v6 < 2; v6++) {
        make_tcp(v6, 10000, 1448);
        CHECK(net_packet_valid(packet.bytes, packet.len, NET_TAKES_ALL));
        CHECK_EQ(net_packet_needs(packet.bytes),
                 NET_TAKES_CHECKSUM | (v6 ? NET_TAKES_TSO6 : NET_TAKES_TSO4));
        for (unsigned turns = 0; turns < 2; turns++) {
            struct seen s = turns ? lower_in_turns(v6, 0, see) : lower(v6, 0);
            CHECK_EQ(s.segments, 7);
            CHECK_EQ(s.data, 10000);
            CHECK_EQ(s.bad, 0);
            CHECK_EQ(s.last_flags, FIN_PSH_ACK);
            CHECK_EQ(s.other_flags, 0x10); // FIN and PSH are the last segment's
        }
    }
}

static void bundled_datagrams_come_apart_where_nobody_takes_them(void)
{
    for (unsigned v6 = 0; v6 < 2; v6++) {
        make_udp(v6, USO, 5000, 1200);
        CHECK(net_packet_valid(packet.bytes, packet.len, NET_TAKES_ALL));
        CHECK(!net_packet_valid(packet.bytes, packet.len,
                                NET_TAKES_ALL & ~(v6 ? NET_TAKES_USO6 : NET_TAKES_USO4)));
        CHECK_EQ(net_packet_needs(packet.bytes),
                 NET_TAKES_CHECKSUM | (v6 ? NET_TAKES_USO6 : NET_TAKES_USO4));
        struct seen s = lower_in_turns(v6, NET_TAKES_CHECKSUM, see_datagram);
        CHECK_EQ(s.segments, 5);
        CHECK_EQ(s.data, 5000);
        CHECK_EQ(s.bad, 0);
    }
}

static void long_datagrams_become_fragments_where_nobody_takes_them(void)
{
    for (unsigned v6 = 0; v6 < 2; v6++) {
        make_udp(v6, UFO, 6000, 1452); // no multiple of what fragments are counted in
        uint8_t ip[40];
        memcpy(ip, packet.bytes + NET_HEADER_BYTES + 14, sizeof ip);
        CHECK(net_packet_valid(packet.bytes, packet.len, NET_TAKES_ALL));
        CHECK(!net_packet_valid(packet.bytes, packet.len, NET_TAKES_ALL & ~NET_TAKES_UFO));
        CHECK_EQ(net_packet_needs(packet.bytes), NET_TAKES_CHECKSUM | NET_TAKES_UFO);
        struct seen s = lower_in_turns(v6, NET_TAKES_CHECKSUM, see_fragment);
        CHECK_EQ(s.segments, 5);
        CHECK_EQ(s.data, 6008);
        CHECK_EQ(s.bad, 0);
        CHECK(s.whole);
        CHECK_EQ(checksum(together, 6008, pseudo(ip, v6, 17, 6008)), 0);
        for (size_t i = 0; i < 6000; i++)
            s.bad += together[8 + i] != (uint8_t)(i * 7);
        CHECK_EQ(s.bad, 0);
    }
}

static void a_long_datagram_can_be_finished_and_stay_whole(void)
{
    struct seen s = {0};
    make_udp(false, UFO, 6000, 1480);
    CHECK(net_packet_whole(packet.bytes, packet.len));
    see_datagram(&s, packet.bytes, packet.len);
    CHECK_EQ(s.segments, 1);
    CHECK_EQ(s.data, 6000);
    CHECK_EQ(s.bad, 0);
    CHECK(!s.whole);
    make_udp(false, USO, 5000, 1200);
    CHECK(!net_packet_whole(packet.bytes, packet.len)); // those are several
}

static void features_say_what_either_side_takes(void)
{
    CHECK_EQ(net_takes_of_device(NET_OFFLOAD_FEATURES), NET_TAKES_ALL);
    CHECK_EQ(net_takes_of_driver(NET_OFFLOAD_FEATURES), NET_TAKES_ALL);
    CHECK_EQ(net_takes_of_device(NET_OFFLOAD_FEATURES & ~1ull), 0);
    CHECK_EQ(net_takes_of_driver(NET_OFFLOAD_FEATURES & ~2ull), 0);
    CHECK_EQ(net_takes_of_device(1 | 1 << 14), NET_TAKES_CHECKSUM | NET_TAKES_UFO);
    CHECK_EQ(net_takes_of_device(1 | 1ull << 56),
             NET_TAKES_CHECKSUM | NET_TAKES_USO4 | NET_TAKES_USO6);
    CHECK_EQ(net_takes_of_driver(2 | 1 << 10), NET_TAKES_CHECKSUM | NET_TAKES_UFO);
    CHECK_EQ(net_takes_of_driver(2 | 1ull << 55), NET_TAKES_CHECKSUM | NET_TAKES_USO6);
}

static void checksums_are_filled_in_where_nobody_else_does(void)
{
    make_tcp(false, 101, 0);
    packet.bytes[NET_HEADER_BYTES + 14 + 10] = 0; // the IP header's is the sender's own affair
    put16(packet.bytes + NET_HEADER_BYTES + 24,
          checksum(packet.bytes + NET_HEADER_BYTES + 14, 20, 0));
    struct seen s = lower(false, 0);
    CHECK_EQ(s.segments, 1);
    CHECK_EQ(s.data, 101);
    CHECK_EQ(s.bad, 0);
}

static void a_receiver_that_takes_all_gets_the_packet_whole(void)
{
    make_tcp(false, 10000, 1448);
    struct seen s = lower(false, NET_TAKES_ALL);
    CHECK_EQ(s.segments, 1);
    CHECK(s.whole);
}

static bool valid(unsigned takes)
{
    return net_packet_valid(packet.bytes, packet.len, takes);
}

// Each would lead whoever believes it outside the frame, or to very many packets.
static void claims_that_the_frame_does_not_bear_out_are_refused(void)
{
    static const struct {
        const char *what;
        unsigned at;
        uint8_t value;
    } lies[] = {
        {"unknown flag", 0, 5},
        {"large without checksum", 0, 0},
        {"unknown kind", 1, 3},
        {"ECN", 1, 0x81},
        {"other IP version", 1, 4},
        {"tiny segments", 4, 40},
        {"checksum beyond the end", 7, 0xff},
        {"checksum elsewhere", 8, 6},
        {"no TCP", NET_HEADER_BYTES + 14 + 9, 17},
        {"IP header too short", NET_HEADER_BYTES + 14, 0x44},
        {"IP header beyond TCP", NET_HEADER_BYTES + 14, 0x4f},
        {"TCP header too short", NET_HEADER_BYTES + 14 + 20 + 12, 0x40},
    };
    make_tcp(false, 200, 100);
    CHECK(valid(NET_TAKES_ALL));
    for (unsigned i = 0; i < ARRAY_LEN(lies); i++) {
        make_tcp(false, 200, 100);
        packet.bytes[lies[i].at] = lies[i].value;
        if (valid(NET_TAKES_ALL))
            printf("# taken: %s\n", lies[i].what);
        CHECK(!valid(NET_TAKES_ALL));
    }
}

static void lengths_and_abilities_have_their_limits(void)
{
    make_tcp(false, 200, 100);
    CHECK(!valid(NET_TAKES_CHECKSUM | NET_TAKES_TSO6));
    make_tcp(false, 200, 0);
    CHECK(valid(NET_TAKES_CHECKSUM));
    CHECK(!valid(0));
    packet.bytes[0] = 0;
    CHECK(valid(0));
    CHECK(!net_packet_valid(packet.bytes, NET_HEADER_BYTES + NET_FRAME_MIN - 1, 0));
    CHECK(net_packet_valid(packet.bytes, NET_HEADER_BYTES + NET_FRAME_MIN, 0));
    CHECK(!net_packet_valid(packet.bytes, NET_PACKET_MAX + 1, 0));
}

static const struct test tests[] = {
    TEST(a_large_frame_may_be_finished_in_one_piece),
    TEST(large_frames_become_right_segments),
    TEST(bundled_datagrams_come_apart_where_nobody_takes_them),
    TEST(long_datagrams_become_fragments_where_nobody_takes_them),
    TEST(a_long_datagram_can_be_finished_and_stay_whole),
    TEST(features_say_what_either_side_takes),
    TEST(checksums_are_filled_in_where_nobody_else_does),
    TEST(a_receiver_that_takes_all_gets_the_packet_whole),
    TEST(claims_that_the_frame_does_not_bear_out_are_refused),
    TEST(lengths_and_abilities_have_their_limits),
};

int main(void)
{
    return test_main(tests, ARRAY_LEN(tests));
}
