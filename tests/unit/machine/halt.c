// How long a halted vCPU looks for work before its thread sleeps.
#include "machine/vm_impl.h"

#include "test.h"

#define MAX 200000

static void short_waits_make_it_look_longer(void)
{
    uint32_t ns = 0;
    for (unsigned i = 0; i < 3; i++) {
        uint32_t next = halt_next_poll(ns, MAX, 60000);
        CHECK(next > ns);
        ns = next;
    }
    CHECK(ns < 60000);
    while (ns < 60000)
        ns = halt_next_poll(ns, MAX, 60000);
    CHECK_EQ(halt_next_poll(ns, MAX, 60000), ns); // long enough
}

static void it_never_looks_longer_than_allowed(void)
{
    uint32_t ns = 0;
    for (unsigned i = 0; i < 40; i++)
        ns = halt_next_poll(ns, MAX, MAX);
    CHECK_EQ(ns, MAX);
    CHECK_EQ(halt_next_poll(0, 0, 1), 0);
}

static void long_waits_end_it_at_once(void)
{
    CHECK_EQ(halt_next_poll(MAX, MAX, 4000000), 0);
    CHECK_EQ(halt_next_poll(0, MAX, 4000000), 0);
}

TEST_MAIN(TEST(short_waits_make_it_look_longer), TEST(it_never_looks_longer_than_allowed),
          TEST(long_waits_end_it_at_once))
