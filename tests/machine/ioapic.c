// The IOAPIC: redirection entries, edges and levels, remote IRR.

#include "guest.h"

#define VECTOR 0x60
#define COM1 0x3f8
#define PIN_PIT 2
#define PIN_COM1 4
#define LEVEL 0x8000
#define REMOTE_IRR 0x4000
#define MASKED 0x10000

static volatile unsigned count, quiet_after;

static void on_edge(struct frame *f)
{
    (void)f;
    count++;
    lapic_eoi();
}

static void com1_quiet(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 4, 3);
}

// Leaves the line high until the third time.
static void on_level(struct frame *f)
{
    (void)f;
    count++;
    if (count >= quiet_after) {
        com1_quiet();
    }
    lapic_eoi();
}

static void com1_raise(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 4, 0x0b);
    outb(COM1 + 1, 2); // the transmitter is empty: line high until IIR is read
}

static void setup(trap_handler *handler)
{
    count = 0;
    pic_init();
    lapic_enable();
    lapic_write(0x80, 0);
    trap_set(VECTOR, handler);
}

static u32 this_cpu(void)
{
    return lapic_read(0x20);
}

static void version_says_24_pins(void)
{
    u32 version = ioapic_read(1);
    CHECK_EQ(version >> 16 & 0xff, 23);
    CHECK((version & 0xff) >= 0x11);
}

static void redirection_entry_reads_back(void)
{
    ioapic_write(0x10 + 2 * 23, MASKED | LEVEL | 0x2000 | 0x800 | 0x55);
    ioapic_write(0x11 + 2 * 23, 0x0f000000);
    CHECK_EQ(ioapic_read(0x10 + 2 * 23), MASKED | LEVEL | 0x2000 | 0x800 | 0x55);
    CHECK_EQ(ioapic_read(0x11 + 2 * 23) >> 24, 0x0f);
    ioapic_write(0x10 + 2 * 23, MASKED);
}

static void pit_arrives_at_pin_2(void)
{
    setup(on_edge);
    outb(0x43, 0x34);
    outb(0x40, 0xa9); // 1 kHz
    outb(0x40, 0x04);
    ioapic_route(PIN_PIT, VECTOR, this_cpu());
    u64 end = rdtsc() + tsc_per_ms() * 10000; // the host may be busy
    while (count < 5 && rdtsc() < end) {
        sti_hlt_cli();
    }
    CHECK(count >= 5);
    ioapic_write(0x10 + 2 * PIN_PIT, MASKED);
}

static void level_line_resends_after_eoi(void)
{
    setup(on_level);
    quiet_after = 3;
    ioapic_route(PIN_COM1, VECTOR | LEVEL, this_cpu());
    com1_raise();
    sti();
    delay_us(3000);
    cli();
    CHECK_EQ(count, 3);
    CHECK(!(ioapic_read(0x10 + 2 * PIN_COM1) & REMOTE_IRR));
    ioapic_write(0x10 + 2 * PIN_COM1, MASKED);
}

static void remote_irr_is_set_from_delivery_to_eoi(void)
{
    setup(on_level);
    quiet_after = 1;
    ioapic_route(PIN_COM1, VECTOR | LEVEL, this_cpu());
    com1_raise();
    delay_us(100);
    CHECK(ioapic_read(0x10 + 2 * PIN_COM1) & REMOTE_IRR);
    sti();
    delay_us(100);
    cli();
    CHECK_EQ(count, 1);
    CHECK(!(ioapic_read(0x10 + 2 * PIN_COM1) & REMOTE_IRR));
    ioapic_write(0x10 + 2 * PIN_COM1, MASKED);
}

static void masked_level_line_is_delivered_when_unmasked(void)
{
    setup(on_level);
    quiet_after = 1;
    ioapic_route(PIN_COM1, VECTOR | LEVEL | MASKED, this_cpu());
    com1_raise();
    sti();
    delay_us(500);
    CHECK_EQ(count, 0);
    ioapic_write(0x10 + 2 * PIN_COM1, VECTOR | LEVEL);
    delay_us(500);
    cli();
    CHECK_EQ(count, 1);
    ioapic_write(0x10 + 2 * PIN_COM1, MASKED);
}

static void edge_is_delivered_once_while_the_line_stays_high(void)
{
    setup(on_edge);
    ioapic_route(PIN_COM1, VECTOR, this_cpu());
    com1_raise();
    sti();
    delay_us(2000);
    cli();
    CHECK_EQ(count, 1);
    com1_quiet();
    ioapic_write(0x10 + 2 * PIN_COM1, MASKED);
}

static void logical_destination_reaches_this_processor(void)
{
    setup(on_edge);
    lapic_write(0xe0, 0xffffffff); // flat
    lapic_write(0xd0, 1u << 24);
    ioapic_route(PIN_COM1, VECTOR | 0x800, 1u << 24);
    com1_raise();
    CHECK(wait_for(&count, 10000));
    com1_quiet();
    ioapic_write(0x10 + 2 * PIN_COM1, MASKED);
}

TESTS(TEST(version_says_24_pins), TEST(redirection_entry_reads_back), TEST(pit_arrives_at_pin_2),
      TEST(level_line_resends_after_eoi), TEST(remote_irr_is_set_from_delivery_to_eoi),
      TEST(masked_level_line_is_delivered_when_unmasked),
      TEST(edge_is_delivered_once_while_the_line_stays_high),
      TEST(logical_destination_reaches_this_processor));
