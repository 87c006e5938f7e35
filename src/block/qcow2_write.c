// Writes to a qcow2 image that are not in place: they need clusters, what else a cluster holds
// (from the backing file or the cluster's old place), and after the data an entry that points to
// it.
//
// One allocation is a run of clusters under one L2 table, written by one request to the file.
// Queued writes that continue it join it.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "block/qcow2_impl.h"

#define ALLOCS 16
#define MEMBERS 33 // requests in one allocation
#define IOVS 512   // of its data
#define RUN_BYTES (4 * MIB)
#define MERGE_BYTES (128 * KIB) // more would leave the guest nothing to do meanwhile
#define BUFFER_ALIGN 4096u

struct edge { // what a cluster holds before or after the data
    struct block_request io;
    struct alloc *alloc;
    struct iovec iov;
    uint64_t offset, len; // on the disk
    uint8_t *data;        // owned; NULL: zeros
};

struct alloc {
    struct block_request io;
    struct qcow2 *q;
    struct table *l2;             // pinned
    uint64_t start, end;          // of the disk: data and edges, whole units
    uint64_t host;                // of start's cluster
    uint64_t first, count;        // clusters of the disk
    bool new_host;                // host was allocated for this
    bool fresh;                   // host was never written and reads as zeros
    bool whole_first, whole_last; // clusters whose old data moves along
    struct edge head, tail;
    unsigned pending;
    err_t result;
    struct op *members[MEMBERS];
    unsigned member_count;
    struct iovec iov[IOVS];
    unsigned iovs;
    struct alloc *next, **at; // under way, or in the pool
};

static const uint8_t zeros[64 * KIB] __attribute__((aligned(BUFFER_ALIGN)));

// --- the pool and the list of those under way

err_t allocs_init(struct qcow2 *q)
{
    q->allocs = calloc(ALLOCS, sizeof *q->allocs);
    for (unsigned i = 0; q->allocs && i < ALLOCS; i++) {
        q->allocs[i].q = q;
        q->allocs[i].next = q->alloc_pool;
        q->alloc_pool = &q->allocs[i];
    }
    return q->allocs ? OK : ERR_NO_MEMORY;
}

void allocs_release(struct qcow2 *q)
{
    free(q->allocs);
}

static struct alloc *alloc_get(struct qcow2 *q)
{
    while (!q->alloc_pool)
        wait_for_change(q);
    struct alloc *a = q->alloc_pool;
    q->alloc_pool = a->next;
    memset(a, 0, offsetof(struct alloc, iov));
    a->iovs = 0;
    a->q = q;
    a->next = q->allocating;
    a->at = &q->allocating;
    if (a->next)
        a->next->at = &a->next;
    q->allocating = a;
    return a;
}

static void alloc_put(struct alloc *a)
{
    struct qcow2 *q = a->q;

    free(a->head.data);
    free(a->tail.data);
    table_put(q, a->l2);
    *a->at = a->next;
    if (a->next)
        a->next->at = a->at;
    a->next = q->alloc_pool;
    q->alloc_pool = a;
    tell_change(q);
}

static bool allocating(const struct qcow2 *q, uint64_t start, uint64_t end)
{
    uint64_t bits = q->header.cluster_bits;

    for (struct alloc *a = q->allocating; a; a = a->next) {
        if (start >> bits < a->first + a->count && (end - 1) >> bits >= a->first)
            return true;
    }
    return false;
}

void wait_for_allocs(struct qcow2 *q, uint64_t start, uint64_t end)
{
    while (allocating(q, start, end))
        wait_for_change(q);
}

// --- the end: entries point to what was written

void entry_free_later(struct qcow2 *q, uint64_t entry)
{
    uint64_t offset, len, bits = q->header.cluster_bits;

    if (entry & ENTRY_COMPRESSED) {
        compressed_place(q, entry, &offset, &len);
        for (uint64_t c = offset >> bits; c <= (offset + len - 1) >> bits; c++)
            clusters_free_later(q, c, 1);
    } else if (entry & ENTRY_OFFSET) {
        clusters_free_later(q, (entry & ENTRY_OFFSET) >> bits, 1);
    }
}

// The units of a cluster that are allocated now, as a mask.
static uint64_t written_units(const struct alloc *a, uint64_t cluster)
{
    const struct qcow2 *q = a->q;
    uint64_t base = cluster << q->header.cluster_bits;
    uint64_t from = max_u64(a->start, base) - base;
    uint64_t to = min_u64(a->end, base + q->cluster) - base;

    return q->extended ? BITS(to / q->unit - 1, from / q->unit) : 0;
}

static void point_to(struct alloc *a, uint64_t i)
{
    struct qcow2 *q = a->q;
    uint64_t index = l2_index(q, (a->first + i) << q->header.cluster_bits);
    uint64_t old = entry_get(q, a->l2, index), bitmap = entry_bitmap(q, a->l2, index);
    uint64_t mask = written_units(a, a->first + i);

    if (old & ENTRY_COMPRESSED)
        bitmap = 0;
    if (a->new_host)
        entry_free_later(q, old);
    entry_set(q, a->l2, index, (a->host + i * q->cluster) | ENTRY_COPIED,
              (bitmap & ~(mask << 32)) | mask);
}

static void alloc_end(struct alloc *a)
{
    struct qcow2 *q = a->q;
    err_t result = a->result;
    unsigned members = a->member_count;
    struct op *member[MEMBERS];

    for (uint64_t i = 0; result == OK && i < a->count; i++)
        point_to(a, i);
    a->l2->data_ends = ++q->data_ends;
    if (result != OK && a->new_host)
        clusters_free_later(q, a->host / q->cluster, a->count);
    memcpy(member, a->members, members * sizeof *member);
    alloc_put(a);
    for (unsigned i = 0; i < members; i++)
        op_put(q, member[i], result);
}

static void data_done(struct block_request *io, err_t result)
{
    struct alloc *a = container_of(io, struct alloc, io);
    struct qcow2 *q = a->q;

    pthread_mutex_lock(&q->lock);
    a->result = result;
    alloc_end(a);
    pthread_mutex_unlock(&q->lock);
}

// --- the data

static void add_iov(struct alloc *a, const void *data, uint64_t len)
{
    if (len)
        a->iov[a->iovs++] = (struct iovec){(void *)data, len};
}

static bool add_zeros(struct alloc *a, uint64_t len)
{
    for (uint64_t part; len; len -= part) {
        if (a->iovs == IOVS)
            return false;
        part = min_u64(len, sizeof zeros);
        add_iov(a, zeros, part);
    }
    return true;
}

static void add_edge(struct alloc *a, const struct edge *edge)
{
    if (edge->data)
        add_iov(a, edge->data, edge->len);
    else
        add_zeros(a, edge->len);
}

// Adds [from, to) of the disk out of a request; returns how far it came.
static uint64_t add_data(struct alloc *a, const struct block_request *r, uint64_t from, uint64_t to,
                         unsigned most)
{
    uint64_t skip = r->skip + from - r->offset;

    if (r->op != BLOCK_WRITE) {
        for (uint64_t part; from < to && a->iovs < most; from += part) {
            part = min_u64(to - from, sizeof zeros);
            add_iov(a, zeros, part);
        }
        return from;
    }
    for (unsigned i = 0; i < r->iovs && from < to && a->iovs < most; i++) {
        if (skip >= r->iov[i].iov_len) {
            skip -= r->iov[i].iov_len;
            continue;
        }
        uint64_t part = min_u64(r->iov[i].iov_len - skip, to - from);
        add_iov(a, (const char *)r->iov[i].iov_base + skip, part);
        from += part;
        skip = 0;
    }
    return from;
}

// By this thread, where the host takes the data in memory: that is less than waking another, and it
// writes to one file one after the other anyway.
static bool written_at_once(struct alloc *a)
{
    struct qcow2 *q = a->q;
    err_t result;

    pthread_mutex_unlock(&q->lock);
    bool written = bfile_at_once(q->file, &a->io, &result);
    pthread_mutex_lock(&q->lock);
    if (written)
        a->result = result;
    return written;
}

// Zeros at the ends of space that reads as zeros need not be written.
static void submit_data(struct alloc *a)
{
    struct qcow2 *q = a->q;
    bool skip_head = a->fresh && !a->head.data, skip_tail = a->fresh && !a->tail.data;
    uint64_t from = a->start + (skip_head ? a->head.len : 0);
    uint64_t to = a->end - (skip_tail ? a->tail.len : 0);
    unsigned data_iovs = a->iovs;
    struct iovec *data = a->iov;

    // The head goes in front of the data that is already listed.
    if (!skip_head && a->head.len) {
        unsigned n = a->head.data ? 1 : (unsigned)((a->head.len + sizeof zeros - 1) / sizeof zeros);
        memmove(data + n, data, data_iovs * sizeof *data);
        a->iovs = 0;
        add_edge(a, &a->head);
        a->iovs += data_iovs;
    }
    if (!skip_tail)
        add_edge(a, &a->tail);
    a->io = (struct block_request){.op = BLOCK_WRITE,
                                   .offset = a->host + from - (a->first << q->header.cluster_bits),
                                   .len = to - from,
                                   .iov = a->iov,
                                   .iovs = a->iovs,
                                   .done = data_done};
    if (written_at_once(a))
        alloc_end(a);
    else
        bfile_submit(q->file, &a->io);
}

// --- the edges

static void edge_ended(struct alloc *a, err_t result)
{
    if (result != OK)
        a->result = result;
    if (--a->pending)
        return;
    if (a->result == OK)
        submit_data(a);
    else
        alloc_end(a);
}

static void edge_done(struct block_request *io, err_t result)
{
    struct edge *edge = container_of(io, struct edge, io);
    struct alloc *a = edge->alloc;
    struct qcow2 *q = a->q;

    pthread_mutex_lock(&q->lock);
    edge_ended(a, result);
    pthread_mutex_unlock(&q->lock);
}

// The whole edge is one extent that can be read with one request.
static void edge_submit(struct qcow2 *q, struct alloc *a, struct edge *edge, uint64_t at,
                        uint64_t len, bool below)
{
    memset(edge->data + len, 0, edge->len - len);
    edge->alloc = a;
    edge->iov = (struct iovec){edge->data, len};
    edge->io = (struct block_request){.op = BLOCK_READ,
                                      .offset = at,
                                      .len = len,
                                      .iov = &edge->iov,
                                      .iovs = 1,
                                      .done = edge_done};
    a->pending++;
    if (below)
        q->backing->type->submit(q->backing, &edge->io);
    else
        bfile_submit(q->file, &edge->io);
}

static err_t edge_start(struct qcow2 *q, struct alloc *a, struct edge *edge, struct error *e)
{
    struct extent ext;
    uint64_t size = q->backing ? q->backing->limits.size_bytes : 0;
    err_t err = edge->len ? map_units(q, a->l2, edge->offset, edge->len, &ext, e) : OK;

    if (err != OK || !edge->len)
        return err;
    bool one = ext.len == edge->len;
    bool empty = ext.kind == UNIT_ZERO || (ext.kind == UNIT_UNALLOCATED && edge->offset >= size);
    if (one && empty)
        return OK;
    edge->data = aligned_alloc(BUFFER_ALIGN, align_up(edge->len, BUFFER_ALIGN));
    if (!edge->data)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    if (one && ext.kind == UNIT_DATA)
        edge_submit(q, a, edge, ext.host, edge->len, false);
    else if (one && ext.kind == UNIT_UNALLOCATED)
        edge_submit(q, a, edge, edge->offset, min_u64(edge->len, size - edge->offset), true);
    else
        return read_now(q, edge->offset, edge->data, edge->len, e);
    return OK;
}

// --- the beginning

static bool needs_host(uint64_t entry)
{
    return entry & ENTRY_COMPRESSED || !(entry & ENTRY_COPIED) || !(entry & ENTRY_OFFSET);
}

// Old data that a new place must hold, too: the edge is then all of the cluster.
static bool moves(uint64_t entry)
{
    return entry & ENTRY_COMPRESSED || entry & ENTRY_OFFSET;
}

// Clusters from offset's on that need a new place, under this L2 table, free of others'
// allocations.
static uint64_t run_length(struct qcow2 *q, const struct table *l2, uint64_t offset, uint64_t end)
{
    uint64_t index = l2_index(q, offset), bits = q->header.cluster_bits;
    uint64_t most =
        min_u64(((end - 1) >> bits) - (offset >> bits) + 1, (1ull << q->entries_bits) - index);
    uint64_t n = 1;

    most = min_u64(most, max_u64(RUN_BYTES >> bits, 1));
    for (; n < most && needs_host(entry_get(q, l2, index + n)); n++) {
        uint64_t at = align_down(offset, q->cluster) + (n << bits);
        if (allocating(q, at, at + 1))
            break;
    }
    return n;
}

static uint64_t queued_end(const struct qcow2 *q, uint64_t end)
{
    uint64_t limit = end + MERGE_BYTES;

    // In the order of the queue, so that sequential writes are found in one pass.
    for (struct block_request *r = q->queue; r; r = r->next) {
        if (r->op == BLOCK_WRITE && r->offset == end && r->len && r->offset + r->len <= limit &&
            range_within(r->offset, r->len, q->block.limits.size_bytes))
            end += r->len;
    }
    return end;
}

// Lets queued writes that continue this one, and fit the run, join it. Returns the new end.
static uint64_t join(struct alloc *a, uint64_t end, uint64_t run_end, unsigned most)
{
    struct qcow2 *q = a->q;
    struct block_request *r;

    while (a->member_count < MEMBERS && end < run_end &&
           (r = queue_take_write(q, end, run_end, most - a->iovs))) {
        a->members[a->member_count++] = op_get(q, r);
        end = add_data(a, r, r->offset, r->offset + r->len, most);
    }
    return end;
}

static void set_edges(struct alloc *a, uint64_t offset, uint64_t end)
{
    struct qcow2 *q = a->q;
    uint64_t first = entry_get(q, a->l2, l2_index(q, offset));
    uint64_t last = entry_get(q, a->l2, l2_index(q, end - 1));

    a->start = align_down(offset, a->new_host && moves(first) ? q->cluster : q->unit);
    a->end = align_up(end, a->new_host && moves(last) ? q->cluster : q->unit);
    a->head.offset = a->start;
    a->head.len = offset - a->start;
    a->tail.offset = end;
    a->tail.len = a->end - end;
}

static err_t place(struct alloc *a, uint64_t offset, uint64_t end, struct error *e)
{
    struct qcow2 *q = a->q;
    uint64_t entry = entry_get(q, a->l2, l2_index(q, offset)), first, used = q->used_end;

    a->first = offset >> q->header.cluster_bits;
    a->count = 1;
    a->new_host = needs_host(entry);
    if (!a->new_host) {
        a->host = entry & ENTRY_OFFSET;
        if (overlaps_metadata(q, a->host, q->cluster))
            return qcow2_corrupt(q, e, "a data cluster lies over the image's tables");
        return OK;
    }
    a->count = 0; // what is not there yet is in nobody's way
    uint64_t want = run_length(q, a->l2, offset, end);
    err_t err = clusters_alloc(q, want, false, &first, &a->count, e);
    a->host = first * q->cluster;
    a->fresh = err == OK && a->host >= used;
    return err;
}

static err_t alloc_start(struct alloc *a, struct op *op, uint64_t offset, uint64_t *end,
                         bool may_join, struct error *e)
{
    struct qcow2 *q = a->q;
    unsigned zero_iovs = 2 * (unsigned)(q->cluster / sizeof zeros + 2); // for edges
    unsigned most = IOVS - zero_iovs;
    uint64_t limit = may_join ? queued_end(q, *end) : *end;
    err_t err = place(a, offset, limit, e);

    if (err != OK)
        return err;
    uint64_t run_end = (a->first + a->count) << q->header.cluster_bits;
    uint64_t stop = add_data(a, op->request, offset, min_u64(*end, run_end), most);
    a->members[a->member_count++] = op;
    op->pending++;
    if (may_join && stop == *end && a->new_host)
        stop = join(a, stop, min_u64(run_end, q->block.limits.size_bytes), most);
    *end = stop;
    // Clusters that the data did not reach after all.
    uint64_t used = ((stop - 1) >> q->header.cluster_bits) - a->first + 1;
    if (used < a->count)
        clusters_free_later(q, a->host / q->cluster + used, a->count - used);
    a->count = used;
    set_edges(a, offset, stop);
    a->pending = 1;
    err = edge_start(q, a, &a->head, e);
    if (err == OK)
        err = edge_start(q, a, &a->tail, e);
    edge_ended(a, err);
    return OK;
}

static err_t allocate(struct qcow2 *q, struct op *op, struct table *l2, uint64_t offset,
                      uint64_t *end, bool may_join, struct error *e)
{
    struct alloc *a = alloc_get(q);
    // Waiting for one may have let things change.
    a->l2 = l2;
    l2->pins++;
    err_t err = alloc_start(a, op, offset, end, may_join, e);
    if (err != OK)
        alloc_put(a);
    return err;
}

// One step of a write: in place, or one allocation. *end: how far to go, and how far it went.
static err_t write_step(struct qcow2 *q, struct op *op, uint64_t offset, uint64_t *end,
                        struct error *e)
{
    bool may_join =
        op->request->op == BLOCK_WRITE && *end == op->request->offset + op->request->len;
    struct table *l2;
    struct extent ext;
    err_t err = l2_own(q, offset, &l2, e);

    if (err != OK)
        return err;
    while (!q->alloc_pool || allocating(q, offset, offset + 1))
        wait_for_change(q);
    err = map_units(q, l2, offset, *end - offset, &ext, e);
    if (err == OK && ext.kind == UNIT_DATA && ext.copied) {
        if (overlaps_metadata(q, ext.host, ext.len))
            err = qcow2_corrupt(q, e, "a data cluster lies over the image's tables");
        else
            part_data(q, op, ext.host, offset, ext.len);
        *end = offset + ext.len;
    } else if (err == OK) {
        // Units that are in place already end an allocation in an existing cluster.
        if (!needs_host(ext.entry))
            *end = offset + min_u64(ext.len, q->cluster - (offset & (q->cluster - 1)));
        err = allocate(q, op, l2, offset, end, may_join && needs_host(ext.entry), e);
    }
    table_put(q, l2);
    return err;
}

err_t write_range(struct qcow2 *q, struct op *op, uint64_t offset, uint64_t end, struct error *e)
{
    err_t err = OK;

    for (uint64_t stop; err == OK && offset < end; offset = stop) {
        stop = end;
        err = write_step(q, op, offset, &stop, e);
    }
    return err;
}
