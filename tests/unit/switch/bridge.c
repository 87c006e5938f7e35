// Who gets a frame: learning, VLANs, isolation, addresses. Packets go out through a call.
#include "switch/bridge.h"

#include "frames.h"
#include "test.h"

#define NOW (1000 * NS_PER_SEC)

static struct network network;
static struct site site;
static struct bridge bridge;
static struct error e;

static struct {
    unsigned to[PORTS_MAX]; // packets that each port got
    uint16_t tag[PORTS_MAX];
    unsigned host;
} got;

static void deliver(void *opaque, struct port *port, const uint8_t *packet, size_t len)
{
    const uint8_t *type = packet + NET_HEADER_BYTES + 12;
    got.to[port->index]++;
    got.tag[port->index] = load_be16(type) == ETHERTYPE_VLAN ? load_be16(type + 2) : 0;
}

static void to_host(void *opaque, struct port *from, struct frame *f)
{
    got.host++;
}

static void begin(void)
{
    const struct bridge_ops ops = {deliver, to_host, NULL, NULL};
    CHECK(network_init(&network, "test", &e) == OK);
    site_init(&site, &network);
    bridge_init(&bridge, &site, &ops, 99);
}

static struct port *plug(const char *vm, uint16_t vlan, bool trunk)
{
    const struct bridge_port_options options = {.vm = vm, .vlan = vlan, .trunk = trunk};
    struct port *port = NULL;
    CHECK(bridge_plug(&bridge, &options, NOW, &port, &e) == OK);
    return port;
}

static void send(struct port *from, const uint8_t to[6], const uint8_t source[6], uint16_t vlan)
{
    struct made m;
    memset(&got, 0, sizeof got);
    make_eth(&m, to, source, 0x88b5);
    m.len += 46;
    uint8_t *packet = vlan ? frame_tag(m.packet, vlan) : m.packet;
    // tags come from guests behind the room, too
    struct made again = {0};
    size_t len = m.len + (vlan ? VLAN_TAG_BYTES : 0);
    memcpy(again.packet, packet, len);
    bridge_input(&bridge, from, again.packet, len, NOW);
}

static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t station[6] = {0x52, 0x54, 0, 0, 0, 0x77};

static void a_frame_for_one_reaches_one_and_for_all_reaches_all(void)
{
    begin();
    struct port *a = plug("a", 0, false), *b = plug("b", 0, false), *c = plug("c", 0, false);
    send(a, b->mac, a->mac, 0);
    CHECK(got.to[b->index] == 1 && !got.to[c->index] && !got.to[a->index] && !got.host);
    send(a, all, a->mac, 0);
    CHECK(got.to[b->index] == 1 && got.to[c->index] == 1 && !got.to[a->index] && got.host == 1);
    send(a, site.mac, a->mac, 0);
    CHECK(got.host == 1 && !got.to[b->index]);
    send(a, station, a->mac, 0); // nobody knows it
    CHECK(got.to[b->index] == 1 && got.to[c->index] == 1 && !got.host);
    send(a, a->mac, a->mac, 0);
    CHECK(!got.to[a->index] && !got.to[b->index]);
}

static void a_trunk_learns_and_tags(void)
{
    begin();
    struct port *trunk = plug("t", 0, true), *ten = plug("ten", 10, false);
    struct port *twenty = plug("twenty", 20, false), *plain = plug("plain", 0, false);
    send(ten, station, ten->mac, 0);
    CHECK(got.to[trunk->index] == 1 && got.tag[trunk->index] == 10 && !got.to[plain->index]);
    send(trunk, ten->mac, station, 10);
    CHECK(got.to[ten->index] == 1 && got.tag[ten->index] == 0);
    send(trunk, ten->mac, station, 20);
    CHECK(!got.to[ten->index] && got.to[twenty->index] == 1); // unknown in that VLAN
    send(trunk, all, station, 0);
    CHECK(got.to[plain->index] == 1 && !got.to[ten->index] && got.host == 1);
    send(trunk, site.mac, station, 10);
    CHECK(!got.host);
    send(ten, plain->mac, ten->mac, 0);
    CHECK(!got.to[plain->index]);
}

static void addresses_stay_with_names_and_are_never_given_twice(void)
{
    char name[20];
    begin();
    struct port *first = plug("web", 0, false);
    uint32_t address = first->address;
    uint8_t mac[6];
    memcpy(mac, first->mac, 6);
    bridge_unplug(&bridge, first);
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "vm%d", i);
        struct port *port = plug(name, 0, false);
        for (unsigned j = 0; j < bridge.top; j++)
            CHECK(&bridge.port[j] == port || bridge.port[j].address != port->address);
        CHECK(port->address >= site.first && port->address <= site.last);
    }
    begin();
    first = plug("web", 0, false);
    CHECK_EQ(first->address, address);
    CHECK(memcmp(first->mac, mac, 6) == 0);
}

static void a_network_that_is_full_says_so(void)
{
    char name[20];
    struct port *port;
    err_t err = OK;
    begin();
    CHECK(network_parse_subnet(&network, "10.0.0.0/28", &e) == OK);
    site_init(&site, &network);
    for (int i = 0; i < 12 && !err; i++) {
        snprintf(name, sizeof name, "vm%d", i);
        const struct bridge_port_options options = {.vm = name};
        err = bridge_plug(&bridge, &options, NOW, &port, &e);
        CHECK((err == OK) == (i < 11)); // .4 to .14
    }
    CHECK(err == ERR_BUSY);
}

static void frames_to_bridges_and_from_others_addresses_go_nowhere(void)
{
    static const uint8_t spanning_tree[6] = {0x01, 0x80, 0xc2, 0, 0, 0};
    begin();
    struct port *a = plug("a", 0, false), *b = plug("b", 0, false);
    send(a, spanning_tree, a->mac, 0);
    CHECK(!got.to[b->index] && !got.host);
    send(a, b->mac, station, 0);
    send(a, b->mac, site.mac, 0);
    CHECK(!got.to[b->index]);
    CHECK_EQ(a->counters.dropped[DROP_SPOOF], 2);
    send(a, b->mac, a->mac, 7);
    CHECK_EQ(a->counters.dropped[DROP_VLAN], 1);
    CHECK_EQ(a->counters.packets_out, 4);
}

static void too_many_frames_for_all_are_a_storm(void)
{
    unsigned passed = 0;
    begin();
    struct port *a = plug("a", 0, false), *b = plug("b", 0, false);
    for (int i = 0; i < 2000; i++) {
        send(a, all, a->mac, 0);
        passed += got.to[b->index];
    }
    CHECK(passed >= STORM_BURST && passed <= STORM_BURST + 1);
    CHECK_EQ(a->counters.dropped[DROP_STORM], 2000 - passed);
    send(a, b->mac, a->mac, 0);
    CHECK_EQ(got.to[b->index], 1);
}

TEST_MAIN(TEST(a_frame_for_one_reaches_one_and_for_all_reaches_all), TEST(a_trunk_learns_and_tags),
          TEST(addresses_stay_with_names_and_are_never_given_twice),
          TEST(a_network_that_is_full_says_so),
          TEST(frames_to_bridges_and_from_others_addresses_go_nowhere),
          TEST(too_many_frames_for_all_are_a_storm))
