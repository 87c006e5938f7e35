// Requests to a qcow2 image. What is mapped in the cached tables goes straight to the file or the
// backing image, with the guest's buffers, on the submitter's stack; all else is queued for the
// image's worker, which may read tables, allocate and wait.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/log.h"
#include "block/qcow2_impl.h"
#include "block/sync.h"

#define OPS 128
#define PARTS 256
#define PLAN_EXTENTS 16 // that a request may have to go straight

// --- parts and ops

struct op *op_get(struct qcow2 *q, struct block_request *r)
{
    while (!q->op_pool)
        wait_for_change(q);
    struct op *op = q->op_pool;
    q->op_pool = op->next;
    *op = (struct op){.request = r, .pending = 1, .result = OK};
    op->next = q->in_flight;
    op->at = &q->in_flight;
    if (op->next)
        op->next->at = &op->next;
    q->in_flight = op;
    return op;
}

static void op_release(struct qcow2 *q, struct op *op)
{
    *op->at = op->next;
    if (op->next)
        op->next->at = op->at;
    op->next = q->op_pool;
    q->op_pool = op;
    tell_change(q);
}

// The request is the submitter's again from done() on.
static void finish(struct qcow2 *q, struct block_request *r, err_t result)
{
    pthread_mutex_unlock(&q->lock);
    r->done(r, result);
    pthread_mutex_lock(&q->lock);
    q->active--;
    tell_change(q);
}

void op_put(struct qcow2 *q, struct op *op, err_t result)
{
    if (result != OK)
        op->result = result;
    if (--op->pending)
        return;
    struct block_request *r = op->request;
    result = op->result;
    op_release(q, op);
    finish(q, r, result);
}

static void part_done(struct block_request *io, err_t result)
{
    struct part *part = container_of(io, struct part, io);
    struct qcow2 *q = part->q;
    struct op *op = part->op;

    pthread_mutex_lock(&q->lock);
    part->next = q->part_pool;
    q->part_pool = part;
    q->parts_free++;
    tell_change(q);
    op_put(q, op, result);
    pthread_mutex_unlock(&q->lock);
}

static struct part *part_get(struct qcow2 *q, struct op *op, uint64_t offset, uint64_t len)
{
    const struct block_request *r = op->request;

    while (!q->part_pool)
        wait_for_change(q);
    struct part *part = q->part_pool;
    q->part_pool = part->next;
    q->parts_free--;
    part->op = op;
    part->io = (struct block_request){.op = r->op,
                                      .len = len,
                                      .iov = r->iov,
                                      .iovs = r->iovs,
                                      .skip = r->skip + (offset - r->offset),
                                      .done = part_done};
    op->pending++;
    return part;
}

void part_data(struct qcow2 *q, struct op *op, uint64_t host, uint64_t offset, uint64_t len)
{
    struct part *part = part_get(q, op, offset, len);

    part->io.offset = host;
    bfile_submit(q->file, &part->io);
}

// --- reading

static void fill(const struct block_request *r, uint64_t at, uint64_t len, const uint8_t *from)
{
    uint64_t skip = r->skip + at;

    for (unsigned i = 0; i < r->iovs && len; i++) {
        if (skip >= r->iov[i].iov_len) {
            skip -= r->iov[i].iov_len;
            continue;
        }
        uint8_t *to = (uint8_t *)r->iov[i].iov_base + skip;
        uint64_t part = min_u64(r->iov[i].iov_len - skip, len);
        if (from)
            memcpy(to, from, part);
        else
            memset(to, 0, part);
        from = from ? from + part : NULL;
        len -= part;
        skip = 0;
    }
}

// What the backing image has of a range; the rest reads as zeros.
static uint64_t backed(const struct qcow2 *q, uint64_t offset, uint64_t len)
{
    uint64_t size = q->backing ? q->backing->limits.size_bytes : 0;

    return offset < size ? min_u64(len, size - offset) : 0;
}

// Starts the reading of an extent that is not compressed.
static void read_extent(struct qcow2 *q, struct op *op, uint64_t offset, const struct extent *ext)
{
    struct block_request *r = op->request;
    uint64_t below = ext->kind == UNIT_UNALLOCATED ? backed(q, offset, ext->len) : 0;

    if (ext->kind == UNIT_DATA) {
        part_data(q, op, ext->host, offset, ext->len);
        return;
    }
    if (below) {
        struct part *part = part_get(q, op, offset, below);
        part->io.offset = offset;
        q->backing->type->submit(q->backing, &part->io);
    }
    fill(r, offset - r->offset + below, ext->len - below, NULL);
}

static err_t read_slowly(struct qcow2 *q, struct op *op, struct error *e)
{
    struct block_request *r = op->request;
    struct extent ext;
    err_t err = OK;

    for (uint64_t done = 0; err == OK && done < r->len; done += ext.len) {
        uint64_t offset = r->offset + done;
        err = map_extent(q, offset, r->len - done, &ext, e);
        if (err == OK && ext.kind == UNIT_COMPRESSED) {
            err = compressed_read(q, ext.entry, e);
            if (err == OK)
                fill(r, done, ext.len, q->plain + (offset & (q->cluster - 1)));
        } else if (err == OK) {
            read_extent(q, op, offset, &ext);
        }
    }
    return err;
}

static err_t read_below(struct qcow2 *q, uint64_t offset, uint8_t *out, uint64_t len,
                        struct error *e)
{
    uint64_t below = backed(q, offset, len);
    err_t err = OK;

    memset(out + below, 0, len - below);
    if (below) {
        pthread_mutex_unlock(&q->lock);
        err = block_read(q->backing, offset, out, below, e);
        pthread_mutex_lock(&q->lock);
    }
    return err;
}

err_t read_now(struct qcow2 *q, uint64_t offset, uint8_t *out, uint64_t len, struct error *e)
{
    struct extent ext;
    err_t err = OK;

    for (; err == OK && len; offset += ext.len, out += ext.len, len -= ext.len) {
        if ((err = map_extent(q, offset, len, &ext, e)) != OK)
            return err;
        switch (ext.kind) {
        case UNIT_DATA: err = meta_read(q, ext.host, out, ext.len, e); break;
        case UNIT_ZERO: memset(out, 0, ext.len); break;
        case UNIT_UNALLOCATED: err = read_below(q, offset, out, ext.len, e); break;
        case UNIT_COMPRESSED:
            err = compressed_read(q, ext.entry, e);
            if (err == OK)
                memcpy(out, q->plain + (offset & (q->cluster - 1)), ext.len);
            break;
        }
    }
    return err;
}

// --- straight away

struct plan {
    struct extent ext[PLAN_EXTENTS];
    unsigned count;
};

static bool goes_straight(struct qcow2 *q, const struct block_request *r, const struct extent *ext)
{
    if (r->op == BLOCK_READ)
        return ext->kind != UNIT_COMPRESSED;
    return ext->kind == UNIT_DATA && ext->copied && !overlaps_metadata(q, ext->host, ext->len);
}

// A read or write that may be; of what else there is, the worker knows.
static bool transfers(const struct qcow2 *q, const struct block_request *r)
{
    return (r->op == BLOCK_READ || (r->op == BLOCK_WRITE && !q->read_only)) &&
           range_within(r->offset, r->len, q->block.limits.size_bytes);
}

static bool may_start(const struct qcow2 *q, const struct block_request *r)
{
    return !q->hold && (!q->corrupt || r->op == BLOCK_READ);
}

// Maps a request by cached tables alone.
static bool plan_request(struct qcow2 *q, const struct block_request *r, struct plan *plan)
{
    plan->count = 0;
    for (uint64_t done = 0; done < r->len; done += plan->ext[plan->count++].len) {
        uint64_t at = q->l1[l1_index(q, r->offset + done)] & ENTRY_OFFSET;
        struct table *l2 = at ? cache_find(&q->l2, at) : NULL;
        if ((at && !l2) || plan->count == PLAN_EXTENTS)
            return false;
        struct extent *ext = &plan->ext[plan->count];
        if (map_units(q, l2, r->offset + done, r->len - done, ext, NULL) != OK ||
            !goes_straight(q, r, ext))
            return false;
    }
    return plan->count <= q->parts_free && q->op_pool;
}

static void straight(struct qcow2 *q, struct block_request *r, const struct plan *plan)
{
    struct op *op = op_get(q, r);
    uint64_t offset = r->offset;

    for (unsigned i = 0; i < plan->count; i++) {
        if (r->op == BLOCK_READ)
            read_extent(q, op, offset, &plan->ext[i]);
        else
            part_data(q, op, plan->ext[i].host, offset, plan->ext[i].len);
        offset += plan->ext[i].len;
    }
    // No part can have ended yet: that takes the lock. Without any, done() wants another stack.
    if (--op->pending == 0)
        bfile_answer(q->file, &part_get(q, op, r->offset, 0)->io, OK);
}

// The extent of a request at offset, where the host has or takes it in memory.
static bool extent_at_once(struct qcow2 *q, const struct block_request *r, uint64_t offset,
                           const struct extent *ext)
{
    uint64_t below = ext->kind == UNIT_UNALLOCATED ? backed(q, offset, ext->len) : 0;
    struct block_request part = *r;
    err_t result = OK;

    part.skip += offset - r->offset;
    part.len = ext->kind == UNIT_DATA ? ext->len : below;
    part.offset = ext->kind == UNIT_DATA ? ext->host : offset;
    if (ext->kind == UNIT_DATA)
        return bfile_at_once(q->file, &part, &result);
    fill(r, offset - r->offset + below, ext->len - below, NULL);
    return !below || (block_at_once(q->backing, &part, &result) && result == OK);
}

bool qcow2_at_once(struct block *block, const struct block_request *r, err_t *result)
{
    struct qcow2 *q = container_of(block, struct qcow2, block);
    uint64_t offset = r->offset;
    struct plan plan;

    if (!transfers(q, r))
        return false;
    pthread_mutex_lock(&q->lock);
    bool good = may_start(q, r) && plan_request(q, r, &plan);
    for (unsigned i = 0; good && i < plan.count; offset += plan.ext[i++].len)
        good = extent_at_once(q, r, offset, &plan.ext[i]);
    pthread_mutex_unlock(&q->lock);
    *result = OK;
    return good;
}

static bool clean(const struct qcow2 *q)
{
    return !q->l2.dirty && q->l1_dirty_from >= q->l1_dirty_to && !q->writing;
}

static bool start_now(struct qcow2 *q, struct block_request *r)
{
    struct plan plan;

    if (!may_start(q, r) || q->parts_free <= PLAN_EXTENTS)
        return false;
    if (r->op == BLOCK_FLUSH && clean(q) && q->op_pool) {
        struct op *op = op_get(q, r);
        part_data(q, op, 0, r->offset, 0);
        op->pending--;
        return true;
    }
    if (!transfers(q, r) || !plan_request(q, r, &plan))
        return false;
    straight(q, r, &plan);
    return true;
}

void qcow2_submit(struct block *block, struct block_request *r)
{
    struct qcow2 *q = container_of(block, struct qcow2, block);

    pthread_mutex_lock(&q->lock);
    q->active++;
    r->next = NULL;
    if (!start_now(q, r)) {
        *q->queue_tail = r;
        q->queue_tail = &r->next;
        pthread_cond_signal(&q->work);
    }
    pthread_mutex_unlock(&q->lock);
}

// --- the worker

struct block_request *queue_take_write(struct qcow2 *q, uint64_t offset, uint64_t end_max,
                                       unsigned iovs_max)
{
    struct block_request **at = &q->queue, *r;

    for (unsigned i = 0; i < OPS && (r = *at); i++, at = &r->next) {
        if (r->op == BLOCK_WRITE && r->offset == offset && r->len <= end_max - offset && r->len &&
            r->iovs <= iovs_max) {
            *at = r->next;
            if (!r->next)
                q->queue_tail = at;
            return r;
        }
    }
    return NULL;
}

static bool touches(const struct block_request *r, uint64_t start, uint64_t end)
{
    return r->op != BLOCK_FLUSH && ranges_overlap(r->offset, r->len, start, end - start);
}

void wait_for_range(struct qcow2 *q, uint64_t start, uint64_t end, const struct op *but)
{
    q->hold = true;
    for (struct op *op = q->in_flight; op;) {
        if (op != but && touches(op->request, start, end)) {
            wait_for_change(q);
            op = q->in_flight;
        } else {
            op = op->next;
        }
    }
    q->hold = false;
}

static err_t allowed(const struct qcow2 *q, const struct block_request *r)
{
    bool changes = r->op != BLOCK_READ && r->op != BLOCK_FLUSH;

    if (!range_within(r->offset, r->len, q->block.limits.size_bytes))
        return ERR_IO;
    return changes && (q->read_only || q->corrupt) ? ERR_IO : OK;
}

// Flushes that wait together are one. In the image, pointers that went before it are gone.
static void serve_flushes(struct qcow2 *q, struct block_request *first)
{
    struct block_request *all = first, **at = &q->queue, *r;
    struct error e;

    while ((r = *at)) {
        if (r->op == BLOCK_FLUSH) {
            *at = r->next;
            r->next = all;
            all = r;
        } else {
            at = &r->next;
        }
    }
    q->queue_tail = at;
    err_t err = qcow2_flush(q, &e);
    if (err != OK)
        log_line(LOG_ERROR, "disk %s: a flush failed: %s", q->block.name, e.text);
    while ((r = all)) {
        all = r->next;
        finish(q, r, err == OK ? OK : ERR_IO);
    }
}

static err_t serve_op(struct qcow2 *q, struct op *op, struct error *e)
{
    struct block_request *r = op->request;
    err_t err = OK;

    if (q->free_count > PENDING_FREES / 2)
        err = qcow2_flush(q, e);
    if (err != OK)
        return err;
    switch (r->op) {
    case BLOCK_READ: return read_slowly(q, op, e);
    case BLOCK_WRITE: return write_range(q, op, r->offset, r->offset + r->len, e);
    case BLOCK_WRITE_ZEROES: return zero_request(q, op, e);
    case BLOCK_DISCARD: return discard_request(q, op, e);
    case BLOCK_FLUSH: break;
    }
    return OK;
}

static void serve(struct qcow2 *q, struct block_request *r)
{
    struct error e = {0};

    if (allowed(q, r) != OK) {
        finish(q, r, ERR_IO);
        return;
    }
    if (r->op == BLOCK_FLUSH) {
        serve_flushes(q, r);
        return;
    }
    struct op *op = op_get(q, r);
    err_t err = serve_op(q, op, &e);
    if (err != OK && !q->complained) {
        q->complained = true;
        log_line(LOG_ERROR,
                 "disk %s: %s (its guest gets an I/O error; further ones are not logged)",
                 q->block.name, e.text);
    }
    op_put(q, op, err == OK || err == ERR_NO_MEMORY ? err : ERR_IO);
}

static void work(void *opaque)
{
    struct qcow2 *q = opaque;
    struct block_request *r;

    host_thread_confine(HOST_THREAD_BLOCK);
    pthread_mutex_lock(&q->lock);
    for (;;) {
        while (!q->queue && !q->stop)
            pthread_cond_wait(&q->work, &q->lock);
        if (!q->queue)
            break;
        while (q->structural) // a tool
            wait_for_change(q);
        if (!(r = q->queue))
            continue;
        q->queue = r->next;
        if (!r->next)
            q->queue_tail = &q->queue;
        r->next = NULL;
        q->structural = true;
        serve(q, r);
        q->structural = false;
        tell_change(q);
    }
    qcow2_finish(q);
    pthread_mutex_unlock(&q->lock);
}

void qcow2_drain(struct block *block)
{
    struct qcow2 *q = container_of(block, struct qcow2, block);

    pthread_mutex_lock(&q->lock);
    while (q->active)
        wait_for_change(q);
    pthread_mutex_unlock(&q->lock);
}

err_t requests_init(struct qcow2 *q, struct error *e)
{
    q->ops = calloc(OPS, sizeof *q->ops);
    q->parts = calloc(PARTS, sizeof *q->parts);
    if (!q->ops || !q->parts || allocs_init(q) != OK)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    for (unsigned i = 0; i < OPS; i++) {
        q->ops[i].next = q->op_pool;
        q->op_pool = &q->ops[i];
    }
    for (unsigned i = 0; i < PARTS; i++) {
        q->parts[i].q = q;
        q->parts[i].next = q->part_pool;
        q->part_pool = &q->parts[i];
    }
    q->parts_free = PARTS;
    return host_thread_start(&q->worker, "qcow2", work, q, e);
}

void requests_release(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_signal(&q->work);
    pthread_mutex_unlock(&q->lock);
    host_thread_join(&q->worker);
    allocs_release(q);
    free(q->parts);
    free(q->ops);
}
