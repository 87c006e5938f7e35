// Forwarding. IEEE 802.1Q: access ports (frames without a tag, of one VLAN), trunks (tagged frames
// of every VLAN, untagged ones of VLAN 0). The network's own side is in each access port's VLAN, so
// that all have DHCP and a way out, and in a trunk's VLAN 0. Not modelled: spanning tree (frames to
// bridges are dropped), multicast snooping.
#include "switch/bridge.h"

#include <string.h>

#include "switch/guard.h"

const char *const port_drop_names[DROPS] = {"invalid", "vlan",     "spoofed", "storm", "policy",
                                            "flows",   "isolated", "full",    "down"};

void bridge_init(struct bridge *bridge, const struct site *site, const struct bridge_ops *ops,
                 uint64_t seed)
{
    memset(bridge, 0, sizeof *bridge);
    bridge->site = site;
    bridge->ops = *ops;
    mac_table_init(&bridge->macs, seed);
}

// --- ports

struct port *bridge_find(struct bridge *bridge, const char *vm, unsigned nic)
{
    for (unsigned i = 0; i < bridge->top; i++) {
        struct port *p = &bridge->port[i];
        if (p->used && p->nic == nic && !strcmp(p->vm, vm))
            return p;
    }
    return NULL;
}

struct port *bridge_find_address(struct bridge *bridge, uint32_t address)
{
    for (unsigned i = 0; i < bridge->top; i++) {
        if (bridge->port[i].used && bridge->port[i].address == address)
            return &bridge->port[i];
    }
    return NULL;
}

static struct port *find_mac(struct bridge *bridge, const uint8_t *mac)
{
    for (unsigned i = 0; i < bridge->top; i++) {
        if (bridge->port[i].used && !memcmp(bridge->port[i].mac, mac, NET_MAC_BYTES))
            return &bridge->port[i];
    }
    return NULL;
}

// Two VMs whose names ask for the same address get neighbouring ones. 0: none is free.
static uint32_t free_address(struct bridge *bridge, const struct bridge_port_options *options)
{
    const struct site *site = bridge->site;
    uint32_t at = options->address, count = site->last - site->first + 1;
    if (at > site->names && at <= site->last && !bridge_find_address(bridge, at))
        return at;
    at = site_stable_address(site, options->vm, options->nic);
    for (uint32_t i = 0; i < count && i <= PORTS_MAX; i++) {
        if (!bridge_find_address(bridge, at))
            return at;
        at = at == site->last ? site->first : at + 1;
    }
    return 0;
}

static struct port *free_port(struct bridge *bridge)
{
    for (unsigned i = 0; i < PORTS_MAX; i++) {
        if (bridge->port[i].used)
            continue;
        if (i >= bridge->top)
            bridge->top = i + 1;
        return &bridge->port[i];
    }
    return NULL;
}

static err_t choose_mac(struct bridge *bridge, const struct bridge_port_options *options,
                        uint8_t mac[6], struct error *e)
{
    static const uint8_t none[6];
    memcpy(mac, options->mac, 6);
    if (!memcmp(mac, none, 6))
        site_stable_mac(options->vm, options->nic, mac);
    if (mac[0] & 1 || !memcmp(mac, bridge->site->mac, 6))
        return error_set(e, ERR_INVALID,
                         "mac: is a group's or the network's own; give another, or none");
    const struct port *other = find_mac(bridge, mac);
    if (!other)
        return OK;
    return error_set(e, ERR_EXISTS, "mac: the VM '%s' has that one on this network; give another",
                     other->vm);
}

static void limit_storms(struct port *port, uint64_t now)
{
    struct throttle_limits limits = {0};
    limits.of[THROTTLE_IOPS] = (struct throttle_limit){STORM_RATE, STORM_BURST};
    throttle_init(&port->storm, &limits, now);
}

err_t bridge_plug(struct bridge *bridge, const struct bridge_port_options *options, uint64_t now,
                  struct port **out, struct error *e)
{
    const struct network *network = bridge->site->network;
    uint8_t mac[6];
    if (bridge_find(bridge, options->vm, options->nic))
        return error_set(e, ERR_EXISTS, "network card %u of '%s' is plugged in already",
                         options->nic, options->vm);
    err_t err = choose_mac(bridge, options, mac, e);
    if (err)
        return err;
    struct port *port = free_port(bridge);
    uint32_t address = free_address(bridge, options);
    if (!port || !address)
        return error_set(e, ERR_BUSY,
                         "the network '%s' is full; stop a VM, or make a network with a larger "
                         "subnet",
                         network->name);
    *port = (struct port){.used = true,
                          .trunk = options->trunk,
                          .isolated = options->isolated || network->isolated,
                          .trusting = options->trusting || network->trusting,
                          .index = (uint8_t)(port - bridge->port),
                          .vlan = options->vlan,
                          .nic = options->nic,
                          .address = address};
    memcpy(port->mac, mac, 6);
    strncpy(port->vm, options->vm, sizeof port->vm - 1);
    site_address6(network->subnet6, mac, port->address6);
    limit_storms(port, now);
    *out = port;
    return OK;
}

void bridge_unplug(struct bridge *bridge, struct port *port)
{
    mac_table_forget_port(&bridge->macs, port->index);
    *port = (struct port){0};
    while (bridge->top && !bridge->port[bridge->top - 1].used)
        bridge->top--;
}

// --- forwarding

static void drop(struct port *port, enum port_drop why)
{
    port->counters.dropped[why]++;
}

static void give(struct bridge *bridge, struct port *to, const uint8_t *packet, size_t len)
{
    if (to->down)
        drop(to, DROP_DOWN);
    else
        bridge->ops.deliver(bridge->ops.opaque, to, packet, len);
}

// Whether a port is in a VLAN; with_tag: as a tagged member.
static bool member(const struct port *port, uint16_t vlan, bool with_tag)
{
    if (port->trunk)
        return with_tag == (vlan != 0);
    return !with_tag && port->vlan == vlan;
}

static bool apart(const struct port *a, const struct port *b)
{
    return a && (a->isolated || b->isolated);
}

// To one port, tagged where it is a trunk.
static void give_one(struct bridge *bridge, struct port *to, uint8_t *packet, size_t len,
                     uint16_t vlan)
{
    if (to->trunk && vlan) {
        packet = frame_tag(packet, vlan);
        len += VLAN_TAG_BYTES;
    }
    give(bridge, to, packet, len);
}

// Tagged copies come last, since the tag is put in where the packet lies.
static void flood(struct bridge *bridge, const struct port *from, uint8_t *packet, size_t len,
                  uint16_t vlan)
{
    for (int tagged = 0; tagged < 2; tagged++) {
        if (tagged && !vlan)
            break;
        if (tagged) {
            packet = frame_tag(packet, vlan);
            len += VLAN_TAG_BYTES;
        }
        for (unsigned i = 0; i < bridge->top; i++) {
            struct port *p = &bridge->port[i];
            if (p->used && p != from && member(p, vlan, tagged) && !apart(from, p))
                give(bridge, p, packet, len);
        }
    }
}

// The port that has the MAC, or the trunk behind which it was seen.
static struct port *lookup(struct bridge *bridge, const uint8_t *mac, uint16_t vlan, uint64_t now)
{
    struct port *port = find_mac(bridge, mac);
    if (port && (member(port, vlan, false) || member(port, vlan, true)))
        return port;
    int i = mac_table_find(&bridge->macs, mac, vlan, now);
    return i >= 0 ? &bridge->port[i] : NULL;
}

bool bridge_in_a_storm(struct port *port, uint64_t now)
{
    if (throttle_wait(&port->storm, BLOCK_WRITE, now)) {
        drop(port, DROP_STORM);
        return true;
    }
    throttle_take(&port->storm, BLOCK_WRITE, 0, now);
    return false;
}

static bool to_bridges(const uint8_t *mac)
{
    static const uint8_t group[5] = {0x01, 0x80, 0xc2, 0, 0};
    return !memcmp(mac, group, 5) && mac[5] < 0x10;
}

// What is found out about a frame before anybody gets it. False: it goes nowhere.
static bool admit(struct bridge *bridge, struct port *port, struct frame *f, uint8_t *packet,
                  size_t len, uint64_t now)
{
    if (!frame_read(f, packet, len)) {
        drop(port, DROP_INVALID);
        return false;
    }
    if (f->vlan && !port->trunk) {
        drop(port, DROP_VLAN);
        return false;
    }
    if (!guard_check(bridge->port, port, bridge->site, f, now)) {
        drop(port, DROP_SPOOF);
        return false;
    }
    return !to_bridges(frame_mac_to(f));
}

static void forward(struct bridge *bridge, struct port *port, struct frame *f, uint64_t now)
{
    uint16_t vlan = port->trunk ? f->vlan : port->vlan;
    bool host = !port->trunk || vlan == 0; // the network's own side is there
    struct port *to = NULL;
    if (port->trunk || port->trusting)
        mac_table_learn(&bridge->macs, frame_mac_from(f), vlan, port->index, now);
    if (!frame_is_multicast(f)) {
        if (!memcmp(frame_mac_to(f), bridge->site->mac, NET_MAC_BYTES)) {
            if (host)
                bridge->ops.to_host(bridge->ops.opaque, port, f);
            return;
        }
        to = lookup(bridge, frame_mac_to(f), vlan, now);
    }
    if (to) {
        if (apart(port, to))
            drop(port, DROP_ISOLATED);
        else if (to != port)
            give_one(bridge, to, f->packet, f->len, vlan);
        return;
    }
    if (bridge_in_a_storm(port, now))
        return;
    if (host && frame_is_multicast(f))
        bridge->ops.to_host(bridge->ops.opaque, port, f);
    flood(bridge, port, f->packet, f->len, vlan);
}

void bridge_input(struct bridge *bridge, struct port *port, uint8_t *packet, size_t len,
                  uint64_t now)
{
    struct frame f;
    if (bridge->ops.seen)
        bridge->ops.seen(bridge->ops.opaque, port, packet, len);
    if (port->down) {
        drop(port, DROP_DOWN);
        return;
    }
    port->counters.packets_out++;
    port->counters.bytes_out += len - (len < NET_HEADER_BYTES ? len : NET_HEADER_BYTES);
    if (admit(bridge, port, &f, packet, len, now))
        forward(bridge, port, &f, now);
}

void bridge_from_host(struct bridge *bridge, uint8_t *packet, size_t len, uint64_t now)
{
    const uint8_t *mac = packet + NET_HEADER_BYTES;
    if (bridge->ops.seen)
        bridge->ops.seen(bridge->ops.opaque, NULL, packet, len);
    if (!(mac[0] & 1)) {
        struct port *to = find_mac(bridge, mac);
        int learnt = to ? -1 : mac_table_find(&bridge->macs, mac, 0, now);
        if (learnt >= 0)
            to = &bridge->port[learnt];
        if (to)
            give(bridge, to, packet, len);
        return;
    }
    for (unsigned i = 0; i < bridge->top; i++) {
        if (bridge->port[i].used)
            give(bridge, &bridge->port[i], packet, len);
    }
}
