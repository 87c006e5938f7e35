// Raw disk images: the file (file.h), byte for byte.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/file.h"
#include "block/formats.h"

struct raw {
    struct block block;
    struct bfile *file;
    bool guessed;    // see block_open()
    bool complained; // a refused write has been logged
};

// What a write leaves at the image's start, as far as a guess looks.
static size_t new_head(const struct block_request *r, uint8_t head[BLOCK_GUESS_BYTES])
{
    uint64_t skip = r->skip;
    size_t len = 0;

    for (unsigned i = 0; i < r->iovs && len < BLOCK_GUESS_BYTES; i++) {
        if (skip >= r->iov[i].iov_len) {
            skip -= r->iov[i].iov_len;
            continue;
        }
        size_t part = min_u64(r->iov[i].iov_len - skip, BLOCK_GUESS_BYTES - len);
        memcpy(head + len, (char *)r->iov[i].iov_base + skip, part);
        len += part;
        skip = 0;
    }
    return min_u64(len, r->len);
}

// Requests are whole logical blocks, so the first sector is written whole or not at all.
static bool changes_format(const struct raw *raw, const struct block_request *r)
{
    uint8_t head[BLOCK_GUESS_BYTES];

    return raw->guessed && r->op == BLOCK_WRITE && r->offset == 0 &&
           block_guess(head, new_head(r, head));
}

static void raw_submit(struct block *block, struct block_request *r)
{
    struct raw *raw = container_of(block, struct raw, block);

    if (!changes_format(raw, r)) {
        bfile_submit(raw->file, r);
        return;
    }
    if (!__atomic_exchange_n(&raw->complained, true, __ATOMIC_RELAXED))
        log_line(LOG_WARN,
                 "disk %s: the guest's write of another image format's header was refused, because "
                 "this disk's format was guessed; give format=raw to allow it",
                 block->name);
    bfile_answer(raw->file, r, ERR_DENIED);
}

static bool raw_at_once(struct block *block, const struct block_request *r, err_t *result)
{
    struct raw *raw = container_of(block, struct raw, block);

    return !changes_format(raw, r) && bfile_at_once(raw->file, r, result);
}

static void raw_drain(struct block *block)
{
    bfile_drain(container_of(block, struct raw, block)->file);
}

static void raw_close(struct block *block)
{
    if (!block)
        return;
    struct raw *raw = container_of(block, struct raw, block);
    bfile_close(raw->file);
    free(raw);
}

static err_t raw_map(struct block *block, uint64_t offset, uint64_t len, struct block_extent *out,
                     struct error *e)
{
    struct raw *raw = container_of(block, struct raw, block);

    *out = (struct block_extent){.allocated = true, .placed = true, .host = offset};
    out->len = bfile_extent(raw->file, offset, len, &out->data);
    return OK;
}

static const struct block_type raw_type = {.name = "raw",
                                           .submit = raw_submit,
                                           .at_once = raw_at_once,
                                           .drain = raw_drain,
                                           .close = raw_close,
                                           .map = raw_map};

static err_t check_size(const struct block_limits *limits, const char *path, struct error *e)
{
    if (limits->size_bytes && limits->size_bytes % limits->logical_block == 0)
        return OK;
    return error_set(e, ERR_INVALID,
                     "%s: its size of %llu bytes is not a multiple of %u; try: truncate -s %%%u %s",
                     path, (unsigned long long)limits->size_bytes, limits->logical_block,
                     limits->logical_block, path);
}

err_t raw_open(const char *path, const struct block_options *options, bool guessed,
               struct block **out, struct error *e)
{
    struct bfile_options how = {.read_only = options->read_only,
                                .direct = options->direct,
                                .threads = options->threads,
                                .unlocked = options->unlocked};
    struct raw *raw = calloc(1, sizeof *raw);
    err_t err = raw ? bfile_open(path, &how, &raw->file, e)
                    : error_set(e, ERR_NO_MEMORY, "%s: no memory", path);

    if (err == OK)
        err = check_size(bfile_limits(raw->file), path, e);
    if (err != OK) {
        if (raw)
            bfile_close(raw->file);
        free(raw);
        return err;
    }
    raw->block.type = &raw_type;
    raw->block.limits = *bfile_limits(raw->file);
    raw->block.io = bfile_io(raw->file);
    raw->guessed = guessed;
    block_set_name(&raw->block, path);
    *out = &raw->block;
    return OK;
}

err_t raw_resize(struct block *block, uint64_t size_bytes, struct error *e)
{
    struct raw *raw = container_of(block, struct raw, block);
    err_t err = bfile_set_length(raw->file, size_bytes, e);

    if (err == OK)
        block->limits.size_bytes = size_bytes;
    return err;
}
