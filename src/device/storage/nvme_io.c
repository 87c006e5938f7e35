// NVMe I/O commands: read, write, flush, write zeroes, dataset management (deallocate).
//
// Specification: NVMe 1.4, chapter 6. The data of a read or write moves between the image and guest
// memory without a copy.
#include "base/bits.h"
#include "base/checked.h"
#include "device/storage/nvme_impl.h"

enum {
    OP_FLUSH = 0x00,
    OP_WRITE = 0x01,
    OP_READ = 0x02,
    OP_WRITE_ZEROES = 0x08,
    OP_DATASET_MANAGEMENT = 0x09,

    RANGE_BYTES = 16,
    DEALLOCATE = 4,
};
#define FUA (1u << 30) // of dword 12

uint32_t nvme_lba_bytes(const struct nvme *n)
{
    return n->config.block->limits.logical_block;
}

static const struct block_limits *limits_of(const struct nvme_command *c)
{
    return &c->nvme->config.block->limits;
}

static void fail(struct nvme_command *c, unsigned status)
{
    nvme_finish(c, status | DO_NOT_RETRY, 0);
}

// --- The back end ---

static void submit(struct nvme_command *c, enum block_op op, uint64_t offset, uint64_t len);
static bool next_range(struct nvme_command *c);

static void count(struct nvme_command *c)
{
    struct nvme *n = c->nvme;

    if (c->io.op == BLOCK_READ) {
        n->reads++;
        n->units_read += c->io.len / 512;
    } else if (c->io.op == BLOCK_WRITE) {
        n->writes++;
        n->units_written += c->io.len / 512;
    }
}

// Starts what the command still needs; false when it is done.
static bool goes_on(struct nvme_command *c)
{
    if (c->status)
        return false;
    if (c->io.op == BLOCK_DISCARD)
        return next_range(c);
    if (!c->sync)
        return false;
    c->sync = false;
    submit(c, BLOCK_FLUSH, 0, 0);
    return true;
}

static unsigned status_of(enum block_op op, err_t result)
{
    return result == OK ? SC_OK : op == BLOCK_READ ? SC_READ_ERROR : SC_WRITE_FAULT;
}

// One of a command's requests has ended with c->status; true when it needs another.
static bool io_went_on(struct nvme_command *c)
{
    if (c->io.op == BLOCK_READ && !c->status)
        scatter_filled(&c->data, &c->nvme->pci.dev, c->io.len);
    count(c);
    return goes_on(c);
}

static void io_ended(struct device *dev, void *argument)
{
    struct nvme_command *c = argument;
    struct nvme *n = c->nvme;
    unsigned sq = c->sq;

    n->in_flight--;
    if (io_went_on(c))
        return;
    nvme_finish(c, c->status, 0);
    if (n->sq[sq].outstanding == 0)
        nvme_queue_idle(n, sq);
    if (n->in_flight == 0)
        nvme_idle(n);
    nvme_run_all(n);
}

static void io_done(struct block_request *io, err_t result)
{
    struct nvme_command *c = container_of(io, struct nvme_command, io);

    c->status = status_of(io->op, result);
    storage_enter(c->nvme->config.enter, &c->nvme->pci.dev, io_ended, c);
}

static struct block_request request(struct nvme_command *c, enum block_op op, uint64_t offset,
                                    uint64_t len)
{
    bool data = op == BLOCK_READ || op == BLOCK_WRITE;

    return (struct block_request){.op = op,
                                  .offset = offset,
                                  .len = len,
                                  .iov = data ? c->data.iov : NULL,
                                  .iovs = data ? c->data.count : 0,
                                  .done = io_done};
}

static void submit(struct nvme_command *c, enum block_op op, uint64_t offset, uint64_t len)
{
    struct block *block = c->nvme->config.block;

    c->io = request(c, op, offset, len);
    c->nvme->in_flight++;
    block->type->submit(block, &c->io);
}

// What the host has or takes in memory.
static bool transfer_at_once(struct nvme_command *c, enum block_op op, uint64_t offset,
                             uint64_t len)
{
    err_t result;

    c->io = request(c, op, offset, len);
    if (!block_at_once(c->nvme->config.block, &c->io, &result))
        return false;
    c->status = status_of(op, result);
    if (!io_went_on(c))
        nvme_finish(c, c->status, 0);
    return true;
}

// --- Commands ---

// The range that dwords 10 to 12 name.
static bool range_of(const struct nvme_command *c, uint64_t *offset, uint64_t *len)
{
    uint64_t lba = c->entry.cdw[0] | (uint64_t)c->entry.cdw[1] << 32;
    uint32_t bytes = nvme_lba_bytes(c->nvme);

    *len = ((c->entry.cdw[2] & 0xffff) + 1ull) * bytes;
    return checked_mul(lba, bytes, offset) && range_within(*offset, *len, limits_of(c)->size_bytes);
}

static bool must_sync(const struct nvme_command *c)
{
    return c->entry.cdw[2] & FUA || !(c->nvme->features[FEATURE_WRITE_CACHE] & 1);
}

static void transfer(struct nvme_command *c, bool write)
{
    enum block_op op = write ? BLOCK_WRITE : BLOCK_READ;
    uint64_t offset, len;
    unsigned status;

    if (!range_of(c, &offset, &len)) {
        fail(c, SC_LBA_OUT_OF_RANGE);
        return;
    }
    if (write && limits_of(c)->read_only) {
        fail(c, SC_WRITE_PROTECTED);
        return;
    }
    status = nvme_map(c, len);
    if (status) {
        nvme_finish(c, status, 0);
        return;
    }
    c->sync = write && must_sync(c);
    if (!transfer_at_once(c, op, offset, len))
        submit(c, op, offset, len);
}

static void write_zeroes(struct nvme_command *c)
{
    uint64_t offset, len;

    if (!range_of(c, &offset, &len)) {
        fail(c, SC_LBA_OUT_OF_RANGE);
    } else if (limits_of(c)->read_only) {
        fail(c, SC_WRITE_PROTECTED);
    } else if (!limits_of(c)->write_zeroes) {
        fail(c, SC_INVALID_OPCODE);
    } else {
        c->sync = must_sync(c);
        submit(c, BLOCK_WRITE_ZEROES, offset, len);
    }
}

// Starts the next range; false when there is none, or it is wrong (c->status).
static bool next_range(struct nvme_command *c)
{
    uint32_t bytes = nvme_lba_bytes(c->nvme);

    while (c->next_range < c->ranges) {
        const uint8_t *range = c->list + RANGE_BYTES * (size_t)c->next_range++;
        uint64_t len = (uint64_t)load_le32(range + 4) * bytes, offset;
        if (!checked_mul(load_le64(range + 8), bytes, &offset) ||
            !range_within(offset, len, limits_of(c)->size_bytes)) {
            c->status = SC_LBA_OUT_OF_RANGE | DO_NOT_RETRY;
            return false;
        }
        if (!len)
            continue;
        submit(c, BLOCK_DISCARD, offset, len);
        return true;
    }
    return false;
}

static void dataset_management(struct nvme_command *c)
{
    size_t len;
    unsigned status;

    c->ranges = (uint16_t)((c->entry.cdw[0] & 0xff) + 1);
    c->next_range = 0;
    len = RANGE_BYTES * (size_t)c->ranges;
    if (limits_of(c)->read_only) {
        fail(c, SC_WRITE_PROTECTED);
        return;
    }
    status = nvme_map(c, len);
    if (status) {
        nvme_finish(c, status, 0);
        return;
    }
    scatter_read(&c->data, 0, c->list, len);
    c->status = SC_OK;
    // Other attributes are hints.
    if (!(c->entry.cdw[1] & DEALLOCATE) || !limits_of(c)->discard || !next_range(c))
        nvme_finish(c, c->status, 0);
}

static void flush(struct nvme_command *c)
{
    if (limits_of(c)->read_only)
        nvme_finish(c, SC_OK, 0);
    else
        submit(c, BLOCK_FLUSH, 0, 0);
}

void nvme_io(struct nvme_command *c)
{
    bool all = c->entry.opcode == OP_FLUSH && c->entry.nsid == UINT32_MAX;

    if (c->entry.nsid != 1 && !all) {
        fail(c, SC_INVALID_NAMESPACE);
        return;
    }
    switch (c->entry.opcode) {
    case OP_FLUSH: flush(c); break;
    case OP_WRITE: transfer(c, true); break;
    case OP_READ: transfer(c, false); break;
    case OP_WRITE_ZEROES: write_zeroes(c); break;
    case OP_DATASET_MANAGEMENT: dataset_management(c); break;
    default: fail(c, SC_INVALID_OPCODE); break;
    }
}
