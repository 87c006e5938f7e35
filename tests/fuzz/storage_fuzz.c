// Drives the AHCI adapter and the NVMe controller as a hostile guest would: any registers, command
// tables and queue entries of every shape, completions at any time. Nothing may crash, touch
// anything outside RAM or go on for ever, and every state that can be reached can be saved and
// loaded; a damaged one is refused or works.
//
// The input is a list of actions with their operands.
#include <stdlib.h>
#include <string.h>

#include "../unit/device/fake_guest.h"
#include "../unit/device/ram_disk.h"
#include "base/bytes.h"
#include "device/storage/ahci.h"
#include "device/storage/nvme.h"
#include "input.h"
#include "standalone.h"

#define BAR 0x8000000000ull
#define BAR32 0xd0000000ull
#define STRUCTURES 0x10000ull // lists, tables, queues and their like: 64 KiB
#define DATA 0x40000ull
#define ROUNDS_MAX 4096 // completions that one action may lead to

struct fuzz {
    struct input in;
    struct fake_guest *g;
    struct device *dev;
    struct ram_disk *disk;
    bool nvme;
    uint64_t bar;
    const void *config;
};

static struct ahci_config ahci_config;
static struct nvme_config nvme_config;

// --- Set-up ---

static void enable(struct fuzz *f)
{
    struct pci_function *pci = pci_function_of(f->dev);

    pci_config_write(pci, PCI_BAR0 + 4, 4, f->nvme ? BAR >> 32 : 0);
    pci_config_write(pci, PCI_BAR0 + 16, 4, f->nvme ? BAR32 : 0);
    pci_config_write(pci, PCI_BAR0 + 20, 4, f->nvme ? 0 : BAR32);
    pci_config_write(pci, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void build(struct fuzz *f)
{
    uint8_t how = (uint8_t)take(&f->in, 1);

    f->nvme = how & 1;
    f->bar = f->nvme ? BAR : BAR32;
    f->disk = ram_disk_new(how & 2);
    f->disk->cached = how & 8;
    f->g = fake_guest_new();
    ahci_config = (struct ahci_config){.drives = 2};
    ahci_config.drive[0] = (struct ahci_drive_config){.block = &f->disk->block};
    ahci_config.drive[1] =
        (struct ahci_drive_config){.block = how & 4 ? NULL : &f->disk->block, .cdrom = true};
    nvme_config = (struct nvme_config){.block = &f->disk->block, .serial = "fuzz"};
    f->config = f->nvme ? (const void *)&nvme_config : (const void *)&ahci_config;
    f->dev = fake_device(f->g, f->nvme ? &nvme_type : &ahci_type, f->config);
    enable(f);
}

static void write_reg(struct fuzz *f, unsigned at, uint64_t value)
{
    fake_write(f->g, false, f->bar + at, 4, value);
}

// As a driver would leave the device.
static void start(struct fuzz *f)
{
    if (f->nvme) {
        write_reg(f, 0x14, 0);
        write_reg(f, 0x24, 0x000f000f);
        write_reg(f, 0x28, STRUCTURES);
        write_reg(f, 0x30, STRUCTURES + 0x1000);
        write_reg(f, 0x14, 0x00460001);
        return;
    }
    write_reg(f, 0x04, 0x80000002);
    for (unsigned i = 0; i < 2; i++) {
        unsigned port = 0x100 + 0x80 * i;
        write_reg(f, port + 0x18, 0);
        write_reg(f, port, STRUCTURES);
        write_reg(f, port + 0x08, STRUCTURES + 0x1000);
        write_reg(f, port + 0x14, ~0u);
        write_reg(f, port + 0x18, 0x11);
    }
}

// --- Commands that are nearly right ---

static uint64_t address(struct fuzz *f)
{
    unsigned shape = (unsigned)take(&f->in, 1);

    if (shape == 255)
        return take(&f->in, 8);
    return DATA + 0x1000 * (uint64_t)(shape % 64) + (shape & 64 ? 8 * take(&f->in, 1) : 0);
}

static void put_ahci(struct fuzz *f)
{
    static const uint8_t codes[] = {0x60, 0x61, 0x25, 0x35, 0x20, 0x30, 0x06, 0xec,
                                    0xa0, 0xa1, 0xef, 0xb0, 0x2f, 0xea, 0xc5, 0x40};
    unsigned port = take(&f->in, 1) & 1, slot = take(&f->in, 1) & 31;
    unsigned code = (unsigned)take(&f->in, 1), prds = 1 + (take(&f->in, 1) & 7);
    uint8_t *header = f->g->ram + STRUCTURES + 32 * slot;
    gpa_t at = STRUCTURES + 0x2000 + 0x200 * slot;
    uint8_t *table = f->g->ram + at;

    store_le32(header, 5 | prds << 16);
    store_le64(header + 8, at);
    table[0] = 0x27;
    table[1] = code == 255 ? 0 : 0x80;
    table[2] = code < 192 ? codes[code % 16] : (uint8_t)code;
    table[3] = (uint8_t)take(&f->in, 1);
    store_le32(table + 4, (uint32_t)take(&f->in, 2) | 0x40000000);
    store_le32(table + 12, (uint32_t)take(&f->in, 2));
    store_le64(table + 0x40, take(&f->in, 8));
    store_le32(table + 0x48, (uint32_t)take(&f->in, 2));
    for (unsigned i = 0; i < prds; i++) {
        store_le64(table + 0x80 + 16 * (size_t)i, address(f));
        store_le32(table + 0x8c + 16 * (size_t)i, (uint32_t)take(&f->in, 2));
    }
    write_reg(f, 0x134 + 0x80 * port, take(&f->in, 1) & 1 ? 1u << slot : 0);
    write_reg(f, 0x138 + 0x80 * port, 1u << slot);
}

// Admin commands make queues 1 and 2; entries go into either kind.
static void put_nvme(struct fuzz *f)
{
    static const uint8_t codes[] = {5, 1, 6, 2, 9, 10, 0x0c, 0, 4, 8, 2, 1, 9, 8, 0, 0x7f};
    unsigned queue = take(&f->in, 1) % 3, slot = take(&f->in, 1) & 15;
    unsigned shape = (unsigned)take(&f->in, 1);
    uint8_t *e = f->g->ram + STRUCTURES + 0x2000 * queue + 64 * slot;

    memset(e, 0, 64);
    e[0] = codes[shape & 15];
    e[1] = shape > 250 ? 0x40 : 0;
    store_le32(e + 4, shape & 16 ? 0 : 1);
    store_le64(e + 24, address(f));
    store_le64(e + 32, address(f));
    store_le32(e + 40, (uint32_t)take(&f->in, 2));
    store_le32(e + 48, (uint32_t)take(&f->in, 2));
    store_le32(e + 44, (uint32_t)take(&f->in, 1));
    if (queue == 0 && e[0] && (e[0] == 5 || e[0] == 1)) {
        unsigned id = 1 + (shape >> 5 & 1);
        store_le64(e + 24, STRUCTURES + 0x2000 * id + (e[0] == 5 ? 0x1000 : 0));
        store_le32(e + 40, 15 << 16 | id);
        store_le32(e + 44, id << 16 | 3);
    }
    write_reg(f, 0x1000 + 8 * queue, (slot + 1) & 15);
    write_reg(f, 0x1004 + 8 * queue, take(&f->in, 1) & 15);
}

// --- Other actions ---

static void scribble(struct fuzz *f)
{
    gpa_t at = STRUCTURES + take(&f->in, 2);

    store_le16(f->g->ram + at, (uint16_t)take(&f->in, 2));
}

static void touch_register(struct fuzz *f)
{
    uint64_t at = f->bar + 4 * (take(&f->in, 1) & 0xff);

    if (take(&f->in, 1) & 1)
        at += f->nvme ? 0x1000 : 0x100;
    (void)fake_read(f->g, false, at, 4);
    fake_write(f->g, false, at, 4, take(&f->in, 4));
}

static void touch_config(struct fuzz *f)
{
    struct pci_function *pci = pci_function_of(f->dev);
    unsigned offset = (unsigned)take(&f->in, 1), size = 1u << take(&f->in, 1) % 3;

    (void)pci_config_read(pci, offset, size);
    pci_config_write(pci, offset, size, (uint32_t)take(&f->in, 4));
    if (take(&f->in, 1) & 3)
        enable(f);
}

static void complete(struct fuzz *f)
{
    unsigned how = (unsigned)take(&f->in, 1);

    f->disk->fail = how > 240;
    ram_disk_run(f->disk, how % 8);
    if (!f->nvme && how == 7 && !f->disk->queued)
        ahci_set_disc(f->dev, 1, take(&f->in, 1) & 1 ? &f->disk->block : NULL);
}

static void drain(struct fuzz *f)
{
    f->disk->fail = false;
    for (unsigned i = 0; f->disk->queued; i++) {
        require(i < ROUNDS_MAX);
        ram_disk_run(f->disk, 64);
    }
}

static void reload(struct fuzz *f)
{
    struct fake_guest *other = fake_guest_new();
    struct device *copy;

    drain(f);
    // A disc that was changed is not part of the configuration.
    if (!f->nvme)
        ahci_set_disc(f->dev, 1, ahci_config.drive[1].block);
    copy = fake_migrate(other, f->dev, f->config);
    fake_device_free(f->dev);
    fake_guest_free(f->g);
    f->dev = copy;
    f->g = other;
}

static void load_damaged(struct fuzz *f)
{
    struct buffer stream = BUFFER_EMPTY;
    struct error e = {0};
    unsigned times = 1 + (take(&f->in, 1) & 7);

    drain(f);
    state_save(f->dev->type->state, f->dev, &stream);
    for (unsigned i = 0; i < times; i++)
        stream.data[take(&f->in, 2) % stream.len] ^= (uint8_t)take(&f->in, 1);
    if (state_load(f->dev->type->state, f->dev, stream.data, stream.len, &e) != OK ||
        f->dev->type->loaded(f->dev, &e) != OK) {
        f->dev->type->reset(f->dev);
        enable(f);
    }
    buffer_release(&stream);
}

static void act(struct fuzz *f)
{
    switch (take(&f->in, 1) % 16) {
    case 0: touch_register(f); break;
    case 1: touch_config(f); break;
    case 2:
    case 3: scribble(f); break;
    case 4:
    case 5:
    case 6: complete(f); break;
    case 7: start(f); break;
    case 8:
        if (take(&f->in, 1) % 8 == 0)
            reload(f);
        break;
    case 9:
        if (take(&f->in, 1) % 8 == 0)
            load_damaged(f);
        break;
    default: (f->nvme ? put_nvme : put_ahci)(f); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz f = {.in = {data, data + size}};

    build(&f);
    start(&f);
    while (input_left(&f.in))
        act(&f);
    reload(&f);
    fake_device_free(f.dev);
    fake_guest_free(f.g);
    free(f.disk);
    return 0;
}
