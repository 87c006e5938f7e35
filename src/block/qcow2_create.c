// Makes qcow2 images, changes their size and their backing file.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "block/qcow2_impl.h"
#include "block/sync.h"

// --- a new image: a cluster each of header, refcount table and refcount block

static err_t check_options(const struct qcow2_create *c, struct error *e)
{
    if (c->cluster_bytes < 512 || c->cluster_bytes > 2 * MIB || !is_power_of_two(c->cluster_bytes))
        return error_set(e, ERR_INVALID,
                         "clusters of %u bytes are not possible; choose a power of two from 512 to "
                         "2M",
                         c->cluster_bytes);
    if (c->refcount_bits > 64 || !is_power_of_two(c->refcount_bits))
        return error_set(e, ERR_INVALID, "reference counts have 1, 2, 4, 8, 16, 32 or 64 bits");
    if (c->version != 2 && c->version != 3)
        return error_set(e, ERR_INVALID, "there are versions 2 and 3 of qcow2, not %u", c->version);
    if (c->version == 2 &&
        (c->refcount_bits != 16 || c->extended_l2 || c->lazy_refcounts || c->zstd))
        return error_set(e, ERR_INVALID, "version 2 has none of these options; use version 3");
    if (c->extended_l2 && c->cluster_bytes < 16 * KIB)
        return error_set(e, ERR_INVALID, "subclusters need clusters of 16K or more");
    if (!c->size_bytes || c->size_bytes % 512)
        return error_set(e, ERR_INVALID, "the size must be a multiple of 512 bytes, and not 0");
    if (c->backing && strlen(c->backing) >= QCOW2_NAME_MAX)
        return error_set(e, ERR_INVALID, "the backing file's name is longer than 1023 bytes");
    if (c->backing_format && strlen(c->backing_format) >= 16)
        return error_set(e, ERR_INVALID, "'%s' is no image format", c->backing_format);
    return OK;
}

static uint64_t l1_entries_for(uint64_t size, unsigned cluster_bits, bool extended)
{
    unsigned bits = 2 * cluster_bits - (extended ? 4 : 3);

    return (size >> bits) + !!(size & ((1ull << bits) - 1));
}

static err_t too_large(unsigned cluster_bits, struct error *e)
{
    if (1u << cluster_bits == 2 * MIB)
        return error_set(e, ERR_INVALID, "a disk of this size is more than a qcow2 image holds");
    return error_set(e, ERR_INVALID, "a disk of this size needs larger clusters than %u bytes",
                     1u << cluster_bits);
}

static err_t fill_header(const struct qcow2_create *c, struct qcow2_header *h, struct error *e)
{
    h->version = c->version;
    h->cluster_bits = (uint32_t)__builtin_ctz(c->cluster_bytes);
    h->size = c->size_bytes;
    h->refcount_order = (uint32_t)__builtin_ctz(c->refcount_bits);
    h->compression = c->zstd;
    h->incompatible =
        (c->zstd ? INCOMPATIBLE_COMPRESSION : 0) | (c->extended_l2 ? INCOMPATIBLE_EXTENDED_L2 : 0);
    h->compatible = c->lazy_refcounts ? COMPATIBLE_LAZY_REFCOUNTS : 0;
    uint64_t l1 = l1_entries_for(c->size_bytes, h->cluster_bits, c->extended_l2);
    if (l1 > L1_BYTES_MAX / 8)
        return too_large(h->cluster_bits, e);
    h->l1_entries = (uint32_t)l1;
    strcpy(h->backing, c->backing ? c->backing : "");
    strcpy(h->backing_format, c->backing && c->backing_format ? c->backing_format : "");
    return OK;
}

// The first clusters count themselves; the L1 table comes after, through the allocator.
static err_t write_start(int fd, struct qcow2_header *h, uint64_t cluster, struct error *e)
{
    uint8_t *out = calloc(3, cluster);
    if (!out)
        return error_set(e, ERR_NO_MEMORY, "no memory");
    h->reftable_offset = cluster;
    h->reftable_clusters = 1;
    store_be64(out + cluster, 2 * cluster);
    for (uint64_t i = 0; i < 3; i++)
        ref_set(out + 2 * cluster, h->refcount_order, i, 1);
    uint32_t entries = h->l1_entries;
    uint64_t size = h->size;
    h->l1_entries = 0;
    h->size = 0;
    err_t err = header_compose(h, out, cluster, e);
    h->l1_entries = entries;
    h->size = size;
    for (uint64_t done = 0; err == OK && done < 3 * cluster;) {
        ssize_t n = pwrite(fd, out + done, 3 * cluster - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            err = error_set(e, err_from_errno(errno), "cannot be written: %s", strerror(errno));
        done += n > 0 ? (uint64_t)n : 0;
    }
    free(out);
    return err;
}

err_t qcow2_create(const char *path, const struct qcow2_create *create, struct error *e)
{
    struct qcow2_create c = *create;
    struct qcow2_header h = {0};
    struct block_options options = {.format = "qcow2", .no_backing = true};
    struct block *block;

    c.version = c.version ? c.version : 3;
    c.cluster_bytes = c.cluster_bytes ? c.cluster_bytes : 64 * KIB;
    c.refcount_bits = c.refcount_bits ? c.refcount_bits : 16;
    err_t err = check_options(&c, e);
    if (err == OK)
        err = fill_header(&c, &h, e);
    if (err != OK)
        return err;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(e, err_from_errno(errno), "%s: %s", path, strerror(errno));
    err = write_start(fd, &h, c.cluster_bytes, e);
    close(fd);
    if (err != OK)
        return error_in(e, "%s", path);
    err = block_open(path, &options, &block, e);
    if (err != OK)
        return err;
    err = qcow2_resize(qcow2_of(block), c.size_bytes, false, e);
    block_close(block);
    return err;
}

// --- size

// A larger L1 table, at another place: written before the header points to it.
static err_t grow_l1(struct qcow2 *q, uint32_t entries, struct error *e)
{
    struct qcow2_header *h = &q->header;
    uint64_t clusters = align_up(max_u64(entries * 8ull, 8), q->cluster) / q->cluster, first, count;
    uint64_t *l1 = calloc(1, align_up(clusters * q->cluster, 4096));
    if (!l1)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    memcpy(l1, q->l1, h->l1_entries * 8ull);
    err_t err = clusters_alloc(q, clusters, true, &first, &count, e);
    if (err == OK)
        err = meta_write_words(q, first * q->cluster, l1, entries, 0, clusters * q->cluster / 8, e);
    if (err == OK)
        err = refcounts_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err != OK) {
        free(l1);
        return err;
    }
    if (h->l1_offset)
        clusters_free_later(q, h->l1_offset / q->cluster,
                            (h->l1_entries * 8ull + q->cluster - 1) / q->cluster);
    free(q->l1);
    q->l1 = l1;
    h->l1_offset = first * q->cluster;
    h->l1_entries = entries;
    return OK;
}

// Lets go of all that lies wholly behind the new end.
static err_t cut(struct qcow2 *q, uint64_t size, struct error *e)
{
    uint64_t end = q->block.limits.size_bytes;

    q->header.size = size;
    structure_end(q);
    err_t err = block_request(&q->block, BLOCK_DISCARD, size, end - size, e);
    structure_begin(q);
    return err;
}

// The disk's new end reads as zeros, whatever the last cluster and the backing file hold there.
static err_t clear_growth(struct qcow2 *q, uint64_t old, uint64_t size, struct error *e)
{
    uint64_t below = q->backing ? q->backing->limits.size_bytes : 0;
    uint64_t end = min_u64(max_u64(align_up(old, q->cluster), below), size);

    if (!old || end <= old)
        return OK;
    structure_end(q);
    err_t err = block_request(&q->block, BLOCK_WRITE_ZEROES, old, end - old, e);
    structure_begin(q);
    return err;
}

static err_t resize(struct qcow2 *q, uint64_t size, bool shrink, struct error *e)
{
    struct qcow2_header *h = &q->header;
    uint64_t entries = l1_entries_for(size, h->cluster_bits, q->extended), old = h->size;
    err_t err = OK;

    if (size < old && !shrink)
        return error_set(e, ERR_INVALID,
                         "%s: a smaller size cuts off the disk's end; say --shrink if that is "
                         "meant",
                         q->path);
    if (h->snapshots && h->version == 2)
        return error_set(e, ERR_UNSUPPORTED,
                         "%s: version 2 cannot resize with snapshots; delete them first", q->path);
    if (entries > L1_BYTES_MAX / 8)
        return too_large(h->cluster_bits, e);
    if (entries > h->l1_entries || !h->l1_offset)
        err = qcow2_settle(q, e);
    if (err == OK && (entries > h->l1_entries || !h->l1_offset))
        err = grow_l1(q, (uint32_t)max_u64(entries, 1), e);
    if (err == OK && size < old)
        err = cut(q, size, e);
    if (err != OK)
        return err;
    h->size = size;
    q->block.limits.size_bytes = align_up(size, q->block.limits.logical_block);
    err = header_write(q, e);
    if (err == OK)
        err = clear_growth(q, old, size, e);
    return err == OK ? qcow2_settle(q, e) : err;
}

err_t qcow2_resize(struct qcow2 *q, uint64_t size_bytes, bool shrink, struct error *e)
{
    if (size_bytes % 512 || !size_bytes)
        return error_set(e, ERR_INVALID, "%s: the size must be a multiple of 512 bytes, and not 0",
                         q->path);
    structure_begin(q);
    err_t err = resize(q, size_bytes, shrink, e);
    structure_end(q);
    return err;
}

// --- backing file

err_t qcow2_set_backing(struct qcow2 *q, const char *name, const char *format, struct error *e)
{
    struct qcow2_header *h = &q->header;

    if (strlen(name) >= sizeof h->backing || (format && strlen(format) >= sizeof h->backing_format))
        return error_set(e, ERR_INVALID, "%s: the backing file's name is too long", q->path);
    structure_begin(q);
    memset(h->backing_format, 0, sizeof h->backing_format);
    strcpy(h->backing, name);
    if (name[0] && format)
        strcpy(h->backing_format, format);
    err_t err = header_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    structure_end(q);
    return err;
}

// --- filling: compressed clusters, and none

static err_t put_compressed(struct qcow2 *q, uint64_t offset, const uint8_t *packed, size_t len,
                            struct error *e)
{
    unsigned x = 62 - (q->header.cluster_bits - 8);
    uint64_t at = q->packed_at, end = align_up(at, q->cluster), first, count;
    struct table *l2;
    err_t err = OK;

    // Behind the one before, if it fits the cluster; else at the start of a new one.
    bool joins = at && len <= end - at && refcount_add(q, at / q->cluster, 1, 1, e) == OK;
    if (!joins) {
        err = clusters_alloc(q, 1, false, &first, &count, e);
        at = first * q->cluster;
    }
    if (err != OK)
        return err;
    err = meta_write(q, at, packed, len, e);
    if (err == OK)
        err = l2_own(q, offset, &l2, e);
    if (err != OK)
        return err;
    uint64_t sectors = (at % 512 + len - 1) / 512;
    entry_set(q, l2, l2_index(q, offset), ENTRY_COMPRESSED | sectors << x | at, 0);
    table_put(q, l2);
    q->packed_at = at + len;
    if (q->packed_at % q->cluster == 0)
        q->packed_at = 0;
    return OK;
}

err_t qcow2_write_compressed(struct qcow2 *q, uint64_t offset, const void *data, struct error *e)
{
    uint8_t *packed = malloc(q->cluster);
    size_t len = packed ? compress_cluster(q->header.compression, data, q->cluster, packed) : 0;

    if (!packed)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    structure_begin(q);
    q->plain_entry = 0;
    err_t err = len ? put_compressed(q, offset, packed, len, e) : OK;
    structure_end(q);
    free(packed);
    if (!len)
        err = block_write(&q->block, offset, data,
                          min_u64(q->cluster, q->block.limits.size_bytes - offset), e);
    return err;
}
