// A hash table of small buckets without chains. IEEE 802.1D, 7.9: learning and ageing. A full
// bucket gives up its oldest entry; a port that has its share gives up one of its own there, or
// learns nothing.
#include "switch/mac_table.h"

#include <string.h>

#define BUCKETS (MAC_TABLE_ENTRIES / MAC_TABLE_WAYS)

void mac_table_init(struct mac_table *table, uint64_t seed)
{
    memset(table, 0, sizeof *table);
    table->seed = seed | 1;
}

// Never 0: bit 63 is set.
static uint64_t key_of(const uint8_t mac[6], uint16_t vlan)
{
    uint64_t key = 1ull << 63 | (uint64_t)vlan << 48;
    for (int i = 0; i < 6; i++)
        key |= (uint64_t)mac[i] << (8 * (5 - i));
    return key;
}

static size_t bucket_of(const struct mac_table *table, uint64_t key)
{
    uint64_t h = (key ^ table->seed) * 0x9e3779b97f4a7c15;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9;
    return (size_t)(h >> 40) % BUCKETS * MAC_TABLE_WAYS;
}

static bool live(const struct mac_entry *e, uint64_t now)
{
    return e->key && now - e->seen < MAC_TABLE_AGE;
}

static void clear(struct mac_table *table, struct mac_entry *e)
{
    if (e->key)
        table->count[e->port]--;
    e->key = 0;
}

// Where to put a new entry of the port; NULL: nowhere.
static struct mac_entry *room(struct mac_table *table, struct mac_entry *bucket, unsigned port,
                              uint64_t now)
{
    bool full = table->count[port] >= MAC_TABLE_PER_PORT;
    struct mac_entry *best = NULL;
    for (int i = 0; i < MAC_TABLE_WAYS; i++) {
        struct mac_entry *e = &bucket[i];
        if (!live(e, now))
            clear(table, e);
        if (full && (!e->key || e->port != port))
            continue;
        if (!e->key)
            return e;
        if (!best || e->seen < best->seen)
            best = e;
    }
    return best;
}

void mac_table_learn(struct mac_table *table, const uint8_t mac[6], uint16_t vlan, unsigned port,
                     uint64_t now)
{
    uint64_t key = key_of(mac, vlan);
    struct mac_entry *bucket = &table->entry[bucket_of(table, key)], *e = NULL;
    for (int i = 0; i < MAC_TABLE_WAYS && !e; i++)
        e = bucket[i].key == key ? &bucket[i] : NULL;
    if (e && e->port == port) {
        e->seen = now;
        return;
    }
    if (e)
        clear(table, e); // the station has moved
    e = room(table, bucket, port, now);
    if (!e)
        return;
    clear(table, e);
    *e = (struct mac_entry){.key = key, .seen = now, .port = (uint8_t)port};
    table->count[port]++;
}

int mac_table_find(const struct mac_table *table, const uint8_t mac[6], uint16_t vlan, uint64_t now)
{
    uint64_t key = key_of(mac, vlan);
    const struct mac_entry *bucket = &table->entry[bucket_of(table, key)];
    for (int i = 0; i < MAC_TABLE_WAYS; i++) {
        if (bucket[i].key == key)
            return live(&bucket[i], now) ? bucket[i].port : -1;
    }
    return -1;
}

void mac_table_forget_port(struct mac_table *table, unsigned port)
{
    for (size_t i = 0; i < MAC_TABLE_ENTRIES; i++) {
        if (table->entry[i].key && table->entry[i].port == port)
            clear(table, &table->entry[i]);
    }
}
