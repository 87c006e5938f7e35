// Where frames for the network's own side go, and how its frames are sent.
#include "switch/host.h"

#include <string.h>

#include "base/bytes.h"
#include "switch/dhcp6.h"

enum { DATA_VALID = 2 };

uint8_t *host_frame(struct host *host, const uint8_t *to, uint16_t type)
{
    uint8_t *packet = host->out + BRIDGE_HEADROOM, *eth = packet + NET_HEADER_BYTES;
    memset(packet, 0, NET_HEADER_BYTES);
    packet[0] = DATA_VALID;
    memcpy(eth, to, NET_MAC_BYTES);
    memcpy(eth + NET_MAC_BYTES, host->site->mac, NET_MAC_BYTES);
    store_be16(eth + 12, type);
    return eth + ETH_BYTES;
}

void host_send(struct host *host, size_t payload, uint64_t now)
{
    bridge_from_host(host->bridge, host->out + BRIDGE_HEADROOM,
                     NET_HEADER_BYTES + ETH_BYTES + payload, now);
}

static void arrive(void *opaque, uint8_t *packet, size_t len)
{
    struct host *host = opaque;
    bridge_from_host(host->bridge, packet, len, host->now);
}

void host_init(struct host *host)
{
    host->coming.emit = arrive;
    host->coming.opaque = host;
}

void host_flush(struct host *host)
{
    coalesce_flush(&host->coming);
}

static bool to_self(const struct host *host, const struct frame *f)
{
    uint32_t to = f->kind == FRAME_IPV4 ? load_be32(f->l3 + 16) : 0;
    if (f->kind == FRAME_IPV6)
        return site_is_self6(host->site, f->l3 + 24) || !memcmp(f->l3 + 24, dhcp6_group, 16);
    return to == host->site->self || to == host->site->broadcast || to == ~0u;
}

void host_input(struct host *host, struct port *from, struct frame *f, uint64_t now)
{
    if (host_discovery(host, from, f, now))
        return;
    if (f->kind != FRAME_ARP && to_self(host, f) && host_services(host, from, f, now))
        return;
    if (!frame_is_multicast(f))
        host_gateway(host, from, f, now);
}

void host_from_outside(struct host *host, const uint8_t *frame, size_t len, uint64_t now)
{
    struct frame f;
    uint8_t *packet = host->out + BRIDGE_HEADROOM;
    if (len < ETH_BYTES || len > NET_FRAME_MAX)
        return;
    memset(packet, 0, NET_HEADER_BYTES);
    packet[0] = DATA_VALID;
    memcpy(packet + NET_HEADER_BYTES, frame, len);
    memcpy(packet + NET_HEADER_BYTES + NET_MAC_BYTES, host->site->mac, NET_MAC_BYTES);
    if (!frame_read(&f, packet, NET_HEADER_BYTES + len) || f.vlan)
        return;
    if (!host_discovery_outside(host, &f, now))
        host_gateway_back(host, &f, now);
}
