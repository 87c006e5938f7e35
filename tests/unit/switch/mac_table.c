// Learning, ageing, and what a flood of made-up addresses can do.
#include "switch/mac_table.h"

#include "test.h"

static struct mac_table table;

static void mac_of(uint64_t n, uint8_t mac[6])
{
    for (int i = 0; i < 6; i++)
        mac[i] = (uint8_t)(n >> (8 * i));
    mac[0] = 2;
}

static void learn(uint64_t n, unsigned port, uint64_t now)
{
    uint8_t mac[6];
    mac_of(n << 8, mac);
    mac_table_learn(&table, mac, 0, port, now);
}

static int find(uint64_t n, uint64_t now)
{
    uint8_t mac[6];
    mac_of(n << 8, mac);
    return mac_table_find(&table, mac, 0, now);
}

static void a_station_is_found_until_it_has_been_silent_too_long(void)
{
    mac_table_init(&table, 7);
    learn(1, 3, 100);
    CHECK_EQ(find(1, 100 + MAC_TABLE_AGE - 1), 3);
    CHECK(find(1, 100 + MAC_TABLE_AGE) == -1);
    learn(1, 4, 200);
    CHECK_EQ(find(1, 201), 4);
    CHECK_EQ(table.count[3], 0);
    mac_table_forget_port(&table, 4);
    CHECK(find(1, 202) == -1);
}

static void vlans_are_learnt_apart(void)
{
    const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
    mac_table_init(&table, 7);
    mac_table_learn(&table, mac, 10, 1, 0);
    mac_table_learn(&table, mac, 20, 2, 0);
    CHECK_EQ(mac_table_find(&table, mac, 10, 1), 1);
    CHECK_EQ(mac_table_find(&table, mac, 20, 1), 2);
    CHECK(mac_table_find(&table, mac, 0, 1) == -1);
}

static void a_port_that_makes_addresses_up_forgets_its_own_only(void)
{
    unsigned kept = 0;
    mac_table_init(&table, 7);
    for (uint64_t n = 0; n < 200; n++)
        learn(n, 1, 1000 + n);
    for (uint64_t n = 1000; n < 101000; n++)
        learn(n, 2, 2000 + n);
    CHECK(table.count[2] <= MAC_TABLE_PER_PORT);
    for (uint64_t n = 0; n < 200; n++)
        kept += find(n, 200000) == 1;
    CHECK(kept > 180);
}

TEST_MAIN(TEST(a_station_is_found_until_it_has_been_silent_too_long), TEST(vlans_are_learnt_apart),
          TEST(a_port_that_makes_addresses_up_forgets_its_own_only))
