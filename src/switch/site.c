// What follows from a network's definition and from names: addresses that stay the same without
// being kept anywhere. RFC 4291 (interface identifiers).
#include "switch/site.h"

#include <string.h>

#include "base/bytes.h"

#define FIRST_HOST 10 // those before are for what people number by hand

void site_address6(const uint8_t prefix[8], const uint8_t mac[6], uint8_t address[16])
{
    const uint8_t id[8] = {mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
    memcpy(address, prefix, 8);
    memcpy(address + 8, id, 8);
}

void site_init(struct site *site, const struct network *network)
{
    static const uint8_t link_prefix[8] = {0xfe, 0x80};
    *site = (struct site){.network = network, .netmask = ~(~0u >> network->prefix)};
    site->broadcast = network->subnet | ~site->netmask;
    site->gateway = network->subnet + 1;
    site->self = network->subnet + 2;
    site->names = network->subnet + 3;
    bool small = network->prefix > 26;
    site->first = network->subnet + (small ? 4 : FIRST_HOST);
    site->last = site->broadcast - 1;
    site->mac[0] = 0x52;
    site->mac[1] = 0x55;
    store_be32(site->mac + 2, site->gateway);
    memcpy(site->gateway6, network->subnet6, 8);
    memcpy(site->names6, network->subnet6, 8);
    memcpy(site->self6, network->subnet6, 8);
    site->gateway6[15] = 1;
    site->self6[15] = 2;
    site->names6[15] = 3;
    site_address6(link_prefix, site->mac, site->link_local);
}

bool site_contains6(const struct site *site, const uint8_t address[16])
{
    return site->network->ipv6 && !memcmp(address, site->network->subnet6, 8);
}

bool site_is_self6(const struct site *site, const uint8_t address[16])
{
    return site->network->ipv6 &&
           (!memcmp(address, site->self6, 16) || !memcmp(address, site->link_local, 16));
}

bool site_is_gateway6(const struct site *site, const uint8_t address[16])
{
    return site->network->ipv6 && site_has_gateway(site) && !memcmp(address, site->gateway6, 16);
}

static uint64_t hash(const char *vm, unsigned nic)
{
    uint64_t h = 0xcbf29ce484222325; // FNV-1a
    for (; *vm; vm++)
        h = (h ^ (uint8_t)*vm) * 0x100000001b3;
    h = (h ^ (0x100 + nic)) * 0x100000001b3;
    return h ^ h >> 29;
}

void site_stable_mac(const char *vm, unsigned nic, uint8_t mac[6])
{
    uint64_t h = hash(vm, nic);
    const uint8_t made[6] = {0x52, 0x54, 0x00, (uint8_t)h, (uint8_t)(h >> 8), (uint8_t)(h >> 16)};
    memcpy(mac, made, 6);
}

uint32_t site_stable_address(const struct site *site, const char *vm, unsigned nic)
{
    return site->first + (uint32_t)((hash(vm, nic) >> 24) % (site->last - site->first + 1));
}
