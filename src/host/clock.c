// Host time. Sources: clock_gettime(2); Intel SDM vol. 3 "Time-Stamp Counter", vol. 2 CPUID leaves
// 0x15, 0x16 and 0x80000007; the hypervisor leaf 0x40000010 as VMware defined it (KVM and
// Firecracker follow). Not modelled: hosts whose TSCs differ between CPUs.
#include "host/clock.h"

#include <cpuid.h>
#include <time.h>

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

uint64_t host_now(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t host_cpu_now(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t host_thread_cpu_now(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

int64_t host_wall_now(void)
{
    return (int64_t)clock_ns(CLOCK_REALTIME);
}

// The clock is read between two looks at the counter, and the tightest of a few tries is kept.
void host_tsc_look(struct host_tsc_look *out)
{
    struct host_tsc_look best = {.ticks = UINT64_MAX};
    for (int i = 0; i < 8; i++) {
        uint64_t before = host_tsc();
        uint64_t now = clock_ns(CLOCK_MONOTONIC_RAW);
        uint64_t after = host_tsc();
        if (after - before < best.ticks)
            best = (struct host_tsc_look){now, before + (after - before) / 2, after - before};
    }
    *out = best;
}

// Waits until what a look may be wrong by is one part in PRECISION of the time between two. The
// error that remains is a hundredth of that, since both looks are wrong in the same way.
#define PRECISION 10000
#define MEASURE_MIN_NS (NS_PER_MS / 4)
#define MEASURE_MAX_NS (9 * NS_PER_MS)

static bool is_long_enough(const struct host_tsc_look *first, const struct host_tsc_look *last)
{
    uint64_t ns = last->ns - first->ns, ticks = last->tsc - first->tsc;
    bool precise = ticks / PRECISION >= first->ticks && ticks / PRECISION >= last->ticks;
    return ns >= MEASURE_MIN_NS && (precise || ns >= MEASURE_MAX_NS);
}

static uint64_t measure_khz(const struct host_tsc_look *since)
{
    const struct timespec wait = {.tv_nsec = MEASURE_MIN_NS};
    struct host_tsc_look first, last;
    host_tsc_look(&last);
    first = since ? *since : last;
    while (!is_long_enough(&first, &last)) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
        host_tsc_look(&last);
    }
    return (uint64_t)((unsigned __int128)(last.tsc - first.tsc) * 1000000 / (last.ns - first.ns));
}

static uint64_t cpuid_khz(void)
{
    unsigned a, b, c, d;
    if (__get_cpuid_max(0, NULL) < 0x15)
        return 0;
    __cpuid_count(0x15, 0, a, b, c, d);
    if (!a || !b)
        return 0;
    if (c)
        return (uint64_t)c * b / a / 1000;
    if (__get_cpuid_max(0, NULL) < 0x16)
        return 0;
    __cpuid_count(0x16, 0, a, b, c, d); // the crystal is unstated: the base frequency is the TSC's
    return (uint64_t)(a & 0xffff) * 1000;
}

static uint64_t hypervisor_khz(void)
{
    unsigned a, b, c, d;
    __cpuid(1, a, b, c, d);
    if (!(c >> 31))
        return 0;
    __cpuid(0x40000000, a, b, c, d);
    if (a < 0x40000010 || a > 0x400000ff)
        return 0;
    __cpuid(0x40000010, a, b, c, d);
    return a;
}

static bool cpu_invariant_tsc(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d >> 8 & 1);
}

static bool agree(uint64_t stated, uint64_t measured)
{
    uint64_t diff = stated > measured ? stated - measured : measured - stated;
    return stated && diff * 100 <= measured;
}

void host_tsc_calibrate(const struct host_tsc_look *since, struct host_tsc_info *out)
{
    uint64_t stated = cpuid_khz(), hypervisor = hypervisor_khz();
    out->invariant = cpu_invariant_tsc();
    uint64_t measured = measure_khz(since);
    if (agree(hypervisor, measured)) { // it knows about a scaled TSC; the CPU's leaf does not
        out->khz = hypervisor;
        out->source = "hypervisor";
    } else if (agree(stated, measured)) {
        out->khz = stated;
        out->source = "cpuid 0x15";
    } else {
        out->khz = measured;
        out->source = "measured";
    }
}
