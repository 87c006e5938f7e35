// The 16550 serial port: registers, loopback, FIFO, interrupts. It is the console too, so tests in
// loopback mode drain it first and say nothing meanwhile.

#include "guest.h"

#define COM1 0x3f8
#define IER (COM1 + 1)
#define IIR (COM1 + 2)
#define FCR (COM1 + 2)
#define LCR (COM1 + 3)
#define MCR (COM1 + 4)
#define LSR (COM1 + 5)
#define MSR (COM1 + 6)
#define SCRATCH (COM1 + 7)
#define IRQ_COM1 4

static volatile unsigned count, cause;

static void drain(void)
{
    while (!(inb(LSR) & 0x40)) {
    }
}

static void loopback(bool on)
{
    drain();
    outb(FCR, 7);
    outb(MCR, on ? 0x1b : 3); // DTR, RTS, OUT2, loop
    inb(MSR);
}

static bool received(unsigned ms)
{
    for (unsigned i = 0; i < ms * 10 && !(inb(LSR) & 1); i++) {
        delay_us(100);
    }
    return inb(LSR) & 1;
}

static void on_com1(struct frame *f)
{
    (void)f;
    count++;
    cause = inb(IIR) & 0x0f;
    pic_eoi(IRQ_COM1);
}

static void scratch_register_keeps_its_value(void)
{
    outb(SCRATCH, 0x5a);
    CHECK_EQ(inb(SCRATCH), 0x5a);
    outb(SCRATCH, 0xa5);
    CHECK_EQ(inb(SCRATCH), 0xa5);
}

static void divisor_latch_is_apart_from_data(void)
{
    drain();
    outb(LCR, 0x83);
    u8 low = inb(COM1), high = inb(IER);
    outb(COM1, 0x34);
    outb(IER, 0x12);
    bool kept = inb(COM1) == 0x34 && inb(IER) == 0x12;
    outb(COM1, low);
    outb(IER, high);
    outb(LCR, 3);
    CHECK(kept);
    CHECK_EQ(inb(IER), 0);
}

static void loopback_returns_what_is_sent(void)
{
    loopback(true);
    outb(COM1, 0xc3);
    bool came = received(100);
    u8 got = inb(COM1);
    loopback(false);
    CHECK(came);
    CHECK_EQ(got, 0xc3);
}

static void loopback_connects_the_modem_lines(void)
{
    drain();
    outb(MCR, 0x10 | 0x0a); // RTS -> CTS, OUT2 -> DCD
    u8 a = inb(MSR) & 0xf0;
    outb(MCR, 0x10 | 0x05); // DTR -> DSR, OUT1 -> RI
    u8 b = inb(MSR) & 0xf0;
    loopback(false);
    CHECK_EQ(a, 0x90);
    CHECK_EQ(b, 0x60);
}

static void fifo_holds_16_bytes_and_then_overruns(void)
{
    loopback(true);
    u8 got[16];
    for (unsigned i = 0; i < 17; i++) {
        while (!(inb(LSR) & 0x20)) {
        }
        outb(COM1, (u8)(i + 1));
        delay_us(300);
    }
    delay_us(5000);
    u8 status = inb(LSR);
    for (unsigned i = 0; i < 16; i++) {
        got[i] = inb(COM1);
    }
    loopback(false);
    CHECK(status & 2); // overrun
    CHECK_EQ(got[0], 1);
    CHECK_EQ(got[15], 16);
}

static void fifo_shows_in_iir(void)
{
    CHECK_EQ(inb(IIR) & 0xc0, 0xc0);
}

static void empty_transmitter_interrupts_until_iir_is_read(void)
{
    drain();
    pic_init();
    trap_set(PIC_BASE + IRQ_COM1, on_com1);
    count = 0;
    pic_unmask(IRQ_COM1);
    outb(MCR, 0x0b);
    outb(IER, 2);
    bool came = wait_for(&count, 10000);
    delay_us(1000);
    outb(IER, 0);
    outb(MCR, 3);
    CHECK(came);
    CHECK_EQ(count, 1);
    CHECK_EQ(cause, 2);
    pic_init();
}

// In loopback mode OUT2 is inactive and so is the line, but the cause shows.
static void received_byte_shows_as_the_interrupts_cause(void)
{
    loopback(true);
    outb(FCR, 0x01);
    outb(IER, 1);
    outb(COM1, 0x42);
    bool came = received(100);
    u8 with = inb(IIR) & 0x0f;
    inb(COM1);
    u8 without = inb(IIR) & 0x0f;
    outb(IER, 0);
    loopback(false);
    outb(FCR, 7);
    CHECK(came);
    CHECK_EQ(with, 4);
    CHECK_EQ(without, 1);
}

TESTS(TEST(scratch_register_keeps_its_value), TEST(divisor_latch_is_apart_from_data),
      TEST(loopback_returns_what_is_sent), TEST(loopback_connects_the_modem_lines),
      TEST(fifo_holds_16_bytes_and_then_overruns), TEST(fifo_shows_in_iir),
      TEST(empty_transmitter_interrupts_until_iir_is_read),
      TEST(received_byte_shows_as_the_interrupts_cause));
