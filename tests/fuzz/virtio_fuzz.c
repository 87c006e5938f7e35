// Drives the virtio models as a hostile guest would: any configuration, any registers, rings and
// descriptors of every shape, completions at any time. Nothing may crash, touch anything outside
// RAM or go on for ever, and every state that can be reached can be saved and loaded.
//
// The input is a list of actions with their operands.
#include <stdlib.h>
#include <string.h>

#include "../unit/device/fake_driver.h"
#include "base/bytes.h"
#include "device/storage/virtio_blk.h"
#include "device/virtio/balloon.h"
#include "device/virtio/console.h"
#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "device/virtio/virtio_pci.h"
#include "input.h"
#include "standalone.h"

#define DISK_BYTES (1 * MIB)
#define DATA 0x80000ull

// --- Back ends ---

struct back_end {
    struct block block;
    struct block_request *queued;
    bool cached; // reads are answered at once
};

static void transfer(const struct block_request *r)
{
    if (r->op <= BLOCK_WRITE && (r->offset > DISK_BYTES || r->len > DISK_BYTES - r->offset))
        abort();
    for (unsigned i = 0; i < r->iovs; i++) // touch all of it, as a transfer would
        memset(r->iov[i].iov_base, r->op == BLOCK_READ ? 0x5a : ((uint8_t *)r->iov[i].iov_base)[0],
               r->iov[i].iov_len);
}

static void submit(struct block *block, struct block_request *r)
{
    struct back_end *b = container_of(block, struct back_end, block);

    transfer(r);
    r->next = b->queued;
    b->queued = r;
}

static bool at_once(struct block *block, const struct block_request *r, err_t *result)
{
    if (!container_of(block, struct back_end, block)->cached || r->op > BLOCK_WRITE)
        return false;
    transfer(r);
    *result = r->offset & 0x400 ? OK : ERR_IO;
    return true;
}

static void complete(struct back_end *b, unsigned most)
{
    for (; b->queued && most; most--) {
        struct block_request *r = b->queued;
        b->queued = r->next;
        r->done(r, most % 3 ? OK : ERR_IO);
    }
}

static const struct block_type block_type = {.name = "fuzz", .submit = submit, .at_once = at_once};

static void fill(void *opaque, void *data, size_t len)
{
    memset(data, 1, len);
}

static size_t take_output(void *opaque, unsigned port, const uint8_t *data, size_t len)
{
    return len / 2 + (len & 1); // half of it, so that chains stay in hand
}

static void take_segment(void *opaque, uint8_t *packet, size_t len)
{
    if (len > NET_PACKET_MAX || net_packet_needs(packet) & ~*(unsigned *)opaque)
        abort();
}

// What the card lets through can be lowered to what any receiver takes.
static bool take_packet(void *opaque, uint8_t *packet, size_t len)
{
    static uint8_t scratch[NET_PACKET_MAX];
    unsigned takes = packet[len - 1] & NET_TAKES_ALL;

    if (!net_packet_valid(packet, len, NET_TAKES_ALL))
        abort();
    net_packet_lower(packet, len, takes, scratch, take_segment, &takes);
    return packet[len - 1] & 8;
}

// As the machine does: what is not RAM is nobody's.
static void give_back(void *opaque, gpa_t at, uint64_t len)
{
    struct fake_guest *g = opaque;
    if (at % PAGE_SIZE || len % PAGE_SIZE || !len)
        abort();
    if (at < FAKE_RAM_BYTES && len <= FAKE_RAM_BYTES - at)
        memset(g->ram + at, 0, len);
}

// --- Actions ---

struct fuzz {
    struct fake_driver d;
    struct back_end back_end;
    struct input in;
    unsigned queues;
};

static union {
    struct virtio_rng_config rng;
    struct virtio_console_config console;
    struct virtio_blk_config blk;
    struct nic_config net;
    struct virtio_balloon_config balloon;
} configs[6];

static const struct device_type *choose(struct fuzz *f, unsigned which, const void **config,
                                        unsigned *queues)
{
    memset(configs, 0, sizeof configs);
    *config = &configs[which];
    *queues = 1;
    switch (which) {
    case 0:
        configs[0].rng = (struct virtio_rng_config){fill, NULL, 100000};
        return &virtio_rng_type;
    case 1:
        configs[1].console = (struct virtio_console_config){.ports = 1, .write = take_output};
        *queues = 2;
        return &virtio_console_type;
    case 2:
        configs[2].console = (struct virtio_console_config){
            .ports = 3, .names = {"", "a", "b"}, .write = take_output};
        *queues = 8;
        return &virtio_console_type;
    case 3:
        configs[3].net = (struct nic_config){.mtu = 1500, .pairs = 2, .send = take_packet};
        *queues = 5;
        return &virtio_net_type;
    case 4:
        configs[4].balloon =
            (struct virtio_balloon_config){FAKE_RAM_BYTES >> PAGE_SHIFT, give_back, f->d.g};
        *queues = 5;
        return &virtio_balloon_type;
    default:
        f->back_end.block.type = &block_type;
        f->back_end.cached = take(&f->in, 1) & 1;
        f->back_end.block.limits = (struct block_limits){DISK_BYTES, 512, 512, false, true, true};
        configs[5].blk = (struct virtio_blk_config){.block = &f->back_end.block, .queues = 2};
        *queues = 2;
        return &virtio_blk_type;
    }
}

// A chain that is nearly right, with what a disk or console request begins with in its first
// buffer.
static void put_chain(struct fuzz *f)
{
    struct fake_buffer b[8];
    unsigned queue = (unsigned)take(&f->in, 1) % f->queues, n = 1 + (unsigned)take(&f->in, 1) % 8;
    unsigned readable = (unsigned)take(&f->in, 1) % (n + 1);
    uint8_t *header = f->d.g->ram + DATA;

    store_le32(header, (uint32_t)take(&f->in, 1) % 16);
    store_le16(header + 4, (uint16_t)take(&f->in, 1) % 9);
    store_le16(header + 6, 1);
    store_le64(header + 8, take(&f->in, 2));
    for (unsigned i = 0; i < n; i++) {
        unsigned shape = (unsigned)take(&f->in, 1);
        b[i] = (struct fake_buffer){DATA + 0x1000 * i, 512, i >= readable};
        if (i == 0)
            b[i].len = 16;
        else if (shape < 64)
            b[i].len = shape;
        else if (shape == 255)
            b[i].at = take(&f->in, 8);
    }
    fake_put(&f->d, queue, b, n, take(&f->in, 1) & 1);
    fake_kick(&f->d, queue);
}

static void scribble(struct fuzz *f)
{
    gpa_t at = 0x10000 + take(&f->in, 3) % 0x40000;

    store_le16(f->d.g->ram + at, (uint16_t)take(&f->in, 2));
}

static void touch_bar(struct fuzz *f)
{
    static const unsigned sizes[] = {1, 2, 4};
    unsigned size = sizes[take(&f->in, 1) % 3];
    uint64_t at = FAKE_BAR + (take(&f->in, 1) % 4) * 0x1000 + take(&f->in, 1) % 0x40;

    (void)fake_read(f->d.g, false, at, size);
    fake_write(f->d.g, false, at, size, take(&f->in, 4));
}

static void touch_config(struct fuzz *f)
{
    struct pci_function *pci = pci_function_of(f->d.dev);
    unsigned offset = (unsigned)take(&f->in, 1), size = 1u << take(&f->in, 1) % 3;

    (void)pci_config_read(pci, offset, size);
    pci_config_write(pci, offset, size, (uint32_t)take(&f->in, 4));
}

static void touch_msix(struct fuzz *f)
{
    fake_write(f->d.g, false, FAKE_MSIX + take(&f->in, 1) * 4, 4, take(&f->in, 4));
}

static void back_end_moves(struct fuzz *f)
{
    static const uint8_t text[2048];
    static uint8_t packet[3072];
    unsigned n = (unsigned)take(&f->in, 1);

    complete(&f->back_end, n % 8);
    if (f->d.dev->type == &virtio_console_type) {
        virtio_console_input(f->d.dev, n % 5, text, n % 100);
        virtio_console_writable(f->d.dev, n % 5);
        virtio_console_connect(f->d.dev, n % 5, n & 1);
    }
    memset(packet, 0, sizeof packet);
    for (unsigned i = 0; i < 80; i++)
        packet[i] = (uint8_t)take(&f->in, 1);
    if (f->d.dev->type == &virtio_net_type && net_packet_valid(packet, 12 * n, NET_TAKES_ALL))
        virtio_nic.receive(f->d.dev, packet, 12 * n);
    if (f->d.dev->type == &virtio_net_type)
        virtio_nic.go_on(f->d.dev);
    if (f->d.dev->type == &virtio_balloon_type) {
        struct balloon_view view;
        virtio_balloon_set_target(f->d.dev, n);
        virtio_balloon_look(f->d.dev, &view);
    }
    fake_pass_time(f->d.g, f->d.dev, n * NS_PER_MS);
}

static void start(struct fuzz *f)
{
    uint64_t features = take(&f->in, 8) | (uint64_t)(take(&f->in, 1) & 4) << VIRTIO_F_VERSION_1;

    fake_driver_start(&f->d, f->d.g, f->d.dev, features, f->queues, take(&f->in, 1) & 1);
}

static void act(struct fuzz *f)
{
    switch (take(&f->in, 1) % 16) {
    case 0: touch_bar(f); break;
    case 1: touch_config(f); break;
    case 2: touch_msix(f); break;
    case 3:
    case 4: scribble(f); break;
    case 5: fake_kick(&f->d, (unsigned)take(&f->in, 1)); break;
    case 6:
    case 7: back_end_moves(f); break;
    case 8: start(f); break;
    default: put_chain(f); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz f = {.in = {data, data + size}};
    struct fake_guest *g = fake_guest_new(), *other = fake_guest_new();
    const void *config;
    f.d.g = g;
    const struct device_type *type = choose(&f, (unsigned)take(&f.in, 1) % 6, &config, &f.queues);
    struct device *dev = fake_device(g, type, config);

    f.d.dev = dev;
    start(&f);
    while (input_left(&f.in))
        act(&f);
    while (f.back_end.queued)
        complete(&f.back_end, 8);
    fake_device_free(fake_migrate(other, dev, config));
    fake_device_free(dev);
    fake_guest_free(other);
    fake_guest_free(g);
    return 0;
}
