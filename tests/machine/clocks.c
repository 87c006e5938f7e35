// All clocks of the machine measure the same time: PIT, PM timer, HPET, RTC, local APIC timer and
// TSC.

#include "guest.h"

#define PM_TIMER_HZ 3579545
#define PIT_HZ 1193182
#define HPET 0xfed00000u
#define TRIES 10 // a host that is late between two readings spoils one

// Within one part in 50.
static bool close_to(u64 got, u64 want)
{
    u64 diff = got > want ? got - want : want - got;
    return diff * 50 <= want;
}

// The I/O port of the PM timer: in the FADT.
static u16 pm_timer_port(void)
{
    for (const u8 *p = (const u8 *)0xe0000; p < (const u8 *)0x100000; p += 16) {
        if (memcmp(p, "RSD PTR ", 8) != 0) {
            continue;
        }
        const u8 *rsdt = (const u8 *)(word) * (const u32 *)(p + 16);
        for (u32 i = 36; i < *(const u32 *)(rsdt + 4); i += 4) {
            const u8 *table = (const u8 *)(word) * (const u32 *)(rsdt + i);
            if (memcmp(table, "FACP", 4) == 0) {
                return (u16) * (const u32 *)(table + 76);
            }
        }
    }
    return 0;
}

static void tsc_never_goes_back(void)
{
    u64 last = rdtsc();
    for (unsigned i = 0; i < 100000; i++) {
        u64 now = rdtsc();
        if (now < last) {
            CHECK(now >= last);
            return;
        }
        last = now;
    }
}

// Ticks of the clock for each millisecond of the TSC, over a time that no clock wraps in.
static u64 rate_of(u64 (*clock)(void), unsigned us, u64 mask)
{
    struct sample a = sample(clock);
    delay_us(us);
    struct sample b = sample(clock);
    return ((b.value - a.value) & mask) * tsc_per_ms() / (b.tsc - a.tsc);
}

// The clock ticks so often in a millisecond, at least in one of a few measurements.
static void check_rate(u64 (*clock)(void), unsigned us, u64 mask, u64 want)
{
    u64 rate = 0;
    for (unsigned i = 0; i < TRIES && !close_to(rate, want); i++) {
        rate = rate_of(clock, us, mask);
    }
    if (!close_to(rate, want)) {
        CHECK_EQ(rate, want);
    }
}

static u64 pm_timer(void)
{
    static u16 port;
    port = port ? port : pm_timer_port();
    return inl(port);
}

static void pm_timer_agrees_with_tsc(void)
{
    CHECK(pm_timer_port());
    check_rate(pm_timer, 100000, 0xffffff, PM_TIMER_HZ / 1000);
}

static u64 hpet_counter(void)
{
    return read32(HPET + 0xf0);
}

static void hpet_agrees_with_tsc(void)
{
    u64 period_fs = read32(HPET + 4);
    CHECK_EQ(read32(HPET) >> 16, 0x8086);
    CHECK(period_fs >= 100000 && period_fs <= 100000000);
    write32(HPET + 0x10, 1);
    check_rate(hpet_counter, 100000, 0xffffffff, 1000000000000 / period_fs);
}

static u64 lapic_count(void)
{
    return ~(u64)lapic_read(0x390); // it counts down
}

static void lapic_timer_has_a_steady_rate(void)
{
    lapic_enable();
    lapic_write(0x3e0, 0x3); // divide by 16
    lapic_write(0x320, 0x10000);
    lapic_write(0x380, 0xffffffff);
    u64 first = rate_of(lapic_count, 50000, 0xffffffff);
    CHECK(first > 1000);
    check_rate(lapic_count, 50000, 0xffffffff, first);
    lapic_write(0x380, 0);
    CHECK_EQ(lapic_read(0x390), 0);
}

static u64 pit_count(void)
{
    outb(0x43, 0);
    u64 low = inb(0x40);
    return ~(low | (u64)inb(0x40) << 8); // it counts down
}

static void pit_counts_down_at_its_rate(void)
{
    outb(0x43, 0x34); // channel 0, rate generator
    outb(0x40, 0);
    outb(0x40, 0); // 65536
    delay_us(1000);
    check_rate(pit_count, 20000, 0xffff, PIT_HZ / 1000);
}

static unsigned rtc_seconds(void)
{
    for (;;) {
        outb(0x70, 0x0a);
        if (!(inb(0x71) & 0x80)) {
            outb(0x70, 0);
            return inb(0x71);
        }
    }
}

static u64 next_second(void)
{
    unsigned s = rtc_seconds();
    while (rtc_seconds() == s) {
    }
    return rdtsc();
}

static void rtc_second_lasts_a_second(void)
{
    u64 ms = 0, start = next_second();
    for (unsigned i = 0; i < TRIES && !close_to(ms, 1000); i++) {
        u64 end = next_second();
        ms = (end - start) / tsc_per_ms();
        start = end;
    }
    CHECK(close_to(ms, 1000));
}

TESTS(TEST(tsc_never_goes_back), TEST(pm_timer_agrees_with_tsc), TEST(hpet_agrees_with_tsc),
      TEST(lapic_timer_has_a_steady_rate), TEST(pit_counts_down_at_its_rate),
      TEST(rtc_second_lasts_a_second));
