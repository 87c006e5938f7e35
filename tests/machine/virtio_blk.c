// A virtio disk driven by hand (virtio 1.2 over PCI): reads and writes by polling, the same with
// MSI-X and with the INTx line, requests that must fail. Needs --disk.

#include "pci.h"

#define QUEUE 16
#define VECTOR 0x58
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define VIRTIO_F_VERSION_1 32
#define DESC_NEXT 1
#define DESC_WRITE 2
#define BLK_IN 0
#define BLK_OUT 1
#define BLK_FLUSH 4

// Common configuration, by offset
enum {
    COMMON_FEATURE_SELECT = 0,
    COMMON_FEATURE = 4,
    COMMON_DRIVER_SELECT = 8,
    COMMON_DRIVER = 12,
    COMMON_STATUS = 20,
    COMMON_QUEUE_SELECT = 22,
    COMMON_QUEUE_SIZE = 24,
    COMMON_QUEUE_VECTOR = 26,
    COMMON_QUEUE_ENABLE = 28,
    COMMON_QUEUE_NOTIFY_OFF = 30,
    COMMON_QUEUE_DESC = 32,
    COMMON_QUEUE_AVAIL = 40,
    COMMON_QUEUE_USED = 48,
};

struct desc {
    u64 at;
    u32 len;
    u16 flags, next;
};

static volatile struct desc *desc;
static volatile struct {
    u16 flags, idx, ring[QUEUE];
} * avail;
static volatile struct {
    u16 flags, idx;
    struct {
        u32 id, len;
    } ring[QUEUE];
} * used;
static struct {
    u32 type, reserved;
    u64 sector;
} * header;
static volatile u8 *status_byte;
static u8 *data;

static unsigned devfn;
static u64 common, notify, isr, config;
static volatile unsigned interrupts;

static void set8(u64 at, u8 v)
{
    *(volatile u8 *)at = v;
}
static u8 get8(u64 at)
{
    return *(volatile u8 *)at;
}
static void set16(u64 at, u16 v)
{
    *(volatile u16 *)at = v;
}
static u16 get16(u64 at)
{
    return *(volatile u16 *)at;
}

static bool find_device(void)
{
    for (devfn = 8; devfn < 256; devfn += 8) {
        u32 id = pci_read(devfn, 0);
        if (id == 0x10421af4 || id == 0x10011af4) {
            return true;
        }
    }
    return false;
}

// Virtio's vendor capabilities say in which BAR and where each structure lies.
static void find_structures(void)
{
    u32 notify_multiplier = 0;
    for (unsigned cap = pci_capability(devfn, 9, 0); cap;) {
        unsigned type = pci_read(devfn, cap) >> 24;
        u64 at = pci_bar(devfn, pci_read(devfn, cap + 4) & 0xff) + pci_read(devfn, cap + 8);
        switch (type) {
        case 1: common = at; break;
        case 2:
            notify = at;
            notify_multiplier = pci_read(devfn, cap + 16);
            break;
        case 3: isr = at; break;
        case 4: config = at; break;
        default: break;
        }
        unsigned next = pci_read(devfn, cap) >> 8 & 0xfc;
        cap = 0;
        for (unsigned n = 0; next && n < 48; n++, next = pci_read(devfn, next) >> 8 & 0xfc) {
            if ((pci_read(devfn, next) & 0xff) == 9) {
                cap = next;
                break;
            }
        }
    }
    set16(common + COMMON_QUEUE_SELECT, 0);
    notify += (u64)get16(common + COMMON_QUEUE_NOTIFY_OFF) * notify_multiplier;
}

static void allocate(void)
{
    if (desc) {
        return;
    }
    desc = page_alloc();
    avail = page_alloc();
    used = page_alloc();
    header = page_alloc();
    status_byte = (volatile u8 *)header + 512;
    data = page_alloc();
}

static bool start(u16 vector)
{
    set8(common + COMMON_STATUS, 0);
    while (get8(common + COMMON_STATUS)) {
    }
    memset((void *)(u64)avail, 0, sizeof *avail);
    memset((void *)(u64)used, 0, sizeof *used);
    set8(common + COMMON_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    write32(common + COMMON_DRIVER_SELECT, 0);
    write32(common + COMMON_DRIVER, 0);
    write32(common + COMMON_DRIVER_SELECT, 1);
    write32(common + COMMON_DRIVER, 1u << (VIRTIO_F_VERSION_1 - 32));
    set8(common + COMMON_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    if (!(get8(common + COMMON_STATUS) & STATUS_FEATURES_OK)) {
        return false;
    }
    set16(common + COMMON_QUEUE_SELECT, 0);
    set16(common + COMMON_QUEUE_SIZE, QUEUE);
    set16(common + COMMON_QUEUE_VECTOR, vector);
    write64(common + COMMON_QUEUE_DESC, (u64)desc);
    write64(common + COMMON_QUEUE_AVAIL, (u64)avail);
    write64(common + COMMON_QUEUE_USED, (u64)used);
    set16(common + COMMON_QUEUE_ENABLE, 1);
    set8(common + COMMON_STATUS,
         STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
    return true;
}

static bool setup(void)
{
    static bool found;
    if (!found && !find_device()) {
        test_skip("no virtio disk");
        return false;
    }
    if (!found) {
        pci_write16(devfn, 4, 0x406); // memory, bus master, no INTx
        find_structures();
        allocate();
        found = true;
    }
    CHECK(common && notify && isr && config);
    return common && notify && isr && config;
}

static void submit(u32 type, u64 sector, u64 at, u32 len)
{
    header->type = type;
    header->reserved = 0;
    header->sector = sector;
    *status_byte = 0xff;
    desc[0] = (struct desc){(u64)header, 16, DESC_NEXT, 1};
    desc[1] = (struct desc){at, len, (u16)(DESC_NEXT | (type == BLK_IN ? DESC_WRITE : 0)), 2};
    desc[2] = (struct desc){(u64)status_byte, 1, DESC_WRITE, 0};
    avail->ring[avail->idx % QUEUE] = 0;
    __asm__ volatile("" ::: "memory");
    avail->idx++;
    set16(notify, 0);
}

// The request's status byte, 0xff when it did not complete in a second.
static u8 transfer(u32 type, u64 sector, u64 at, u32 len)
{
    u16 before = used->idx;
    submit(type, sector, at, len);
    for (unsigned i = 0; i < 10000 && used->idx == before; i++) {
        delay_us(100);
    }
    return *status_byte;
}

static void device_offers_version_1_and_a_capacity(void)
{
    if (!setup()) {
        return;
    }
    write32(common + COMMON_FEATURE_SELECT, 1);
    CHECK(read32(common + COMMON_FEATURE) & 1);
    CHECK(read32(config) >= 2048);
    CHECK(start(0xffff));
}

static void sectors_read_as_the_file_says(void)
{
    if (!setup() || !start(0xffff)) {
        return;
    }
    for (u64 sector = 0; sector < 100; sector += 33) {
        memset(data, 0xee, 4096);
        CHECK_EQ(transfer(BLK_IN, sector, (u64)data, 1024), 0);
        CHECK_EQ(*(volatile u64 *)data, sector);
        CHECK_EQ(*(volatile u64 *)(data + 512), sector + 1);
        CHECK_EQ(*(volatile u64 *)(data + 1024), 0xeeeeeeeeeeeeeeee);
    }
    CHECK_EQ(used->ring[0].len, 1025);
}

static void written_sectors_read_back(void)
{
    if (!setup() || !start(0xffff)) {
        return;
    }
    memset(data, 0x3c, 2048);
    CHECK_EQ(transfer(BLK_OUT, 8, (u64)data, 2048), 0);
    CHECK_EQ(transfer(BLK_FLUSH, 0, (u64)data, 512) & 0xfe, 0); // done, or not taken (no flush)
    memset(data, 0, 4096);
    CHECK_EQ(transfer(BLK_IN, 11, (u64)data, 1024), 0);
    CHECK_EQ(data[511], 0x3c);
    CHECK_EQ(*(volatile u64 *)(data + 512), 12);
}

static void request_beyond_the_end_fails(void)
{
    if (!setup() || !start(0xffff)) {
        return;
    }
    u64 capacity = read64(config);
    CHECK_EQ(transfer(BLK_IN, capacity, (u64)data, 512), 1);
    CHECK_EQ(transfer(BLK_IN, ~0ull, (u64)data, 512), 1);
    CHECK_EQ(transfer(77, 0, (u64)data, 512), 2); // unknown kind: unsupported
    CHECK_EQ(transfer(BLK_IN, 0, (u64)data, 512), 0);
}

static void buffer_outside_ram_harms_nothing(void)
{
    if (!setup() || !start(0xffff)) {
        return;
    }
    u8 status = transfer(BLK_IN, 0, 0x7ffffffff000, 512);
    CHECK(status == 1 || status == 0xff); // an error, or the device has stopped
    CHECK(start(0xffff));
    CHECK_EQ(transfer(BLK_IN, 5, (u64)data, 512), 0);
    CHECK_EQ(*(volatile u64 *)data, 5);
}

static void on_interrupt(struct frame *f)
{
    (void)f;
    interrupts++;
    lapic_eoi();
}

static void completion_arrives_by_msix(void)
{
    if (!setup()) {
        return;
    }
    unsigned cap = pci_capability(devfn, 0x11, 0);
    CHECK(cap);
    u64 table = pci_bar(devfn, pci_read(devfn, cap + 4) & 7) + (pci_read(devfn, cap + 4) & ~7u);
    lapic_enable();
    trap_set(VECTOR, on_interrupt);
    pci_write16(devfn, cap + 2, 0x8000);
    write32(table, LAPIC | (lapic_read(0x20) >> 24) << 12);
    write32(table + 4, 0);
    write32(table + 8, VECTOR);
    write32(table + 12, 0);
    if (!start(0)) {
        return;
    }
    CHECK_EQ(get16(common + COMMON_QUEUE_VECTOR), 0);
    for (unsigned i = 0; i < 5; i++) {
        interrupts = 0;
        submit(BLK_IN, i, (u64)data, 512);
        CHECK(wait_for(&interrupts, 10000));
        CHECK_EQ(*status_byte, 0);
        CHECK_EQ(*(volatile u64 *)data, i);
    }
    // A masked entry keeps the message until it is unmasked.
    interrupts = 0;
    write32(table + 12, 1);
    submit(BLK_IN, 7, (u64)data, 512);
    sti();
    delay_us(20000);
    cli();
    CHECK_EQ(interrupts, 0);
    write32(table + 12, 0);
    CHECK(wait_for(&interrupts, 10000));
    pci_write16(devfn, cap + 2, 0);
}

static void on_line(struct frame *f)
{
    (void)f;
    if (get8(isr) & 1) { // reading takes the line down
        interrupts++;
    }
    lapic_eoi();
}

// The pin's GSI is not known without AML: whichever of 16..23 it is. (_PRT of this board: level.)
static void completion_arrives_by_the_line(void)
{
    if (!setup()) {
        return;
    }
    lapic_enable();
    trap_set(VECTOR, on_line);
    pci_write16(devfn, 4, 6); // INTx allowed
    for (unsigned pin = 16; pin < 24; pin++) {
        ioapic_route(pin, VECTOR | 0x8000, lapic_read(0x20));
    }
    if (!start(0xffff)) {
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        interrupts = 0;
        submit(BLK_IN, i, (u64)data, 512);
        CHECK(wait_for(&interrupts, 10000));
        CHECK_EQ(interrupts, 1);
    }
    for (unsigned pin = 16; pin < 24; pin++) {
        ioapic_write(0x10 + 2 * pin, 0x10000);
    }
    pci_write16(devfn, 4, 0x406);
}

TESTS(TEST(device_offers_version_1_and_a_capacity), TEST(sectors_read_as_the_file_says),
      TEST(written_sectors_read_back), TEST(request_beyond_the_end_fails),
      TEST(buffer_outside_ram_harms_nothing), TEST(completion_arrives_by_msix),
      TEST(completion_arrives_by_the_line));
