// Virtual time. It starts at 0, stands still while the VM is paused, and is derived from the host's
// TSC, so that the guest's TSC and every timer device tell one time.
#pragma once

#include "cpu/tsc.h"

#define CLOCK_SHIFT 44

struct clock {
    uint64_t tsc_khz;
    uint64_t mult;    // ns = (ticks * mult) >> CLOCK_SHIFT
    uint64_t base;    // host TSC, scaled, at virtual time 0 (moves when the clock is resumed)
    uint64_t stopped; // ticks at which it stands, while not running
    bool running;
    int64_t wall_base; // ns since 1970 UTC at virtual time 0
    uint64_t host_khz; // the host's TSC
    struct tsc_ratio ratio;
};

// tsc_khz must not be 0. The clock stands at 0.
void clock_init(struct clock *clock, uint64_t tsc_khz, int64_t wall_base_ns);
// While it stands. ratio: how the host's TSC becomes one of that frequency; NULL: it has it.
void clock_set_frequency(struct clock *clock, uint64_t tsc_khz, const struct tsc_ratio *ratio);
void clock_start(struct clock *clock);
void clock_stop(struct clock *clock);
ns_t clock_now(const struct clock *clock);

// The guest's TSC: ticks since virtual time 0.
uint64_t clock_tsc(const struct clock *clock);
// What an engine adds to the host's TSC, scaled, to get it. Meaningful while the clock runs.
uint64_t clock_tsc_offset(const struct clock *clock);
ns_t clock_tsc_to_ns(const struct clock *clock, uint64_t ticks);
uint64_t clock_ns_to_tsc(const struct clock *clock, ns_t ns);
