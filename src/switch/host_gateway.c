// What leaves the network through the gateway and comes back. Here is decided what may: only to
// where the network's kind and the VM's policy let it go, never to addresses that mean the host
// itself or its links. Questions to the switch about others' names go on to the host's name server
// under the switch's address, and the answers back.
#include <string.h>

#include "base/bytes.h"
#include "switch/egress.h"
#include "switch/host.h"

// --- where datagrams may go at all

static bool is_asked4(const struct host *host, const struct frame *f)
{
    return load_be32(f->l3 + 16) == host->site->self;
}

// Not this network, loopback, links, groups: the NAT would take some of them for the host itself.
static bool routable4(const struct site *site, uint32_t to)
{
    uint8_t top = (uint8_t)(to >> 24);
    if (to == site->gateway)
        return true;
    return top != 0 && top != 127 && top < 224 && to >> 16 != 0xa9fe && !site_contains(site, to) &&
           site->network->kind == NETWORK_NAT;
}

// Global and unique local addresses. Others reach the host by other names (::1, ::ffff:127.0.0.1).
static bool routable6(const struct site *site, const uint8_t *to)
{
    if (site_is_gateway6(site, to))
        return true;
    bool global = (to[0] & 0xe0) == 0x20, local = (to[0] & 0xfe) == 0xfc;
    return (global || local) && !site_contains6(site, to) && site->network->kind == NETWORK_NAT;
}

static bool routable(const struct site *site, const struct frame *f)
{
    return f->kind == FRAME_IPV6 ? routable6(site, f->l3 + 24)
                                 : routable4(site, load_be32(f->l3 + 16));
}

// Only to addresses of the network anything is brought back.
static bool from_inside(const struct site *site, const struct frame *f)
{
    if (f->kind == FRAME_IPV6)
        return site_contains6(site, f->l3 + 8);
    return f->kind == FRAME_IPV4 && site_contains(site, load_be32(f->l3 + 12));
}

static bool is_gateway(const struct site *site, const struct frame *f)
{
    return f->kind == FRAME_IPV6 ? site_is_gateway6(site, f->l3 + 24)
                                 : load_be32(f->l3 + 16) == site->gateway;
}

// --- the switch's address and the name server's

// Changes an IPv4 address in a datagram whose checksums are filled in.
static void readdress(struct frame *f, size_t at, uint32_t to)
{
    uint8_t old[4], new[4];
    store_be32(new, to);
    memcpy(old, f->l3 + at, 4);
    memcpy(f->l3 + at, new, 4);
    inet_fix(f->l3 + 10, old, new, 4);
    if (f->l4 && f->protocol == PROTOCOL_TCP)
        inet_fix(f->l4 + 16, old, new, 4);
    if (f->l4 && f->protocol == PROTOCOL_UDP && load_be16(f->l4 + 6))
        inet_fix(f->l4 + 6, old, new, 4);
}

// One datagram. The NAT ends TCP itself and takes segments of any length, so a large one stays
// whole: it is read, acknowledged and sent on once instead of forty times.
static void leave(const struct host *host, struct frame *f, bool asks)
{
    if (!net_packet_whole(f->packet, f->len))
        return;
    if (asks)
        readdress(f, 16, host->site->names);
    host->outside(host->opaque, f->packet + NET_HEADER_BYTES, f->len - NET_HEADER_BYTES);
}

// One of several in a bundle.
static void leave_one(void *opaque, uint8_t *packet, size_t len)
{
    const struct host *host = opaque;
    host->outside(host->opaque, packet + NET_HEADER_BYTES, len - NET_HEADER_BYTES);
}

// --- out

static void deny(struct port *from, enum port_drop why)
{
    from->counters.dropped[why]++;
}

void host_gateway(struct host *host, struct port *from, struct frame *f, uint64_t now)
{
    const struct site *site = host->site;
    bool asks = f->kind == FRAME_IPV4 && is_asked4(host, f);
    if (!host->outside || (f->kind != FRAME_IPV4 && f->kind != FRAME_IPV6))
        return;
    if (!from_inside(site, f) || (asks ? site->network->kind != NETWORK_NAT : !routable(site, f))) {
        deny(from, DROP_POLICY);
        return;
    }
    if (from->egress) {
        enum egress_verdict verdict = egress_out(from->egress, f, is_gateway(site, f), asks, now);
        if (verdict != EGRESS_PASS) {
            deny(from, verdict == EGRESS_DENIED ? DROP_POLICY : DROP_FLOWS);
            return;
        }
    }
    // The NAT keeps fragments until they are whole or half a minute old, however many they are.
    if ((f->fragment || f->more) && bridge_in_a_storm(from, now))
        return;
    if (net_packet_needs(f->packet) & (NET_TAKES_USO4 | NET_TAKES_USO6))
        net_packet_lower(f->packet, f->len, 0, host->scratch, leave_one, host);
    else
        leave(host, f, asks);
}

bool host_may_ask(const struct host *host, const struct port *from, const char *name)
{
    uint64_t rules;
    if (!host->outside || host->site->network->kind != NETWORK_NAT)
        return false;
    if (!from->egress)
        return true;
    return name ? policy_resolves(&from->egress->policy, name, &rules)
                : policy_resolves_any(&from->egress->policy);
}

// --- back

static struct port *find_receiver(struct host *host, const struct frame *f)
{
    for (unsigned i = 0; i < host->bridge->top; i++) {
        struct port *port = &host->bridge->port[i];
        if (port->used && !memcmp(port->mac, frame_mac_to(f), NET_MAC_BYTES))
            return port;
    }
    return NULL;
}

struct learning {
    struct egress *egress;
    uint64_t now;
};

static void learn(void *opaque, const struct dns_question *q, const uint8_t address[16],
                  uint32_t ttl)
{
    const struct learning *l = opaque;
    uint64_t rules;
    (void)policy_resolves(&l->egress->policy, q->name, &rules);
    if (rules)
        egress_learn(l->egress, address, rules, ttl, l->now);
}

void host_gateway_back(struct host *host, struct frame *f, uint64_t now)
{
    struct port *to = find_receiver(host, f);
    bool answer = f->kind == FRAME_IPV4 && load_be32(f->l3 + 12) == host->site->names;
    if (f->kind != FRAME_IPV4 && f->kind != FRAME_IPV6)
        return;
    if (answer)
        readdress(f, 12, host->site->self);
    if (to && to->egress) {
        struct dns_question q;
        struct learning learning = {to->egress, now};
        egress_in(to->egress, f, now);
        if (answer && f->l4 && f->protocol == PROTOCOL_UDP && f->from == DNS_PORT && !f->more)
            dns_each_address(f->l4 + UDP_BYTES, f->l4_len - UDP_BYTES, &q, learn, &learning);
    }
    if (answer && host_answer6(host, to, f, now))
        return;
    host->now = now;
    coalesce_add(&host->coming, f);
}
