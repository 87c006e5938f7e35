// The guest of signal_test.c: drives a virtio device whose queue somebody else signals, counts what
// interrupts it in a mailbox, and does to its MSI-X vector what the test says.

#include "signals.h"
#include "pci.h"

#define FIRST 0x58
#define OTHER 0x59
#define LINE 0x5a
#define RNG_ID 0x10441af4
#define STATUS_UP_TO_FEATURES 0xb // ACKNOWLEDGE, DRIVER, FEATURES_OK
#define STATUS_ALL 0xf

// The common configuration is at 0 of BAR 0, the ISR at 0x1000.
enum { DRIVER_SELECT = 8, DRIVER = 12, STATUS = 20, QUEUE_SELECT = 22, QUEUE_SIZE = 24 };
enum { QUEUE_VECTOR = 26, QUEUE_ENABLE = 28, QUEUE_DESC = 32, QUEUE_AVAIL = 40, QUEUE_USED = 48 };

static volatile struct signals_box box
    __attribute__((aligned(4096))) = {.magic = {SIGNALS_MAGIC0, SIGNALS_MAGIC1}};
static unsigned devfn, msix;
static u64 bar, table;

static void set8(u64 at, u8 v)
{
    *(volatile u8 *)at = v;
}

static void set16(u64 at, u16 v)
{
    *(volatile u16 *)at = v;
}

static void on_first(struct frame *f)
{
    (void)f;
    box.first++;
    lapic_eoi();
}

static void on_other(struct frame *f)
{
    (void)f;
    box.other++;
    lapic_eoi();
}

static void on_line(struct frame *f)
{
    (void)f;
    if (*(volatile u8 *)(bar + 0x1000) & 1)
        box.line++;
    lapic_eoi();
}

static void route_vector(void)
{
    trap_set(FIRST, on_first);
    trap_set(OTHER, on_other);
    trap_set(LINE, on_line);
    lapic_enable();
    for (unsigned pin = 16; pin < 24; pin++)
        ioapic_route(pin, LINE | 0x8000, lapic_read(0x20));
    pci_write16(devfn, msix + 2, 0x8000);
    write32(table, LAPIC | (lapic_read(0x20) >> 24) << 12);
    write32(table + 4, 0);
    write32(table + 8, FIRST);
    write32(table + 12, 0);
}

static void start_driver(void)
{
    set8(bar + STATUS, 0);
    set8(bar + STATUS, 3);
    write32(bar + DRIVER_SELECT, 1);
    write32(bar + DRIVER, 1); // VIRTIO_F_VERSION_1
    set8(bar + STATUS, STATUS_UP_TO_FEATURES);
    set16(bar + QUEUE_SELECT, 0);
    set16(bar + QUEUE_SIZE, 16);
    set16(bar + QUEUE_VECTOR, 0);
    write64(bar + QUEUE_DESC, (u64)page_alloc());
    write64(bar + QUEUE_AVAIL, (u64)page_alloc());
    write64(bar + QUEUE_USED, (u64)page_alloc());
    set16(bar + QUEUE_ENABLE, 1);
    set8(bar + STATUS, STATUS_ALL);
    box.wrong += *(volatile u8 *)(bar + STATUS) != STATUS_ALL;
}

static void obey(u32 command)
{
    switch (command) {
    case SIGNALS_MASK: write32(table + 12, 1); break;
    case SIGNALS_UNMASK: write32(table + 12, 0); break;
    case SIGNALS_OTHER: write32(table + 8, OTHER); break;
    case SIGNALS_LINE: pci_write16(devfn, msix + 2, 0); break;
    case SIGNALS_PENDING: box.pending = read32(table + 0x800); break;
    default: box.wrong++;
    }
}

static void count_for_ever(void)
{
    for (devfn = 8; devfn < 256 && pci_read(devfn, 0) != RNG_ID; devfn += 8)
        continue;
    pci_write16(devfn, 4, 6); // memory, bus master, INTx allowed
    msix = pci_capability(devfn, 0x11, 0);
    bar = pci_bar(devfn, 0);
    table = pci_bar(devfn, pci_read(devfn, msix + 4) & 7);
    route_vector();
    start_driver();
    sti();
    box.ready = 1;
    for (;;) {
        u64 command = box.command;
        if (command != box.done)
            obey((u32)(command >> 32));
        box.done = command;
    }
}

TESTS(TEST(count_for_ever));
