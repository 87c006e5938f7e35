// What the guest of move_test.c tells the test, in a page of its RAM.
#pragma once

#include <stdint.h>

#define MAILBOX_MAGIC0 0x6d6f7665642d6775ull
#define MAILBOX_MAGIC1 0x6573742d6d61696cull

struct mailbox {
    uint64_t magic[2];
    uint64_t rounds;
    uint64_t apic_ticks;
    uint64_t pit_ticks;
    uint64_t wrong_sums;
    uint64_t wrong_registers;
    uint64_t wrong_clock;
};
