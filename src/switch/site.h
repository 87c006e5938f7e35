// The addresses of a network's own: the gateway, which stands for the host, and the switch.
#pragma once

#include "net/network.h"

#define SITE_LEASE_SECONDS 3600 // of addresses that ports are given

struct site {
    const struct network *network;
    uint32_t netmask;       // all IPv4 addresses are in host byte order
    uint32_t broadcast;     // of the subnet
    uint32_t gateway;       // stands for the host; no private network has it
    uint32_t self;          // the switch: DHCP and DNS
    uint32_t names;         // the host's name server, for the switch only
    uint32_t first, last;   // what ports are given
    uint8_t mac[6];         // of both the gateway and the switch
    uint8_t gateway6[16];   // prefix::1
    uint8_t self6[16];      // prefix::2
    uint8_t names6[16];     // prefix::3
    uint8_t link_local[16]; // of mac; the router that is advertised
};

void site_init(struct site *site, const struct network *network);

static inline bool site_has_gateway(const struct site *site)
{
    return site->network->kind != NETWORK_PRIVATE;
}

static inline bool site_contains(const struct site *site, uint32_t address)
{
    return (address & site->netmask) == site->network->subnet;
}

bool site_contains6(const struct site *site, const uint8_t address[16]);
// The switch's own: prefix::2, or the link-local one.
bool site_is_self6(const struct site *site, const uint8_t address[16]);
bool site_is_gateway6(const struct site *site, const uint8_t address[16]);

// The address that a station makes of the prefix and its MAC (RFC 4291, appendix A).
void site_address6(const uint8_t prefix[8], const uint8_t mac[6], uint8_t address[16]);

// A port's MAC that nobody chose: follows from the VM's name and the card's number.
void site_stable_mac(const char *vm, unsigned nic, uint8_t mac[6]);
// Where to begin looking for a free address for it.
uint32_t site_stable_address(const struct site *site, const char *vm, unsigned nic);
