// The virtio block device.
//
// Specification: VIRTIO 1.2, 5.2. Offered: SEG_MAX, BLK_SIZE, TOPOLOGY, FLUSH, RO, DISCARD,
// WRITE_ZEROES, MQ. Not offered: CONFIG_WCE (the cache is always write-back with FLUSH), SIZE_MAX,
// GEOMETRY, LIFETIME, SECURE_ERASE, zoned devices.
#include "device/storage/virtio_blk.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "device/virtio/virtio_pci.h"
#include "host/memory.h"

enum {
    F_SEG_MAX = 2,
    F_RO = 5,
    F_BLK_SIZE = 6,
    F_FLUSH = 9,
    F_TOPOLOGY = 10,
    F_MQ = 12,
    F_DISCARD = 13,
    F_WRITE_ZEROES = 14,

    T_IN = 0,
    T_OUT = 1,
    T_FLUSH = 4,
    T_GET_ID = 8,
    T_DISCARD = 11,
    T_WRITE_ZEROES = 13,

    S_OK = 0,
    S_IOERR = 1,
    S_UNSUPP = 2,

    // Device configuration (5.2.4).
    CONFIG_CAPACITY = 0,
    CONFIG_SEG_MAX = 12,
    CONFIG_BLK_SIZE = 20,
    CONFIG_PHYSICAL_EXP = 24,
    CONFIG_MIN_IO = 26,
    CONFIG_OPT_IO = 28,
    CONFIG_QUEUES = 34,
    CONFIG_MAX_DISCARD = 36,
    CONFIG_MAX_DISCARD_SEG = 40,
    CONFIG_DISCARD_ALIGN = 44,
    CONFIG_MAX_ZEROES = 48,
    CONFIG_MAX_ZEROES_SEG = 52,
    CONFIG_BYTES = 60,

    SECTOR = 512,
    HEADER_BYTES = 16,
    RANGE_BYTES = 16,
    QUEUE_SIZE = 256,
    SEG_MAX = QUEUE_SIZE - 2, // beside header and status
    IN_FLIGHT = 128,
    RANGE_SECTORS_MAX = 0x3fffff, // of one discard or zeroing: 2 GiB

    HEAP_NS = 1000000, // how long a request may wait for others
    HEAP_LEAST = 4,    // that make waiting worth while
    ALONE_MIN = 16,    // notifications that are served at once
    ALONE_MAX = 256,
};

// A guest that has many requests under way gets on faster when they are served in heaps: an
// interrupt for many, and no notification for most. Whether it has is found by trying: after a heap
// that stayed small the next notifications are served at once.
struct pace {
    bool heaping;    // requests wait for more
    uint16_t alone;  // notifications to be served at once
    uint16_t longer; // how many after the next small heap
};

// One of the guest's requests; in a free list or in flight.
struct request {
    struct block_request io;
    struct virtio_blk *blk;
    struct request *next_free;
    unsigned queue;
    unsigned status; // result: S_*
    struct virtq_chain chain;
    struct iovec iov[VIRTQ_SIZE_MAX]; // the data: the chain's buffers without header and status
};

struct virtio_blk {
    struct virtio_pci virtio;
    struct virtio_blk_config config;
    struct request *requests; // IN_FLIGHT of them, owned
    struct request *free;
    size_t linked; // how many of them were ever in the free list
    uint32_t in_flight;
    uint32_t starved; // bit per queue: requests wait for a free slot
    struct pace pace[VIRTIO_BLK_QUEUES];
};

static const struct state_field blk_fields[] = {
    SUB(struct virtio_blk, virtio, virtio_pci_state),
    SKIP(struct virtio_blk, config, "wiring, rebuilt from configuration"),
    SKIP(struct virtio_blk, requests, "none is in flight when state is saved"),
    SKIP(struct virtio_blk, free, "none is in flight when state is saved"),
    SKIP(struct virtio_blk, linked, "none is in flight when state is saved"),
    SKIP(struct virtio_blk, in_flight, "none is in flight when state is saved"),
    SKIP(struct virtio_blk, starved, "none is in flight when state is saved"),
    SKIP(struct virtio_blk, pace, "experience with the guest, not hardware"),
    FIELDS_END,
};
static const struct state_desc blk_state =
    STATE_DESC("virtio-blk", struct virtio_blk, 1, blk_fields);

static struct virtio_blk *blk_of(struct virtio_pci *v)
{
    return container_of(v, struct virtio_blk, virtio);
}

// --- Ending a request ---

// The status is the last writable byte. For requests that fill the data the guest is told that all
// was written, for others just the status.
static void finish(struct virtio_blk *blk, struct request *r, unsigned status)
{
    uint8_t byte = (uint8_t)status;
    uint64_t written = r->chain.writable_bytes;

    if (virtq_write(&r->chain, written - 1, &byte, 1) == 1)
        virtio_push(&blk->virtio, r->queue, &r->chain,
                    written > UINT32_MAX ? UINT32_MAX : (uint32_t)written);
    r->next_free = blk->free;
    blk->free = r;
}

static unsigned serve(struct virtio_blk *blk, unsigned queue);

static void serve_starved(struct virtio_blk *blk)
{
    while (blk->starved && blk->free) {
        unsigned queue = (unsigned)__builtin_ctz(blk->starved);
        blk->starved &= blk->starved - 1;
        serve(blk, queue);
    }
}

// With the device's lock held.
static void request_ended(struct device *dev, void *argument)
{
    struct virtio_blk *blk = blk_of(virtio_of(dev));
    struct request *r = argument;
    unsigned queue = r->queue;

    virtio_begin(&blk->virtio);
    blk->in_flight--;
    finish(blk, r, r->status);
    virtio_signal(&blk->virtio, queue);
    if (blk->in_flight == 0)
        virtio_idle(&blk->virtio);
    serve_starved(blk);
}

// On the back end's thread.
static void io_done(struct block_request *io, err_t result)
{
    struct request *r = container_of(io, struct request, io);
    struct device *dev = &r->blk->virtio.pci.dev;

    r->status = result == OK ? S_OK : S_IOERR;
    storage_enter(r->blk->config.enter, dev, request_ended, r);
}

// --- Starting a request ---

// Splits `skip` bytes off the front of n buffers and keeps len; returns how many buffers remain.
static unsigned slice(const struct iovec *from, unsigned n, uint64_t skip, uint64_t len,
                      struct iovec *to)
{
    unsigned count = 0;

    for (unsigned i = 0; i < n && len; i++) {
        uint64_t part = from[i].iov_len;
        if (skip >= part) {
            skip -= part;
            continue;
        }
        part -= skip;
        if (part > len)
            part = len;
        to[count++] = (struct iovec){(char *)from[i].iov_base + skip, part};
        len -= part;
        skip = 0;
    }
    return count;
}

// Returns the request's status when the answer came at once.
static unsigned submit(struct virtio_blk *blk, struct request *r, enum block_op op, uint64_t offset,
                       uint64_t len, unsigned iovs, bool *submitted)
{
    struct block *block = blk->config.block;
    err_t result;

    r->io = (struct block_request){
        .op = op, .offset = offset, .len = len, .iov = r->iov, .iovs = iovs, .done = io_done};
    if (block_at_once(block, &r->io, &result))
        return result == OK ? S_OK : S_IOERR;
    *submitted = true;
    blk->in_flight++;
    block->type->submit(block, &r->io);
    return S_OK;
}

// Each start_ function either submits and returns S_OK with *submitted, or answers at once.

static unsigned start_transfer(struct virtio_blk *blk, struct request *r, bool write,
                               uint64_t sector, bool *submitted)
{
    const struct block_limits *limits = &blk->config.block->limits;
    const struct virtq_chain *c = &r->chain;
    uint64_t len = write ? c->readable_bytes - HEADER_BYTES : c->writable_bytes - 1;
    uint64_t offset;
    unsigned iovs;

    if (!checked_mul(sector, SECTOR, &offset) || !range_within(offset, len, limits->size_bytes) ||
        offset % limits->logical_block || len % limits->logical_block)
        return S_IOERR;
    if (write && limits->read_only)
        return S_IOERR;
    if (len == 0)
        return S_OK;
    if (write)
        iovs = slice(c->iov, c->readable, HEADER_BYTES, len, r->iov);
    else
        iovs = slice(c->iov + c->readable, c->writable, 0, len, r->iov);
    return submit(blk, r, write ? BLOCK_WRITE : BLOCK_READ, offset, len, iovs, submitted);
}

// struct virtio_blk_discard_write_zeroes: sector, count, flags (bit 0: unmap). One range, as the
// configuration says.
static unsigned start_range(struct virtio_blk *blk, struct request *r, bool discard,
                            bool *submitted)
{
    const struct block_limits *limits = &blk->config.block->limits;
    uint8_t range[RANGE_BYTES];
    uint64_t offset, len;
    uint32_t flags, known = discard ? 0 : 1;

    if (!(discard ? limits->discard : limits->write_zeroes))
        return S_UNSUPP;
    if (r->chain.readable_bytes != HEADER_BYTES + RANGE_BYTES || limits->read_only)
        return S_IOERR;
    virtq_read(&r->chain, HEADER_BYTES, range, sizeof range);
    flags = load_le32(range + 12);
    if (flags & ~known)
        return S_UNSUPP;
    len = (uint64_t)load_le32(range + 8) * SECTOR;
    if (load_le32(range + 8) > RANGE_SECTORS_MAX ||
        !checked_mul(load_le64(range), SECTOR, &offset) ||
        !range_within(offset, len, limits->size_bytes) || offset % limits->logical_block ||
        len % limits->logical_block)
        return S_IOERR;
    if (len == 0)
        return S_OK;
    return submit(blk, r, discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES, offset, len, 0, submitted);
}

static unsigned get_id(struct virtio_blk *blk, struct request *r)
{
    char id[VIRTIO_BLK_SERIAL] = {0};

    memcpy(id, blk->config.serial, strnlen(blk->config.serial, sizeof id));
    if (r->chain.writable_bytes < sizeof id + 1)
        return S_IOERR;
    virtq_write(&r->chain, 0, id, sizeof id);
    return S_OK;
}

static unsigned start(struct virtio_blk *blk, struct request *r, const uint8_t *header,
                      bool *submitted)
{
    uint64_t sector = load_le64(header + 8);

    switch (load_le32(header)) {
    case T_IN: return start_transfer(blk, r, false, sector, submitted);
    case T_OUT: return start_transfer(blk, r, true, sector, submitted);
    case T_FLUSH: return submit(blk, r, BLOCK_FLUSH, 0, 0, 0, submitted);
    case T_GET_ID: return get_id(blk, r);
    case T_DISCARD: return start_range(blk, r, true, submitted);
    case T_WRITE_ZEROES: return start_range(blk, r, false, submitted);
    default: return S_UNSUPP;
    }
}

// One that is free, still in the free list; NULL: none. Those that were never needed are linked
// when they are: most guests use few, and each has pages of its own.
static struct request *free_request(struct virtio_blk *blk)
{
    if (!blk->free && blk->linked < IN_FLIGHT) {
        blk->free = &blk->requests[blk->linked++];
        blk->free->blk = blk;
    }
    return blk->free;
}

// Takes what the guest has queued, as long as there are free slots for it; returns how many.
static unsigned serve(struct virtio_blk *blk, unsigned queue)
{
    struct request *r;
    unsigned taken = 0;

    while ((r = free_request(blk)) && virtio_pop(&blk->virtio, queue, &r->chain)) {
        uint8_t header[HEADER_BYTES];
        bool submitted = false;
        unsigned status;
        if (virtq_read(&r->chain, 0, header, sizeof header) != sizeof header ||
            !r->chain.writable_bytes) {
            virtio_broken(&blk->virtio, "a disk request without a header or a status byte");
            return taken;
        }
        taken++;
        blk->free = r->next_free;
        r->queue = queue;
        status = start(blk, r, header, &submitted);
        if (!submitted)
            finish(blk, r, status);
    }
    if (!free_request(blk))
        blk->starved |= 1u << queue;
    virtio_signal(&blk->virtio, queue);
    return taken;
}

// --- The model ---

static void serve_heap(struct virtio_blk *blk, unsigned queue)
{
    struct pace *pace = &blk->pace[queue];

    pace->heaping = false;
    if (serve(blk, queue) >= HEAP_LEAST) {
        pace->longer = ALONE_MIN;
        return;
    }
    pace->alone = pace->longer;
    pace->longer = pace->longer < ALONE_MAX / 2 ? 2 * pace->longer : ALONE_MAX;
}

static void blk_notify(struct virtio_pci *v, unsigned queue)
{
    struct virtio_blk *blk = blk_of(v);
    struct pace *pace = &blk->pace[queue];

    if (pace->heaping && !virtio_waits(v, queue))
        serve_heap(blk, queue);
    else if (pace->alone) {
        pace->alone--;
        serve(blk, queue);
    } else if (virtio_wait(v, queue, HEAP_NS))
        pace->heaping = true;
    else
        serve(blk, queue);
}

static bool blk_busy(struct virtio_pci *v)
{
    return blk_of(v)->in_flight;
}

static void blk_virtio_reset(struct virtio_pci *v)
{
    struct virtio_blk *blk = blk_of(v);

    blk->starved = 0;
    for (unsigned i = 0; i < VIRTIO_BLK_QUEUES; i++)
        blk->pace[i] = (struct pace){.alone = ALONE_MIN, .longer = ALONE_MIN};
}

static const struct virtio_model blk_model = {
    .class_code = 0x010000, // mass storage, SCSI: what guests know virtio disks by
    .id = 2,
    .config_len = CONFIG_BYTES,
    .notify = blk_notify,
    .busy = blk_busy,
    .reset = blk_virtio_reset,
};

static uint64_t offered_features(const struct block_limits *limits, unsigned queues)
{
    uint64_t features = VIRTIO_FEATURE(F_SEG_MAX) | VIRTIO_FEATURE(F_BLK_SIZE) |
                        VIRTIO_FEATURE(F_TOPOLOGY) | VIRTIO_FEATURE(F_FLUSH);

    if (limits->read_only)
        features |= VIRTIO_FEATURE(F_RO);
    if (limits->discard && !limits->read_only)
        features |= VIRTIO_FEATURE(F_DISCARD);
    if (limits->write_zeroes && !limits->read_only)
        features |= VIRTIO_FEATURE(F_WRITE_ZEROES);
    if (queues > 1)
        features |= VIRTIO_FEATURE(F_MQ);
    return features;
}

static void fill_config(uint8_t *config, const struct block_limits *limits, unsigned queues)
{
    uint32_t ratio = limits->physical_block / limits->logical_block;

    store_le64(config + CONFIG_CAPACITY, limits->size_bytes / SECTOR);
    store_le32(config + CONFIG_SEG_MAX, SEG_MAX);
    store_le32(config + CONFIG_BLK_SIZE, limits->logical_block);
    config[CONFIG_PHYSICAL_EXP] = ratio ? (uint8_t)(31 - __builtin_clz(ratio)) : 0;
    store_le16(config + CONFIG_MIN_IO, (uint16_t)(ratio ? ratio : 1));
    store_le32(config + CONFIG_OPT_IO, 0);
    store_le16(config + CONFIG_QUEUES, (uint16_t)queues);
    store_le32(config + CONFIG_MAX_DISCARD, RANGE_SECTORS_MAX);
    store_le32(config + CONFIG_MAX_DISCARD_SEG, 1);
    store_le32(config + CONFIG_DISCARD_ALIGN, limits->logical_block / SECTOR);
    store_le32(config + CONFIG_MAX_ZEROES, RANGE_SECTORS_MAX);
    store_le32(config + CONFIG_MAX_ZEROES_SEG, 1);
    config[CONFIG_MAX_ZEROES_SEG + 4] = 1; // zeroing may unmap
}

static err_t make_requests(struct virtio_blk *blk, struct error *e)
{
    blk->requests = host_sparse_new(IN_FLIGHT * sizeof *blk->requests);
    return blk->requests
               ? OK
               : error_set(e, ERR_NO_MEMORY, "%s: no memory for requests", blk->virtio.pci.dev.id);
}

static err_t blk_init(struct device *dev, const void *config, struct error *e)
{
    struct virtio_blk *blk = blk_of(virtio_of(dev));
    const struct block_limits *limits;
    unsigned queues;

    blk->config = *(const struct virtio_blk_config *)config;
    limits = &blk->config.block->limits;
    queues = blk->config.queues ? blk->config.queues : 1;
    if (queues > VIRTIO_BLK_QUEUES)
        return error_set(e, ERR_INVALID, "%s: a disk has 1 to %d queues", dev->id,
                         VIRTIO_BLK_QUEUES);
    virtio_pci_init(&blk->virtio, &blk_model, offered_features(limits, queues), queues, QUEUE_SIZE);
    fill_config(blk->virtio.config, limits, queues);
    return make_requests(blk, e);
}

static void blk_reset(struct device *dev)
{
    virtio_pci_reset(virtio_of(dev));
}

static err_t blk_loaded(struct device *dev, struct error *e)
{
    return virtio_pci_loaded(virtio_of(dev), e);
}

static void blk_timer(struct device *dev, unsigned timer)
{
    virtio_pci_timer(virtio_of(dev));
}

static void blk_fini(struct device *dev)
{
    struct virtio_blk *blk = blk_of(virtio_of(dev));

    virtio_pci_fini(&blk->virtio);
    host_sparse_free(blk->requests, IN_FLIGHT * sizeof *blk->requests);
    blk->requests = blk->free = NULL;
    blk->linked = 0;
}

const struct device_type virtio_blk_type = {
    .name = "virtio-blk",
    .size = sizeof(struct virtio_blk),
    .timers = 1,
    .lines = 1,
    .state = &blk_state,
    .init = blk_init,
    .reset = blk_reset,
    .loaded = blk_loaded,
    .timer = blk_timer,
    .fini = blk_fini,
};
