// The 8259 pair: masks, pending requests, priorities, in-service bits, end of interrupt.

#include "guest.h"

#define COM1 0x3f8
#define IRQ_PIT 0
#define IRQ_COM1 4

static volatile unsigned count[16];
static volatile unsigned order[8], order_len;

static void on_pit(struct frame *f)
{
    (void)f;
    count[IRQ_PIT]++;
    order[order_len++ & 7] = IRQ_PIT;
    pic_eoi(IRQ_PIT);
}

static void on_com1(struct frame *f)
{
    (void)f;
    count[IRQ_COM1]++;
    order[order_len++ & 7] = IRQ_COM1;
    inb(COM1 + 2); // the transmitter's request goes away
    pic_eoi(IRQ_COM1);
}

static void setup(void)
{
    pic_init();
    for (unsigned i = 0; i < 16; i++) {
        count[i] = 0;
    }
    order_len = 0;
    trap_set(PIC_BASE + IRQ_PIT, on_pit);
    trap_set(PIC_BASE + IRQ_COM1, on_com1);
}

static void pit_periodic(unsigned hz)
{
    unsigned divisor = 1193182 / hz;
    outb(0x43, 0x34);
    outb(0x40, (u8)divisor);
    outb(0x40, (u8)(divisor >> 8));
}

// The transmitter is empty, so allowing its interrupt raises the line.
static void com1_raise(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 4, 0x0b); // OUT2 lets the line through
    outb(COM1 + 1, 2);
}

static void com1_quiet(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 4, 3);
}

static u8 read_irr(void)
{
    outb(0x20, 0x0a);
    return inb(0x20);
}

static u8 read_isr(void)
{
    outb(0x20, 0x0b);
    return inb(0x20);
}

// These lines request, at the latest after a while.
static bool requested(u8 lines)
{
    for (unsigned i = 0; i < 1000 && (read_irr() & lines) != lines; i++) {
        delay_us(1000);
    }
    return (read_irr() & lines) == lines;
}

static void pit_interrupts_arrive_at_their_vector(void)
{
    setup();
    pit_periodic(200);
    pic_unmask(IRQ_PIT);
    u64 end = rdtsc() + tsc_per_ms() * 10000;
    while (count[IRQ_PIT] < 5 && rdtsc() < end) {
        sti_hlt_cli();
    }
    CHECK(count[IRQ_PIT] >= 5);
    pic_init();
}

static void masked_request_stays_pending_and_comes_after_unmasking(void)
{
    setup();
    pit_periodic(1000);
    com1_raise();
    sti();
    delay_us(5000);
    cli();
    CHECK_EQ(count[IRQ_COM1], 0);
    CHECK(read_irr() & 1 << IRQ_COM1);
    pic_unmask(IRQ_COM1);
    CHECK(wait_for(&count[IRQ_COM1], 10000));
    CHECK_EQ(count[IRQ_COM1], 1);
    CHECK(!(read_irr() & 1 << IRQ_COM1));
    com1_quiet();
}

static void lower_line_number_comes_first(void)
{
    setup();
    com1_raise();
    pit_periodic(1000);
    pic_unmask(IRQ_COM1);
    pic_unmask(IRQ_PIT);
    CHECK(requested(0x11));
    CHECK(wait_for(&count[IRQ_COM1], 10000));
    CHECK_EQ(order[0], IRQ_PIT);
    com1_quiet();
    pic_init();
}

static volatile unsigned seen_isr, nested_early;

static void on_com1_slow(struct frame *f)
{
    (void)f;
    count[IRQ_COM1]++;
    inb(COM1 + 2);
    seen_isr = read_isr();
    sti();
    delay_us(5000); // the PIT has the higher priority and interrupts
    cli();
    nested_early = count[IRQ_PIT];
    pic_eoi(IRQ_COM1);
}

static void higher_priority_interrupts_a_handler_before_its_eoi(void)
{
    setup();
    trap_set(PIC_BASE + IRQ_COM1, on_com1_slow);
    pit_periodic(1000);
    pic_unmask(IRQ_COM1);
    com1_raise();
    CHECK(wait_for(&count[IRQ_COM1], 10000));
    pic_init();
    CHECK_EQ(seen_isr, 1 << IRQ_COM1);
    com1_quiet();
}

static void handlers_line_stays_blocked_until_eoi(void)
{
    setup();
    trap_set(PIC_BASE + IRQ_COM1, on_com1_slow);
    pic_unmask(IRQ_COM1);
    com1_raise();
    CHECK(wait_for(&count[IRQ_COM1], 10000));
    CHECK_EQ(read_isr(), 0);
    com1_quiet();
}

static void masks_read_back(void)
{
    setup();
    outb(0x21, 0x5a);
    outb(0xa1, 0xa5);
    CHECK_EQ(inb(0x21), 0x5a);
    CHECK_EQ(inb(0xa1), 0xa5);
    pic_init();
}

static void slave_line_needs_the_cascade(void)
{
    setup();
    outb(0xa1, 0xfe); // line 8 passes the slave, line 2 stays masked at the master
    outb(0x70, 0x0b);
    u8 b = inb(0x71);
    outb(0x70, 0x0b);
    outb(0x71, b | 0x40); // periodic interrupt of the RTC: line 8
    delay_us(50000);
    outb(0xa0, 0x0a);
    CHECK(inb(0xa0) & 1);
    CHECK(read_irr() & 4); // the slave's output on the master's line 2
    outb(0x70, 0x0b);
    outb(0x71, b & ~0x40);
    outb(0x70, 0x0c);
    inb(0x71);
    pic_init();
}

TESTS(TEST(pit_interrupts_arrive_at_their_vector),
      TEST(masked_request_stays_pending_and_comes_after_unmasking),
      TEST(lower_line_number_comes_first),
      TEST(higher_priority_interrupts_a_handler_before_its_eoi),
      TEST(handlers_line_stays_blocked_until_eoi), TEST(masks_read_back),
      TEST(slave_line_needs_the_cascade));
