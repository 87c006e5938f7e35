// Which port a station is behind: learnt from where its frames come from. Bounded as a whole and
// for each port, so that a port that makes addresses up only forgets its own.
#pragma once

#include "base/types.h"

#define MAC_TABLE_ENTRIES 4096
#define MAC_TABLE_WAYS 8
#define MAC_TABLE_PER_PORT 256
#define MAC_TABLE_PORTS 256
#define MAC_TABLE_AGE (300 * NS_PER_SEC)

struct mac_entry {
    uint64_t key;  // address and VLAN; 0: free
    uint64_t seen; // host time
    uint8_t port;
};

struct mac_table {
    struct mac_entry entry[MAC_TABLE_ENTRIES];
    uint16_t count[MAC_TABLE_PORTS]; // entries of each port
    uint64_t seed;                   // unknown to guests, who would else fill one bucket
};

void mac_table_init(struct mac_table *table, uint64_t seed);
void mac_table_learn(struct mac_table *table, const uint8_t mac[6], uint16_t vlan, unsigned port,
                     uint64_t now);
// The port, or -1.
int mac_table_find(const struct mac_table *table, const uint8_t mac[6], uint16_t vlan,
                   uint64_t now);
void mac_table_forget_port(struct mac_table *table, unsigned port);
