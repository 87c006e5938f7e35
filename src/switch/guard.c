// Anti-spoofing. ARP (RFC 826, 5227), neighbour discovery (RFC 4861) and, for IPv6 addresses that
// guests make up themselves, first come first served (RFC 6620), with the address that follows from
// a port's MAC kept for that port.
#include "switch/guard.h"

#include <string.h>

#include "base/bytes.h"

#define OWNED_AGE (3600 * NS_PER_SEC) // unused for so long, an address is free

enum {
    ND_ROUTER_SOLICITATION = 133,
    ND_ROUTER_ADVERTISEMENT = 134,
    ND_SOLICITATION = 135,
    ND_ADVERTISEMENT = 136,
    ND_REDIRECT = 137,
    ND_SOURCE_MAC = 1,
    ND_TARGET_MAC = 2,
    DHCP_CLIENT = 68,
    DHCP_SERVER = 67,
    DHCP6_SERVER = 547,
};

static bool same_mac(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, NET_MAC_BYTES) == 0;
}

static bool unspecified6(const uint8_t *address)
{
    static const uint8_t none[16];
    return memcmp(address, none, 16) == 0;
}

// --- IPv6 addresses

static bool link_local(const uint8_t *address)
{
    return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

static bool reserved6(const struct site *site, const uint8_t *address)
{
    if (!memcmp(address, site->link_local, 16))
        return true;
    // prefix::/120 is the network's own
    static const uint8_t zero[7];
    return site_contains6(site, address) && !memcmp(address + 8, zero, 7);
}

static struct port_owned6 *find_owned(struct port *port, const uint8_t *address)
{
    for (int i = 0; i < PORT_OWNED6; i++) {
        struct port_owned6 *o = &port->owned6[i];
        if (o->seen && !memcmp(o->address, address, 16))
            return o;
    }
    return NULL;
}

// The address that only this port can have made of its MAC.
static bool made_of(const struct port *port, const uint8_t *address)
{
    return !memcmp(address + 8, port->address6 + 8, 8);
}

static bool other_has(struct port *ports, const struct port *port, const uint8_t *address,
                      uint64_t now)
{
    for (int i = 0; i < PORTS_MAX; i++) {
        struct port *p = &ports[i];
        if (!p->used || p == port) // of any VLAN: the gateway is in all of them
            continue;
        struct port_owned6 *o = find_owned(p, address);
        if (made_of(p, address) || (o && now - o->seen < OWNED_AGE))
            return true;
    }
    return false;
}

// Takes the address for the port, in place of the one it has not used for the longest time.
static bool own6(struct port *ports, struct port *port, const struct site *site,
                 const uint8_t *address, uint64_t now)
{
    struct port_owned6 *o = find_owned(port, address);
    if (o) {
        o->seen = now;
        return true;
    }
    if (reserved6(site, address) || address[0] == 0xff ||
        (!link_local(address) && !site_contains6(site, address)) ||
        other_has(ports, port, address, now))
        return false;
    o = &port->owned6[0];
    for (int i = 1; i < PORT_OWNED6; i++) {
        if (port->owned6[i].seen < o->seen)
            o = &port->owned6[i];
    }
    memcpy(o->address, address, 16);
    o->seen = now;
    return true;
}

bool guard_shows6(struct port *port, const uint8_t address[16])
{
    return find_owned(port, address);
}

struct port *guard_owner6(struct port *ports, const uint8_t address[16])
{
    for (int i = 0; i < PORTS_MAX; i++) {
        if (ports[i].used && (made_of(&ports[i], address) || find_owned(&ports[i], address)))
            return &ports[i];
    }
    return NULL;
}

// --- kinds of frames

static bool arp_ok(const struct port *port, const struct frame *f)
{
    const uint8_t *arp = f->l3;
    uint32_t sender = load_be32(arp + 14);
    if (load_be32(arp) != 0x00010800 || arp[4] != 6 || arp[5] != 4) // Ethernet, IPv4
        return false;
    return same_mac(arp + 8, port->mac) && (sender == port->address || sender == 0);
}

static bool ipv4_ok(const struct port *port, const struct frame *f)
{
    uint32_t source = load_be32(f->l3 + 12);
    if (f->l4 && f->protocol == PROTOCOL_UDP && f->from == DHCP_SERVER)
        return false;
    if (source == 0)
        return f->l4 && f->protocol == PROTOCOL_UDP && f->from == DHCP_CLIENT &&
               f->to == DHCP_SERVER;
    return source == port->address;
}

// Options that name a MAC must name the port's.
static bool nd_options_ok(const struct port *port, const uint8_t *at, const uint8_t *end)
{
    while (end - at >= 8) {
        size_t len = at[1] * 8u;
        if (!len || len > (size_t)(end - at))
            return false;
        if ((at[0] == ND_SOURCE_MAC || at[0] == ND_TARGET_MAC) && !same_mac(at + 2, port->mac))
            return false;
        at += len;
    }
    return at == end;
}

// Duplicate address detection asks from no address; the one it asks for is claimed by that.
static bool nd_ok(struct port *ports, struct port *port, const struct site *site,
                  const struct frame *f, uint64_t now)
{
    const uint8_t *icmp = f->l4, *end = icmp + f->l4_len;
    uint8_t type = icmp[0];
    if (type == ND_ROUTER_SOLICITATION)
        return f->l4_len >= 8 && nd_options_ok(port, icmp + 8, end);
    if (type == ND_ROUTER_ADVERTISEMENT || type == ND_REDIRECT)
        return false;
    if (type != ND_SOLICITATION && type != ND_ADVERTISEMENT)
        return !unspecified6(f->l3 + 8) || type == 143; // 143: multicast listener report
    if (f->l4_len < 24 || !nd_options_ok(port, icmp + 24, end))
        return false;
    if (type == ND_ADVERTISEMENT || unspecified6(f->l3 + 8))
        return own6(ports, port, site, icmp + 8, now);
    return true;
}

static bool ipv6_ok(struct port *ports, struct port *port, const struct site *site,
                    const struct frame *f, uint64_t now)
{
    const uint8_t *source = f->l3 + 8;
    bool icmp = f->l4 && f->protocol == PROTOCOL_ICMPV6;
    if (unspecified6(source) ? !icmp : !own6(ports, port, site, source, now))
        return false;
    if (f->l4 && f->protocol == PROTOCOL_UDP && f->from == DHCP6_SERVER)
        return false;
    // What comes in pieces is not looked into, and neighbour discovery never does (RFC 6980).
    if (f->protocol == PROTOCOL_ICMPV6 && (f->fragment || f->more))
        return f->fragment || (f->l4 && f->l4[0] < ND_ROUTER_SOLICITATION);
    return !icmp || nd_ok(ports, port, site, f, now);
}

// Nobody plays the gateway or the switch, whatever else the port is trusted with.
static bool poses_as_host(const struct site *site, const struct frame *f)
{
    uint32_t sender;
    if (same_mac(frame_mac_from(f), site->mac))
        return true;
    switch (f->kind) {
    case FRAME_ARP: sender = load_be32(f->l3 + 14); break;
    case FRAME_IPV4: sender = load_be32(f->l3 + 12); break;
    case FRAME_IPV6: return reserved6(site, f->l3 + 8);
    default: return false;
    }
    return sender > site->network->subnet && sender <= site->names;
}

bool guard_check(struct port *ports, struct port *port, const struct site *site,
                 const struct frame *f, uint64_t now)
{
    if (poses_as_host(site, f))
        return false;
    if (port->trunk || port->trusting)
        return true;
    if (!same_mac(frame_mac_from(f), port->mac))
        return false;
    switch (f->kind) {
    case FRAME_ARP: return arp_ok(port, f);
    case FRAME_IPV4: return ipv4_ok(port, f);
    case FRAME_IPV6: return ipv6_ok(ports, port, site, f, now);
    default: return f->type != ETHERTYPE_QINQ && f->type != ETHERTYPE_VLAN;
    }
}
