// Host time: the monotonic clock, the wall clock and the time-stamp counter.
#pragma once

#include "base/types.h"

uint64_t host_now(void);     // ns, CLOCK_MONOTONIC
int64_t host_wall_now(void); // ns since 1970 UTC

static inline uint64_t host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

struct host_tsc_info {
    uint64_t khz;
    bool invariant;     // runs at one rate in all power states, on all CPUs together
    const char *source; // where khz comes from: "cpuid 0x15", "hypervisor", "measured"
};

// Takes the frequency from CPUID 0x15 and 0x16 or the hypervisor's leaf 0x40000010, else measures
// it against CLOCK_MONOTONIC_RAW (takes 10 ms). A stated frequency that the clock contradicts by
// more than 1 % in a short check is not believed.
void host_tsc_calibrate(struct host_tsc_info *out);
