// Policies applied to connections: when they are judged, how many there may be, names.
#include "switch/egress.h"

#include <arpa/inet.h>

#include "frames.h"
#include "test.h"

#define SECOND NS_PER_SEC

static const uint8_t vm[6] = {0x52, 0x54, 0, 0, 0, 1}, gateway[6] = {0x52, 0x55, 0, 0, 0, 1};
static struct egress *egress;
static struct error e;
static uint64_t now;

static void begin(const char *policy)
{
    egress_free(egress);
    CHECK(egress_new(policy, 5, &egress, &e) == OK);
    now = 1000 * SECOND;
}

static uint32_t ip(const char *text)
{
    struct in_addr in;
    inet_pton(AF_INET, text, &in);
    return ntohl(in.s_addr);
}

static enum egress_verdict out(const char *to, uint8_t protocol, uint16_t port, uint16_t to_port,
                               uint8_t flags)
{
    struct made m;
    struct frame f;
    make_ipv4(&m, gateway, vm, ip("10.0.0.9"), ip(to), protocol, port, to_port);
    CHECK(frame_read(&f, m.packet, m.len));
    f.tcp_flags = flags;
    return egress_out(egress, &f, false, false, now);
}

static void in(const char *from, uint8_t protocol, uint16_t from_port, uint16_t port, uint8_t flags)
{
    struct made m;
    struct frame f;
    make_ipv4(&m, vm, gateway, ip(from), ip("10.0.0.9"), protocol, from_port, port);
    CHECK(frame_read(&f, m.packet, m.len));
    f.tcp_flags = flags;
    egress_in(egress, &f, now);
}

static void a_connection_ends_with_the_policy_that_let_it_through(void)
{
    begin("open");
    CHECK_EQ(out("192.0.2.1", PROTOCOL_TCP, 1000, 80, TCP_SYN), EGRESS_PASS);
    CHECK(egress_set_policy(egress, "deny 192.0.2.0/24", &e) == OK);
    CHECK_EQ(out("192.0.2.1", PROTOCOL_TCP, 1000, 80, TCP_ACK), EGRESS_DENIED);
    CHECK_EQ(out("192.0.3.1", PROTOCOL_TCP, 1000, 80, TCP_SYN), EGRESS_PASS);
    CHECK(egress_set_policy(egress, "permit", &e) == ERR_INVALID);
    CHECK_EQ(out("192.0.2.1", PROTOCOL_TCP, 1000, 80, TCP_SYN), EGRESS_DENIED);
}

static void what_began_outside_is_answered(void)
{
    begin("none");
    in("192.0.2.1", PROTOCOL_TCP, 5555, 80, TCP_SYN);
    CHECK_EQ(out("192.0.2.1", PROTOCOL_TCP, 80, 5555, TCP_SYN | TCP_ACK), EGRESS_PASS);
    CHECK_EQ(out("192.0.2.1", PROTOCOL_TCP, 80, 5556, TCP_SYN | TCP_ACK), EGRESS_DENIED);
    in("192.0.2.2", PROTOCOL_TCP, 5555, 80, TCP_ACK); // part of nothing
    CHECK_EQ(out("192.0.2.2", PROTOCOL_TCP, 80, 5555, TCP_ACK), EGRESS_DENIED);
    in("192.0.2.1", PROTOCOL_UDP, 7, 53, 0);
    CHECK_EQ(out("192.0.2.1", PROTOCOL_UDP, 53, 7, 0), EGRESS_DENIED);
    egress->udp_forward[3] = 53;
    in("192.0.2.1", PROTOCOL_UDP, 7, 53, 0);
    CHECK_EQ(out("192.0.2.1", PROTOCOL_UDP, 53, 7, 0), EGRESS_PASS);
    now += 300 * SECOND;
    CHECK_EQ(out("192.0.2.1", PROTOCOL_UDP, 53, 7, 0), EGRESS_DENIED);
}

static void connections_are_bounded_and_make_room_when_idle(void)
{
    unsigned passed = 0;
    begin("open");
    for (unsigned i = 0; i < 60000; i++)
        passed += out("192.0.2.1", PROTOCOL_UDP, (uint16_t)(1 + i), 9, 0) == EGRESS_PASS;
    CHECK(passed > EGRESS_FLOWS / 2 && passed <= EGRESS_FLOWS);
    now += 241 * SECOND;
    CHECK_EQ(out("192.0.2.1", PROTOCOL_UDP, 60001, 9, 0), EGRESS_PASS);
}

static void an_address_counts_as_the_name_it_was_learnt_by(void)
{
    uint8_t address[16] = {[10] = 0xff, [11] = 0xff, 192, 0, 2, 80};
    uint64_t rules;
    begin("allow *.example.org:443");
    CHECK_EQ(out("192.0.2.80", PROTOCOL_TCP, 1, 443, TCP_SYN), EGRESS_DENIED);
    CHECK(policy_resolves(&egress->policy, "www.example.org", &rules));
    CHECK_EQ(rules, 1);
    egress_learn(egress, address, rules, 100, now);
    CHECK_EQ(out("192.0.2.80", PROTOCOL_TCP, 1, 443, TCP_SYN), EGRESS_PASS);
    CHECK_EQ(out("192.0.2.80", PROTOCOL_TCP, 2, 80, TCP_SYN), EGRESS_DENIED);
    CHECK_EQ(out("192.0.2.81", PROTOCOL_TCP, 3, 443, TCP_SYN), EGRESS_DENIED);
    now += 101 * SECOND;
    CHECK_EQ(out("192.0.2.80", PROTOCOL_TCP, 4, 443, TCP_SYN), EGRESS_DENIED);
    CHECK_EQ(out("192.0.2.80", PROTOCOL_TCP, 1, 443, TCP_ACK), EGRESS_PASS); // goes on
    egress_free(egress);
    egress = NULL;
}

TEST_MAIN(TEST(a_connection_ends_with_the_policy_that_let_it_through),
          TEST(what_began_outside_is_answered),
          TEST(connections_are_bounded_and_make_room_when_idle),
          TEST(an_address_counts_as_the_name_it_was_learnt_by))
