// A guest without manners: random accesses of every size to every port, to all memory-mapped
// devices and to PCI configuration space. Nothing is expected of the devices but that the machine
// goes on. Left out are only the ways to end the machine, the console, and DMA to this guest's own
// memory.

#include "pci.h"

#define ROUNDS 60000u

static u64 noise = 0x9e3779b97f4a7c15ull;
static bool seeded;

static u64 draw(void)
{
    if (!seeded) { // another command line is another run
        seeded = true;
        for (const char *p = boot_cmdline(); *p; p++) {
            noise = noise * 31 + (u8)*p;
        }
    }
    noise ^= noise << 13;
    noise ^= noise >> 7;
    noise ^= noise << 17;
    return noise;
}

// Mostly small or extreme; never an address in this guest's RAM above its first page.
static u64 value(void)
{
    static const u64 extremes[] = {0,          1,          0x7f,       0x80,       0xff,
                                   0xffff,     0x80000000, 0xffffffff, ~0ull,      1ull << 63,
                                   0xc0000000, 0xfee00000, 0xfffffff0, 1ull << 32, 1ull << 40};
    u64 v = draw();
    switch (v & 3) {
    case 0: return extremes[(v >> 8) % ARRAY_LEN(extremes)];
    case 1: return v >> 8 & 0x7f;
    case 2: return (v >> 8 & 0xffffffff) | 0xc0000000;
    default: return v | 1ull << 62;
    }
}

// Ports that end the machine, hold the console, start DMA or the system management.
static bool forbidden(unsigned port)
{
    return (port >= 0x60 && port <= 0x64) || port == 0x92 || port == 0xf4 || port == 0xb2 ||
           port == 0xb3 || (port >= 0x3f5 && port < 0x400) || (port >= 0x502 && port < 0x520) ||
           (port >= 0x5fd && port < 0x680) || (port >= 0xcf5 && port < 0xd00);
}

static void touch_port(u16 port)
{
    u64 v = value();
    switch (draw() % 6) {
    case 0: inb(port); break;
    case 1: inw(port); break;
    case 2: inl(port); break;
    case 3: outb(port, (u8)v); break;
    case 4: outw(port, (u16)v); break;
    default: outl(port, (u32)v); break;
    }
}

static void random_ports_are_survived(void)
{
    static const u16 known[] = {0x20,  0x21,  0x40,  0x41,   0x42,  0x43,  0x65,  0x66,
                                0x70,  0x71,  0x80,  0xa0,   0xa1,  0x2f8, 0x2f9, 0x2fa,
                                0x2fb, 0x2fc, 0x2fd, 0x402,  0x4d0, 0x4d1, 0x400, 0x401,
                                0x500, 0x700, 0x708, 0xc000, 0xc010};
    for (unsigned i = 0; i < ROUNDS; i++) {
        u16 port = draw() & 1 ? known[draw() % ARRAY_LEN(known)] : (u16)draw();
        if (!forbidden(port) && !forbidden(port + 1u) && !forbidden(port + 2u) &&
            !forbidden(port + 3u)) {
            touch_port(port);
        }
    }
    pic_init();
}

static void touch_memory(u64 at)
{
    u64 v = value();
    switch (draw() % 8) {
    case 0: (void)*(volatile u8 *)at; break;
    case 1: (void)*(volatile u16 *)at; break;
    case 2: read32(at); break;
    case 3: read64(at); break;
    case 4: *(volatile u8 *)at = (u8)v; break;
    case 5: *(volatile u16 *)at = (u16)v; break;
    case 6: write32(at, (u32)v); break;
    default: write64(at, v); break;
    }
}

static void hammer(u64 at, u64 len)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 offset = draw() & 7 ? draw() % len & ~3ull : draw() % len;
        if (offset + 8 <= len) {
            touch_memory(at + offset);
        }
    }
}

static void random_ioapic_accesses_are_survived(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (draw() & 1) {
            ioapic_write((unsigned)(draw() & 0x3f), (u32)value() | 0x10000);
        } else {
            touch_memory(IOAPIC + (draw() & 0xff));
        }
    }
    for (unsigned pin = 0; pin < 24; pin++) {
        ioapic_write(0x10 + 2 * pin, 0x10000);
    }
}

// Not the message addresses of its timers: a message may be an INIT for this processor.
static void random_hpet_accesses_are_survived(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 offset = draw() & 0x3ff;
        if ((offset & 0x1f) <= 8) {
            touch_memory(0xfed00000 + offset);
        }
    }
    write32(0xfed00010, 0);
}

// Not the ICR, which can send INIT and NMI to ourselves, nor LINT1.
static void random_lapic_accesses_are_survived(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 offset = draw() & 0xff0;
        if ((offset & 0xf00) != 0x300 || offset >= 0x380) {
            touch_memory(LAPIC + offset);
        }
    }
    lapic_write(0x380, 0);
}

static void random_memory_outside_everything_is_survived(void)
{
    hammer(0xc0000000, 0x10000000);
    hammer(0xf0000000, 0x0ec00000);
}

static void random_device_windows_are_survived(void)
{
    for (unsigned devfn = 8; devfn < 248; devfn += 8) {
        if ((pci_read(devfn, 0) & 0xffff) == 0xffff) {
            continue;
        }
        pci_write16(devfn, 4, 0x406);
        for (unsigned bar = 0; bar < 6; bar++) {
            u64 at = pci_bar(devfn, bar);
            if (at) {
                hammer(at, 0x4000);
            }
            bar += (pci_read(devfn, 0x10 + 4 * bar) & 7) == 4;
        }
    }
}

static void random_configuration_is_survived(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 r = draw();
        unsigned devfn = r & 0xf8, reg = r >> 8 & 0xff;
        if (draw() & 1) {
            pci_write(devfn, reg, (u32)value());
        } else {
            touch_memory(0xe0000000 + ((u64)devfn << 12) + (r >> 16 & 0xff8));
        }
    }
}

static void machine_still_works(void)
{
    CHECK(tsc_per_ms() > 0);
    outb(0x70, 0x50);
    outb(0x71, 0x77);
    outb(0x70, 0x50);
    CHECK_EQ(inb(0x71), 0x77);
}

TESTS(TEST(random_ports_are_survived), TEST(random_ioapic_accesses_are_survived),
      TEST(random_hpet_accesses_are_survived), TEST(random_lapic_accesses_are_survived),
      TEST(random_memory_outside_everything_is_survived), TEST(random_device_windows_are_survived),
      TEST(random_configuration_is_survived), TEST(machine_still_works));
