// The HPET: registers, one-shot and periodic comparators, level mode, legacy replacement.

#include "guest.h"

#define HPET 0xfed00000u
#define CONFIG (HPET + 0x10)
#define STATUS (HPET + 0x20)
#define COUNTER (HPET + 0xf0)
#define TIMER(n) (HPET + 0x100 + 0x20 * (n))
#define INT_ENABLE 4u
#define INT_LEVEL 2u
#define PERIODIC 8u
#define SET_VALUE 0x40u
#define MODE_32 0x100u
#define VECTOR 0x70

static volatile unsigned count;

static void on_timer(struct frame *f)
{
    (void)f;
    count++;
    write32(STATUS, 7);
    lapic_eoi();
}

static u64 ticks_per_ms(void)
{
    return 1000000000000ull / read32(HPET + 4);
}

static unsigned route_of(unsigned timer)
{
    u32 allowed = read32(TIMER(timer) + 4);
    for (unsigned pin = 23; pin > 2; pin--) {
        if (allowed & 1u << pin) {
            return pin;
        }
    }
    return 0;
}

static void setup(void)
{
    count = 0;
    pic_init();
    lapic_enable();
    trap_set(VECTOR, on_timer);
    write32(CONFIG, 0);
    for (unsigned i = 0; i < 3; i++) {
        write32(TIMER(i), 0);
    }
    write32(STATUS, 7);
    write64(COUNTER, 0);
}

static void capabilities_describe_it(void)
{
    u32 caps = read32(HPET);
    CHECK((caps >> 8 & 31) >= 2); // three timers at least
    CHECK(caps & 1u << 13);
    CHECK_EQ(caps >> 16, 0x8086);
}

static void counter_stands_still_until_enabled(void)
{
    setup();
    delay_us(100);
    CHECK_EQ(read64(COUNTER), 0);
    write32(CONFIG, 1);
    delay_us(100);
    CHECK(read64(COUNTER) > 0);
    write32(CONFIG, 0);
    u64 stopped = read64(COUNTER);
    delay_us(100);
    CHECK_EQ(read64(COUNTER), stopped);
}

static void one_shot_comparator_interrupts_once(void)
{
    setup();
    unsigned pin = route_of(2);
    CHECK(pin);
    ioapic_route(pin, VECTOR, lapic_read(0x20));
    write32(TIMER(2), INT_ENABLE | pin << 9);
    write64(TIMER(2) + 8, 2 * ticks_per_ms());
    write32(CONFIG, 1);
    CHECK(wait_for(&count, 10000));
    sti();
    delay_us(10000); // no second one comes
    cli();
    CHECK_EQ(count, 1);
    ioapic_write(0x10 + 2 * pin, 0x10000);
}

static void periodic_comparator_keeps_its_period(void)
{
    setup();
    if (!(read32(TIMER(0)) & 0x10)) {
        test_skip("timer 0 has no periodic mode");
        return;
    }
    unsigned pin = route_of(0);
    ioapic_route(pin, VECTOR, lapic_read(0x20));
    write32(TIMER(0), INT_ENABLE | PERIODIC | SET_VALUE | MODE_32 | pin << 9);
    write32(TIMER(0) + 8, (u32)(2 * ticks_per_ms())); // first value, then the period
    write32(TIMER(0) + 8, (u32)(2 * ticks_per_ms()));
    write32(CONFIG, 1);
    u64 end = rdtsc() + tsc_per_ms() * 10000;
    while (count < 5 && rdtsc() < end) {
        sti_hlt_cli();
    }
    CHECK(count >= 5);
    CHECK(read64(COUNTER) >= 10 * ticks_per_ms());
    write32(CONFIG, 0);
    ioapic_write(0x10 + 2 * pin, 0x10000);
}

static void level_mode_holds_status_until_cleared(void)
{
    setup();
    unsigned pin = route_of(1);
    ioapic_route(pin, VECTOR | 0x8000, lapic_read(0x20));
    write32(TIMER(1), INT_ENABLE | INT_LEVEL | pin << 9);
    write64(TIMER(1) + 8, ticks_per_ms());
    write32(CONFIG, 1);
    for (unsigned i = 0; i < 1000 && !(read32(STATUS) & 2); i++) {
        delay_us(1000);
    }
    CHECK_EQ(read32(STATUS) & 2, 2);
    CHECK(wait_for(&count, 10000));
    CHECK_EQ(count, 1);
    CHECK_EQ(read32(STATUS) & 2, 0);
    write32(CONFIG, 0);
    ioapic_write(0x10 + 2 * pin, 0x10000);
}

static void legacy_replacement_takes_the_pits_place(void)
{
    setup();
    if (!(read32(HPET) & 0x8000)) {
        test_skip("no legacy replacement");
        return;
    }
    ioapic_route(2, VECTOR, lapic_read(0x20));
    outb(0x43, 0x34);
    outb(0x40, 0xa9);
    outb(0x40, 0x04);
    write32(TIMER(0), INT_ENABLE);
    write64(TIMER(0) + 8, 5 * ticks_per_ms());
    write32(CONFIG, 3);
    count = 0;
    CHECK(wait_for(&count, 10000));
    sti();
    delay_us(20000);
    cli();
    CHECK(count >= 1 && count <= 2); // one of the comparator; the 1 kHz PIT is cut off
    write32(CONFIG, 0);
    ioapic_write(0x10 + 2 * 2, 0x10000);
}

TESTS(TEST(capabilities_describe_it), TEST(counter_stands_still_until_enabled),
      TEST(one_shot_comparator_interrupts_once), TEST(periodic_comparator_keeps_its_period),
      TEST(level_mode_holds_status_until_cleared), TEST(legacy_replacement_takes_the_pits_place));
