// See copy.h.
#include "block/copy.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "block/qcow2.h"
#include "block/sync.h"
#include "host/thread.h"

#define THREADS 4
#define CHUNK (2 * MIB) // the largest cluster
#define GRAIN (4 * KIB) // zeros are looked for in these

struct worker {
    struct job *job;
    struct host_thread thread;
    uint8_t *data, *other;
};

struct job {
    const struct block_copy *copy;
    struct block *base; // for a rebase: the new backing file
    err_t (*chunk)(struct job *job, struct worker *w, uint64_t at, uint64_t len, struct error *e);
    uint64_t size, next, done, step;
    bool (*progress)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
    pthread_mutex_t lock;
    struct error error;
    err_t result; // the first failure
};

static bool is_zero(const uint8_t *data, uint64_t len)
{
    return len == 0 || (data[0] == 0 && !memcmp(data, data + 1, len - 1));
}

// --- the threads

// The next chunk; false when there is none, or no more wanted.
static bool take(struct job *job, uint64_t *at, uint64_t *len)
{
    pthread_mutex_lock(&job->lock);
    *at = job->next;
    *len = min_u64(job->step, job->size - job->next);
    job->next += *len;
    bool more = *len && job->result == OK;
    pthread_mutex_unlock(&job->lock);
    return more;
}

static void ended(struct job *job, uint64_t len, err_t err, const struct error *e)
{
    pthread_mutex_lock(&job->lock);
    job->done += len;
    if (err != OK && job->result == OK) {
        job->result = err;
        job->error = *e;
    }
    if (job->result == OK && job->progress && !job->progress(job->opaque, job->done, job->size))
        job->result = error_set(&job->error, ERR_BUSY, "interrupted");
    pthread_mutex_unlock(&job->lock);
}

static void work(void *opaque)
{
    struct worker *w = opaque;
    uint64_t at, len;
    struct error e;

    while (take(w->job, &at, &len)) {
        err_t err = w->job->chunk(w->job, w, at, len, &e);
        ended(w->job, len, err, &e);
    }
}

static err_t run(struct job *job, struct error *e)
{
    struct worker workers[THREADS] = {0};
    err_t err = OK;

    pthread_mutex_init(&job->lock, NULL);
    for (unsigned i = 0; err == OK && i < THREADS; i++) {
        struct worker *w = &workers[i];
        w->job = job;
        w->data = aligned_alloc(4096, CHUNK);
        w->other = aligned_alloc(4096, CHUNK);
        if (!w->data || !w->other)
            err = error_set(e, ERR_NO_MEMORY, "no memory");
        else
            err = host_thread_start(&w->thread, "copy", work, w, e);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        host_thread_join(&workers[i].thread);
        free(workers[i].data);
        free(workers[i].other);
    }
    pthread_mutex_destroy(&job->lock);
    if (err == OK && job->result != OK) {
        err = job->result;
        if (e)
            *e = job->error;
    }
    return err;
}

// --- copying

static err_t zero(const struct block_copy *c, uint64_t at, uint64_t len, struct error *e)
{
    return c->target_is_zero ? OK : block_request(c->to, BLOCK_WRITE_ZEROES, at, len, e);
}

// Runs of grains that hold something are written, the others zeroed.
static err_t write_sparsely(const struct block_copy *c, const uint8_t *data, uint64_t at,
                            uint64_t len, struct error *e)
{
    err_t err = OK;

    for (uint64_t start = 0, end; err == OK && start < len; start = end) {
        bool empty = is_zero(data + start, min_u64(GRAIN, len - start));
        for (end = start; end < len; end += GRAIN) {
            if (is_zero(data + end, min_u64(GRAIN, len - end)) != empty)
                break;
        }
        end = min_u64(end, len);
        err = empty ? zero(c, at + start, end - start, e)
                    : block_write(c->to, at + start, data + start, end - start, e);
    }
    return err;
}

static err_t copy_extent(const struct block_copy *c, struct worker *w, uint64_t at,
                         const struct block_extent *ext, struct error *e)
{
    if (ext->depth > c->depth || (!ext->allocated && c->depth != UINT_MAX))
        return OK;
    if (!ext->data)
        return zero(c, at, ext->len, e);
    err_t err = block_read(c->from, at, w->data, ext->len, e);
    return err == OK ? write_sparsely(c, w->data, at, ext->len, e) : err;
}

static err_t copy_chunk(struct job *job, struct worker *w, uint64_t at, uint64_t len,
                        struct error *e)
{
    struct block_extent ext;
    err_t err = OK;

    for (uint64_t end = at + len; err == OK && at < end; at += ext.len) {
        err = block_map(job->copy->from, at, end - at, &ext, e);
        if (err == OK)
            err = copy_extent(job->copy, w, at, &ext, e);
    }
    return err;
}

// One cluster of the target.
static err_t pack_chunk(struct job *job, struct worker *w, uint64_t at, uint64_t len,
                        struct error *e)
{
    struct block_extent ext;
    err_t err = block_map(job->copy->from, at, len, &ext, e);

    if (err != OK || (!ext.data && ext.len == len))
        return err;
    memset(w->data + len, 0, job->step - len);
    err = block_read(job->copy->from, at, w->data, len, e);
    if (err != OK || is_zero(w->data, len))
        return err;
    return qcow2_write_compressed(job->copy->packed, at, w->data, e);
}

err_t block_copy(const struct block_copy *copy, struct error *e)
{
    struct job job = {.copy = copy,
                      .chunk = copy->packed ? pack_chunk : copy_chunk,
                      .size = copy->from->limits.size_bytes,
                      .step = CHUNK,
                      .progress = copy->progress,
                      .opaque = copy->opaque};
    struct qcow2_info info;

    if (copy->packed) {
        qcow2_get_info(copy->packed, &info);
        job.step = info.cluster_bytes;
    }
    err_t err = run(&job, e);
    return err == OK ? block_request(copy->to, BLOCK_FLUSH, 0, 0, e) : err;
}

// --- rebasing

static err_t read_base(struct block *base, uint64_t at, uint8_t *data, uint64_t len,
                       struct error *e)
{
    uint64_t size = base ? base->limits.size_bytes : 0;
    uint64_t there = at < size ? min_u64(len, size - at) : 0;

    memset(data + there, 0, len - there);
    return there ? block_read(base, at, data, there, e) : OK;
}

static err_t rebase_extent(struct job *job, struct worker *w, uint64_t at, uint64_t len,
                           struct error *e)
{
    struct block *image = job->copy->to;
    err_t err = block_read(image, at, w->data, len, e);

    if (err == OK)
        err = read_base(job->base, at, w->other, len, e);
    for (uint64_t i = 0; err == OK && i < len; i += 64 * KIB) {
        uint64_t part = min_u64(64 * KIB, len - i);
        if (memcmp(w->data + i, w->other + i, part))
            err = block_write(image, at + i, w->data + i, part, e);
    }
    return err;
}

static err_t rebase_chunk(struct job *job, struct worker *w, uint64_t at, uint64_t len,
                          struct error *e)
{
    struct block_extent ext;
    err_t err = OK;

    for (uint64_t end = at + len; err == OK && at < end; at += ext.len) {
        err = block_map(job->copy->to, at, end - at, &ext, e);
        if (err == OK && (ext.depth || !ext.allocated))
            err = rebase_extent(job, w, at, ext.len, e);
    }
    return err;
}

err_t block_rebase(struct block *image, struct block *to,
                   bool (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque,
                   struct error *e)
{
    const struct block_copy copy = {.to = image};
    struct job job = {.copy = &copy,
                      .base = to,
                      .chunk = rebase_chunk,
                      .size = image->limits.size_bytes,
                      .step = CHUNK,
                      .progress = progress,
                      .opaque = opaque};
    err_t err = run(&job, e);

    return err == OK ? block_request(image, BLOCK_FLUSH, 0, 0, e) : err;
}
