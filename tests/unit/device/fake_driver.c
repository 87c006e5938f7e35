// See fake_driver.h. Offsets are those of VIRTIO 1.2, 4.1.4.3.
#include "fake_driver.h"

#include <string.h>

#include "base/bytes.h"
#include "device/virtio/queue.h"

#define QUEUE_AREA 0x10000ull // the queues' memory: 0x4000 each
#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4

static bool packed(const struct fake_driver *d)
{
    return d->features >> VIRTIO_F_RING_PACKED & 1;
}

uint64_t fake_common(struct fake_driver *d, unsigned offset, unsigned size)
{
    return fake_read(d->g, false, FAKE_BAR + offset, size);
}

void fake_set_common(struct fake_driver *d, unsigned offset, unsigned size, uint64_t value)
{
    fake_write(d->g, false, FAKE_BAR + offset, size, value);
}

uint64_t fake_offered(struct fake_driver *d)
{
    uint64_t low;

    fake_set_common(d, 0x00, 4, 0);
    low = fake_common(d, 0x04, 4);
    fake_set_common(d, 0x00, 4, 1);
    return low | fake_common(d, 0x04, 4) << 32;
}

static void set_64(struct fake_driver *d, unsigned offset, uint64_t value)
{
    fake_set_common(d, offset, 4, (uint32_t)value);
    fake_set_common(d, offset + 4, 4, value >> 32);
}

void fake_setup_queue(struct fake_driver *d, unsigned queue, uint16_t size)
{
    gpa_t base = QUEUE_AREA + 0x4000ull * queue;
    struct fake_queue *q = &d->q[queue];

    *q = (struct fake_queue){.desc = base,
                             .avail = base + 0x1000,
                             .used = base + 0x2000,
                             .indirect = base + 0x3000,
                             .size = size,
                             .next_wrap = true,
                             .seen_wrap = true};
    memset(d->g->ram + base, 0, 0x4000);
    fake_set_common(d, 0x16, 2, queue);
    fake_set_common(d, 0x18, 2, size);
    fake_set_common(d, 0x1a, 2, queue + 1);
    set_64(d, 0x20, q->desc);
    set_64(d, 0x28, q->avail);
    set_64(d, 0x30, q->used);
    fake_set_common(d, 0x1c, 2, 1);
}

static void unmask_vectors(struct fake_driver *d)
{
    unsigned vectors = pci_function_of(d->dev)->msix_vectors;

    for (unsigned i = 0; i < vectors; i++) {
        fake_write(d->g, false, FAKE_MSIX + 16 * i, 8, 0xfee00000);
        fake_write(d->g, false, FAKE_MSIX + 16 * i + 8, 8, 0x40 + i);
    }
}

void fake_driver_enable(struct fake_driver *d, struct fake_guest *g, struct device *dev, bool msix)
{
    struct pci_function *f = pci_function_of(dev);

    *d = (struct fake_driver){.g = g, .dev = dev};
    pci_config_write(f, PCI_BAR0, 4, (uint32_t)FAKE_BAR);
    pci_config_write(f, PCI_BAR0 + 4, 4, FAKE_BAR >> 32);
    pci_config_write(f, PCI_BAR0 + 8, 4, FAKE_MSIX);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    if (!msix)
        return;
    pci_config_write(f, f->msix_cap + PCI_MSIX_CONTROL, 2, PCI_MSIX_ENABLE);
    unmask_vectors(d);
}

void fake_driver_start(struct fake_driver *d, struct fake_guest *g, struct device *dev,
                       uint64_t features, unsigned queues, bool msix)
{
    fake_driver_enable(d, g, dev, msix);
    fake_set_common(d, 0x14, 1, 0);
    fake_set_common(d, 0x14, 1, 3);
    d->features = fake_offered(d) & (features | 1ull << VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        fake_set_common(d, 0x08, 4, i);
        fake_set_common(d, 0x0c, 4, (uint32_t)(d->features >> (32 * i)));
    }
    fake_set_common(d, 0x14, 1, 0xb);
    fake_set_common(d, 0x10, 2, 0);
    for (unsigned i = 0; i < queues; i++)
        fake_setup_queue(d, i, FAKE_QUEUE_SIZE);
    fake_set_common(d, 0x14, 1, 0xf);
}

static void write_desc(struct fake_driver *d, gpa_t at, const struct fake_buffer *b, uint16_t a,
                       uint16_t last)
{
    store_le64(d->g->ram + at, b->at);
    store_le32(d->g->ram + at + 8, b->len);
    store_le16(d->g->ram + at + 12, a);
    store_le16(d->g->ram + at + 14, last);
}

// The table's entries are chained by index in the split format and in order in the packed one.
static struct fake_buffer write_table(struct fake_driver *d, struct fake_queue *q,
                                      const struct fake_buffer *buffers, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = buffers[i].write ? DESC_WRITE : 0;
        uint16_t next = 0;
        if (!packed(d) && i + 1 < n) {
            flags |= DESC_NEXT;
            next = (uint16_t)(i + 1);
        }
        if (packed(d))
            write_desc(d, q->indirect + 16 * i, &buffers[i], 0, flags);
        else
            write_desc(d, q->indirect + 16 * i, &buffers[i], flags, next);
    }
    return (struct fake_buffer){q->indirect, 16 * n, false};
}

static void put_split(struct fake_driver *d, struct fake_queue *q,
                      const struct fake_buffer *buffers, unsigned n, uint16_t extra)
{
    uint16_t *avail = (uint16_t *)(d->g->ram + q->avail);
    unsigned head = q->next % q->size;

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = extra | (buffers[i].write ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0);
        write_desc(d, q->desc + 16 * ((head + i) % q->size), &buffers[i], flags,
                   (uint16_t)((head + i + 1) % q->size));
    }
    avail[2 + q->next % q->size] = (uint16_t)head;
    avail[1] = ++q->next;
}

static void put_packed(struct fake_driver *d, struct fake_queue *q,
                       const struct fake_buffer *buffers, unsigned n, uint16_t extra)
{
    uint16_t id = q->next;

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = extra | (buffers[i].write ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0);
        flags |= q->next_wrap ? 0x80 : 0x8000;
        write_desc(d, q->desc + 16 * q->next, &buffers[i], id, flags);
        if (++q->next == q->size) {
            q->next = 0;
            q->next_wrap = !q->next_wrap;
        }
    }
}

void fake_put(struct fake_driver *d, unsigned queue, const struct fake_buffer *buffers, unsigned n,
              bool indirect)
{
    struct fake_queue *q = &d->q[queue];
    struct fake_buffer table;

    if (indirect) {
        table = write_table(d, q, buffers, n);
        buffers = &table;
        n = 1;
    }
    (packed(d) ? put_packed : put_split)(d, q, buffers, n, indirect ? DESC_INDIRECT : 0);
}

void fake_kick(struct fake_driver *d, unsigned queue)
{
    fake_write(d->g, false, FAKE_BAR + 0x3000 + 4 * queue, 2, queue);
}

static bool get_split(struct fake_driver *d, struct fake_queue *q, uint32_t *written)
{
    const uint8_t *used = d->g->ram + q->used;

    if (load_le16(used + 2) == q->seen)
        return false;
    *written = load_le32(used + 4 + 8 * (q->seen % q->size) + 4);
    q->seen++;
    return true;
}

// Ids are the slots of the chains' first descriptors; the chain's length is what lies up to the
// next chain, so tests with chains of several slots keep one in flight.
static bool get_packed(struct fake_driver *d, struct fake_queue *q, uint32_t *written)
{
    const uint8_t *desc = d->g->ram + q->desc + 16 * q->seen;
    uint16_t flags = load_le16(desc + 14);

    if (!!(flags & 0x80) != q->seen_wrap || !!(flags & 0x8000) != q->seen_wrap)
        return false;
    *written = load_le32(desc + 8);
    q->seen = q->next;
    q->seen_wrap = q->next_wrap;
    return true;
}

bool fake_get(struct fake_driver *d, unsigned queue, uint32_t *written)
{
    return (packed(d) ? get_packed : get_split)(d, &d->q[queue], written);
}
