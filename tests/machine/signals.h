// What the guest of signal_test.c and the test tell each other, in a page of the guest's RAM.
#pragma once

#include <stdint.h>

#define SIGNALS_MAGIC0 0x7369676e616c2d67ull
#define SIGNALS_MAGIC1 0x756573742d626f78ull

enum signals_command {
    SIGNALS_MASK = 1, // the queue's vector
    SIGNALS_UNMASK,
    SIGNALS_OTHER,   // another message in its entry
    SIGNALS_LINE,    // INTx in place of MSI-X
    SIGNALS_PENDING, // look at the pending bits
};

struct signals_box {
    uint64_t magic[2];
    uint64_t ready;   // the driver runs
    uint64_t command; // enum signals_command << 32 | how many there have been
    uint64_t done;    // the last command carried out
    uint64_t first;   // interrupts by the first message
    uint64_t other;   // by the other one
    uint64_t line;    // by the line, with the ISR's queue bit
    uint64_t pending; // MSI-X's pending bits
    uint64_t wrong;   // things that went wrong while setting up
};
