// ARP (RFC 826) and neighbour discovery (RFC 4861) at the network's own addresses, and the router's
// advertisement: a prefix from which stations make addresses (RFC 4862), and on a network with a
// way out a router. It names the switch as
// the name server (RFC 8106), and says that DHCPv6 names it, too. Not modelled: redirects.
#include <string.h>

#include "base/bytes.h"
#include "switch/guard.h"
#include "switch/host.h"

enum {
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    ND_ROUTER_SOLICITATION = 133,
    ND_ROUTER_ADVERTISEMENT = 134,
    ND_SOLICITATION = 135,
    ND_ADVERTISEMENT = 136,
    ECHO_REQUEST6 = 128,
    ECHO_REPLY6 = 129,
    OTHER_BY_DHCP = 0x40,
    ROUTER_SECONDS = 1800,
    PREFIX_VALID = 86400,
    PREFIX_PREFERRED = 14400,
};

// --- ARP

static size_t arp_reply(uint8_t *arp, const uint8_t *mac, const uint8_t *request)
{
    memcpy(arp, request, 6);
    store_be16(arp + 6, ARP_REPLY);
    memcpy(arp + 8, mac, 6);
    memcpy(arp + 14, request + 24, 4);
    memcpy(arp + 18, request + 8, 10);
    return ARP_BYTES;
}

static bool own_address(const struct site *site, uint32_t address)
{
    return address == site->self || (address == site->gateway && site_has_gateway(site));
}

static void arp_input(struct host *host, const struct frame *f, uint64_t now)
{
    const uint8_t *arp = f->l3;
    if (load_be16(arp + 6) == ARP_REQUEST && own_address(host->site, load_be32(arp + 24))) {
        uint8_t *out = host_frame(host, arp + 8, ETHERTYPE_ARP);
        host_send(host, arp_reply(out, host->site->mac, arp), now);
    }
    // Of addresses that the switch has not given: stations of trunks and trusting ports.
    if (load_be16(arp + 6) == ARP_REPLY && host->outside)
        host->outside(host->opaque, f->eth, ETH_BYTES + ARP_BYTES);
}

// --- neighbour discovery

static void icmp6_send(struct host *host, const uint8_t *mac, const uint8_t *to,
                       const uint8_t *icmp, size_t len, uint64_t now)
{
    uint8_t *ip = host_frame(host, mac, ETHERTYPE_IPV6);
    memset(ip, 0, 40);
    ip[0] = 0x60;
    ip[6] = PROTOCOL_ICMPV6;
    ip[7] = 255;
    memcpy(ip + 8, host->site->link_local, 16);
    memcpy(ip + 24, to, 16);
    memcpy(ip + 40, icmp, len);
    ipv6_finish(ip, 40 + len);
    host_send(host, 40 + len, now);
}

static size_t advertisement(uint8_t *icmp, const uint8_t *target, const uint8_t *mac, uint8_t flags)
{
    memset(icmp, 0, 32);
    icmp[0] = ND_ADVERTISEMENT;
    icmp[4] = flags;
    memcpy(icmp + 8, target, 16);
    icmp[24] = 2; // target's MAC
    icmp[25] = 1;
    memcpy(icmp + 26, mac, 6);
    return 32;
}

// To a station that is not sure of its own address yet, the answer goes to all.
static void solicited(struct host *host, const struct frame *f, uint64_t now)
{
    static const uint8_t all[16] = {0xff, 2, [15] = 1}, all_mac[6] = {0x33, 0x33, [5] = 1},
                         none[16];
    const uint8_t *target = f->l4 + 8, *from = f->l3 + 8;
    uint8_t icmp[32];
    if (f->l4_len < 24 ||
        (!site_is_gateway6(host->site, target) && !site_is_self6(host->site, target)))
        return;
    bool unsure = !memcmp(from, none, 16);
    size_t len = advertisement(icmp, target, host->site->mac, unsure ? 0xa0 : 0xe0);
    icmp6_send(host, unsure ? all_mac : frame_mac_from(f), unsure ? all : from, icmp, len, now);
}

void host_advertise(struct host *host, const struct port *to, uint64_t now)
{
    static const uint8_t all[16] = {0xff, 2, [15] = 1}, all_mac[6] = {0x33, 0x33, [5] = 1};
    const struct network *network = host->site->network;
    uint8_t icmp[104] = {ND_ROUTER_ADVERTISEMENT, [4] = 64, [5] = OTHER_BY_DHCP};
    uint8_t *mac = icmp + 16, *mtu = icmp + 24, *prefix = icmp + 32, *server = icmp + 64,
            *domain = icmp + 88;
    if (!network->ipv6)
        return;
    store_be16(icmp + 6, network->kind == NETWORK_NAT ? ROUTER_SECONDS : 0);
    mac[0] = 1; // source's MAC
    mac[1] = 1;
    memcpy(mac + 2, host->site->mac, 6);
    mtu[0] = 5;
    mtu[1] = 1;
    store_be32(mtu + 4, network->mtu);
    prefix[0] = 3;
    prefix[1] = 4;
    prefix[2] = 64;
    prefix[3] = 0xc0; // on this link, and to make addresses of
    store_be32(prefix + 4, PREFIX_VALID);
    store_be32(prefix + 8, PREFIX_PREFERRED);
    memcpy(prefix + 16, network->subnet6, 8);
    server[0] = 25;
    server[1] = 3;
    store_be32(server + 4, ROUTER_SECONDS);
    memcpy(server + 8, host->site->self6, 16);
    domain[0] = 31;
    domain[1] = 2;
    store_be32(domain + 4, ROUTER_SECONDS);
    domain[8] = sizeof DNS_DOMAIN - 1;
    memcpy(domain + 9, DNS_DOMAIN, sizeof DNS_DOMAIN - 1);
    icmp6_send(host, to ? to->mac : all_mac, all, icmp, sizeof icmp, now);
}

// The switch's own addresses answer to ping; the gateway's is the host's.
static bool echo(struct host *host, const struct frame *f, uint64_t now)
{
    uint8_t icmp[1500];
    if (!site_is_self6(host->site, f->l3 + 24))
        return false;
    if (f->l4[0] == ECHO_REQUEST6 && !f->more && f->l4_len <= sizeof icmp) {
        memcpy(icmp, f->l4, f->l4_len);
        icmp[0] = ECHO_REPLY6;
        icmp6_send(host, frame_mac_from(f), f->l3 + 8, icmp, f->l4_len, now);
    }
    return true;
}

static bool icmp6_input(struct host *host, struct port *from, const struct frame *f, uint64_t now)
{
    if (!host->site->network->ipv6)
        return true;
    switch (f->l4[0]) {
    case ND_SOLICITATION: solicited(host, f, now); return true;
    case ND_ROUTER_SOLICITATION: host_advertise(host, from, now); return true;
    case ND_ROUTER_ADVERTISEMENT:
    case ND_ADVERTISEMENT:
    case 137: return true; // redirect
    default: return echo(host, f, now);
    }
}

bool host_discovery(struct host *host, struct port *from, const struct frame *f, uint64_t now)
{
    if (f->kind == FRAME_ARP) {
        arp_input(host, f, now);
        return true;
    }
    return f->kind == FRAME_IPV6 && f->l4 && f->protocol == PROTOCOL_ICMPV6 &&
           icmp6_input(host, from, f, now);
}

// --- what the NAT asks for

// It asks for stations it has a datagram for; where the switch knows them, it answers.
static void arp_from_outside(struct host *host, struct frame *f, uint64_t now)
{
    const struct port *port = bridge_find_address(host->bridge, load_be32(f->l3 + 24));
    uint8_t frame[ETH_BYTES + ARP_BYTES];
    if (load_be16(f->l3 + 6) != ARP_REQUEST)
        return;
    if (!port) {
        memcpy(f->l3 + 8, host->site->mac, 6);
        bridge_from_host(host->bridge, f->packet, f->len, now);
        return;
    }
    memcpy(frame, host->site->mac, 6);
    memcpy(frame + 6, port->mac, 6);
    store_be16(frame + 12, ETHERTYPE_ARP);
    arp_reply(frame + ETH_BYTES, port->mac, f->l3);
    host->outside(host->opaque, frame, sizeof frame);
}

static void nd_from_outside(struct host *host, const struct frame *f)
{
    uint8_t frame[ETH_BYTES + 40 + 32] = {0}, *ip = frame + ETH_BYTES;
    const struct port *port;
    if (f->l4[0] != ND_SOLICITATION || f->l4_len < 24 ||
        !(port = guard_owner6(host->bridge->port, f->l4 + 8)))
        return;
    memcpy(frame, host->site->mac, 6);
    memcpy(frame + 6, port->mac, 6);
    store_be16(frame + 12, ETHERTYPE_IPV6);
    ip[0] = 0x60;
    ip[6] = PROTOCOL_ICMPV6;
    ip[7] = 255;
    memcpy(ip + 8, f->l4 + 8, 16);
    memcpy(ip + 24, f->l3 + 8, 16);
    advertisement(ip + 40, f->l4 + 8, port->mac, 0x60);
    ipv6_finish(ip, 40 + 32);
    host->outside(host->opaque, frame, sizeof frame);
}

bool host_discovery_outside(struct host *host, const struct frame *f, uint64_t now)
{
    if (f->kind == FRAME_ARP) {
        struct frame copy = *f;
        arp_from_outside(host, &copy, now);
        return true;
    }
    bool nd = f->kind == FRAME_IPV6 && f->l4 && f->protocol == PROTOCOL_ICMPV6 &&
              f->l4[0] >= ND_ROUTER_SOLICITATION && f->l4[0] <= 137;
    if (nd)
        nd_from_outside(host, f);
    return nd;
}
