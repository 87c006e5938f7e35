// Writing zeros to and discarding parts of a qcow2 disk: whole units change their entries alone,
// and give their clusters back. Version 2 has no way to say zero over a backing file: zeros get
// written, and discarding does nothing there.
#include "base/bits.h"
#include "block/qcow2_impl.h"

static bool can_say_zero(const struct qcow2 *q)
{
    return q->header.version >= 3 || !q->backing;
}

// The end of the disk counts as the end of its unit.
static uint64_t whole_end(const struct qcow2 *q, uint64_t end, uint64_t size)
{
    return end == q->block.limits.size_bytes ? align_up(end, size) : align_down(end, size);
}

// All of a cluster. discard: one that has nothing stays as it is, and the backing file shows.
static void empty_cluster(struct qcow2 *q, struct table *l2, uint64_t index, bool discard)
{
    uint64_t entry = entry_get(q, l2, index), bitmap = entry_bitmap(q, l2, index);

    if (!entry && !bitmap && (discard || !q->backing))
        return;
    entry_free_later(q, entry);
    if (q->extended)
        entry_set(q, l2, index, 0, BITS(63, 32));
    else
        entry_set(q, l2, index, q->header.version >= 3 ? ENTRY_ZERO : 0, 0);
}

// Some subclusters of a cluster that is not compressed.
static void zero_units(struct qcow2 *q, struct table *l2, uint64_t start, uint64_t stop)
{
    uint64_t index = l2_index(q, start), base = align_down(start, q->cluster);
    uint64_t mask = BITS((stop - base) / q->unit - 1, (start - base) / q->unit);

    entry_set(q, l2, index, entry_get(q, l2, index),
              (entry_bitmap(q, l2, index) & ~mask) | mask << 32);
}

static err_t make_room(struct qcow2 *q, struct error *e)
{
    return q->free_count > PENDING_FREES / 2 ? qcow2_flush(q, e) : OK;
}

// Within one cluster.
static err_t zero_in_cluster(struct qcow2 *q, struct op *op, uint64_t start, uint64_t stop,
                             bool discard, struct error *e)
{
    uint64_t base = align_down(start, q->cluster);
    struct table *l2;
    err_t err = make_room(q, e);

    if (err == OK)
        err = l2_own(q, start, &l2, e);
    if (err != OK)
        return err;
    wait_for_allocs(q, start, start + 1);
    bool packed = entry_get(q, l2, l2_index(q, start)) & ENTRY_COMPRESSED;
    if (stop - start == q->cluster) {
        wait_for_range(q, base, base + q->cluster, op);
        empty_cluster(q, l2, l2_index(q, start), discard);
    } else if (!packed) {
        zero_units(q, l2, start, stop);
    }
    table_put(q, l2);
    if (packed && stop - start != q->cluster)
        return write_range(q, op, start, min_u64(stop, q->block.limits.size_bytes), e);
    return OK;
}

static err_t zero_whole(struct qcow2 *q, struct op *op, uint64_t start, uint64_t stop, bool discard,
                        struct error *e)
{
    uint64_t span = q->cluster << q->entries_bits;
    err_t err = OK;

    for (uint64_t next; err == OK && start < stop; start = next) {
        // Nothing under this L1 entry, and nothing below: that is zero already.
        if (!(q->l1[l1_index(q, start)] & ENTRY_OFFSET) && (discard || !q->backing)) {
            next = align_down(start, span) + span;
            continue;
        }
        next = min_u64(align_down(start, q->cluster) + q->cluster, stop);
        err = zero_in_cluster(q, op, start, next, discard, e);
    }
    return err;
}

err_t zero_request(struct qcow2 *q, struct op *op, struct error *e)
{
    uint64_t from = op->request->offset, to = from + op->request->len;
    uint64_t start = align_up(from, q->unit), stop = whole_end(q, to, q->unit);

    if (start >= stop || !can_say_zero(q))
        return write_range(q, op, from, to, e);
    err_t err = write_range(q, op, from, min_u64(start, to), e);
    if (err == OK)
        err = zero_whole(q, op, start, stop, false, e);
    return err == OK && stop < to ? write_range(q, op, stop, to, e) : err;
}

err_t discard_request(struct qcow2 *q, struct op *op, struct error *e)
{
    uint64_t from = op->request->offset, to = from + op->request->len;
    uint64_t start = align_up(from, q->cluster), stop = whole_end(q, to, q->cluster);

    if (start >= stop || !can_say_zero(q))
        return OK;
    return zero_whole(q, op, start, stop, true, e);
}
