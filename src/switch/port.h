// A place where a VM is plugged in, as the rules of the switch see it.
#pragma once

#include "block/throttle.h"
#include "net/net.h"
#include "net/network.h"

#define PORTS_MAX 250
#define PORT_OWNED6 16

enum port_drop {
    DROP_INVALID,  // no frame that anybody should see
    DROP_VLAN,     // a tag that the port may not use
    DROP_SPOOF,    // somebody else's address
    DROP_STORM,    // too many frames for everybody
    DROP_POLICY,   // where the VM may not connect to
    DROP_FLOWS,    // more connections at once than a port may have
    DROP_ISOLATED, // to a port that is not the VM's to reach
    DROP_FULL,     // the VM did not take it in time
    DROP_DOWN,     // the port is disconnected
    DROPS,
};

extern const char *const port_drop_names[DROPS];

struct port_counters {
    uint64_t packets_in, bytes_in;   // to the VM; bytes are those of frames
    uint64_t packets_out, bytes_out; // from the VM
    uint64_t dropped[DROPS];
};

// An IPv6 address that the port was the first to use.
struct port_owned6 {
    uint8_t address[16];
    uint64_t seen; // host time; 0: none
};

struct egress;

struct port {
    bool used;
    bool down; // disconnected by a person
    bool trunk;
    bool isolated;
    bool trusting;
    uint8_t index;
    uint8_t mac[6];
    uint16_t vlan; // 0: the network itself
    unsigned nic;
    uint32_t address; // host byte order
    uint8_t address6[16];
    char vm[NETWORK_NAME_MAX + 1];
    struct port_owned6 owned6[PORT_OWNED6];
    struct throttle storm;
    struct port_counters counters;
    struct egress *egress; // where its VM may connect to (egress.h)
    void *link;            // what carries its packets (link.h)
};
