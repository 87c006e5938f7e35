// The switch proper: takes a packet from a port and decides who gets it. No sockets here: packets
// go out through calls.
#pragma once

#include "switch/frame.h"
#include "switch/mac_table.h"
#include "switch/port.h"
#include "switch/site.h"

#define STORM_RATE 1000 // frames a second for everybody that a port may send
#define STORM_BURST 500

// Where packets for the bridge lie: behind so much room, which tags need.
#define BRIDGE_HEADROOM VLAN_TAG_BYTES

struct bridge_ops {
    // To the VM at a port; the packet is valid, and the callee's to copy, during the call.
    void (*deliver)(void *opaque, struct port *port, const uint8_t *packet, size_t len);
    // To the network's own side (host.h): frames for its MAC, and copies of those for everybody.
    void (*to_host)(void *opaque, struct port *from, struct frame *f);
    // Every packet that comes in, before anything is decided. May be NULL.
    void (*seen)(void *opaque, struct port *from, const uint8_t *packet, size_t len);
    void *opaque;
};

struct bridge {
    const struct site *site;
    struct bridge_ops ops;
    struct mac_table macs; // of stations behind trunks and trusting ports
    unsigned top;          // every used port is below
    struct port port[PORTS_MAX];
};

void bridge_init(struct bridge *bridge, const struct site *site, const struct bridge_ops *ops,
                 uint64_t seed);

struct bridge_port_options {
    const char *vm;
    unsigned nic;
    uint8_t mac[6];   // all 0: a stable one
    uint32_t address; // wanted; 0: a stable one
    uint16_t vlan;
    bool trunk, isolated, trusting;
};

// ERR_EXISTS: the VM's card is plugged in, or the MAC is another port's. ERR_BUSY: no port or no
// address is free. A wanted address that another port has is replaced.
err_t bridge_plug(struct bridge *bridge, const struct bridge_port_options *options, uint64_t now,
                  struct port **out, struct error *e);
void bridge_unplug(struct bridge *bridge, struct port *port);

// The port of a VM's card; NULL: none.
struct port *bridge_find(struct bridge *bridge, const char *vm, unsigned nic);
struct port *bridge_find_address(struct bridge *bridge, uint32_t address);

// A packet from a port, not checked yet, with BRIDGE_HEADROOM before it. Changed by this.
void bridge_input(struct bridge *bridge, struct port *port, uint8_t *packet, size_t len,
                  uint64_t now);
// Whether the port has sent too many of the frames that cost others most; counts one.
bool bridge_in_a_storm(struct port *port, uint64_t now);
// A packet of the network's own, with BRIDGE_HEADROOM, to whoever has its MAC, or to everybody.
void bridge_from_host(struct bridge *bridge, uint8_t *packet, size_t len, uint64_t now);
