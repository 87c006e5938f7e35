// A block back end in memory that completes when the test says so.
#pragma once

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "block/block.h"

#define RAM_DISK_BYTES (1 * MIB)

struct ram_disk {
    struct block block;
    uint8_t data[RAM_DISK_BYTES];
    struct block_request *queued;
    unsigned ops[5]; // by enum block_op
    bool fail;
    bool cached;       // reads are answered at once
    bool newest_first; // the order in which they complete
};

static void ram_disk_submit(struct block *block, struct block_request *r)
{
    struct ram_disk *disk = container_of(block, struct ram_disk, block);
    struct block_request **end = &disk->queued;

    while (*end && !disk->newest_first)
        end = &(*end)->next;
    r->next = *end;
    *end = r;
    disk->ops[r->op]++;
}

static bool ram_disk_transfer(struct ram_disk *disk, const struct block_request *r)
{
    uint64_t at = r->offset;

    if (r->offset > RAM_DISK_BYTES || r->len > RAM_DISK_BYTES - r->offset)
        return false;
    for (unsigned i = 0; i < r->iovs; i++) {
        if (at + r->iov[i].iov_len > r->offset + r->len)
            return false;
        if (r->op == BLOCK_READ)
            memcpy(r->iov[i].iov_base, disk->data + at, r->iov[i].iov_len);
        else
            memcpy(disk->data + at, r->iov[i].iov_base, r->iov[i].iov_len);
        at += r->iov[i].iov_len;
    }
    if (r->op == BLOCK_WRITE_ZEROES || r->op == BLOCK_DISCARD)
        memset(disk->data + r->offset, 0, r->len);
    return r->op > BLOCK_WRITE || at == r->offset + r->len;
}

// Completes what is queued and what that leads to; at most `most`. Returns how many.
static unsigned ram_disk_run(struct ram_disk *disk, unsigned most)
{
    unsigned n = 0;

    for (; disk->queued && n < most; n++) {
        struct block_request *r = disk->queued;
        disk->queued = r->next;
        r->done(r, !disk->fail && ram_disk_transfer(disk, r) ? OK : ERR_IO);
    }
    return n;
}

static bool ram_disk_at_once(struct block *block, const struct block_request *r, err_t *result)
{
    struct ram_disk *disk = container_of(block, struct ram_disk, block);

    if (!disk->cached || r->op > BLOCK_WRITE)
        return false;
    *result = !disk->fail && ram_disk_transfer(disk, r) ? OK : ERR_IO;
    return true;
}

static void ram_disk_drain(struct block *block)
{
    ram_disk_run(container_of(block, struct ram_disk, block), UINT_MAX);
}

static const struct block_type ram_disk_type = {.name = "test",
                                                .submit = ram_disk_submit,
                                                .at_once = ram_disk_at_once,
                                                .drain = ram_disk_drain};

static struct ram_disk *ram_disk_new(bool read_only)
{
    struct ram_disk *disk = calloc(1, sizeof *disk);

    disk->block.type = &ram_disk_type;
    disk->block.limits =
        (struct block_limits){RAM_DISK_BYTES, 512, 4096, read_only, !read_only, !read_only};
    return disk;
}
