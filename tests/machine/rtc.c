// The MC146818 clock and its memory: time, periodic interrupt, alarm, update interrupt.

#include "guest.h"

#define IRQ_RTC 8

static volatile unsigned count, causes;

static u8 cmos_read(u8 reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static void cmos_write(u8 reg, u8 v)
{
    outb(0x70, reg);
    outb(0x71, v);
}

static void on_rtc(struct frame *f)
{
    (void)f;
    count++;
    causes |= cmos_read(0x0c);
    pic_eoi(IRQ_RTC);
}

static void setup(void)
{
    pic_init();
    count = causes = 0;
    trap_set(PIC_BASE + IRQ_RTC, on_rtc);
    cmos_write(0x0b, cmos_read(0x0b) & 0x07);
    cmos_read(0x0c);
    pic_unmask(IRQ_RTC);
}

static unsigned number(u8 v)
{
    return cmos_read(0x0b) & 4 ? v : (v >> 4) * 10u + (v & 15);
}

static void date_is_plausible(void)
{
    while (cmos_read(0x0a) & 0x80) {
    }
    unsigned year = number(cmos_read(9)) + 100 * number(cmos_read(0x32));
    CHECK(year >= 2024 && year < 2100);
    CHECK(number(cmos_read(8)) >= 1 && number(cmos_read(8)) <= 12);
    CHECK(number(cmos_read(7)) >= 1 && number(cmos_read(7)) <= 31);
    CHECK(number(cmos_read(0)) < 60);
    CHECK(cmos_read(0x0d) & 0x80); // the battery is good
}

static void memory_keeps_what_is_written(void)
{
    u8 old = cmos_read(0x50);
    cmos_write(0x50, 0xa5);
    cmos_write(0x51, 0x5a);
    CHECK_EQ(cmos_read(0x50), 0xa5);
    CHECK_EQ(cmos_read(0x51), 0x5a);
    cmos_write(0x50, old);
}

// The time between two interrupts, in units of 1/100 ms.
static unsigned next_gap(void)
{
    static u64 last;
    count = 0;
    wait_for(&count, 10000);
    u64 now = rdtsc(), gap = (now - last) * 100 / tsc_per_ms();
    last = now;
    return (unsigned)gap;
}

// A host that is late makes gaps longer and shorter; some are as they should be, and many together
// are never too short.
static void periodic_interrupt_has_its_rate(void)
{
    setup();
    cmos_write(0x0a, 0x26); // 1024 Hz
    cmos_write(0x0b, cmos_read(0x0b) | 0x40);
    next_gap();
    unsigned right = 0, total = 0;
    for (unsigned i = 0; i < 100 || (i < 2000 && !right); i++) {
        unsigned gap = next_gap();
        right += gap >= 88 && gap <= 108;
        total += i < 100 ? gap : 0;
    }
    cmos_write(0x0b, cmos_read(0x0b) & ~0x40);
    CHECK(right);
    CHECK(total >= 97 * 97);
    CHECK_EQ(causes & 0xc0, 0xc0);
}

static void flags_stay_set_until_register_c_is_read(void)
{
    setup();
    pic_init();
    cmos_write(0x0b, cmos_read(0x0b) | 0x40);
    delay_us(50000);
    CHECK_EQ(cmos_read(0x0c) & 0xc0, 0xc0);
    cmos_write(0x0b, cmos_read(0x0b) & ~0x40);
    // The flag of the next period may come between two reads, but not between every two.
    unsigned tries = 0;
    cmos_read(0x0c);
    while (cmos_read(0x0c) & 0xc0 && tries < 100)
        tries++;
    CHECK(tries < 100);
}

static void update_interrupt_comes_once_a_second(void)
{
    setup();
    cmos_write(0x0b, cmos_read(0x0b) | 0x10);
    CHECK(wait_for(&count, 10000));
    u64 ms = 0;
    for (unsigned i = 0; i < 10 && (ms < 900 || ms > 1100);
         i++) { // once is enough when the host is busy
        u64 start = rdtsc();
        count = 0;
        CHECK(wait_for(&count, 10000));
        ms = (rdtsc() - start) / tsc_per_ms();
    }
    CHECK(ms >= 900 && ms <= 1100);
    CHECK_EQ(causes & 0x90, 0x90);
    cmos_write(0x0b, cmos_read(0x0b) & ~0x10);
}

static void alarm_matches_every_second_with_wildcards(void)
{
    setup();
    cmos_write(1, 0xc0);
    cmos_write(3, 0xc0);
    cmos_write(5, 0xc0);
    cmos_write(0x0b, cmos_read(0x0b) | 0x20);
    CHECK(wait_for(&count, 10000));
    CHECK_EQ(causes & 0xa0, 0xa0);
    cmos_write(0x0b, cmos_read(0x0b) & ~0x20);
}

TESTS(TEST(date_is_plausible), TEST(memory_keeps_what_is_written),
      TEST(periodic_interrupt_has_its_rate), TEST(flags_stay_set_until_register_c_is_read),
      TEST(update_interrupt_comes_once_a_second), TEST(alarm_matches_every_second_with_wildcards));
