// Examines a qcow2 image: counts what refers to each cluster and compares with the image's own
// counts. Repair sets the counts right in place, or, where blocks that should hold them are missing
// or wrong, builds all of them anew behind the end of the file. Pointers that lead nowhere are
// reported and left as they are: what they meant is not known.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "block/qcow2_impl.h"

#define CLUSTERS_MAX (1ull << 28) // that the counts here may take memory for

struct checker {
    struct qcow2 *q;
    struct qcow2_check *out;
    enum qcow2_repair repair;
    uint64_t clusters;  // that can be counted
    uint32_t *counts;   // references seen
    uint8_t *is_l2;     // a bit for each: seen as an L2 table of the L1 at hand
    uint64_t unfixable; // errors that no count can set right
    bool rebuild;       // the blocks themselves are wrong
};

static void found(struct checker *c, bool leak, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void found(struct checker *c, bool leak, const char *fmt, ...)
{
    char words[160];
    va_list ap;

    if (leak)
        c->out->leaks++;
    else
        c->out->errors++;
    if (!c->out->found)
        return;
    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    c->out->found(c->out->opaque, leak, words);
}

static void nowhere(struct checker *c, const char *what, uint64_t offset)
{
    found(c, false, "%s points to no cluster of the file: %#llx", what, (unsigned long long)offset);
    c->unfixable++;
}

// One more reference to each cluster of a range; false, and said, for one that cannot be.
static bool refer(struct checker *c, uint64_t offset, uint64_t len, const char *what)
{
    uint64_t bits = c->q->header.cluster_bits, first = offset >> bits, last;

    if (!len)
        return true;
    if (!range_within(offset, len, c->clusters << bits)) {
        nowhere(c, what, offset);
        return false;
    }
    last = (offset + len - 1) >> bits;
    for (uint64_t i = first; i <= last; i++)
        c->counts[i] += c->counts[i] != UINT32_MAX;
    c->out->file_end = max_u64(c->out->file_end, (last + 1) << bits);
    return true;
}

static bool refer_aligned(struct checker *c, uint64_t offset, uint64_t len, const char *what)
{
    if (offset % c->q->cluster == 0)
        return refer(c, offset, len, what);
    nowhere(c, what, offset);
    return false;
}

// --- counting

static void count_entry(struct checker *c, uint64_t entry, uint64_t bitmap, bool active)
{
    struct qcow2 *q = c->q;
    uint64_t offset, len, host = entry & ENTRY_OFFSET;

    if (entry & ENTRY_COMPRESSED) {
        compressed_place(q, entry, &offset, &len);
        refer(c, offset, len, "a compressed cluster");
        c->out->compressed += active;
        c->out->allocated += active;
        return;
    }
    if (q->extended && ((bitmap & bitmap >> 32 & 0xffffffff) || (!host && bitmap << 32))) {
        found(c, false, "a subcluster is allocated nowhere, or in two ways");
        c->unfixable++;
    }
    bool zero = q->extended ? bitmap >> 32 == 0xffffffff : entry & ENTRY_ZERO;
    c->out->zero += active && zero;
    c->out->allocated += active && host && !zero;
    if (host)
        refer_aligned(c, host, q->cluster, "an L2 entry");
}

static err_t count_l2(struct checker *c, uint64_t at, bool active, struct error *e)
{
    struct qcow2 *q = c->q;
    uint64_t index = at / q->cluster;
    struct table *l2;

    if (!refer_aligned(c, at, q->cluster, "an L1 entry"))
        return OK;
    if (c->is_l2[index / 8] & 1u << index % 8) {
        found(c, false, "two L1 entries share the L2 table at %#llx", (unsigned long long)at);
        c->unfixable++;
        return OK;
    }
    c->is_l2[index / 8] |= (uint8_t)(1u << index % 8);
    err_t err = table_get(q, &q->l2, at, false, &l2, e);
    for (uint64_t i = 0; err == OK && i < 1ull << q->entries_bits; i++) {
        uint64_t entry = entry_get(q, l2, i), bitmap = entry_bitmap(q, l2, i);
        if (entry || bitmap)
            count_entry(c, entry, bitmap, active);
    }
    if (err == OK)
        table_put(q, l2);
    return err;
}

static err_t count_l1(struct checker *c, const uint64_t *l1, uint64_t entries, bool active,
                      struct error *e)
{
    err_t err = OK;

    memset(c->is_l2, 0, c->clusters / 8 + 1);
    for (uint64_t i = 0; err == OK && i < entries; i++) {
        if (l1[i] & ENTRY_OFFSET)
            err = count_l2(c, l1[i] & ENTRY_OFFSET, active, e);
        if (active && c->out->progress && i % 16 == 0)
            c->out->progress(c->out->opaque, i, entries);
    }
    return err;
}

static err_t count_snapshot(struct checker *c, const struct qcow2_snapshot *snap, struct error *e)
{
    struct qcow2 *q = c->q;
    uint64_t bytes = snap->l1_entries * 8ull;

    if (bytes > L1_BYTES_MAX || !refer_aligned(c, snap->l1_offset, bytes, "a snapshot"))
        return OK;
    uint64_t *l1 = calloc(1, bytes + 8);
    if (!l1)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    err_t err = meta_read_words(q, snap->l1_offset, l1, snap->l1_entries, e);
    if (err == OK)
        err = count_l1(c, l1, snap->l1_entries, false, e);
    free(l1);
    return err;
}

static err_t count_snapshots(struct checker *c, struct error *e)
{
    struct qcow2 *q = c->q;
    struct qcow2_snapshot *list;
    unsigned count;
    uint64_t len;
    err_t err = snapshots_load(q, &list, &count, &len, e);

    if (err == OK)
        refer_aligned(c, q->header.snapshots_offset, len, "the header");
    for (unsigned i = 0; err == OK && i < count; i++)
        err = count_snapshot(c, &list[i], e);
    free(list);
    return err;
}

static void count_blocks(struct checker *c)
{
    struct qcow2 *q = c->q;

    refer_aligned(c, q->header.reftable_offset, q->header.reftable_clusters * q->cluster,
                  "the header");
    for (uint64_t i = 0; i < q->reftable_entries; i++) {
        uint64_t at = q->reftable[i] & ~BITS(8, 0);
        if (!at)
            continue;
        if (at % q->cluster || !range_within(at, q->cluster, c->clusters * q->cluster)) {
            found(c, false, "the refcount table points to no block: %#llx", (unsigned long long)at);
            c->rebuild = true;
        } else if (c->counts[at / q->cluster]++) {
            found(c, false, "the refcount block at %#llx is something else, too",
                  (unsigned long long)at);
            c->rebuild = true;
        }
    }
}

static err_t count_all(struct checker *c, struct error *e)
{
    struct qcow2 *q = c->q;

    refer(c, 0, q->cluster, "the header");
    refer_aligned(c, q->header.l1_offset, q->header.l1_entries * 8ull, "the header");
    err_t err = count_l1(c, q->l1, q->header.l1_entries, true, e);
    if (err == OK)
        err = count_snapshots(c, e);
    if (err == OK)
        count_blocks(c);
    return err;
}

// --- comparing

static err_t set_count(struct checker *c, uint64_t cluster, struct error *e)
{
    struct qcow2 *q = c->q;
    uint64_t at = q->reftable[cluster / q->refs_per_block] & ~BITS(8, 0);
    struct table *block;

    if (c->counts[cluster] > q->ref_max)
        return error_set(e, ERR_UNSUPPORTED, "%s: a cluster is shared too often for its counts",
                         q->path);
    err_t err = table_get(q, &q->refs, at, false, &block, e);
    if (err != OK)
        return err;
    ref_set(block->data, q->header.refcount_order, cluster % q->refs_per_block, c->counts[cluster]);
    table_touch(&q->refs, block);
    table_put(q, block);
    return OK;
}

static err_t compare_one(struct checker *c, uint64_t cluster, uint64_t has, bool fix,
                         struct error *e)
{
    uint64_t want = c->counts[cluster];

    if (has == want)
        return OK;
    if (!fix)
        found(c, has > want, "cluster at %#llx: count %llu, references %llu",
              (unsigned long long)(cluster * c->q->cluster), (unsigned long long)has,
              (unsigned long long)want);
    else if (has > want || c->repair == QCOW2_REPAIR_ALL)
        return set_count(c, cluster, e);
    return OK;
}

// The block that an index's counts are in, pinned; NULL: none that can be used.
static err_t block_at(struct checker *c, uint64_t index, struct table **out, struct error *e)
{
    struct qcow2 *q = c->q;
    uint64_t at = index < q->reftable_entries ? q->reftable[index] & ~BITS(8, 0) : 0;

    *out = NULL;
    if (!at || at % q->cluster || at >= c->clusters * q->cluster)
        return OK;
    return table_get(q, &q->refs, at, false, out, e);
}

// Counts beyond what this checker has memory for belong to nothing in the file.
static err_t compare(struct checker *c, bool fix, struct error *e)
{
    struct qcow2 *q = c->q;
    err_t err = OK;

    for (uint64_t first = 0; err == OK && first < c->clusters; first += q->refs_per_block) {
        struct table *block;
        if ((err = block_at(c, first / q->refs_per_block, &block, e)) != OK)
            break;
        uint64_t end = min_u64(first + q->refs_per_block, c->clusters);
        for (uint64_t i = first; err == OK && i < end; i++) {
            uint64_t has = block ? ref_get(block->data, q->header.refcount_order, i - first) : 0;
            if (has != c->counts[i] && !block)
                c->rebuild = true;
            if (has != c->counts[i])
                err = compare_one(c, i, has, fix, e);
        }
        table_put(q, block);
    }
    return err;
}

// --- flags

static bool flag_right(struct checker *c, uint64_t entry, uint64_t host, bool *fixed)
{
    bool one = host / c->q->cluster < c->clusters && c->counts[host / c->q->cluster] == 1;

    if (!host || !!(entry & ENTRY_COPIED) == one)
        return true;
    *fixed = c->repair == QCOW2_REPAIR_ALL;
    found(c, false, "the cluster at %#llx is %s as not shared", (unsigned long long)host,
          one ? "not marked" : "wrongly marked");
    c->out->errors_fixed += *fixed;
    return false;
}

static err_t flags_l2(struct checker *c, uint64_t at, struct error *e)
{
    struct qcow2 *q = c->q;
    struct table *l2;
    bool fixed = false;

    if (at % q->cluster || at / q->cluster >= c->clusters)
        return OK;
    err_t err = table_get(q, &q->l2, at, false, &l2, e);
    for (uint64_t i = 0; err == OK && i < 1ull << q->entries_bits; i++) {
        uint64_t entry = entry_get(q, l2, i);
        if (!(entry & ENTRY_COMPRESSED) && !flag_right(c, entry, entry & ENTRY_OFFSET, &fixed) &&
            fixed)
            entry_set(q, l2, i, entry ^ ENTRY_COPIED, entry_bitmap(q, l2, i));
    }
    if (err == OK)
        table_put(q, l2);
    return err;
}

static err_t flags(struct checker *c, struct error *e)
{
    struct qcow2 *q = c->q;
    err_t err = OK;

    for (uint64_t i = 0; err == OK && i < q->header.l1_entries; i++) {
        uint64_t at = q->l1[i] & ENTRY_OFFSET;
        bool fixed = false;
        if (!flag_right(c, q->l1[i], at, &fixed) && fixed) {
            q->l1[i] ^= ENTRY_COPIED;
            q->l1_dirty_from = min_u64(q->l1_dirty_from, i);
            q->l1_dirty_to = max_u64(q->l1_dirty_to, i + 1);
        }
        if (at)
            err = flags_l2(c, at, e);
    }
    return err;
}

// --- building anew

struct rebuild {
    uint64_t first, blocks, table_clusters; // blocks, then the table, behind all that is used
};

static void forget_old_blocks(struct checker *c)
{
    struct qcow2 *q = c->q;
    uint64_t at = q->header.reftable_offset / q->cluster;

    for (uint64_t i = 0; i < q->header.reftable_clusters && at + i < c->clusters; i++)
        c->counts[at + i] -= c->counts[at + i] > 0;
    for (uint64_t i = 0; i < q->reftable_entries; i++) {
        at = q->reftable[i] & ~BITS(8, 0);
        if (at && at % q->cluster == 0 && at / q->cluster < c->clusters)
            c->counts[at / q->cluster] -= c->counts[at / q->cluster] > 0;
    }
}

static err_t plan_rebuild(struct checker *c, struct rebuild *r, struct error *e)
{
    struct qcow2 *q = c->q;
    uint64_t before;

    r->first = c->clusters;
    r->blocks = r->table_clusters = 1;
    do {
        uint64_t end = r->first + r->blocks + r->table_clusters;
        before = r->blocks + r->table_clusters;
        r->blocks = (end + q->refs_per_block - 1) / q->refs_per_block;
        r->table_clusters = (r->blocks * 8 + q->cluster - 1) / q->cluster;
    } while (r->blocks + r->table_clusters != before);
    if (r->table_clusters * q->cluster > REFTABLE_BYTES_MAX)
        return error_set(e, ERR_UNSUPPORTED, "%s: is too large for counts made anew", q->path);
    return OK;
}

static err_t write_block(struct checker *c, const struct rebuild *r, uint64_t index,
                         struct error *e)
{
    struct qcow2 *q = c->q;
    uint64_t end = r->first + r->blocks + r->table_clusters;

    memset(q->scratch, 0, q->cluster);
    for (uint64_t k = 0; k < q->refs_per_block; k++) {
        uint64_t cluster = index * q->refs_per_block + k;
        uint64_t count = cluster < c->clusters ? c->counts[cluster] : cluster < end ? 1 : 0;
        if (count > q->ref_max)
            return error_set(e, ERR_UNSUPPORTED, "%s: a cluster is shared too often for its counts",
                             q->path);
        ref_set(q->scratch, q->header.refcount_order, k, count);
    }
    return meta_write(q, (r->first + index) * q->cluster, q->scratch, q->cluster, e);
}

static err_t switch_to(struct qcow2 *q, const struct rebuild *r, uint64_t *table, struct error *e)
{
    free(q->reftable);
    q->reftable = table;
    q->reftable_entries = r->table_clusters * q->cluster / 8;
    q->reftable_dirty_from = UINT64_MAX;
    q->reftable_dirty_to = 0;
    q->header.reftable_offset = (r->first + r->blocks) * q->cluster;
    q->header.reftable_clusters = (uint32_t)r->table_clusters;
    q->used_end = max_u64(q->used_end, (r->first + r->blocks + r->table_clusters) * q->cluster);
    q->free_hint = 0;
    cache_forget(&q->refs);
    err_t err = header_write(q, e);
    return err == OK ? meta_sync(q, e) : err;
}

static err_t rebuild(struct checker *c, struct error *e)
{
    struct qcow2 *q = c->q;
    struct rebuild r;

    forget_old_blocks(c);
    err_t err = plan_rebuild(c, &r, e);
    if (err != OK)
        return err;
    uint64_t entries = r.table_clusters * q->cluster / 8;
    uint64_t *table = calloc(1, align_up(entries * 8, 4096));
    if (!table)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    for (uint64_t i = 0; err == OK && i < r.blocks; i++) {
        table[i] = (r.first + i) * q->cluster;
        err = write_block(c, &r, i, e);
    }
    if (err == OK)
        err = meta_write_words(q, (r.first + r.blocks) * q->cluster, table, entries, 0, entries, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err == OK)
        return switch_to(q, &r, table, e);
    free(table);
    return err;
}

// --- the whole

static err_t repair(struct checker *c, struct error *e)
{
    struct qcow2 *q = c->q;
    struct qcow2_check *out = c->out;
    uint64_t wrong = out->errors - out->errors_fixed - c->unfixable;
    bool anew = c->rebuild && c->repair == QCOW2_REPAIR_ALL;
    err_t err = OK;

    if (c->repair == QCOW2_REPAIR_NONE)
        return OK;
    if (anew)
        err = rebuild(c, e);
    else if (out->errors + out->leaks)
        err = compare(c, true, e);
    q->free_hint = 0;
    if (err == OK)
        err = qcow2_flush(q, e);
    if (err == OK)
        err = refcounts_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err != OK)
        return err;
    out->leaks_fixed = out->leaks;
    if (c->repair == QCOW2_REPAIR_ALL)
        out->errors_fixed += wrong;
    if (out->errors != out->errors_fixed)
        return OK;
    q->corrupt = false;
    return header_features(q, 0, INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT, e);
}

static err_t prepare(struct checker *c, struct error *e)
{
    struct qcow2 *q = c->q;

    // One cluster more than the file has: its last may be written in part.
    c->clusters = (bfile_length(q->file) + q->cluster - 1) / q->cluster + 1;
    c->clusters = max_u64(c->clusters, q->used_end / q->cluster + 1);
    if (c->clusters > CLUSTERS_MAX)
        return error_set(e, ERR_UNSUPPORTED, "%s: has too many clusters to be examined", q->path);
    c->counts = calloc(c->clusters, sizeof *c->counts);
    c->is_l2 = calloc(1, c->clusters / 8 + 1);
    if (!c->counts || !c->is_l2)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    return OK;
}

// Bitmaps of other programs are not read: what is theirs would look like leaks.
static bool has_bitmaps(const struct qcow2 *q)
{
    return q->header.autoclear & AUTOCLEAR_BITMAPS;
}

err_t qcow2_check_locked(struct qcow2 *q, enum qcow2_repair how, struct qcow2_check *out,
                         struct error *e)
{
    struct checker c = {.q = q, .out = out, .repair = has_bitmaps(q) ? QCOW2_REPAIR_NONE : how};
    err_t err = prepare(&c, e);

    out->clusters = align_up(q->header.size, q->cluster) / q->cluster;
    if (err == OK)
        err = count_all(&c, e);
    if (err == OK && !has_bitmaps(q))
        err = compare(&c, false, e);
    if (err == OK)
        err = flags(&c, e);
    if (err == OK)
        err = repair(&c, e);
    free(c.counts);
    free(c.is_l2);
    return err;
}

err_t qcow2_check(struct qcow2 *q, enum qcow2_repair how, struct qcow2_check *out, struct error *e)
{
    structure_begin(q);
    err_t err = how == QCOW2_REPAIR_NONE || q->read_only ? OK : qcow2_drop_bitmaps(q, e);
    if (err == OK)
        err = qcow2_check_locked(q, q->read_only ? QCOW2_REPAIR_NONE : how, out, e);
    structure_end(q);
    return err;
}
