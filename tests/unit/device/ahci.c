// The AHCI adapter, its disks and its CD-ROM drive, driven as drivers drive them.
#include "device/storage/ahci.h"

#include "base/bytes.h"
#include "fake_guest.h"
#include "ram_disk.h"
#include "test.h"

#define ABAR 0xd0000000ull
#define LIST 0x1000ull
#define FISES 0x2000ull
#define TABLES 0x10000ull // 0x400 each
#define A 0x40000ull
#define B 0x60000ull

enum {
    GHC = 0x04,
    IS = 0x08,
    PORT = 0x100,
    P_IS = 0x10,
    P_IE = 0x14,
    P_CMD = 0x18,
    P_TFD = 0x20,
    P_SIG = 0x24,
    P_SSTS = 0x28,
    P_SCTL = 0x2c,
    P_SERR = 0x30,
    P_SACT = 0x34,
    P_CI = 0x38,
    TFES = 1 << 30,
    HBFS = 1 << 29,
    IFS = 1 << 27,
    OFS = 1 << 24,
};

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct ram_disk *disk;
    struct ahci_config config;
};

static uint32_t reg(struct setup *s, unsigned at)
{
    return (uint32_t)fake_read(s->g, false, ABAR + at, 4);
}

static void set_reg(struct setup *s, unsigned at, uint32_t value)
{
    fake_write(s->g, false, ABAR + at, 4, value);
}

static unsigned port_at(unsigned port, unsigned at)
{
    return PORT + 0x80 * port + at;
}

static void start_port(struct setup *s, unsigned port)
{
    set_reg(s, port_at(port, 0x00), LIST + 0x400 * port);
    set_reg(s, port_at(port, 0x08), FISES + 0x100 * port);
    set_reg(s, port_at(port, P_SERR), ~0u);
    set_reg(s, port_at(port, P_IS), ~0u);
    set_reg(s, port_at(port, P_IE), ~0u);
    set_reg(s, port_at(port, P_CMD), 1 | 1 << 4);
}

static void enable(struct device *dev)
{
    struct pci_function *f = pci_function_of(dev);

    pci_config_write(f, PCI_BAR0 + 20, 4, ABAR);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

// Port 0 is a disk, port 1 a CD-ROM drive with the same data in it.
static void set_up(struct setup *s, bool read_only)
{
    *s = (struct setup){.g = fake_guest_new(), .disk = ram_disk_new(read_only)};
    s->config.drives = 2;
    s->config.drive[0] = (struct ahci_drive_config){.block = &s->disk->block, .serial = "S-1"};
    s->config.drive[1] = (struct ahci_drive_config){.block = &s->disk->block, .cdrom = true};
    s->dev = fake_device(s->g, &ahci_type, &s->config);
    enable(s->dev);
    set_reg(s, GHC, 0x80000002);
    start_port(s, 0);
    start_port(s, 1);
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
    free(s->disk);
}

static uint8_t *table(struct setup *s, unsigned slot)
{
    return s->g->ram + TABLES + 0x400 * slot;
}

struct command {
    unsigned port, slot;
    uint8_t code;
    uint16_t features;
    uint64_t lba;
    uint16_t count;
    uint8_t device;
    gpa_t data;
    uint32_t len; // 0: no data
};

// Writes header and table; the data goes through two regions of the PRDT.
static void prepare(struct setup *s, const struct command *c)
{
    uint8_t *header = s->g->ram + LIST + 0x400 * c->port + 32 * c->slot, *t = table(s, c->slot);
    uint32_t half = c->len / 2 & ~1u;

    memset(header, 0, 32);
    memset(t, 0, 0x400);
    store_le16(header, 5);
    store_le16(header + 2, c->len ? 2 : 0);
    store_le64(header + 8, TABLES + 0x400 * c->slot);
    t[0] = 0x27;
    t[1] = 0x80;
    t[2] = c->code;
    t[3] = (uint8_t)c->features;
    t[11] = (uint8_t)(c->features >> 8);
    for (unsigned i = 0; i < 3; i++) {
        t[4 + i] = (uint8_t)(c->lba >> (8 * i));
        t[8 + i] = (uint8_t)(c->lba >> (24 + 8 * i));
    }
    t[7] = c->device;
    store_le16(t + 12, c->count);
    store_le64(t + 0x80, c->data);
    store_le32(t + 0x8c, half - 1);
    store_le64(t + 0x90, c->data + half);
    store_le32(t + 0x9c, c->len - half - 1);
}

static void issue(struct setup *s, const struct command *c)
{
    prepare(s, c);
    set_reg(s, port_at(c->port, P_CI), 1u << c->slot);
}

// Issues, completes; the task file register.
static uint32_t run(struct setup *s, const struct command *c)
{
    issue(s, c);
    ram_disk_run(s->disk, 1000);
    return reg(s, port_at(c->port, P_TFD));
}

static void restart(struct setup *s, unsigned port)
{
    set_reg(s, port_at(port, P_CMD), 1 << 4);
    set_reg(s, port_at(port, P_IS), ~0u);
    set_reg(s, port_at(port, P_CMD), 1 | 1 << 4);
}

// --- The adapter ---

static void ahci_says_what_it_is_and_has(void)
{
    struct setup s;

    set_up(&s, false);
    CHECK_EQ(pci_config_read(pci_function_of(s.dev), 0, 4), 0x29228086);
    CHECK_EQ(pci_config_read(pci_function_of(s.dev), 8, 4) >> 8, 0x010601);
    CHECK_EQ(reg(&s, 0x0c), 3);
    CHECK_EQ(reg(&s, 0x00) & 0x1f, 1);
    CHECK_EQ(reg(&s, 0x10), 0x10301);
    CHECK_EQ(reg(&s, PORT + P_SSTS), 0x133);
    CHECK_EQ(reg(&s, PORT + P_SIG), 0x101);
    CHECK_EQ(reg(&s, PORT + P_TFD), 0x150);
    CHECK_EQ(reg(&s, port_at(1, P_SIG)), 0xeb140101);
    CHECK_EQ(reg(&s, port_at(2, P_SIG)), 0);
    tear_down(&s);
}

static void ahci_raises_its_pin_until_both_status_registers_are_clear(void)
{
    struct command c = {.code = 0xe7};
    struct setup s;

    set_up(&s, false);
    CHECK(!s.g->irq);
    run(&s, &c);
    CHECK(s.g->irq);
    CHECK_EQ(reg(&s, IS), 1);
    set_reg(&s, IS, 1); // the port still asks
    CHECK_EQ(reg(&s, IS), 1);
    set_reg(&s, PORT + P_IS, 1);
    CHECK(s.g->irq);
    set_reg(&s, IS, 1);
    CHECK(!s.g->irq);
    tear_down(&s);
}

static void ahci_sends_a_message_for_each_new_cause(void)
{
    struct command c = {.code = 0xe7};
    struct pci_function *f;
    struct setup s;
    unsigned cap = 0;

    set_up(&s, false);
    f = pci_function_of(s.dev);
    cap = f->msi_cap;
    pci_config_write(f, cap + PCI_MSI_ADDRESS, 4, 0xfee00000);
    pci_config_write(f, cap + PCI_MSI_DATA, 2, 0x41);
    pci_config_write(f, cap + PCI_MSI_CONTROL, 2, PCI_MSI_ENABLE);
    run(&s, &c);
    CHECK_EQ(s.g->msis, 1);
    CHECK_EQ(s.g->msi_data, 0x41);
    set_reg(&s, PORT + P_IS, 1);
    set_reg(&s, IS, 1);
    run(&s, &c);
    CHECK_EQ(s.g->msis, 2);
    // A cause that comes between the driver's two writes is not lost.
    set_reg(&s, PORT + P_IS, 1);
    run(&s, &c);
    set_reg(&s, IS, 1);
    CHECK_EQ(s.g->msis, 3);
    tear_down(&s);
}

static void ahci_reset_waits_for_what_is_in_flight(void)
{
    struct command c = {.code = 0x25, .count = 1, .device = 0x40, .data = A, .len = 512};
    struct setup s;

    set_up(&s, false);
    issue(&s, &c);
    set_reg(&s, GHC, 0x80000001);
    CHECK_EQ(reg(&s, GHC) & 1, 1);
    CHECK_EQ(reg(&s, PORT + P_TFD) & 0x80, 0x80);
    ram_disk_run(s.disk, 10);
    CHECK_EQ(reg(&s, GHC), 0x80000000);
    CHECK_EQ(reg(&s, PORT + P_TFD), 0x150);
    CHECK_EQ(reg(&s, PORT + P_CI), 0);
    CHECK_EQ(reg(&s, PORT + P_IS) & 1, 0); // nobody is told of the old command
    tear_down(&s);
}

static void port_reset_brings_the_link_up_again(void)
{
    struct setup s;

    set_up(&s, false);
    set_reg(&s, PORT + P_CMD, 0);
    set_reg(&s, PORT + P_SCTL, 0x301);
    CHECK_EQ(reg(&s, PORT + P_SSTS) & 0xf, 0);
    set_reg(&s, PORT + P_SCTL, 0x300);
    CHECK_EQ(reg(&s, PORT + P_SSTS), 0x133);
    CHECK_EQ(reg(&s, PORT + P_SERR), 1 << 26 | 1 << 16);
    CHECK_EQ(reg(&s, PORT + P_IS), 1 << 6 | 1 << 22);
    set_reg(&s, PORT + P_SERR, ~0u);
    CHECK_EQ(reg(&s, PORT + P_IS), 0);
    tear_down(&s);
}

static void soft_reset_ends_with_a_signature(void)
{
    struct command c = {.port = 1};
    struct setup s;

    set_up(&s, false);
    prepare(&s, &c);
    table(&s, 0)[1] = 0;
    table(&s, 0)[15] = 4;
    set_reg(&s, port_at(1, P_CI), 1);
    CHECK_EQ(reg(&s, port_at(1, P_CI)), 0);
    table(&s, 0)[15] = 0;
    set_reg(&s, port_at(1, P_CI), 1);
    CHECK_EQ(s.g->ram[FISES + 0x100 + 0x40], 0x34);
    CHECK_EQ(s.g->ram[FISES + 0x100 + 0x45], 0x14);
    CHECK_EQ(s.g->ram[FISES + 0x100 + 0x46], 0xeb);
    tear_down(&s);
}

// --- Disks ---

static void identify_describes_the_disk(void)
{
    struct command c = {.code = 0xec, .data = A, .len = 512};
    const uint8_t *page;
    uint8_t sum = 0;
    struct setup s;

    set_up(&s, false);
    page = s.g->ram + A;
    CHECK_EQ(run(&s, &c), 0x50);
    CHECK_EQ(reg(&s, PORT + P_IS), 2); // PIO setup
    CHECK_EQ(s.g->ram[FISES + 0x20], 0x5f);
    CHECK_EQ(s.g->ram[FISES + 0x20 + 15], 0x50);
    CHECK_EQ(load_le32(s.g->ram + LIST + 4), 512);
    CHECK_EQ(load_le64(page + 200), RAM_DISK_BYTES / 512);
    CHECK(memcmp(page + 20, "-S 1    ", 8) == 0);
    CHECK_EQ(load_le16(page + 152) >> 8 & 1, 1); // queued commands
    CHECK_EQ(load_le16(page + 338), 1);          // TRIM
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + page[i]);
    CHECK_EQ(sum, 0);
    tear_down(&s);
}

static void disk_reads_and_writes_in_every_form(void)
{
    static const uint8_t writes[] = {0x30, 0x34, 0x35, 0x3d, 0xc5, 0xca, 0x39};
    static const uint8_t reads[] = {0x20, 0x24, 0x25, 0xc4, 0xc8, 0x29};
    struct setup s;

    set_up(&s, false);
    for (unsigned i = 0; i < ARRAY_LEN(writes); i++) {
        struct command c = {.code = writes[i], .lba = 2 * i, .count = 2, .device = 0x40, .data = A};
        c.len = 1024;
        memset(s.g->ram + A, 0x40 + (int)i, 1024);
        CHECK_EQ(run(&s, &c), 0x50);
        CHECK_EQ(s.disk->data[1024 * i], 0x40 + i);
        CHECK_EQ(s.disk->data[1024 * i + 1023], 0x40 + i);
        CHECK_EQ(reg(&s, PORT + P_CI), 0);
    }
    for (unsigned i = 0; i < ARRAY_LEN(reads); i++) {
        struct command c = {.code = reads[i], .lba = 2 * i, .count = 2, .device = 0x40, .data = B};
        c.len = 1024;
        CHECK_EQ(run(&s, &c), 0x50);
        CHECK_EQ(s.g->ram[B + 1023], 0x40 + i);
    }
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 1); // the one with FUA
    tear_down(&s);
}

static void old_addresses_are_cylinder_head_and_sector(void)
{
    struct command c = {.code = 0x20, .lba = 1, .count = 1, .data = A, .len = 512};
    struct setup s;

    set_up(&s, false);
    s.disk->data[0] = 7;
    s.disk->data[63 * 512] = 8;
    CHECK_EQ(run(&s, &c), 0x50);
    CHECK_EQ(s.g->ram[A], 7);
    c.device = 1; // head 1
    CHECK_EQ(run(&s, &c), 0x50);
    CHECK_EQ(s.g->ram[A], 8);
    c.lba = 0; // there is no sector 0
    CHECK_EQ(run(&s, &c), 0x1051);
    tear_down(&s);
}

static void queued_commands_end_in_any_order(void)
{
    struct setup s;

    set_up(&s, false);
    memset(s.disk->data + 8 * 512, 0x99, 512);
    set_reg(&s, PORT + P_SACT, 3);
    issue(&s, &(struct command){
                  .code = 0x61, .features = 1, .lba = 1, .device = 0x40, .data = A, .len = 512});
    issue(&s, &(struct command){.slot = 1,
                                .code = 0x60,
                                .features = 1,
                                .lba = 8,
                                .count = 1 << 3,
                                .device = 0x40,
                                .data = B,
                                .len = 512});
    CHECK_EQ(reg(&s, PORT + P_CI), 0);
    CHECK_EQ(reg(&s, PORT + P_SACT), 3);
    struct block_request *first = s.disk->queued;
    s.disk->queued = first->next;
    ram_disk_run(s.disk, 1);
    CHECK_EQ(reg(&s, PORT + P_SACT), 1);
    CHECK_EQ(s.g->ram[B], 0x99);
    CHECK_EQ(reg(&s, PORT + P_IS), 1 << 3);
    CHECK_EQ(load_le32(s.g->ram + FISES + 0x5c), 2);
    first->next = NULL;
    s.disk->queued = first;
    ram_disk_run(s.disk, 1);
    CHECK_EQ(reg(&s, PORT + P_SACT), 0);
    tear_down(&s);
}

static void reads_of_what_is_in_memory_end_at_once(void)
{
    struct setup s;

    set_up(&s, false);
    s.disk->cached = true;
    memset(s.disk->data + 8 * 512, 0x99, 512);
    set_reg(&s, PORT + P_SACT, 1);
    issue(&s, &(struct command){
                  .code = 0x60, .features = 1, .lba = 8, .device = 0x40, .data = B, .len = 512});
    CHECK_EQ(reg(&s, PORT + P_SACT), 0);
    CHECK_EQ(reg(&s, PORT + P_IS), 1 << 3);
    CHECK_EQ(reg(&s, PORT + P_CI), 0);
    CHECK(!(reg(&s, PORT + P_TFD) & 0x80)); // ready for the next one
    CHECK_EQ(s.g->ram[B + 511], 0x99);
    CHECK_EQ(s.disk->ops[BLOCK_READ], 0);
    tear_down(&s);
}

static void a_failed_queued_command_is_found_in_the_log(void)
{
    struct command log = {.code = 0x2f, .lba = 0x10, .count = 1, .data = B, .len = 512};
    struct setup s;

    set_up(&s, false);
    set_reg(&s, PORT + P_SACT, 0x24);
    for (unsigned i = 0; i < 2; i++)
        issue(&s, &(struct command){.slot = i ? 5 : 2,
                                    .code = 0x60,
                                    .features = 1,
                                    .lba = 0x30 + i,
                                    .device = 0x40,
                                    .data = A,
                                    .len = 512});
    s.disk->fail = true;
    ram_disk_run(s.disk, 1);
    CHECK_EQ(reg(&s, PORT + P_TFD) & 0xff01, 0x4001);
    CHECK(reg(&s, PORT + P_IS) & TFES);
    CHECK_EQ(reg(&s, PORT + P_SACT), 0x24);
    ram_disk_run(s.disk, 1); // the other one goes nowhere
    CHECK_EQ(reg(&s, PORT + P_SACT), 0x24);
    restart(&s, 0);
    CHECK_EQ(reg(&s, PORT + P_SACT), 0);
    s.disk->fail = false;
    CHECK_EQ(run(&s, &log), 0x50);
    CHECK_EQ(s.g->ram[B], 2);
    CHECK_EQ(s.g->ram[B + 3], 0x40);
    CHECK_EQ(s.g->ram[B + 4], 0x30);
    CHECK_EQ(run(&s, &log), 0x50);
    CHECK_EQ(s.g->ram[B], 0x80); // told once
    tear_down(&s);
}

static void write_cache_off_makes_every_write_last(void)
{
    struct command c = {.code = 0x35, .count = 1, .device = 0x40, .data = A, .len = 512};
    struct setup s;

    set_up(&s, false);
    run(&s, &c);
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 0);
    CHECK_EQ(run(&s, &(struct command){.code = 0xef, .features = 0x82}), 0x50);
    issue(&s, &c);
    ram_disk_run(s.disk, 1);
    CHECK_EQ(reg(&s, PORT + P_CI), 1); // until the flush has ended
    ram_disk_run(s.disk, 1);
    CHECK_EQ(reg(&s, PORT + P_CI), 0);
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 1);
    tear_down(&s);
}

static void trim_discards_its_ranges(void)
{
    struct command c = {
        .code = 0x06, .features = 1, .count = 1, .device = 0x40, .data = A, .len = 512};
    struct setup s;

    set_up(&s, false);
    memset(s.disk->data, 1, 8192);
    store_le64(s.g->ram + A, 2ull << 48 | 4);
    store_le64(s.g->ram + A + 16, 1ull << 48 | 9);
    CHECK_EQ(run(&s, &c), 0x50);
    CHECK_EQ(s.disk->ops[BLOCK_DISCARD], 2);
    CHECK(s.disk->data[4 * 512] == 0 && s.disk->data[9 * 512] == 0 && s.disk->data[6 * 512] == 1);
    store_le64(s.g->ram + A, 2ull << 48 | 0xffffffffffffull);
    CHECK_EQ(run(&s, &c), 0x1051);
    CHECK(reg(&s, PORT + P_IS) & TFES);
    tear_down(&s);
}

static void errors_stop_the_port_until_it_is_started_again(void)
{
    struct command bad = {
        .code = 0x25, .lba = RAM_DISK_BYTES / 512, .count = 1, .device = 0x40, .data = A};
    struct command good = {.slot = 1, .code = 0xe7};
    struct setup s;

    bad.len = 512;
    set_up(&s, false);
    CHECK_EQ(run(&s, &bad), 0x1051);
    CHECK(reg(&s, PORT + P_IS) & TFES);
    CHECK_EQ(reg(&s, PORT + P_CI), 1); // the driver finds the culprit
    run(&s, &good);
    CHECK_EQ(reg(&s, PORT + P_CI), 3);
    restart(&s, 0);
    CHECK_EQ(reg(&s, PORT + P_CI), 0);
    CHECK_EQ(run(&s, &good), 0x50);
    CHECK_EQ(run(&s, &(struct command){.code = 0xf5}), 0x0451);
    restart(&s, 0);
    s.disk->fail = true;
    bad.lba = 0;
    CHECK_EQ(run(&s, &bad), 0x4051);
    tear_down(&s);
}

static void wrong_tables_are_errors_of_the_adapter(void)
{
    struct command c = {.code = 0x25, .count = 8, .device = 0x40, .data = A, .len = 512};
    struct setup s;

    set_up(&s, false);
    run(&s, &c); // the PRDT is too short
    CHECK(reg(&s, PORT + P_IS) & OFS);
    restart(&s, 0);
    c.len = 4096;
    c.data = FAKE_RAM_BYTES - 512;
    run(&s, &c);
    CHECK(reg(&s, PORT + P_IS) & HBFS);
    restart(&s, 0);
    c.data = A;
    prepare(&s, &c);
    store_le64(s.g->ram + LIST + 8, ~0x7full);
    set_reg(&s, PORT + P_CI, 1);
    CHECK(reg(&s, PORT + P_IS) & HBFS);
    restart(&s, 0);
    prepare(&s, &c);
    table(&s, 0)[0] = 0x46;
    set_reg(&s, PORT + P_CI, 1);
    CHECK(reg(&s, PORT + P_IS) & IFS);
    CHECK_EQ(s.disk->ops[BLOCK_READ], 0);
    tear_down(&s);
}

static void commands_that_were_given_up_go_nowhere(void)
{
    struct command c = {.code = 0x25, .count = 1, .device = 0x40, .data = A, .len = 512};
    struct setup s;

    set_up(&s, false);
    issue(&s, &c);
    set_reg(&s, PORT + P_CMD, 1 << 4);
    CHECK(reg(&s, PORT + P_CMD) & 1 << 15); // still running
    ram_disk_run(s.disk, 1);
    CHECK(!(reg(&s, PORT + P_CMD) & 1 << 15));
    CHECK_EQ(reg(&s, PORT + P_IS), 0);
    CHECK_EQ(reg(&s, PORT + P_TFD), 0x50);
    restart(&s, 0);
    CHECK_EQ(run(&s, &c), 0x50);
    tear_down(&s);
}

static void read_only_disk_refuses_writes_and_trim(void)
{
    struct command c = {.code = 0x35, .count = 1, .device = 0x40, .data = A, .len = 512};
    struct setup s;

    set_up(&s, true);
    CHECK_EQ(run(&s, &c), 0x0451);
    restart(&s, 0);
    c.code = 0x06;
    c.features = 1;
    CHECK_EQ(run(&s, &c), 0x0451);
    tear_down(&s);
}

static void smart_says_that_all_is_well(void)
{
    struct command c = {.code = 0xb0, .features = 0xda, .lba = 0xc24f00};
    struct setup s;

    set_up(&s, false);
    CHECK_EQ(run(&s, &c), 0x50);
    CHECK_EQ(s.g->ram[FISES + 0x45], 0x4f);
    CHECK_EQ(s.g->ram[FISES + 0x46], 0xc2);
    c.features = 0xd0;
    c.data = A;
    c.len = 512;
    CHECK_EQ(run(&s, &c), 0x50);
    CHECK_EQ(s.g->ram[A], 16);
    c.lba = 0;
    CHECK_EQ(run(&s, &c), 0x0451);
    tear_down(&s);
}

// --- CD-ROM ---

// Runs a packet; the low byte is the status, the high one the error register.
static uint32_t packet(struct setup *s, const uint8_t *cdb, size_t len, uint32_t bytes)
{
    struct command c = {.port = 1, .code = 0xa0, .features = 1, .data = A, .len = bytes};

    if (reg(s, port_at(1, P_TFD)) & 1)
        restart(s, 1);
    prepare(s, &c);
    memcpy(table(s, 0) + 0x40, cdb, len);
    set_reg(s, port_at(1, P_CI), 1);
    ram_disk_run(s->disk, 100);
    return reg(s, port_at(1, P_TFD));
}

#define PACKET(s, bytes, ...) \
    packet(s, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), bytes)

static uint32_t sense(struct setup *s)
{
    PACKET(s, 18, 0x03, 0, 0, 0, 18);
    return (uint32_t)s->g->ram[A + 2] << 8 | s->g->ram[A + 12];
}

static void cdrom_tells_of_its_power_on_once(void)
{
    struct setup s;

    set_up(&s, false);
    CHECK_EQ(PACKET(&s, 36, 0x12, 0, 0, 0, 36), 0x50); // INQUIRY always works
    CHECK_EQ(s.g->ram[A], 5);
    CHECK(memcmp(s.g->ram + A + 8, "BERTH", 5) == 0);
    CHECK_EQ(PACKET(&s, 0, 0x00), 0x6451);
    CHECK_EQ(sense(&s), 0x629);
    CHECK_EQ(sense(&s), 0);
    CHECK_EQ(PACKET(&s, 0, 0x00), 0x50);
    tear_down(&s);
}

static void cdrom_reads_sectors(void)
{
    struct setup s;

    set_up(&s, false);
    PACKET(&s, 0, 0x00);
    memset(s.disk->data + 2048, 0x11, 2048);
    memset(s.disk->data + 4096, 0x22, 2048);
    CHECK_EQ(PACKET(&s, 8, 0x25), 0x50);
    CHECK_EQ(load_be32(s.g->ram + A), RAM_DISK_BYTES / 2048 - 1);
    CHECK_EQ(load_be32(s.g->ram + A + 4), 2048);
    CHECK_EQ(PACKET(&s, 4096, 0x28, 0, 0, 0, 0, 1, 0, 0, 2), 0x50);
    CHECK_EQ(s.g->ram[A], 0x11);
    CHECK_EQ(s.g->ram[A + 4095], 0x22);
    CHECK_EQ(load_le32(s.g->ram + LIST + 0x400 + 4), 4096);
    CHECK_EQ(PACKET(&s, 2048, 0xa8, 0, 0, 0, 0, 2, 0, 0, 0, 1), 0x50);
    CHECK_EQ(s.g->ram[A], 0x22);
    CHECK_EQ(PACKET(&s, 2048, 0xbe, 0, 0, 0, 0, 1, 0, 0, 1, 0x10), 0x50);
    CHECK_EQ(s.g->ram[A], 0x11);
    CHECK_EQ(PACKET(&s, 2048, 0x28, 0, 0, 0, 2, 0, 0, 0, 1), 0x5451);
    CHECK_EQ(sense(&s), 0x521);
    s.disk->fail = true;
    CHECK_EQ(PACKET(&s, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0x3451);
    tear_down(&s);
}

static void cdrom_describes_its_disc(void)
{
    struct setup s;

    set_up(&s, false);
    PACKET(&s, 0, 0x00);
    CHECK_EQ(PACKET(&s, 20, 0x43, 0, 0, 0, 0, 0, 0, 0, 20), 0x50);
    CHECK_EQ(load_be16(s.g->ram + A), 18);
    CHECK_EQ(s.g->ram[A + 14], 0xaa);
    CHECK_EQ(load_be32(s.g->ram + A + 16), RAM_DISK_BYTES / 2048);
    CHECK_EQ(PACKET(&s, 256, 0x46, 0, 0, 0, 0, 0, 0, 1, 0), 0x50);
    CHECK_EQ(load_be16(s.g->ram + A + 6), 8); // CD-ROM
    CHECK_EQ(PACKET(&s, 256, 0x5a, 0, 0x2a, 0, 0, 0, 0, 1, 0), 0x50);
    CHECK_EQ(s.g->ram[A + 8], 0x2a);
    CHECK_EQ(PACKET(&s, 256, 0x5a, 0, 0x15, 0, 0, 0, 0, 1, 0), 0x5451);
    CHECK_EQ(PACKET(&s, 34, 0x51, 0, 0, 0, 0, 0, 0, 0, 34), 0x50);
    CHECK_EQ(PACKET(&s, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0x50);
    CHECK_EQ(s.g->ram[A + 5], 2); // a disc is in
    tear_down(&s);
}

static void cdrom_ejects_unless_locked_and_notices_a_new_disc(void)
{
    struct ram_disk *other = ram_disk_new(true);
    struct setup s;

    set_up(&s, false);
    PACKET(&s, 0, 0x00);
    CHECK_EQ(PACKET(&s, 0, 0x1e, 0, 0, 0, 1), 0x50);
    CHECK_EQ(PACKET(&s, 0, 0x1b, 0, 0, 0, 2), 0x5451);
    CHECK_EQ(sense(&s), 0x553);
    CHECK(!ahci_set_disc(s.dev, 1, NULL));
    CHECK_EQ(PACKET(&s, 0, 0x1e, 0, 0, 0, 0), 0x50);
    CHECK_EQ(PACKET(&s, 0, 0x1b, 0, 0, 0, 2), 0x50);
    CHECK_EQ(PACKET(&s, 0, 0x00), 0x2451);
    CHECK_EQ(sense(&s), 0x23a);
    other->data[5] = 0x5a;
    CHECK(ahci_set_disc(s.dev, 1, &other->block));
    CHECK(!ahci_set_disc(s.dev, 0, NULL)); // a disk
    CHECK_EQ(PACKET(&s, 0, 0x00), 0x6451);
    CHECK_EQ(sense(&s), 0x628);
    PACKET(&s, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
    CHECK_EQ(s.g->ram[A + 4], 2); // new media
    prepare(&s, &(struct command){.port = 1, .code = 0xa0, .data = A, .len = 2048});
    memcpy(table(&s, 0) + 0x40, (uint8_t[]){0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 9);
    set_reg(&s, port_at(1, P_CI), 1);
    ram_disk_run(other, 1);
    CHECK_EQ(s.g->ram[A + 5], 0x5a);
    CHECK(ahci_set_disc(s.dev, 1, NULL));
    CHECK_EQ(PACKET(&s, 0, 0x1e, 0, 0, 0, 0), 0x6451);
    CHECK_EQ(PACKET(&s, 8, 0x25), 0x2451);
    tear_down(&s);
    free(other);
}

static void cdrom_is_no_disk(void)
{
    struct command c = {.port = 1, .code = 0xec, .data = A, .len = 512};
    struct setup s;

    set_up(&s, false);
    CHECK_EQ(run(&s, &c), 0x0451);
    CHECK_EQ(s.g->ram[FISES + 0x145], 0x14);
    restart(&s, 1);
    c.code = 0xa1;
    CHECK_EQ(run(&s, &c), 0x50);
    CHECK_EQ(load_le16(s.g->ram + A), 0x85c0);
    tear_down(&s);
}

static void ahci_survives_a_move(void)
{
    struct fake_guest *to = fake_guest_new();
    struct device *copy;
    struct setup s;

    set_up(&s, false);
    PACKET(&s, 0, 0x00);
    PACKET(&s, 0, 0x1b, 0, 0, 0, 2); // the tray is open
    run(&s, &(struct command){.code = 0xef, .features = 0x82});
    copy = fake_migrate(to, s.dev, &s.config);
    struct setup moved = {to, copy, s.disk, s.config};
    CHECK_EQ(PACKET(&moved, 0, 0x00), 0x2451);
    run(&moved, &(struct command){.code = 0x35, .count = 1, .device = 0x40, .data = A, .len = 512});
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 1); // without write cache
    fake_device_free(copy);
    fake_guest_free(to);
    tear_down(&s);
}

TEST_MAIN(TEST(ahci_says_what_it_is_and_has),
          TEST(ahci_raises_its_pin_until_both_status_registers_are_clear),
          TEST(ahci_sends_a_message_for_each_new_cause),
          TEST(ahci_reset_waits_for_what_is_in_flight), TEST(port_reset_brings_the_link_up_again),
          TEST(soft_reset_ends_with_a_signature), TEST(identify_describes_the_disk),
          TEST(disk_reads_and_writes_in_every_form),
          TEST(old_addresses_are_cylinder_head_and_sector), TEST(queued_commands_end_in_any_order),
          TEST(reads_of_what_is_in_memory_end_at_once),
          TEST(a_failed_queued_command_is_found_in_the_log),
          TEST(write_cache_off_makes_every_write_last), TEST(trim_discards_its_ranges),
          TEST(errors_stop_the_port_until_it_is_started_again),
          TEST(wrong_tables_are_errors_of_the_adapter),
          TEST(commands_that_were_given_up_go_nowhere),
          TEST(read_only_disk_refuses_writes_and_trim), TEST(smart_says_that_all_is_well),
          TEST(cdrom_tells_of_its_power_on_once), TEST(cdrom_reads_sectors),
          TEST(cdrom_describes_its_disc), TEST(cdrom_ejects_unless_locked_and_notices_a_new_disc),
          TEST(cdrom_is_no_disk), TEST(ahci_survives_a_move))
