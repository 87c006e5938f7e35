// How much of the host's CPUs a VM may take: a bucket that fills at its rate and is emptied by the
// CPU time that the VM's process uses. In anybody's time, so that it can be tested without any.
//
// An overrun is a debt that is paid before the vCPUs go on, so that the average is the rate however
// late the bucket is looked at. Rates are in thousandths of a CPU.
#pragma once

#include "base/types.h"

// A guest at its limit runs and rests in turns about so long; longer with a small limit, since what
// a guest does in a moment too short it does slowly.
#define DUTY_PERIOD_NS (10 * NS_PER_MS)
#define DUTY_PERIOD_MAX_NS (100 * NS_PER_MS)
#define DUTY_RATE_MAX 1024000u // of 1,024 CPUs

struct duty {
    uint32_t limit;       // its own; 0: none
    uint32_t bound;       // what limits above it leave it, as a pool's; 0: none
    uint32_t grant;       // what a coordinator allows until grant_until; 0: anything
    uint64_t grant_until; // host time
    uint64_t looked;      // host time of the last look; 0: none
    uint64_t used;        // CPU time at the last look, ns
    int64_t level;        // CPU time that may be used now, ns; negative: debt
    bool held;            // the vCPUs must not run
};

// What holds at that time; 0: anything.
uint32_t duty_rate(const struct duty *d, uint64_t now);
// A look: used is the CPU time of the process so far, threads how many may run at once. Returns
// when to look again, NS_NEVER while nothing holds; d->held says whether the vCPUs may run.
uint64_t duty_look(struct duty *d, uint64_t now, uint64_t used, unsigned threads);
