// What is read from packets, what is refused, tags and checksums.
#include "switch/frame.h"

#include "frames.h"
#include "test.h"

static const uint8_t a[6] = {0x52, 0x54, 0, 0, 0, 1}, b[6] = {0x52, 0x54, 0, 0, 0, 2};
static struct made m;
static struct frame f;

static void ports_of_a_datagram_are_read(void)
{
    make_ipv4(&m, b, a, 0x0a000001, 0x0a000002, PROTOCOL_TCP, 1234, 80);
    CHECK(frame_read(&f, m.packet, m.len));
    CHECK_EQ(f.kind, FRAME_IPV4);
    CHECK_EQ(f.protocol, PROTOCOL_TCP);
    CHECK_EQ(f.from, 1234);
    CHECK_EQ(f.to, 80);
    CHECK_EQ(f.l4_len, 20);
    CHECK_EQ(f.vlan, 0);
}

static void every_truncation_is_read_or_refused_within_its_bytes(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        make_ipv4(&m, b, a, 1, 2, PROTOCOL_UDP, 1, 2);
        if (v6) {
            uint8_t *ip = make_eth(&m, b, a, ETHERTYPE_IPV6);
            ip[0] = 0x60;
            ip[5] = 24; // a routing header, then UDP
            ip[6] = 43;
            ip[40] = PROTOCOL_UDP;
            ip[41] = 0;
            m.len += 40 + 24;
        }
        for (size_t len = 0; len <= m.len; len++) {
            uint8_t *copy;
            bool ok = read_exactly(&f, &m, len, &copy);
            CHECK(ok == (len == m.len));
            free(copy);
        }
    }
}

static void a_tag_comes_out_and_goes_back_in(void)
{
    struct made before;
    make_ipv4(&m, b, a, 1, 2, PROTOCOL_TCP, 1, 2);
    m.packet[0] = 1; // a checksum left to be filled in
    store_le16(m.packet + 6, 34);
    store_le16(m.packet + 8, 16);
    before = m;
    uint8_t *tagged = frame_tag(m.packet, 42);
    CHECK(tagged == m.room || tagged + VLAN_TAG_BYTES == m.packet);
    CHECK_EQ(load_le16(tagged + 6), 38);
    CHECK_EQ(load_be16(tagged + NET_HEADER_BYTES + 12), ETHERTYPE_VLAN);
    CHECK(frame_read(&f, tagged, m.len + VLAN_TAG_BYTES));
    CHECK_EQ(f.vlan, 42);
    CHECK_EQ(f.len, m.len);
    CHECK(f.packet == m.packet);
    CHECK(memcmp(f.packet, before.packet, m.len) == 0);
}

static void a_checksum_that_would_change_what_was_read_is_refused(void)
{
    static const struct {
        uint16_t start, offset;
        bool ok;
    } cases[] = {{34, 16, true}, {34, 6, false}, {14, 12, false}, {14, 36, false}, {30, 20, false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        make_ipv4(&m, b, a, 1, 2, PROTOCOL_TCP, 1, 2);
        m.packet[0] = 1;
        store_le16(m.packet + 6, cases[i].start);
        store_le16(m.packet + 8, cases[i].offset);
        CHECK(frame_read(&f, m.packet, m.len) == cases[i].ok);
    }
    make_eth(&m, b, a, ETHERTYPE_ARP);
    m.len += ARP_BYTES;
    CHECK(frame_read(&f, m.packet, m.len));
    m.packet[0] = 1;
    store_le16(m.packet + 6, 14);
    store_le16(m.packet + 8, 14);
    CHECK(!frame_read(&f, m.packet, m.len));
}

static void later_fragments_have_no_ports(void)
{
    make_ipv4(&m, b, a, 1, 2, PROTOCOL_UDP, 1, 2);
    store_be16(m.packet + NET_HEADER_BYTES + ETH_BYTES + 6, 5);
    CHECK(frame_read(&f, m.packet, m.len));
    CHECK(f.fragment && f.l4 == NULL);
}

static void a_group_cannot_be_a_sender(void)
{
    static const uint8_t group[6] = {1};
    make_ipv4(&m, b, group, 1, 2, PROTOCOL_UDP, 1, 2);
    CHECK(!frame_read(&f, m.packet, m.len));
}

static void a_checksum_follows_a_change_of_address(void)
{
    make_ipv4(&m, b, a, 0x0a000001, 0x0a000002, PROTOCOL_UDP, 1, 2);
    uint8_t *ip = m.packet + NET_HEADER_BYTES + ETH_BYTES, old[4], want[60];
    memcpy(old, ip + 16, 4);
    store_be32(ip + 16, 0xc0a8ff7f);
    inet_fix(ip + 10, old, ip + 16, 4);
    inet_fix(ip + 26, old, ip + 16, 4);
    memcpy(want, ip, 36);
    ipv4_finish(want, 36);
    CHECK(memcmp(ip, want, 36) == 0);
}

TEST_MAIN(TEST(ports_of_a_datagram_are_read),
          TEST(every_truncation_is_read_or_refused_within_its_bytes),
          TEST(a_tag_comes_out_and_goes_back_in),
          TEST(a_checksum_that_would_change_what_was_read_is_refused),
          TEST(later_fragments_have_no_ports), TEST(a_group_cannot_be_a_sender),
          TEST(a_checksum_follows_a_change_of_address))
