// qcow2 disk images: opening and closing. Versions 2 and 3 with backing files, compressed clusters,
// subclusters, internal snapshots and lazy refcounts. Not done, and refused by name: encryption and
// external data files. Bitmaps are not kept up: an image that has some loses them when written.
#include "block/qcow2.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/chain.h"
#include "block/formats.h"
#include "block/qcow2_impl.h"
#include "block/sync.h"

err_t qcow2_corrupt(struct qcow2 *q, struct error *e, const char *fmt, ...)
{
    char words[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    if (!q->corrupt)
        log_line(LOG_ERROR,
                 "disk %s: the image is corrupt: %s; it is not written any more; try: "
                 "berth disk check",
                 q->block.name, words);
    q->corrupt = true;
    return error_set(e, ERR_CORRUPT, "%s: the image is corrupt: %s; try: berth disk check %s",
                     q->path, words, q->path);
}

struct qcow2 *qcow2_of(struct block *block)
{
    return block->type->close == qcow2_close ? container_of(block, struct qcow2, block) : NULL;
}

// --- closing

// What is left of an image whose opening failed half-way, too.
static void release(struct qcow2 *q)
{
    if (q->ops)
        requests_release(q);
    cache_release(&q->l2);
    cache_release(&q->refs);
    block_close(q->backing);
    bfile_close(q->file);
    pthread_cond_destroy(&q->changed);
    pthread_cond_destroy(&q->work);
    pthread_mutex_destroy(&q->lock);
    free(q->header.extensions);
    free(q->plain);
    free(q->packed);
    free(q->scratch);
    free(q->reftable);
    free(q->l1);
    free(q->path);
    free(q);
}

err_t qcow2_settle(struct qcow2 *q, struct error *e)
{
    err_t err = qcow2_flush(q, e);

    if (err == OK)
        err = refcounts_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    return err == OK ? header_features(q, 0, INCOMPATIBLE_DIRTY, e) : err;
}

void qcow2_finish(struct qcow2 *q)
{
    struct error e;
    err_t err = OK;

    if (!q->read_only)
        err = q->corrupt ? header_features(q, INCOMPATIBLE_CORRUPT, 0, &e) : qcow2_settle(q, &e);
    if (err != OK)
        log_line(LOG_ERROR, "disk %s: closing it failed: %s", q->block.name, e.text);
}

void qcow2_close(struct block *block)
{
    if (!block)
        return;
    qcow2_drain(block);
    release(container_of(block, struct qcow2, block));
}

static void describe(const struct extent *ext, struct block_extent *out)
{
    *out = (struct block_extent){.len = ext->len, .allocated = ext->kind != UNIT_UNALLOCATED};
    out->compressed = ext->kind == UNIT_COMPRESSED;
    out->placed = ext->kind == UNIT_DATA;
    out->data = out->compressed || out->placed;
    out->host = out->placed ? ext->host : 0;
}

static err_t qcow2_map(struct block *block, uint64_t offset, uint64_t len, struct block_extent *out,
                       struct error *e)
{
    struct qcow2 *q = container_of(block, struct qcow2, block);
    uint64_t below = q->backing ? q->backing->limits.size_bytes : 0;
    struct extent ext;

    structure_begin(q);
    err_t err = map_extent(q, offset, len, &ext, e);
    structure_end(q);
    if (err != OK)
        return err;
    describe(&ext, out);
    if (out->allocated || offset >= below)
        return OK;
    err = block_map(q->backing, offset, min_u64(ext.len, below - offset), out, e);
    out->depth++;
    return err;
}

static const struct block_type qcow2_type = {.name = "qcow2",
                                             .submit = qcow2_submit,
                                             .at_once = qcow2_at_once,
                                             .drain = qcow2_drain,
                                             .close = qcow2_close,
                                             .map = qcow2_map};

// --- opening

static void set_geometry(struct qcow2 *q)
{
    const struct qcow2_header *h = &q->header;

    q->cluster = 1ull << h->cluster_bits;
    q->extended = h->incompatible & INCOMPATIBLE_EXTENDED_L2;
    q->unit = q->extended ? q->cluster / 32 : q->cluster;
    q->entry_bytes = q->extended ? 16 : 8;
    q->entries_bits = h->cluster_bits - (q->extended ? 4 : 3);
    q->refs_per_block = q->cluster * 8 >> h->refcount_order;
    q->ref_max = h->refcount_order == 6 ? UINT64_MAX : (1ull << (1u << h->refcount_order)) - 1;
    q->reftable_entries = h->reftable_clusters * q->cluster / 8;
    q->l1_dirty_from = q->reftable_dirty_from = UINT64_MAX;
}

static err_t check_tables_in_file(const struct qcow2 *q, struct error *e)
{
    const struct qcow2_header *h = &q->header;
    uint64_t len = bfile_length(q->file);

    if (h->reftable_offset < len && (!h->l1_entries || h->l1_offset < len) &&
        (!h->snapshots || h->snapshots_offset < len))
        return OK;
    return error_set(e, ERR_CORRUPT, "%s: its tables lie beyond the end of the file; was it cut?",
                     q->path);
}

static err_t load_tables(struct qcow2 *q, struct error *e)
{
    uint64_t l1_bytes = align_up(max_u64(q->header.l1_entries * 8ull, 8), 4096);

    q->l1 = calloc(1, l1_bytes);
    q->reftable = calloc(q->reftable_entries, 8);
    q->scratch = aligned_alloc(4096, align_up(q->cluster, 4096));
    if (!q->l1 || !q->reftable || !q->scratch ||
        cache_init(&q->l2, L2_CACHE_BYTES, q->cluster) != OK ||
        cache_init(&q->refs, REF_CACHE_BYTES, q->cluster) != OK)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    err_t err = meta_read_words(q, q->header.l1_offset, q->l1, q->header.l1_entries, e);
    if (err == OK)
        err = meta_read_words(q, q->header.reftable_offset, q->reftable, q->reftable_entries, e);
    return err;
}

err_t qcow2_drop_bitmaps(struct qcow2 *q, struct error *e)
{
    if (!q->header.autoclear)
        return OK;
    q->header.autoclear = 0;
    err_t err = header_write(q, e);
    return err == OK ? meta_sync(q, e) : err;
}

// Before the first write. Counts that a crash left behind are made anew.
static err_t prepare_writing(struct qcow2 *q, struct error *e)
{
    struct qcow2_check check = {0};
    err_t err = qcow2_drop_bitmaps(q, e);

    if (err != OK || !(q->header.incompatible & INCOMPATIBLE_DIRTY))
        return err;
    err = qcow2_check_locked(q, QCOW2_REPAIR_ALL, &check, e);
    if (err == OK)
        log_line(LOG_INFO,
                 "disk %s: was not closed properly; its reference counts were repaired, and %llu "
                 "unused clusters given back",
                 q->block.name, (unsigned long long)check.leaks_fixed);
    return err;
}

static err_t check_writable(const struct qcow2 *q, struct error *e)
{
    if (q->header.incompatible & INCOMPATIBLE_CORRUPT)
        return error_set(e, ERR_CORRUPT,
                         "%s: is marked as corrupt and cannot be written; try: berth disk check "
                         "--repair=all %s",
                         q->path, q->path);
    if (q->align > q->cluster)
        return error_set(e, ERR_UNSUPPORTED,
                         "%s: direct I/O needs blocks of %llu bytes here, and its clusters are "
                         "smaller",
                         q->path, (unsigned long long)q->align);
    return OK;
}

static void set_limits(struct qcow2 *q)
{
    struct block_limits *limits = &q->block.limits;

    *limits = *bfile_limits(q->file);
    limits->size_bytes = align_up(q->header.size, limits->logical_block);
    limits->discard = limits->write_zeroes = !limits->read_only;
}

static err_t open_image(struct qcow2 *q, const struct block_options *options,
                        const struct block_chain *above, struct error *e)
{
    struct bfile_options how = {.read_only = options->read_only,
                                .direct = options->direct,
                                .unlocked = options->unlocked,
                                .transient = options->transient,
                                .threads = options->threads,
                                .grows = true};
    err_t err = bfile_open(q->path, &how, &q->file, e);

    if (err == OK)
        err = header_read(q, e);
    if (err == OK)
        err = header_check(q, e);
    if (err != OK)
        return err;
    set_geometry(q);
    q->align = max_u64(bfile_limits(q->file)->logical_block, 512);
    q->used_end = align_up(bfile_length(q->file), q->cluster);
    if ((err = check_tables_in_file(q, e)) != OK || (err = load_tables(q, e)) != OK)
        return err;
    set_limits(q);
    if (q->header.backing[0] && !options->no_backing)
        err = chain_open_below(q->path, q->header.backing,
                               q->header.backing_format[0] ? q->header.backing_format : NULL,
                               options, above, &q->backing, e);
    if (err == OK && !q->read_only && !options->repair)
        err = check_writable(q, e);
    if (err == OK && !q->read_only && !options->repair)
        err = prepare_writing(q, e);
    return err == OK ? requests_init(q, e) : err;
}

err_t qcow2_open(const char *path, const struct block_options *options,
                 const struct block_chain *above, struct block **out, struct error *e)
{
    struct qcow2 *q = calloc(1, sizeof *q);

    if (!q)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", path);
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->work, NULL);
    pthread_cond_init(&q->changed, NULL);
    q->queue_tail = &q->queue;
    q->read_only = options->read_only;
    q->block.type = &qcow2_type;
    block_set_name(&q->block, path);
    q->path = strdup(path);
    err_t err = q->path ? OK : error_set(e, ERR_NO_MEMORY, "%s: no memory", path);
    pthread_mutex_lock(&q->lock);
    if (err == OK)
        err = open_image(q, options, above, e);
    if (err == OK)
        q->block.io = bfile_io(q->file);
    pthread_mutex_unlock(&q->lock);
    if (err != OK) {
        release(q);
        return err;
    }
    *out = &q->block;
    return OK;
}

void qcow2_stand_on(struct qcow2 *q, struct block *backing)
{
    const struct block_limits *below = &backing->limits;

    q->backing = backing;
    q->block.limits.logical_block = max_u64(q->block.limits.logical_block, below->logical_block);
}

void qcow2_get_info(struct qcow2 *q, struct qcow2_info *info)
{
    const struct qcow2_header *h = &q->header;

    *info = (struct qcow2_info){
        .version = h->version,
        .cluster_bytes = (uint32_t)q->cluster,
        .refcount_bits = 1u << h->refcount_order,
        .snapshots = h->snapshots,
        .extended_l2 = q->extended,
        .lazy_refcounts = h->compatible & COMPATIBLE_LAZY_REFCOUNTS,
        .zstd = h->compression == 1,
        .dirty = h->incompatible & INCOMPATIBLE_DIRTY,
        .corrupt = h->incompatible & INCOMPATIBLE_CORRUPT,
        .backing = h->backing,
        .backing_format = h->backing_format,
        .file_bytes = bfile_length(q->file),
    };
}
