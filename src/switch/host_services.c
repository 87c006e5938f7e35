// Datagrams to the switch's own addresses: DHCP and DNS (both over either IP), and ping.
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"
#include "switch/dhcp.h"
#include "switch/dhcp6.h"
#include "switch/dns.h"
#include "switch/guard.h"
#include "switch/host.h"

enum { ECHO_REQUEST = 8, ECHO_REPLY = 0 };

// Sends what lies behind the headers in host->out.
static void send_ipv4(struct host *host, uint8_t protocol, uint32_t to, size_t payload,
                      uint64_t now)
{
    uint8_t *ip = host->out + BRIDGE_HEADROOM + NET_HEADER_BYTES + ETH_BYTES;
    memset(ip, 0, 20);
    ip[0] = 0x45;
    ip[8] = 64;
    ip[9] = protocol;
    store_be32(ip + 12, host->site->self);
    store_be32(ip + 16, to);
    ipv4_finish(ip, 20 + payload);
    host_send(host, 20 + payload, now);
}

static void send_udp(struct host *host, uint32_t to, uint16_t from_port, uint16_t to_port,
                     size_t payload, uint64_t now)
{
    uint8_t *udp = host->out + BRIDGE_HEADROOM + NET_HEADER_BYTES + ETH_BYTES + 20;
    store_be16(udp, from_port);
    store_be16(udp + 2, to_port);
    store_be16(udp + 4, (uint16_t)(UDP_BYTES + payload));
    send_ipv4(host, PROTOCOL_UDP, to, UDP_BYTES + payload, now);
}

static void send_udp6(struct host *host, const uint8_t self[16], uint16_t from_port,
                      const uint8_t to[16], uint16_t to_port, size_t payload, uint64_t now)
{
    uint8_t *ip = host->out + BRIDGE_HEADROOM + NET_HEADER_BYTES + ETH_BYTES, *udp = ip + 40;
    memset(ip, 0, 40);
    ip[0] = 0x60;
    ip[6] = PROTOCOL_UDP;
    ip[7] = 64;
    memcpy(ip + 8, self, 16);
    memcpy(ip + 24, to, 16);
    store_be16(udp, from_port);
    store_be16(udp + 2, to_port);
    store_be16(udp + 4, (uint16_t)(UDP_BYTES + payload));
    ipv6_finish(ip, 40 + UDP_BYTES + payload);
    host_send(host, 40 + UDP_BYTES + payload, now);
}

// --- DHCP

// The answer goes to this port only, whatever IP address it has to carry: a client that has none
// yet takes frames for its MAC.
static void dhcp_input(struct host *host, struct port *from, const struct frame *f, uint64_t now)
{
    const struct dhcp_client client = {from->mac, from->address, from->vm};
    bool unicast;
    if (from->trunk || f->more)
        return;
    uint8_t *ip = host_frame(host, from->mac, ETHERTYPE_IPV4);
    size_t len = dhcp_answer(host->site, &client, f->l4 + UDP_BYTES, f->l4_len - UDP_BYTES,
                             ip + 20 + UDP_BYTES, &unicast);
    if (len)
        send_udp(host, unicast ? from->address : ~0u, DHCP_SERVER_PORT, DHCP_CLIENT_PORT, len, now);
}

// Clients ask from their link's address, and are answered from the switch's.
static void dhcp6_input(struct host *host, struct port *from, const struct frame *f, uint64_t now)
{
    if (from->trunk || f->more || !host->site->network->ipv6)
        return;
    uint8_t *ip = host_frame(host, from->mac, ETHERTYPE_IPV6);
    size_t len = dhcp6_answer(host->site, from->address6, f->l4 + UDP_BYTES, f->l4_len - UDP_BYTES,
                              ip + 40 + UDP_BYTES);
    if (len)
        send_udp6(host, host->site->link_local, DHCP6_SERVER_PORT, f->l3 + 8, f->from, len, now);
}

// --- names

// A guest makes its IPv6 address itself, or has none: until it is seen, nobody is sent there.
static void add_port(struct port *port, struct dns_addresses *out)
{
    if (out->count4 < DNS_ADDRESSES_MAX)
        out->ipv4[out->count4++] = port->address;
    if (out->count6 < DNS_ADDRESSES_MAX && guard_shows6(port, port->address6))
        memcpy(out->ipv6[out->count6++], port->address6, 16);
}

static bool addresses(void *opaque, const char *name, struct dns_addresses *out)
{
    const struct host *host = opaque;
    const struct site *site = host->site;
    if (!strcmp(name, "gateway") && site_has_gateway(site)) {
        out->ipv4[out->count4++] = site->gateway;
        if (site->network->ipv6)
            memcpy(out->ipv6[out->count6++], site->gateway6, 16);
        return true;
    }
    for (unsigned i = 0; i < host->bridge->top; i++) {
        struct port *port = &host->bridge->port[i];
        if (port->used && !strcasecmp(port->vm, name))
            add_port(port, out);
    }
    return out->count4 != 0;
}

static bool name_of(void *opaque, const uint32_t *ipv4, const uint8_t *ipv6, bool *ours,
                    char name[64])
{
    const struct host *host = opaque;
    const struct site *site = host->site;
    bool gateway =
        ipv4 ? *ipv4 == site->gateway && site_has_gateway(site) : site_is_gateway6(site, ipv6);
    const struct port *port =
        ipv4 ? bridge_find_address(host->bridge, *ipv4) : guard_owner6(host->bridge->port, ipv6);
    *ours = ipv4 ? site_contains(site, *ipv4) : site_contains6(site, ipv6);
    if (!*ours || (!gateway && !port))
        return false;
    snprintf(name, 64, "%s", gateway ? "gateway" : port->vm);
    return true;
}

size_t host_answer_name(struct host *host, const struct dns_question *q, const uint8_t *query,
                        uint8_t *reply)
{
    const struct dns_zone zone = {addresses, name_of, host};
    return dns_answer(&zone, q, query, reply);
}

// The switch's answer into reply; 0: the question is for the host's name server.
static size_t answer(struct host *host, const struct port *from, const struct dns_question *q,
                     const uint8_t *query, uint8_t *reply)
{
    size_t len = host_answer_name(host, q, query, reply);
    if (!len && !host_may_ask(host, from, q->name))
        len = dns_refuse(q, query, reply);
    return len;
}

// False: the question is for the host's name server.
static bool dns_input(struct host *host, struct port *from, const struct frame *f, uint64_t now)
{
    const uint8_t *query = f->l4 + UDP_BYTES;
    struct dns_question q;
    if (f->more || !dns_read_question(&q, query, f->l4_len - UDP_BYTES))
        return true;
    uint8_t *ip = host_frame(host, frame_mac_from(f), ETHERTYPE_IPV4);
    size_t len = answer(host, from, &q, query, ip + 20 + UDP_BYTES);
    if (len)
        send_udp(host, load_be32(f->l3 + 12), DNS_PORT, f->from, len, now);
    return len != 0;
}

// --- names over IPv6

// The host's name server is reached over IPv4, under the asker's own IPv4 address: so whatever
// holds for such questions (policy, connections) holds for this one.
static void pass_on(struct host *host, struct port *from, const struct frame *f, uint64_t now)
{
    size_t size = f->l4_len;
    uint8_t *packet = host->scratch, *ip = packet + NET_HEADER_BYTES + ETH_BYTES;
    struct host_asked6 *asked = &host->asked6[host->next_asked6++ % HOST_ASKED6];
    struct frame v4;
    if (!from->address || size > host->site->network->mtu - 20u)
        return;
    *asked = (struct host_asked6){now + 10 * NS_PER_SEC, from->address, f->from,
                                  load_be16(f->l4 + UDP_BYTES)};
    memcpy(asked->to, f->l3 + 8, 16);
    memset(packet, 0, NET_HEADER_BYTES + ETH_BYTES + 20);
    memcpy(packet + NET_HEADER_BYTES, f->eth, ETH_BYTES - 2);
    store_be16(packet + NET_HEADER_BYTES + 12, ETHERTYPE_IPV4);
    ip[0] = 0x45;
    ip[8] = 64;
    ip[9] = PROTOCOL_UDP;
    store_be32(ip + 12, from->address);
    store_be32(ip + 16, host->site->self);
    memcpy(ip + 20, f->l4, size);
    store_be16(ip + 24, (uint16_t)size);
    ipv4_finish(ip, 20 + size);
    if (frame_read(&v4, packet, NET_HEADER_BYTES + ETH_BYTES + 20 + size))
        host_gateway(host, from, &v4, now);
}

static void dns_input6(struct host *host, struct port *from, const struct frame *f, uint64_t now)
{
    const uint8_t *query = f->l4 + UDP_BYTES;
    struct dns_question q;
    if (f->more || !dns_read_question(&q, query, f->l4_len - UDP_BYTES))
        return;
    uint8_t *ip = host_frame(host, frame_mac_from(f), ETHERTYPE_IPV6);
    size_t len = answer(host, from, &q, query, ip + 40 + UDP_BYTES);
    if (len)
        send_udp6(host, host->site->self6, DNS_PORT, f->l3 + 8, f->from, len, now);
    else
        pass_on(host, from, f, now);
}

static struct host_asked6 *find_asked6(struct host *host, const struct port *to,
                                       const struct frame *f, uint64_t now)
{
    for (unsigned i = 0; i < HOST_ASKED6; i++) {
        struct host_asked6 *a = &host->asked6[i];
        if (a->until > now && a->port4 == to->address && a->from == f->to &&
            a->id == load_be16(f->l4 + UDP_BYTES))
            return a;
    }
    return NULL;
}

bool host_answer6(struct host *host, const struct port *to, const struct frame *f, uint64_t now)
{
    if (!to || !f->l4 || f->protocol != PROTOCOL_UDP || f->from != DNS_PORT || f->more ||
        f->l4_len < UDP_BYTES + 12)
        return false;
    struct host_asked6 *asked = find_asked6(host, to, f, now);
    size_t len = f->l4_len - UDP_BYTES;
    if (!asked)
        return false;
    asked->until = 0;
    if (40 + UDP_BYTES + len > host->site->network->mtu)
        return true; // asked again, over IPv4 perhaps
    uint8_t *reply = host->out + BRIDGE_HEADROOM + NET_HEADER_BYTES + ETH_BYTES + 40 + UDP_BYTES;
    memmove(reply, f->l4 + UDP_BYTES, len); // the frame is in the same buffer
    (void)host_frame(host, to->mac, ETHERTYPE_IPV6);
    send_udp6(host, host->site->self6, DNS_PORT, asked->to, asked->from, len, now);
    return true;
}

// --- ping

static void ping(struct host *host, const struct frame *f, uint64_t now)
{
    if (f->l4[0] != ECHO_REQUEST || f->more || f->l4_len > host->site->network->mtu)
        return;
    uint8_t *ip = host_frame(host, frame_mac_from(f), ETHERTYPE_IPV4);
    memcpy(ip + 20, f->l4, f->l4_len);
    ip[20] = ECHO_REPLY;
    send_ipv4(host, PROTOCOL_ICMP, load_be32(f->l3 + 12), f->l4_len, now);
}

bool host_services(struct host *host, struct port *from, struct frame *f, uint64_t now)
{
    if (!f->l4 || (f->protocol == PROTOCOL_UDP && f->packet[1])) // several questions in one
        return true;
    if (f->kind == FRAME_IPV6) {
        if (f->protocol == PROTOCOL_UDP && f->to == DHCP6_SERVER_PORT)
            dhcp6_input(host, from, f, now);
        else if (f->protocol == PROTOCOL_UDP && f->to == DNS_PORT && !frame_is_multicast(f))
            dns_input6(host, from, f, now);
        else if (f->protocol == PROTOCOL_TCP && f->to == DNS_PORT && !frame_is_multicast(f))
            (void)host_dns_tcp(host, from, f, now);
        return true;
    }
    if (f->protocol == PROTOCOL_UDP && f->to == DHCP_SERVER_PORT) {
        dhcp_input(host, from, f, now);
        return true;
    }
    if (frame_is_multicast(f) || load_be32(f->l3 + 16) != host->site->self)
        return true;
    if (f->protocol == PROTOCOL_UDP && f->to == DNS_PORT)
        return dns_input(host, from, f, now);
    if (f->protocol == PROTOCOL_ICMP) {
        ping(host, f, now);
        return true;
    }
    return f->protocol != PROTOCOL_TCP || f->to != DNS_PORT || host_dns_tcp(host, from, f, now);
}
