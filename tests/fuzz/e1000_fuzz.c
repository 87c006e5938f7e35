// Drives the 82540EM as a hostile guest and a hostile network would: registers, descriptors and
// packets of every shape. Nothing may crash, touch anything outside RAM or go on for ever; packets
// that come out are right; every state that can be reached can be saved and loaded, and a damaged
// one is refused or works.
//
// The input is a list of actions with their operands.
#include <stdlib.h>
#include <string.h>

#include "../unit/device/fake_guest.h"
#include "base/bytes.h"
#include "device/net/e1000.h"
#include "input.h"
#include "standalone.h"

#define BAR 0xd0000000ull
#define RINGS 0x10000ull // two, of 256 descriptors at most
#define DATA 0x40000ull

struct fuzz {
    struct input in;
    struct fake_guest *g;
    struct device *dev;
};

static bool full; // the network

static void take_segment(void *opaque, uint8_t *packet, size_t len)
{
    if (!net_packet_valid(packet, len, *(unsigned *)opaque))
        abort();
}

static bool take_packet(void *opaque, uint8_t *packet, size_t len)
{
    static uint8_t scratch[NET_PACKET_MAX];
    unsigned takes = packet[len - 1] & NET_TAKES_ALL;

    if (full)
        return false;
    if (!net_packet_valid(packet, len, NET_TAKES_ALL))
        abort();
    net_packet_lower(packet, len, takes, scratch, take_segment, &takes);
    return true;
}

static const struct nic_config config = {.mac = {0x52, 0x54, 0, 1, 2, 3}, .send = take_packet};

static void write_reg(struct fuzz *f, unsigned at, uint32_t value)
{
    fake_write(f->g, false, BAR + at, 4, value);
}

static void enable(struct fuzz *f)
{
    struct pci_function *pci = pci_function_of(f->dev);

    pci_config_write(pci, PCI_BAR0, 4, BAR);
    pci_config_write(pci, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    write_reg(f, 0x3800, RINGS);
    write_reg(f, 0x3808, 256 * 16);
    write_reg(f, 0x2800, RINGS + 0x1000);
    write_reg(f, 0x2808, 128 * 16);
    write_reg(f, 0x400, 2);
    write_reg(f, 0x100, 0x802a | (uint32_t)take(&f->in, 4));
    write_reg(f, 0, 0x40 | (uint32_t)(take(&f->in, 1) & 1) << 30);
}

// Descriptors that are nearly right.
static void put(struct fuzz *f)
{
    unsigned shape = (unsigned)take(&f->in, 1), slot = shape % 128;
    bool receive = shape & 0x80;
    uint8_t *d = f->g->ram + RINGS + (receive ? 0x1000 : 0) + 16 * slot;

    for (unsigned i = 0; i < 16; i += 8)
        store_le64(d + i, take(&f->in, 8));
    if (shape & 0x40) {
        store_le64(d, DATA + (take(&f->in, 2) & 0xfff));
        d[10] &= 0x10;
    }
    write_reg(f, receive ? 0x2818 : 0x3818, (uint32_t)take(&f->in, 1) % 128);
}

static void arrive(struct fuzz *f)
{
    static uint8_t packet[NET_PACKET_MAX];
    size_t len = 26 + take(&f->in, 2) % 5000;

    memset(packet, 0x45, len);
    for (unsigned i = 0; i < 80; i++)
        packet[i] = (uint8_t)take(&f->in, 1);
    if (take(&f->in, 1) & 1)
        memset(packet + NET_HEADER_BYTES, 0xff, 6);
    if (net_packet_valid(packet, len, NET_TAKES_ALL))
        e1000_nic.receive(f->dev, packet, len);
}

static void touch_register(struct fuzz *f)
{
    static const uint16_t bases[] = {0, 0x100, 0x400, 0x2800, 0x3800, 0x4000, 0x5200, 0x5400};
    unsigned at =
        (bases[take(&f->in, 1) % ARRAY_LEN(bases)] + (unsigned)take(&f->in, 1) * 4u) & 0x1fffc;

    (void)fake_read(f->g, false, BAR + at, 1u << take(&f->in, 1) % 3);
    write_reg(f, at, (uint32_t)take(&f->in, 4));
}

static void touch_config(struct fuzz *f)
{
    struct pci_function *pci = pci_function_of(f->dev);

    pci_config_write(pci, (unsigned)take(&f->in, 1), 1u << take(&f->in, 1) % 3,
                     (uint32_t)take(&f->in, 4));
    if (take(&f->in, 1) & 3)
        enable(f);
}

static void reload(struct fuzz *f)
{
    struct fake_guest *other = fake_guest_new();
    struct device *copy = fake_migrate(other, f->dev, &config);

    fake_device_free(f->dev);
    fake_guest_free(f->g);
    f->dev = copy;
    f->g = other;
}

static void load_damaged(struct fuzz *f)
{
    struct buffer stream = BUFFER_EMPTY;
    struct error e = {0};

    state_save(f->dev->type->state, f->dev, &stream);
    for (unsigned i = 0; i < 4; i++)
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
    case 3:
    case 4: arrive(f); break;
    case 5: fake_pass_time(f->g, f->dev, take(&f->in, 2) * 1000); break;
    case 6:
        full = take(&f->in, 1) & 1;
        e1000_nic.go_on(f->dev);
        break;
    case 7: e1000_nic.set_link(f->dev, take(&f->in, 1) & 1); break;
    case 8:
        if (take(&f->in, 1) % 8 == 0)
            reload(f);
        break;
    case 9:
        if (take(&f->in, 1) % 8 == 0)
            load_damaged(f);
        break;
    default: put(f); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz f = {{data, data + size}, fake_guest_new(), NULL};

    full = false;
    f.dev = fake_device(f.g, &e1000_type, &config);
    enable(&f);
    while (input_left(&f.in))
        act(&f);
    reload(&f);
    fake_device_free(f.dev);
    fake_guest_free(f.g);
    return 0;
}
