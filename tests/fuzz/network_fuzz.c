// A virtual network with hostile ports and a hostile outside: frames of all kinds, near to right
// and far from it, and what people and programs hand over as text. Nothing may crash, read beyond a
// packet, or send what is not right: frames from others' addresses to ports, datagrams that must
// not leave to the outside.
//
// The first byte says what the rest is: a definition, a policy, a port forward, or actions on a
// network, each a byte for what, one for who and one for how many bytes are changed, with place and
// value of each.
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "net/forward.h"
#include "net/policy.h"
#include "standalone.h"
#include "switch/dhcp6.h"
#include "switch/egress.h"
#include "switch/host.h"

#define PORTS 4
#define PACKET 400
#define NOW (5000 * NS_PER_SEC)

struct ctx {
    struct network network;
    struct site site;
    struct bridge bridge;
    struct host host;
    struct port *port[PORTS];
    uint64_t now;
    unsigned from; // which port sends; PORTS: the outside
};

static void must(bool right)
{
    if (!right)
        abort();
}

// --- what comes out

static void deliver(void *opaque, struct port *port, const uint8_t *packet, size_t len)
{
    struct ctx *ctx = opaque;
    const uint8_t *from = packet + NET_HEADER_BYTES + 6;
    uint8_t *exact = malloc(len);
    memcpy(exact, packet, len);
    must(net_packet_valid(exact, len, NET_TAKES_ALL));
    free(exact);
    // What is not the network's own comes from a port that has the address; a trunk may have any.
    bool known = ctx->from == PORTS - 1 || !memcmp(from, ctx->site.mac, 6);
    for (unsigned i = 0; i < PORTS - 1; i++)
        known |= !memcmp(from, ctx->port[i]->mac, 6) && ctx->from == i && ctx->port[i] != port;
    must(known);
}

static void to_host(void *opaque, struct port *from, struct frame *f)
{
    struct ctx *ctx = opaque;
    host_input(&ctx->host, from, f, ctx->now);
}

static void outside(void *opaque, const uint8_t *frame, size_t len)
{
    struct ctx *ctx = opaque;
    uint16_t type = load_be16(frame + 12);
    must(len >= ETH_BYTES && len <= NET_FRAME_MAX);
    if (type == ETHERTYPE_IPV4 && load_be16(frame + 20) % 0x2000 == 0) {
        uint32_t to = load_be32(frame + 30);
        bool inside = site_contains(&ctx->site, to);
        must(!inside || to == ctx->site.gateway || to == ctx->site.names);
        must(to >> 24 != 127 && to >> 24 != 0 && to >> 28 < 14 && to >> 16 != 0xa9fe);
        must(site_contains(&ctx->site, load_be32(frame + 26)));
    }
    if (type == ETHERTYPE_IPV6 && frame[ETH_BYTES + 6] != PROTOCOL_ICMPV6)
        must((frame[ETH_BYTES + 24] & 0xe0) == 0x20 || (frame[ETH_BYTES + 24] & 0xfe) == 0xfc);
}

// --- a network

static void begin(struct ctx *ctx)
{
    const struct bridge_ops ops = {deliver, to_host, NULL, ctx};
    static const char *const policies[PORTS] = {"", "allow *.example.org; deny all", "none",
                                                "open"};
    must(!network_init(&ctx->network, "fuzz", NULL));
    must(!network_parse_subnet(&ctx->network, "10.1.2.0/24", NULL));
    site_init(&ctx->site, &ctx->network);
    bridge_init(&ctx->bridge, &ctx->site, &ops, 1);
    ctx->host.site = &ctx->site;
    ctx->host.bridge = &ctx->bridge;
    ctx->host.outside = outside;
    ctx->host.opaque = ctx;
    host_init(&ctx->host);
    ctx->now = NOW;
    for (int i = 0; i < PORTS; i++) {
        const char name[] = {(char)('a' + i), '\0'};
        const struct bridge_port_options options = {.vm = name,
                                                    .mac = {2, 0, 0, 0, 0, (uint8_t)i},
                                                    .address = 0x0a01020au + (uint32_t)i,
                                                    .vlan = i == 2 ? 10 : 0,
                                                    .trunk = i == PORTS - 1};
        must(!bridge_plug(&ctx->bridge, &options, ctx->now, &ctx->port[i], NULL));
        must(!egress_new(policies[i], 7, &ctx->port[i]->egress, NULL));
    }
}

static void end(struct ctx *ctx)
{
    for (int i = 0; i < PORTS; i++)
        egress_free(ctx->port[i]->egress);
}

// --- packets that are nearly right

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static uint8_t *ethernet(uint8_t *packet, const uint8_t *to, const uint8_t *from, uint16_t type)
{
    uint8_t *eth = packet + NET_HEADER_BYTES;
    memcpy(eth, to, 6);
    memcpy(eth + 6, from, 6);
    store_be16(eth + 12, type);
    return eth + ETH_BYTES;
}

static size_t datagram(uint8_t *ip, uint8_t protocol, uint32_t from, uint32_t to, uint16_t ports[2],
                       size_t payload)
{
    size_t header = protocol == PROTOCOL_TCP ? 20 : 8;
    ip[0] = 0x45;
    ip[8] = 64;
    ip[9] = protocol;
    store_be32(ip + 12, from);
    store_be32(ip + 16, to);
    store_be16(ip + 20, ports[0]);
    store_be16(ip + 22, ports[1]);
    if (protocol == PROTOCOL_TCP) {
        ip[32] = 0x50;
        ip[33] = TCP_SYN;
    } else {
        store_be16(ip + 24, (uint16_t)(8 + payload));
    }
    ipv4_finish(ip, 20 + header + payload);
    return 20 + header + payload;
}

static size_t question(uint8_t *dns, bool answer)
{
    static const uint8_t message[] = {0,   1,   1,   0, 0,   1,   0,   0,    0,   0,   0,   0, 3,
                                      'w', 'w', 'w', 7, 'e', 'x', 'a', 'm',  'p', 'l', 'e', 3, 'o',
                                      'r', 'g', 0,   0, 1,   0,   1,   0xc0, 12,  0,   1,   0, 1,
                                      0,   0,   0,   9, 0,   4,   8,   8,    8,   8};
    memcpy(dns, message, sizeof message);
    if (answer)
        dns[2] |= 0x80;
    dns[7] = answer;
    return answer ? sizeof message : sizeof message - 16;
}

static size_t dhcp(uint8_t *m, const uint8_t *mac)
{
    m[0] = m[1] = 1;
    m[2] = 6;
    memcpy(m + 28, mac, 6);
    store_be32(m + 236, 0x63825363);
    memcpy(m + 240, "\x35\x01\x01\x32\x04\x0a\x01\x02\x0a\xff", 10);
    return 250;
}

static size_t discovery6(uint8_t *ip, const uint8_t *from, const uint8_t *target, uint8_t type)
{
    ip[0] = 0x60;
    ip[6] = PROTOCOL_ICMPV6;
    ip[7] = 255;
    memcpy(ip + 8, from, 16);
    memcpy(ip + 24, target, 16);
    ip[40] = type;
    memcpy(ip + 48, target, 16);
    ip[64] = 1;
    ip[65] = 1;
    ipv6_finish(ip, 40 + 32);
    return 40 + 32;
}

// A packet from port i, or with i == PORTS from the outside.
static size_t make(struct ctx *ctx, uint8_t *packet, unsigned what, unsigned i)
{
    const struct port *from = ctx->port[i % PORTS], *other = ctx->port[(i + 1) % PORTS];
    const uint8_t *mac = i < PORTS ? from->mac : ctx->site.mac;
    const uint8_t *gateway = i < PORTS ? ctx->site.mac : from->mac;
    uint32_t address = i < PORTS ? from->address : ctx->site.names;
    uint32_t far = i < PORTS ? 0xc0000201 : from->address;
    uint8_t *at = ethernet(packet, gateway, mac, ETHERTYPE_IPV4), *all = packet + NET_HEADER_BYTES;
    size_t payload = 0;
    switch (what % 13) {
    case 0: // ARP
        memcpy(all, everybody, 6);
        store_be16(all + 12, ETHERTYPE_ARP);
        memcpy(at, "\0\1\10\0\6\4\0\1", 8);
        memcpy(at + 8, mac, 6);
        store_be32(at + 14, address);
        store_be32(at + 24, i < PORTS ? ctx->site.gateway : from->address);
        return ETH_BYTES + ARP_BYTES;
    case 1: // DHCP
        memcpy(all, everybody, 6);
        payload = dhcp(at + 28, mac);
        return ETH_BYTES + datagram(at, PROTOCOL_UDP, 0, ~0u, (uint16_t[]){68, 67}, payload);
    case 2: // DNS
        payload = question(at + 28, i >= PORTS);
        return ETH_BYTES + datagram(at, PROTOCOL_UDP, address, i < PORTS ? ctx->site.self : far,
                                    i < PORTS ? (uint16_t[]){5000, 53} : (uint16_t[]){53, 5000},
                                    payload);
    case 3: return ETH_BYTES + datagram(at, PROTOCOL_TCP, address, far, (uint16_t[]){9, 80}, 60);
    case 4: // DNS over TCP: its beginning, or a question
        memcpy(at + 40, "\0\23\0\7\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1", 21);
        payload = datagram(at, PROTOCOL_TCP, address, ctx->site.self, (uint16_t[]){9, 53},
                           i & 1 ? 21 : 0);
        at[33] = i & 1 ? TCP_ACK : TCP_SYN;
        return ETH_BYTES + payload;
    case 5: // to another port
        memcpy(all, other->mac, 6);
        return ETH_BYTES +
               datagram(at, PROTOCOL_UDP, address, other->address, (uint16_t[]){1, 2}, 20);
    case 6: // a large segment
        packet[0] = packet[1] = 1;
        store_le16(packet + 2, 54);
        store_le16(packet + 4, 64);
        store_le16(packet + 6, 34);
        store_le16(packet + 8, 16);
        return ETH_BYTES + datagram(at, PROTOCOL_TCP, address, far, (uint16_t[]){9, 80}, 300);
    case 9: // a long datagram, or several in one
        packet[0] = 1;
        packet[1] = i & 1 ? 3 : 5;
        store_le16(packet + 2, 42);
        store_le16(packet + 4, 64);
        store_le16(packet + 6, 34);
        store_le16(packet + 8, 6);
        return ETH_BYTES + datagram(at, PROTOCOL_UDP, address, i & 2 ? far : ctx->site.self,
                                    (uint16_t[]){9, 53}, 300);
    case 10: // DNS over IPv6
        store_be16(all + 12, ETHERTYPE_IPV6);
        payload = question(at + 48, false);
        at[0] = 0x60;
        at[6] = PROTOCOL_UDP;
        memcpy(at + 8, i < PORTS ? from->address6 : ctx->site.gateway6, 16);
        memcpy(at + 24, i < PORTS ? ctx->site.self6 : from->address6, 16);
        store_be16(at + 4, (uint16_t)(8 + payload));
        store_be16(at + 40, 5000);
        store_be16(at + 42, 53);
        store_be16(at + 44, (uint16_t)(8 + payload));
        return ETH_BYTES + 48 + payload;
    case 11: // DHCPv6
        store_be16(all + 12, ETHERTYPE_IPV6);
        at[0] = 0x60;
        at[5] = 8 + 4 + 7 + 16;
        at[6] = PROTOCOL_UDP;
        memcpy(at + 8, "\xfe\x80", 2);
        memcpy(at + 16, from->address6 + 8, 8);
        memcpy(at + 24, dhcp6_group, 16);
        store_be16(at + 40, DHCP6_CLIENT_PORT);
        store_be16(at + 42, DHCP6_SERVER_PORT);
        at[45] = at[5];
        memcpy(at + 48, "\1\7\7\7\0\1\0\3abc\0\3\0\14IAID", 19);
        return ETH_BYTES + 40 + at[5];
    case 7: // neighbours
        store_be16(all + 12, ETHERTYPE_IPV6);
        memcpy(at + 66, mac, 6);
        return ETH_BYTES + discovery6(at, from->address6, ctx->site.gateway6, 135);
    case 8:
        store_be16(all + 12, ETHERTYPE_IPV6);
        return ETH_BYTES + discovery6(at, from->address6, from->address6, 133 + i);
    default: // tagged
        memcpy(all, everybody, 6);
        store_be16(all + 12, ETHERTYPE_VLAN);
        store_be16(all + 14, 10);
        store_be16(all + 16, 0x88b5);
        return ETH_BYTES + 50;
    }
}

static const uint8_t *act(struct ctx *ctx, const uint8_t *data, size_t *size)
{
    uint8_t room[BRIDGE_HEADROOM + NET_HEADER_BYTES + PACKET] = {0};
    uint8_t *packet = room + BRIDGE_HEADROOM;
    unsigned what = data[0], who = data[1] % (PORTS + 1), changes = data[2] % 8;
    size_t len = NET_HEADER_BYTES + make(ctx, packet, what, who);
    data += 3;
    *size -= 3;
    for (; changes && *size >= 2; changes--, data += 2, *size -= 2) {
        size_t at = data[0] + (data[0] > 200 ? data[1] : 0u);
        if (at < len)
            packet[at] = data[1];
        else
            len = len > at % 64 + 13 ? len - at % 64 : len;
    }
    // Exactly as long as it is, so that a sanitizer sees what is read beyond.
    uint8_t *exact = malloc(BRIDGE_HEADROOM + len);
    memcpy(exact, room, BRIDGE_HEADROOM + len);
    ctx->from = who;
    if (who < PORTS)
        bridge_input(&ctx->bridge, ctx->port[who], exact + BRIDGE_HEADROOM, len, ctx->now);
    else
        host_from_outside(&ctx->host, exact + BRIDGE_HEADROOM + NET_HEADER_BYTES,
                          len - NET_HEADER_BYTES, ctx->now);
    free(exact);
    ctx->now += NS_PER_MS * (what / 10);
    return data;
}

static void play(const uint8_t *data, size_t size)
{
    struct ctx *ctx = calloc(1, sizeof *ctx);
    must(ctx != NULL);
    begin(ctx);
    while (size >= 3)
        data = act(ctx, data, &size);
    host_flush(&ctx->host);
    end(ctx);
    free(ctx);
}

// --- texts

static void load_definition(const char *text, size_t len)
{
    struct network network, again;
    char *saved = NULL;
    if (network_load(&network, text, len, NULL))
        return;
    must(!network_save(&network, &saved, NULL));
    must(!network_load(&again, saved, strlen(saved), NULL));
    must(!strcmp(network.name, again.name) && network.subnet == again.subnet &&
         network.mtu == again.mtu && !strcmp(network.policy, again.policy));
    free(saved);
}

static void load_policy(const char *text)
{
    struct policy policy;
    struct policy_destination to = {.protocol = 6, .port = 80, .names = 5};
    uint64_t rules;
    if (policy_parse(&policy, text, NULL))
        return;
    to.address[15] = (uint8_t)text[0];
    (void)policy_allows(&policy, &to);
    (void)policy_resolves(&policy, "www.example.org", &rules);
}

static void load_forward(const char *text)
{
    struct forward forward, again;
    char out[FORWARD_TEXT];
    const char *at = out;
    if (forward_parse(text, &forward, NULL))
        return;
    forward_format(&forward, out);
    must(forward_next(&at, &again) && !*at && again.host == forward.host &&
         again.guest == forward.guest && again.address == forward.address &&
         again.v6 == forward.v6 && !memcmp(again.address6, forward.address6, 16));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *const starts[] = {
        "{\"berth_network\":1,\"name\":\"x\",\"subnet\":\"10.2.3.0/24\",\"mtu\":1500}",
        "allow [fd00::/8]:80/tcp; deny *.example.org:1-9/udp; allow 10.0.0.0/8; deny all",
        size % 2 ? "127.0.0.1:8080:80/udp" : "[fd00::1]:8080:80/udp"};
    if (!size)
        return 0;
    unsigned kind = data[0] % 8;
    if (kind >= ARRAY_LEN(starts)) {
        play(data + 1, size - 1);
        return 0;
    }
    // A right text with some bytes changed.
    char text[128];
    strcpy(text, starts[kind]);
    size_t len = strlen(text);
    for (size_t i = 1; i + 1 < size; i += 2)
        text[data[i] % len] = data[i + 1] ? (char)data[i + 1] : ' ';
    if (kind == 0)
        load_definition(text, len);
    else if (kind == 1)
        load_policy(text);
    else
        load_forward(text);
    return 0;
}
