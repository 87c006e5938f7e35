// Virtual time and guest RAM.
#include "machine/clock.h"
#include "machine/memory.h"
#include "test.h"

static void clock_stands_still_while_stopped(void)
{
    struct clock c;
    clock_init(&c, 2000000, 5);
    CHECK_EQ(clock_now(&c), 0);
    clock_start(&c);
    while (clock_now(&c) == 0)
        ;
    clock_stop(&c);
    ns_t at = clock_now(&c);
    for (volatile int i = 0; i < 100000; i = i + 1)
        ;
    CHECK_EQ(clock_now(&c), at);
    clock_start(&c);
    CHECK(clock_now(&c) >= at);
}

static void ticks_and_nanoseconds_convert_both_ways(void)
{
    struct clock c;
    clock_init(&c, 2445426, 0);
    for (ns_t ns = 1; ns < 1000 * NS_PER_SEC; ns = ns * 3 + 1) {
        uint64_t ticks = clock_ns_to_tsc(&c, ns);
        ns_t back = clock_tsc_to_ns(&c, ticks);
        CHECK(back + 1 >= ns && back <= ns + 2);
    }
}

// A guest that comes from a host of another frequency: its ticks go on at that frequency, and time
// at its own.
static void scaled_ticks_keep_their_frequency(void)
{
    const struct tsc_ratio half = {.mult = 1, .shift = 1};
    struct clock c;
    clock_init(&c, 2000000, 0);
    CHECK_EQ(c.host_khz, 2000000);
    clock_set_frequency(&c, 1000000, &half);
    clock_start(&c);
    uint64_t ticks = clock_tsc(&c), host = __builtin_ia32_rdtsc();
    while (clock_tsc(&c) - ticks < 1000000)
        ;
    host = __builtin_ia32_rdtsc() - host;
    ticks = clock_tsc(&c) - ticks;
    CHECK(ticks + 1 >= host / 2);
    CHECK_EQ(clock_tsc_to_ns(&c, 1000000), 1000000);
    CHECK_EQ(clock_tsc_offset(&c) + c.base, 0);
}

static void copies_span_regions_and_refuse_holes(void)
{
    static uint8_t low[8192], high[8192];
    struct memory m = {0};
    uint8_t data[100], back[100];
    memset(data, 0x5a, sizeof data);
    CHECK_EQ(memory_add(&m, 0, sizeof low, low), OK);
    CHECK_EQ(memory_add(&m, sizeof low, sizeof high, high), OK);
    CHECK_EQ(memory_write(&m, sizeof low - 50, data, sizeof data), OK);
    CHECK_EQ(low[8191], 0x5a);
    CHECK_EQ(high[49], 0x5a);
    CHECK_EQ(high[50], 0);
    CHECK_EQ(memory_read(&m, sizeof low - 50, back, sizeof back), OK);
    CHECK_EQ(memcmp(data, back, sizeof data), 0);
    memset(high, 0, sizeof high);
    CHECK_EQ(memory_write(&m, 16384 - 50, data, sizeof data), ERR_INVALID);
    CHECK_EQ(high[8191], 0);
    CHECK_EQ(memory_write(&m, UINT64_MAX - 10, data, sizeof data), ERR_INVALID);
    CHECK(memory_map(&m, 8000, 300) == NULL);
    CHECK(memory_map(&m, 8192, 8192) == high);
    CHECK(memory_map(&m, 8192, UINT64_MAX) == NULL);
}

TEST_MAIN(TEST(clock_stands_still_while_stopped), TEST(ticks_and_nanoseconds_convert_both_ways),
          TEST(scaled_ticks_keep_their_frequency), TEST(copies_span_regions_and_refuse_holes))
