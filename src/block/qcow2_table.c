// The cached tables of a qcow2 image (L2 tables and refcount blocks), the structural thread's file
// I/O, and the order in which what is dirty gets written.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "block/qcow2_impl.h"

#define MEMORY_ALIGN 4096u

// --- I/O without the lock

err_t meta_read(struct qcow2 *q, uint64_t offset, void *data, size_t len, struct error *e)
{
    pthread_mutex_unlock(&q->lock);
    err_t err = bfile_read(q->file, offset, data, len, e);
    pthread_mutex_lock(&q->lock);
    return err;
}

err_t meta_write(struct qcow2 *q, uint64_t offset, const void *data, size_t len, struct error *e)
{
    pthread_mutex_unlock(&q->lock);
    err_t err = bfile_write(q->file, offset, data, len, e);
    pthread_mutex_lock(&q->lock);
    return err;
}

err_t meta_sync(struct qcow2 *q, struct error *e)
{
    uint64_t ends = q->data_ends;

    pthread_mutex_unlock(&q->lock);
    err_t err = bfile_sync(q->file, e);
    pthread_mutex_lock(&q->lock);
    if (err == OK)
        q->data_synced = max_u64(q->data_synced, ends);
    return err;
}

err_t meta_write_words(struct qcow2 *q, uint64_t offset, const uint64_t *words, uint64_t count,
                       uint64_t from, uint64_t to, struct error *e)
{
    uint64_t at = align_down(from * 8, q->align), end = align_up(to * 8, q->align);
    err_t err = OK;

    for (uint64_t n; err == OK && at < end; at += n) {
        n = min_u64(end - at, q->cluster);
        for (uint64_t i = 0; i < n / 8; i++)
            store_be64(q->scratch + 8 * i, at / 8 + i < count ? words[at / 8 + i] : 0);
        err = meta_write(q, offset + at, q->scratch, n, e);
    }
    return err;
}

err_t meta_read_words(struct qcow2 *q, uint64_t offset, uint64_t *words, uint64_t count,
                      struct error *e)
{
    err_t err = meta_read(q, offset, words, count * 8, e);

    for (uint64_t i = 0; err == OK && i < count; i++)
        words[i] = __builtin_bswap64(words[i]);
    return err;
}

void wait_for_change(struct qcow2 *q)
{
    q->waiting++;
    pthread_cond_wait(&q->changed, &q->lock);
    q->waiting--;
}

void tell_change(struct qcow2 *q)
{
    if (q->waiting)
        pthread_cond_broadcast(&q->changed);
}

void structure_begin(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    while (q->structural)
        wait_for_change(q);
    q->structural = true;
}

void structure_end(struct qcow2 *q)
{
    q->structural = false;
    tell_change(q);
    pthread_mutex_unlock(&q->lock);
}

// --- the cache

err_t cache_init(struct table_cache *cache, uint64_t budget, uint64_t cluster)
{
    uint64_t tables = min_u64(max_u64(budget / cluster, CACHE_WAYS), CACHE_TABLES_MAX);

    cache->sets = (unsigned)(tables / CACHE_WAYS);
    cache->tables = calloc(cache->sets * CACHE_WAYS, sizeof *cache->tables);
    return cache->tables ? OK : ERR_NO_MEMORY;
}

void cache_release(struct table_cache *cache)
{
    for (unsigned i = 0; cache->tables && i < cache->sets * CACHE_WAYS; i++)
        free(cache->tables[i].data);
    free(cache->tables);
    cache->tables = NULL;
}

void cache_forget(struct table_cache *cache)
{
    for (unsigned i = 0; i < cache->sets * CACHE_WAYS; i++) {
        cache->tables[i].offset = 0;
        cache->tables[i].dirty = false;
    }
    cache->dirty = 0;
}

static struct table *set_of(struct table_cache *cache, uint64_t offset)
{
    uint64_t mixed = (offset >> 9) * 0x9e3779b97f4a7c15ull;

    return &cache->tables[(mixed >> 32) % cache->sets * CACHE_WAYS];
}

struct table *cache_find(struct table_cache *cache, uint64_t offset)
{
    struct table *set = set_of(cache, offset);

    for (unsigned i = 0; i < CACHE_WAYS; i++) {
        if (set[i].offset == offset) {
            set[i].used = ++cache->clock;
            return &set[i];
        }
    }
    return NULL;
}

// The least recently used table of the set that nobody has pinned; waits for one.
static struct table *victim(struct qcow2 *q, struct table_cache *cache, uint64_t offset)
{
    struct table *set = set_of(cache, offset), *best = NULL;

    for (;;) {
        for (unsigned i = 0; i < CACHE_WAYS; i++) {
            if (!set[i].pins && (!best || set[i].used < best->used))
                best = &set[i];
        }
        if (best)
            return best;
        wait_for_change(q);
    }
}

// From the first change of the counts to the close the image says that they may be wrong: whoever
// opens it after a kill gives back the clusters that were counted and not yet pointed to.
static err_t counts_begin(struct qcow2 *q, struct error *e)
{
    return header_features(q, INCOMPATIBLE_DIRTY, 0, e);
}

static err_t block_write(struct qcow2 *q, struct table *table, struct error *e)
{
    err_t err = counts_begin(q, e);

    if (err == OK)
        err = meta_write(q, table->offset, table->data, q->cluster, e);

    if (err == OK) {
        table->dirty = false;
        q->refs.dirty--;
    }
    return err;
}

static err_t evict(struct qcow2 *q, struct table_cache *cache, struct table *table, struct error *e)
{
    err_t err = OK;

    // Counts may be written at any time; they fall only when nothing needs them any more.
    if (table->dirty)
        err = cache == &q->refs ? block_write(q, table, e) : tables_write(q, e);
    return err;
}

// Behind the end there would be zeros: a table that maps or counts nothing, and cannot be true.
static err_t table_read(struct qcow2 *q, struct table *table, uint64_t offset, struct error *e)
{
    if (offset >= bfile_length(q->file))
        return qcow2_corrupt(q, e, "a table lies beyond the end of the file (%#llx)",
                             (unsigned long long)offset);
    return meta_read(q, offset, table->data, q->cluster, e);
}

err_t table_get(struct qcow2 *q, struct table_cache *cache, uint64_t offset, bool fresh,
                struct table **out, struct error *e)
{
    struct table *table = cache_find(cache, offset);
    err_t err = OK;

    while (!table) {
        table = victim(q, cache, offset);
        if ((err = evict(q, cache, table, e)) != OK)
            return err;
        if (table->pins || table->dirty)
            table = NULL; // taken up again meanwhile
    }
    if (table->offset != offset) {
        table->offset = 0;
        if (!table->data &&
            !(table->data = aligned_alloc(MEMORY_ALIGN, align_up(q->cluster, MEMORY_ALIGN))))
            return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
        table->pins++;
        if (fresh)
            memset(table->data, 0, q->cluster);
        else
            err = table_read(q, table, offset, e);
        table->pins--;
        if (err != OK)
            return err;
        table->offset = offset;
        table->data_ends = 0;
        table->used = ++cache->clock;
    } else if (fresh) {
        memset(table->data, 0, q->cluster);
    }
    table->pins++;
    *out = table;
    return OK;
}

void table_put(struct qcow2 *q, struct table *table)
{
    if (table && --table->pins == 0)
        tell_change(q);
}

void table_touch(struct table_cache *cache, struct table *table)
{
    if (!table->dirty)
        cache->dirty++;
    table->dirty = true;
}

// --- writing in order

err_t refcounts_write(struct qcow2 *q, struct error *e)
{
    err_t err = OK;

    for (unsigned i = 0; err == OK && i < q->refs.sets * CACHE_WAYS; i++) {
        if (q->refs.tables[i].dirty)
            err = block_write(q, &q->refs.tables[i], e);
    }
    if (err != OK || q->reftable_dirty_from >= q->reftable_dirty_to)
        return err;
    err = meta_sync(q, e); // a block before the table that points to it
    if (err == OK)
        err = meta_write_words(q, q->header.reftable_offset, q->reftable, q->reftable_entries,
                               q->reftable_dirty_from, q->reftable_dirty_to, e);
    if (err == OK)
        q->reftable_dirty_from = UINT64_MAX, q->reftable_dirty_to = 0;
    return err;
}

// A copy is written: ends of data writes may change the table meanwhile, for the next time. The
// data that it points to goes first, since clusters hold more than what was written just now: what
// came along from their old place may have been flushed long ago.
static err_t l2_write(struct qcow2 *q, struct table *table, struct error *e)
{
    uint64_t ends = table->data_ends;

    memcpy(q->scratch, table->data, q->cluster);
    table->dirty = false;
    q->l2.dirty--;
    table->pins++;
    err_t err = ends > q->data_synced ? meta_sync(q, e) : OK;
    if (err == OK)
        err = meta_write(q, table->offset, q->scratch, q->cluster, e);
    table->pins--;
    if (err != OK)
        table_touch(&q->l2, table);
    return err;
}

static err_t l1_write(struct qcow2 *q, struct error *e)
{
    uint64_t from = q->l1_dirty_from, to = q->l1_dirty_to;

    if (from >= to)
        return OK;
    err_t err = meta_sync(q, e); // L2 tables before what points to them
    if (err == OK)
        err = meta_write_words(q, q->header.l1_offset, q->l1, q->header.l1_entries, from, to, e);
    if (err == OK)
        q->l1_dirty_from = UINT64_MAX, q->l1_dirty_to = 0;
    return err;
}

// With lazy refcounts the dirty bit stands for the counts that are not written.
static err_t counts_safe(struct qcow2 *q, struct error *e)
{
    bool refs_dirty = q->refs.dirty || q->reftable_dirty_from < q->reftable_dirty_to;
    err_t err = counts_begin(q, e); // pointers that go leave their counts behind, too

    if (err != OK || !refs_dirty || q->header.compatible & COMPATIBLE_LAZY_REFCOUNTS)
        return err;
    err = refcounts_write(q, e);
    return err == OK ? meta_sync(q, e) : err;
}

err_t tables_write(struct qcow2 *q, struct error *e)
{
    if (!q->l2.dirty && q->l1_dirty_from >= q->l1_dirty_to)
        return OK;
    q->writing = true;
    err_t err = counts_safe(q, e);
    for (unsigned i = 0; err == OK && i < q->l2.sets * CACHE_WAYS; i++) {
        if (q->l2.tables[i].dirty)
            err = l2_write(q, &q->l2.tables[i], e);
    }
    if (err == OK)
        err = l1_write(q, e);
    q->writing = false;
    return err;
}

err_t qcow2_flush(struct qcow2 *q, struct error *e)
{
    unsigned frees = q->free_sealed = q->free_count; // their pointers have gone, which is written
    err_t err = tables_write(q, e);

    if (err == OK)
        err = meta_sync(q, e);
    if (err == OK)
        frees_apply(q, frees);
    return err;
}
