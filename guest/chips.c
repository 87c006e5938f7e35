// The interrupt controllers and clocks that several guests need.

#include "guest.h"

#define PIT 0x40
#define PIT_HZ 1193182u
#define PORT_SPEAKER 0x61

void pic_init(void)
{
    outb(0x20, 0x11);
    outb(0x21, PIC_BASE);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, PIC_BASE + 8);
    outb(0xa1, 2);
    outb(0xa1, 1);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

void pic_unmask(unsigned irq)
{
    if (irq >= 8) {
        outb(0xa1, (u8)(inb(0xa1) & ~(1u << (irq - 8))));
        irq = 2;
    }
    outb(0x21, (u8)(inb(0x21) & ~(1u << irq)));
}

void pic_eoi(unsigned irq)
{
    if (irq >= 8) {
        outb(0xa0, 0x20);
    }
    outb(0x20, 0x20);
}

static void spurious(struct frame *f)
{
    (void)f;
}

void lapic_enable(void)
{
    trap_set(LAPIC_SPURIOUS_VECTOR, spurious);
    lapic_write(0xf0, 0x100 | LAPIC_SPURIOUS_VECTOR);
}

void lapic_eoi(void)
{
    lapic_write(0xb0, 0);
}

u32 ioapic_read(unsigned reg)
{
    write32(IOAPIC, reg);
    return read32(IOAPIC + 0x10);
}

void ioapic_write(unsigned reg, u32 v)
{
    write32(IOAPIC, reg);
    write32(IOAPIC + 0x10, v);
}

void ioapic_route(unsigned pin, u32 low, u32 high)
{
    ioapic_write(0x10 + 2 * pin, 0x10000); // masked meanwhile
    ioapic_write(0x11 + 2 * pin, high);
    ioapic_write(0x10 + 2 * pin, low);
}

// Counts the TSC during 50 ms of channel 2 in mode 0, whose output shows in port 0x61.
static u64 measure_tsc(void)
{
    unsigned count = PIT_HZ / 20;
    outb(PORT_SPEAKER, (inb(PORT_SPEAKER) & ~2) | 1); // gate on, speaker off
    outb(PIT + 3, 0xb0);
    outb(PIT + 2, (u8)count);
    outb(PIT + 2, (u8)(count >> 8));
    u64 start = rdtsc();
    while (!(inb(PORT_SPEAKER) & 0x20)) {
    }
    return rdtsc() - start;
}

u64 tsc_per_ms(void)
{
    static word rate;
    if (!rate) {
        rate = (word)measure_tsc() / 50;
    }
    return rate;
}

void delay_us(unsigned us)
{
    word ticks = (word)tsc_per_ms() / 1000 * us;
    u64 end = rdtsc() + ticks;
    while (rdtsc() < end) {
        pause();
    }
}

bool wait_for(volatile unsigned *flag, unsigned ms)
{
    u64 end = rdtsc() + tsc_per_ms() * ms;
    sti();
    while (!*flag && rdtsc() < end) {
        pause();
    }
    cli();
    return *flag != 0;
}
