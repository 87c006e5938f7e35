// Reference counts of a qcow2 image, and the allocation of clusters by them.
//
// A refcount block is put into the first cluster that it counts, so that allocating one needs no
// other. The refcount table grows by moving into clusters that it counts itself.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "block/qcow2_impl.h"

uint64_t ref_get(const uint8_t *block, unsigned order, uint64_t index)
{
    unsigned width = 1u << order;

    switch (order) {
    case 4: return load_be16(block + 2 * index);
    case 5: return load_be32(block + 4 * index);
    case 6: return load_be64(block + 8 * index);
    default: return block[index * width / 8] >> (index * width % 8) & ((1u << width) - 1);
    }
}

void ref_set(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
    unsigned width = 1u << order, shift = (unsigned)(index * width % 8);
    unsigned mask = width < 32 ? (1u << width) - 1 : 0;

    switch (order) {
    case 4: store_be16(block + 2 * index, (uint16_t)value); break;
    case 5: store_be32(block + 4 * index, (uint32_t)value); break;
    case 6: store_be64(block + 8 * index, value); break;
    default:
        block[index * width / 8] =
            (uint8_t)((block[index * width / 8] & ~(mask << shift)) | (unsigned)value << shift);
    }
}

bool overlaps_metadata(const struct qcow2 *q, uint64_t offset, uint64_t len)
{
    const struct qcow2_header *h = &q->header;

    return ranges_overlap(offset, len, 0, q->cluster) ||
           ranges_overlap(offset, len, h->l1_offset, h->l1_entries * 8ull) ||
           ranges_overlap(offset, len, h->reftable_offset, h->reftable_clusters * q->cluster) ||
           (h->snapshots && ranges_overlap(offset, len, h->snapshots_offset, q->cluster));
}

// --- blocks

static err_t check_block(struct qcow2 *q, uint64_t offset, struct error *e)
{
    if (offset % q->cluster == 0 && !overlaps_metadata(q, offset, q->cluster) && offset < INT64_MAX)
        return OK;
    return qcow2_corrupt(q, e, "the refcount table points to no refcount block (%#llx)",
                         (unsigned long long)offset);
}

// The block that counts a cluster, pinned; NULL when there is none.
static err_t block_of(struct qcow2 *q, uint64_t cluster, struct table **out, struct error *e)
{
    uint64_t index = cluster / q->refs_per_block;
    uint64_t offset = index < q->reftable_entries ? q->reftable[index] & ~BITS(8, 0) : 0;

    *out = NULL;
    if (!offset)
        return OK;
    err_t err = check_block(q, offset, e);
    return err == OK ? table_get(q, &q->refs, offset, false, out, e) : err;
}

static void reftable_set(struct qcow2 *q, uint64_t index, uint64_t offset)
{
    q->reftable[index] = offset;
    q->reftable_dirty_from = min_u64(q->reftable_dirty_from, index);
    q->reftable_dirty_to = max_u64(q->reftable_dirty_to, index + 1);
}

static void used_up_to(struct qcow2 *q, uint64_t cluster)
{
    q->used_end = max_u64(q->used_end, cluster * q->cluster);
}

// A block for the counts of an index that has none, into a free cluster whose count the block holds
// itself, or another that exists.
static err_t block_new(struct qcow2 *q, uint64_t index, uint64_t at, struct error *e)
{
    struct table *table;

    if (overlaps_metadata(q, at * q->cluster, q->cluster))
        return qcow2_corrupt(q, e, "no count covers the image's own tables");
    err_t err = table_get(q, &q->refs, at * q->cluster, true, &table, e);
    if (err != OK)
        return err;
    table_touch(&q->refs, table);
    table_put(q, table);
    reftable_set(q, index, at * q->cluster);
    used_up_to(q, at + 1);
    return refcount_add(q, at, 1, 1, e);
}

// --- growth of the table

struct growth {
    uint64_t entries, clusters; // of the new table
    uint64_t blocks;            // that count the new table and themselves
    uint64_t first;             // cluster: the blocks, then the table
};

static err_t plan_growth(struct qcow2 *q, struct growth *g, struct error *e)
{
    uint64_t per_cluster = q->cluster / 8;

    g->first = q->reftable_entries * q->refs_per_block;
    g->blocks = 1;
    for (;;) {
        uint64_t want = q->reftable_entries + q->reftable_entries / 2 + g->blocks;
        g->clusters = (want + per_cluster - 1) / per_cluster;
        g->entries = g->clusters * per_cluster;
        uint64_t need = (g->blocks + g->clusters + q->refs_per_block - 1) / q->refs_per_block;
        if (need <= g->blocks)
            break;
        g->blocks = need;
    }
    if (g->clusters * q->cluster > REFTABLE_BYTES_MAX || g->first > (1ull << 55) / q->cluster)
        return error_set(e, ERR_NO_MEMORY,
                         "%s: the image has reached the largest size for its clusters; convert it "
                         "to larger ones",
                         q->path);
    return OK;
}

static err_t fill_growth(struct qcow2 *q, const struct growth *g, uint64_t *table, struct error *e)
{
    uint64_t used = g->blocks + g->clusters;

    for (uint64_t i = 0; i < g->blocks; i++) {
        struct table *block;
        err_t err = table_get(q, &q->refs, (g->first + i) * q->cluster, true, &block, e);
        if (err != OK)
            return err;
        uint64_t n = min_u64(used - i * q->refs_per_block, q->refs_per_block);
        for (uint64_t k = 0; k < n && i * q->refs_per_block < used; k++)
            ref_set(block->data, q->header.refcount_order, k, 1);
        table_touch(&q->refs, block);
        table_put(q, block);
        table[q->reftable_entries + i] = (g->first + i) * q->cluster;
    }
    return OK;
}

static err_t grow_reftable(struct qcow2 *q, struct error *e)
{
    struct qcow2_header *h = &q->header;
    struct growth g;
    err_t err = plan_growth(q, &g, e);
    if (err != OK)
        return err;
    uint64_t *table = calloc(g.entries, sizeof *table);
    if (!table)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    memcpy(table, q->reftable, q->reftable_entries * sizeof *table);
    err = fill_growth(q, &g, table, e);
    uint64_t at = (g.first + g.blocks) * q->cluster;
    uint64_t old = h->reftable_offset / q->cluster, old_clusters = h->reftable_clusters;
    if (err == OK)
        err = refcounts_write(q, e);
    if (err == OK)
        err = meta_write_words(q, at, table, g.entries, 0, g.entries, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err != OK) {
        free(table);
        return err;
    }
    free(q->reftable);
    q->reftable = table;
    q->reftable_entries = g.entries;
    h->reftable_offset = at;
    h->reftable_clusters = (uint32_t)g.clusters;
    used_up_to(q, g.first + g.blocks + g.clusters);
    err = header_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    clusters_free_later(q, old, old_clusters);
    return err;
}

// --- counts

err_t refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *count, struct error *e)
{
    struct table *block;
    err_t err = block_of(q, cluster, &block, e);

    *count = 0;
    if (err == OK && block)
        *count = ref_get(block->data, q->header.refcount_order, cluster % q->refs_per_block);
    table_put(q, block);
    return err;
}

static err_t change(struct qcow2 *q, struct table *block, uint64_t cluster, int delta,
                    struct error *e)
{
    unsigned order = q->header.refcount_order;
    uint64_t at = cluster % q->refs_per_block, count = ref_get(block->data, order, at);

    if (delta < 0 && !count)
        return qcow2_corrupt(q, e, "cluster %#llx is in use with a count of 0",
                             (unsigned long long)(cluster * q->cluster));
    if (delta > 0 && count == q->ref_max)
        return error_set(e, ERR_UNSUPPORTED,
                         "%s: a cluster is shared too often for counts of %u bits; delete "
                         "snapshots, or convert to an image with wider counts",
                         q->path, 1u << order);
    ref_set(block->data, order, at, count + (uint64_t)(int64_t)delta);
    table_touch(&q->refs, block);
    if (delta < 0 && count == 1)
        q->free_hint = min_u64(q->free_hint, cluster);
    return OK;
}

err_t refcount_add(struct qcow2 *q, uint64_t cluster, uint64_t clusters, int delta, struct error *e)
{
    err_t err = OK;

    for (uint64_t end = cluster + clusters; err == OK && cluster < end;) {
        uint64_t stop = min_u64(end, (cluster / q->refs_per_block + 1) * q->refs_per_block);
        struct table *block;
        if ((err = block_of(q, cluster, &block, e)) != OK)
            return err;
        if (!block)
            return qcow2_corrupt(q, e, "cluster %#llx is in use with a count of 0",
                                 (unsigned long long)(cluster * q->cluster));
        for (; err == OK && cluster < stop; cluster++)
            err = change(q, block, cluster, delta, e);
        table_put(q, block);
    }
    return err;
}

// --- allocation

// The first run of free clusters at or after *first within one block; *count 0: none.
static err_t free_run(struct qcow2 *q, uint64_t *first, uint64_t max, uint64_t *count,
                      struct error *e)
{
    uint64_t index = *first / q->refs_per_block, end = (index + 1) * q->refs_per_block, run = 0;
    unsigned order = q->header.refcount_order;
    struct table *block;
    err_t err;

    *count = 0;
    if (index >= q->reftable_entries && (err = grow_reftable(q, e)) != OK)
        return err;
    if (!(q->reftable[index] & ~BITS(8, 0)) &&
        (err = block_new(q, index, index * q->refs_per_block, e)) != OK)
        return err;
    if ((err = block_of(q, *first, &block, e)) != OK)
        return err;
    while (*first < end && ref_get(block->data, order, *first % q->refs_per_block))
        ++*first;
    while (run < max && *first + run < end &&
           !ref_get(block->data, order, (*first + run) % q->refs_per_block))
        run++;
    table_put(q, block);
    *count = run;
    return OK;
}

static err_t take(struct qcow2 *q, uint64_t first, uint64_t count, struct error *e)
{
    if (overlaps_metadata(q, first * q->cluster, count * q->cluster))
        return qcow2_corrupt(q, e, "the counts say that the image's own tables are free");
    err_t err = refcount_add(q, first, count, 1, e);
    if (err == OK)
        used_up_to(q, first + count);
    return err;
}

static bool uncounted(const struct qcow2 *q, uint64_t cluster)
{
    uint64_t index = cluster / q->refs_per_block;

    return index < q->reftable_entries && !(q->reftable[index] & ~BITS(8, 0));
}

// Contiguous clusters for a table. It may span blocks: a new one goes to the run's start then.
static err_t exact_run(struct qcow2 *q, uint64_t want, uint64_t *first, struct error *e)
{
    uint64_t at = q->free_hint, start = at, have = 0;

    while (have < want) {
        uint64_t next = at, run;
        err_t err = OK;
        if (have && uncounted(q, at)) {
            err = block_new(q, at / q->refs_per_block, start++, e);
            have--;
        }
        if (err == OK)
            err = free_run(q, &next, want - have, &run, e);
        if (err != OK)
            return err;
        if (!run || next != at || !have) {
            start = next;
            have = 0;
        }
        have += run;
        at = next + run;
    }
    *first = start;
    return OK;
}

err_t clusters_alloc(struct qcow2 *q, uint64_t max, bool exact, uint64_t *first, uint64_t *count,
                     struct error *e)
{
    uint64_t at = q->free_hint, run = 0;
    err_t err = OK;

    if (exact) {
        run = max;
        err = exact_run(q, max, &at, e);
    }
    while (err == OK && !run)
        err = free_run(q, &at, max, &run, e);
    if (err == OK)
        err = take(q, at, run, e);
    if (err != OK)
        return err;
    if (!exact || at == q->free_hint)
        q->free_hint = at + run;
    *first = at;
    *count = run;
    return OK;
}

void clusters_free_later(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
    struct pending_free *last = q->free_count ? &q->frees[q->free_count - 1] : NULL;

    if (q->free_count > q->free_sealed && last->cluster + last->count == cluster)
        last->count += count;
    else if (q->free_count < PENDING_FREES)
        q->frees[q->free_count++] = (struct pending_free){cluster, count};
}

// Space that has become free is given back to the host.
static void release_run(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
    if (!count)
        return;
    pthread_mutex_unlock(&q->lock);
    bfile_discard(q->file, cluster * q->cluster, count * q->cluster);
    pthread_mutex_lock(&q->lock);
}

static void release_free(struct qcow2 *q, const struct pending_free *f)
{
    uint64_t count, run = 0, end = f->cluster + f->count;
    struct error e;

    for (uint64_t at = f->cluster; at < end; at++) {
        if (refcount_get(q, at, &count, &e) != OK)
            return;
        if (count)
            release_run(q, at - run, run);
        run = count ? 0 : run + 1;
    }
    release_run(q, end - run, run);
}

void frees_apply(struct qcow2 *q, unsigned count)
{
    struct error e;

    for (unsigned i = 0; i < count; i++) {
        struct pending_free f = q->frees[i];
        if (refcount_add(q, f.cluster, f.count, -1, &e) == OK)
            release_free(q, &f);
        else
            log_line(LOG_WARN, "disk %s: clusters leak: %s", q->block.name, e.text);
    }
    q->free_sealed = 0;
    q->free_count -= count;
    memmove(q->frees, q->frees + count, q->free_count * sizeof *q->frees);
}
