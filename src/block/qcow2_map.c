// Where a qcow2 disk's bytes are: L1 and L2 tables. An L2 entry speaks for one cluster, or with
// extended entries for 32 subclusters; both are called units here.
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "block/qcow2_impl.h"

uint64_t entry_get(const struct qcow2 *q, const struct table *l2, uint64_t index)
{
    return load_be64(l2->data + index * q->entry_bytes);
}

uint64_t entry_bitmap(const struct qcow2 *q, const struct table *l2, uint64_t index)
{
    return q->extended ? load_be64(l2->data + index * q->entry_bytes + 8) : 0;
}

void entry_set(struct qcow2 *q, struct table *l2, uint64_t index, uint64_t entry, uint64_t bitmap)
{
    store_be64(l2->data + index * q->entry_bytes, entry);
    if (q->extended)
        store_be64(l2->data + index * q->entry_bytes + 8, bitmap);
    table_touch(&q->l2, l2);
}

void compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *len)
{
    unsigned x = 62 - (q->header.cluster_bits - 8);

    *offset = entry & BITS(x - 1, 0);
    *len = (bits_get(entry, 61, x) + 1) * 512 - *offset % 512;
}

static enum unit_kind unit_kind(const struct qcow2 *q, uint64_t entry, uint64_t bitmap,
                                unsigned unit)
{
    if (entry & ENTRY_COMPRESSED)
        return UNIT_COMPRESSED;
    if (q->extended)
        return bitmap & BIT(32 + unit) ? UNIT_ZERO
               : bitmap & BIT(unit)    ? UNIT_DATA
                                       : UNIT_UNALLOCATED;
    if (entry & ENTRY_ZERO && q->header.version >= 3)
        return UNIT_ZERO;
    return entry & ENTRY_OFFSET ? UNIT_DATA : UNIT_UNALLOCATED;
}

static err_t check_entry(struct qcow2 *q, uint64_t entry, uint64_t bitmap, struct error *e)
{
    uint64_t host = entry & ENTRY_OFFSET;

    if (entry & ENTRY_COMPRESSED)
        return OK; // checked when it is read
    if (host % q->cluster)
        return qcow2_corrupt(q, e, "a data cluster is not at a cluster's start (%#llx)",
                             (unsigned long long)host);
    if (q->extended && ((bitmap & bitmap >> 32 & 0xffffffff) || (!host && bitmap << 32)))
        return qcow2_corrupt(q, e, "a subcluster is allocated nowhere, or in two ways");
    return OK;
}

// One unit: its kind, and as an extent up to the end of the unit.
static err_t map_one(struct qcow2 *q, const struct table *l2, uint64_t offset, struct extent *out,
                     struct error *e)
{
    uint64_t index = l2_index(q, offset), in_cluster = offset & (q->cluster - 1);
    uint64_t entry = entry_get(q, l2, index), bitmap = entry_bitmap(q, l2, index);
    err_t err = check_entry(q, entry, bitmap, e);

    if (err != OK)
        return err;
    out->entry = entry;
    out->kind = unit_kind(q, entry, bitmap, (unsigned)(in_cluster / q->unit));
    out->copied = entry & ENTRY_COPIED;
    out->host = (entry & ENTRY_OFFSET) + in_cluster;
    out->len = q->unit - in_cluster % q->unit;
    if (out->kind == UNIT_COMPRESSED)
        out->len = q->cluster - in_cluster;
    return OK;
}

static bool continues(const struct extent *a, const struct extent *b)
{
    if (a->kind != b->kind || a->kind == UNIT_COMPRESSED)
        return false;
    return a->kind != UNIT_DATA || (a->copied == b->copied && a->host + a->len == b->host);
}

err_t map_units(struct qcow2 *q, const struct table *l2, uint64_t offset, uint64_t len,
                struct extent *out, struct error *e)
{
    uint64_t l2_span = q->cluster << q->entries_bits;
    uint64_t most = min_u64(len, l2_span - (offset & (l2_span - 1)));
    struct extent next;

    if (!l2) {
        *out = (struct extent){.kind = UNIT_UNALLOCATED, .len = most};
        return OK;
    }
    err_t err = map_one(q, l2, offset, out, e);
    while (err == OK && out->len < most) {
        err = map_one(q, l2, offset + out->len, &next, e);
        if (err == OK && !continues(out, &next))
            break;
        out->len += next.len;
    }
    out->len = min_u64(out->len, most);
    return err;
}

static err_t check_l2(struct qcow2 *q, uint64_t at, struct error *e)
{
    if (at % q->cluster == 0 && !overlaps_metadata(q, at, q->cluster))
        return OK;
    return qcow2_corrupt(q, e, "the L1 table points to no L2 table (%#llx)",
                         (unsigned long long)at);
}

err_t l2_load(struct qcow2 *q, uint64_t offset, struct table **out, struct error *e)
{
    uint64_t at = q->l1[l1_index(q, offset)] & ENTRY_OFFSET;

    *out = NULL;
    if (!at)
        return OK;
    err_t err = check_l2(q, at, e);
    return err == OK ? table_get(q, &q->l2, at, false, out, e) : err;
}

static void l1_set(struct qcow2 *q, uint64_t index, uint64_t at)
{
    q->l1[index] = at | ENTRY_COPIED;
    q->l1_dirty_from = min_u64(q->l1_dirty_from, index);
    q->l1_dirty_to = max_u64(q->l1_dirty_to, index + 1);
}

err_t l2_own(struct qcow2 *q, uint64_t offset, struct table **out, struct error *e)
{
    uint64_t index = l1_index(q, offset), cluster, count;
    struct table *old;

    *out = NULL;
    err_t err = l2_load(q, offset, &old, e);
    if (err != OK || (old && q->l1[index] & ENTRY_COPIED)) {
        *out = old;
        return err;
    }
    err = clusters_alloc(q, 1, false, &cluster, &count, e);
    if (err == OK && (err = table_get(q, &q->l2, cluster * q->cluster, true, out, e)) != OK)
        clusters_free_later(q, cluster, 1);
    if (err == OK) {
        if (old) {
            memcpy((*out)->data, old->data, q->cluster);
            (*out)->data_ends = old->data_ends;
            clusters_free_later(q, old->offset / q->cluster, 1);
        }
        table_touch(&q->l2, *out);
        l1_set(q, index, cluster * q->cluster);
    }
    table_put(q, old);
    return err;
}

err_t map_extent(struct qcow2 *q, uint64_t offset, uint64_t len, struct extent *out,
                 struct error *e)
{
    struct table *l2;
    err_t err = l2_load(q, offset, &l2, e);

    if (err == OK)
        err = map_units(q, l2, offset, len, out, e);
    table_put(q, l2);
    return err;
}
