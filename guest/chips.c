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

struct sample sample(u64 (*clock)(void))
{
    struct sample best = {0}, now;
    u64 best_gap = ~0ull;
    for (unsigned i = 0; i < 20; i++) {
        u64 before = rdtsc();
        now.value = clock();
        now.tsc = rdtsc();
        if (now.tsc - before < best_gap) {
            best_gap = now.tsc - before;
            best = now;
        }
    }
    return best;
}

static u64 read_channel_2(void)
{
    outb(PIT + 3, 0x80); // latch
    unsigned low = inb(PIT + 2);
    return low | (unsigned)inb(PIT + 2) << 8;
}

// Against channel 2 counting down once from 65535, which takes 55 ms. False when it was over before
// the last sample: this CPU was away for that long.
static bool measure_tsc(word *rate)
{
    outb(PORT_SPEAKER, (inb(PORT_SPEAKER) & ~2) | 1); // gate on, speaker off
    outb(PIT + 3, 0xb0);
    outb(PIT + 2, 0xff);
    outb(PIT + 2, 0xff);
    struct sample start = sample(read_channel_2);
    while (read_channel_2() > 0x8000 && !(inb(PORT_SPEAKER) & 0x20)) {
    }
    struct sample end = sample(read_channel_2);
    u32 ticks = (u32)(start.value - end.value);
    if ((inb(PORT_SPEAKER) & 0x20) || !ticks) {
        return false;
    }
    *rate = (word)(end.tsc - start.tsc) / ticks * (PIT_HZ / 1000) +
            (word)(end.tsc - start.tsc) % ticks * (PIT_HZ / 1000) / ticks;
    return true;
}

u64 tsc_per_ms(void)
{
    static word rate;
    for (unsigned tries = 0; !rate && tries < 100; tries++) {
        measure_tsc(&rate);
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
