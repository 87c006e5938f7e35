// The bucket of CPU time. Not modelled: which of its threads a process spends its time on.
#include "machine/duty.h"

#include "base/bits.h"

#define DEBT_MAX_NS ((int64_t)NS_PER_SEC) // what an overrun can cost later, of a whole CPU
#define SAVED_SLICES 4                    // what a VM that waited for a CPU may catch up on
#define SLICE_MIN_NS (4 * NS_PER_MS)      // of CPU time, as far as the longest period has it
#define LOOK_MIN_NS NS_PER_MS
#define LOOK_IDLE_NS (4 * DUTY_PERIOD_NS)

// 0 is no rate at all.
static uint32_t lower(uint32_t a, uint32_t b)
{
    return !a || (b && b < a) ? b : a;
}

uint32_t duty_rate(const struct duty *d, uint64_t now)
{
    uint32_t grant = now < d->grant_until ? d->grant : 0;
    return lower(lower(d->limit, d->bound), grant);
}

// What a rate makes in a time, and how long it takes to make something.
static int64_t filled(uint32_t rate, uint64_t ns)
{
    return (int64_t)(min_u64(ns, NS_PER_SEC) * rate / 1000);
}

static int64_t slice_of(uint32_t rate)
{
    int64_t least = filled(rate, DUTY_PERIOD_MAX_NS), slice = filled(rate, DUTY_PERIOD_NS);
    least = least < (int64_t)SLICE_MIN_NS ? least : (int64_t)SLICE_MIN_NS;
    return slice > least ? slice : least;
}

static uint64_t time_for(uint32_t rate, int64_t ns)
{
    return (uint64_t)ns * 1000 / rate;
}

static uint64_t when_released(const struct duty *d, uint32_t rate, int64_t slice, uint64_t now)
{
    return now + max_u64(time_for(rate, slice - d->level), LOOK_MIN_NS);
}

// The earliest time at which all threads together can have emptied the bucket; later while the VM
// does nothing or waits for a CPU, since a debt is paid anyhow.
static uint64_t when_empty(const struct duty *d, unsigned threads, bool idle, uint64_t now)
{
    if (idle)
        return now +
               min_u64(max_u64(4 * (uint64_t)d->level / threads, LOOK_IDLE_NS / 4), LOOK_IDLE_NS);
    return now + max_u64((uint64_t)d->level / threads, LOOK_MIN_NS);
}

uint64_t duty_look(struct duty *d, uint64_t now, uint64_t used, unsigned threads)
{
    uint32_t rate = duty_rate(d, now);
    if (!rate) {
        d->held = false;
        d->looked = 0;
        return NS_NEVER;
    }
    int64_t slice = slice_of(rate);
    uint64_t spent = used - d->used;
    if (!d->looked) {
        d->level = slice;
        spent = 0;
    } else {
        d->level += filled(rate, now - d->looked) - (int64_t)spent;
    }
    if (d->level > SAVED_SLICES * slice)
        d->level = SAVED_SLICES * slice;
    if (d->level < -DEBT_MAX_NS)
        d->level = -DEBT_MAX_NS;
    d->looked = now;
    d->used = used;
    bool idle = !d->held && spent < LOOK_MIN_NS / 8;
    d->held = d->held ? d->level < slice : d->level <= 0;
    return d->held ? when_released(d, rate, slice, now)
                   : when_empty(d, threads ? threads : 1, idle, now);
}
