// Host time: the monotonic clock, the wall clock and the time-stamp counter.
#pragma once

#include "base/types.h"

uint64_t host_now(void);     // ns, CLOCK_MONOTONIC
int64_t host_wall_now(void); // ns since 1970 UTC

uint64_t host_cpu_now(void);        // ns that all threads of this process have used a CPU
uint64_t host_thread_cpu_now(void); // ns that this thread has

static inline uint64_t host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

struct host_tsc_info {
    uint64_t khz;
    bool invariant;     // runs at one rate in all power states, on all CPUs together
    const char *source; // where khz comes from: "cpuid 0x15", "hypervisor", "measured"
};

// Clock and counter at one moment.
struct host_tsc_look {
    uint64_t ns, tsc;
    uint64_t ticks; // how long looking took
};

void host_tsc_look(struct host_tsc_look *out);

// Takes the frequency from CPUID 0x15 and 0x16 or the hypervisor's leaf 0x40000010, else measures
// it against CLOCK_MONOTONIC_RAW. A stated frequency that the clock contradicts by more than 1 % in
// a short check is not believed. since: an earlier look, which saves waiting (0.3 to 9 ms); or
// NULL.
void host_tsc_calibrate(const struct host_tsc_look *since, struct host_tsc_info *out);
