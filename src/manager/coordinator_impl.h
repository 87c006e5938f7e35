// Between the parts of the coordinator.
#pragma once

#include "host/usage.h"
#include "manager/coordinator.h"
#include "manager/groups.h"

#define TICK_NS (100 * NS_PER_MS) // while VMs want more than there is
#define TICK_QUIET_NS (400 * NS_PER_MS)
#define TICK_SOONEST_NS (20 * NS_PER_MS) // between looks, so that what they find means something
#define SLOW_NS NS_PER_SEC               // memory, disks, networks

struct coordinator {
    struct pools *pools;
    struct loop_timer timer;
    struct groups *groups;  // NULL: there are none here
    uint64_t beat_at;       // host_now() of the last look
    uint64_t slow_at;       // host_now() of the last look at all but CPUs
    struct net_watch *nets; // networks that are looked at
};

static inline struct link *link_of(const struct tenant *t)
{
    return t->vm->link;
}

#define BOUND_UNKNOWN UINT64_MAX // told to the VM by an earlier manager, or in its definition

// coordinator_bound.c: the least of the pools' CPU limits above it; SLICE_NO_LIMIT: none.
uint64_t cpu_ceiling(const struct tenant *t);
// Finds all bounds, after ns have gone by; whether anybody wants more.
bool coordinate_bounds(struct pools *pools, uint64_t ns);

// Whether anybody was given less than it wants.
bool coordinate_cpus(struct coordinator *c, uint64_t now);
void coordinate_memory(struct coordinator *c);
// coordinator_rate.c: bandwidths that are divided where there are limits of them.
struct rate_division {
    enum resource what;
    bool (*takes)(void *opaque, const struct tenant *t); // it has something of the kind
    uint64_t (*demand)(const struct tenant *t, unsigned way);
    uint64_t *(*given)(struct tenant *t, unsigned way); // the answer; 0: nothing holds
    unsigned way;
};
// Who wants less than it is given may have what it would get if all wanted more.
void rates_divide(struct pools *pools, const struct rate_division *d);
// Whether it, or a pool above it, has a limit.
bool rate_is_limited(const struct tenant *t, enum resource what);
// What something wants that did `rate` under the bound it was told (0: none).
uint64_t rate_demand(uint64_t rate, uint64_t told, uint64_t least);
// The part of `all` for one of n things that did `rate` of `rates`: half of it evenly, half by what
// each did, so that one that wakes up is not stuck. 0 of 0.
uint64_t rate_part(uint64_t all, unsigned n, uint64_t rate, uint64_t rates, uint64_t least);
// Whether a bound differs enough from the one that holds to be told.
bool rate_is_news(uint64_t bound, uint64_t told);

void coordinate_disks(struct coordinator *c, uint64_t now);
void coordinate_nets(struct coordinator *c, uint64_t now);
void coordinator_leave_nets(struct coordinator *c);
