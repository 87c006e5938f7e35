#include "machine/clock.h"

static uint64_t host_tsc(const struct clock *clock)
{
    return tsc_scaled(&clock->ratio, __builtin_ia32_rdtsc());
}

void clock_init(struct clock *clock, uint64_t tsc_khz, int64_t wall_base_ns)
{
    *clock = (struct clock){.wall_base = wall_base_ns, .host_khz = tsc_khz};
    clock_set_frequency(clock, tsc_khz, NULL);
}

void clock_set_frequency(struct clock *clock, uint64_t tsc_khz, const struct tsc_ratio *ratio)
{
    clock->ratio = ratio ? *ratio : (struct tsc_ratio){0};
    clock->tsc_khz = tsc_khz;
    clock->mult = (uint64_t)(((unsigned __int128)1000000 << CLOCK_SHIFT) / tsc_khz);
}

void clock_start(struct clock *clock)
{
    if (clock->running)
        return;
    clock->base = host_tsc(clock) - clock->stopped;
    clock->running = true;
}

void clock_stop(struct clock *clock)
{
    clock->stopped = clock_tsc(clock);
    clock->running = false;
}

uint64_t clock_tsc(const struct clock *clock)
{
    return clock->running ? host_tsc(clock) - clock->base : clock->stopped;
}

uint64_t clock_tsc_offset(const struct clock *clock)
{
    return -clock->base;
}

ns_t clock_tsc_to_ns(const struct clock *clock, uint64_t ticks)
{
    return (ns_t)(((unsigned __int128)ticks * clock->mult) >> CLOCK_SHIFT);
}

uint64_t clock_ns_to_tsc(const struct clock *clock, ns_t ns)
{
    // Rounds up: a deadline in ticks is never before the one in nanoseconds.
    unsigned __int128 ticks = (unsigned __int128)ns * clock->tsc_khz + 999999;
    return (uint64_t)(ticks / 1000000);
}

ns_t clock_now(const struct clock *clock)
{
    return clock_tsc_to_ns(clock, clock_tsc(clock));
}
