// See throttle.h. Requests that must wait stand in two queues, reads and writes, so that a limit on
// one does not hold up the other; a thread lets them go when their time has come. Flushes and
// discards move no data of the guest's, and count as operations that write.
#include "block/throttle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/clock.h"
#include "host/thread.h"

const char *const throttle_names[THROTTLE_KINDS] = {
    "bps", "bps-read", "bps-write", "iops", "iops-read", "iops-write", "bps-bound", "iops-bound",
};

// --- Buckets ---

static double capacity(const struct throttle_limit *l)
{
    double burst = l->burst ? (double)l->burst : (double)l->rate / 10;

    return burst < 1 ? 1 : burst;
}

static double level_at(const struct throttle *t, unsigned i, ns_t now)
{
    const struct throttle_limit *l = &t->limits.of[i];
    const struct throttle_bucket *b = &t->bucket[i];
    double gained = now > b->when ? (double)(now - b->when) * (double)l->rate / NS_PER_SEC : 0;
    double level = b->level + gained;

    return level < capacity(l) ? level : capacity(l);
}

static bool is_bytes(unsigned i)
{
    return i <= THROTTLE_BPS_WRITE || i == THROTTLE_BPS_BOUND;
}

// Whether requests of this kind draw from bucket i.
static bool counts_in(unsigned i, enum block_op op)
{
    bool read = op == BLOCK_READ;

    if (is_bytes(i) && op != BLOCK_READ && op != BLOCK_WRITE)
        return false;
    switch (i) {
    case THROTTLE_BPS_READ:
    case THROTTLE_IOPS_READ: return read;
    case THROTTLE_BPS_WRITE:
    case THROTTLE_IOPS_WRITE: return !read;
    default: return true;
    }
}

void throttle_init(struct throttle *t, const struct throttle_limits *limits, ns_t now)
{
    t->limits = *limits;
    for (unsigned i = 0; i < THROTTLE_KINDS; i++)
        t->bucket[i] = (struct throttle_bucket){capacity(&limits->of[i]), now};
}

void throttle_set(struct throttle *t, const struct throttle_limits *limits, ns_t now)
{
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        bool had = t->limits.of[i].rate;
        double level = had ? level_at(t, i, now) : capacity(&limits->of[i]);
        t->bucket[i] = (struct throttle_bucket){level, now};
    }
    t->limits = *limits;
}

ns_t throttle_wait(const struct throttle *t, enum block_op op, ns_t now)
{
    ns_t longest = 0;

    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        double level;
        ns_t wait;
        if (!t->limits.of[i].rate || !counts_in(i, op) || (level = level_at(t, i, now)) > 0)
            continue;
        wait = (ns_t)(-level * NS_PER_SEC / (double)t->limits.of[i].rate) + 1;
        if (wait > longest)
            longest = wait;
    }
    return longest;
}

void throttle_take(struct throttle *t, enum block_op op, uint64_t len, ns_t now)
{
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        double cost = is_bytes(i) ? (double)len : 1;
        if (!t->limits.of[i].rate || !counts_in(i, op))
            continue;
        t->bucket[i] = (struct throttle_bucket){level_at(t, i, now) - cost, now};
    }
}

// --- The layer ---

struct fifo {
    struct block_request *head, **tail;
};

struct throttled {
    struct block block;
    struct block *below;
    struct throttle throttle; // guarded by lock, as all below
    bool limited;             // [any] some limit is set
    bool draining, stop;
    struct block_counters counters; // [atomic]
    unsigned sending;               // threads between the queues and below
    struct fifo waiting[2];         // reads; all else
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct host_thread thread;
};

static struct throttled *throttled_of(struct block *block)
{
    return container_of(block, struct throttled, block);
}

static bool any_limit(const struct throttle_limits *limits)
{
    for (unsigned i = 0; i < THROTTLE_KINDS; i++)
        if (limits->of[i].rate)
            return true;
    return false;
}

static struct block_request *pop(struct fifo *f)
{
    struct block_request *r = f->head;

    f->head = r->next;
    if (!f->head)
        f->tail = &f->head;
    return r;
}

// The next request whose time has come; else NULL, and how long to wait.
static struct block_request *next_due(struct throttled *t, ns_t *wait)
{
    ns_t now = host_now();

    *wait = NS_NEVER;
    for (unsigned i = 0; i < 2; i++) {
        struct block_request *r = t->waiting[i].head;
        ns_t w = r && !t->draining && t->limited ? throttle_wait(&t->throttle, r->op, now) : 0;
        if (r && w == 0) {
            throttle_take(&t->throttle, r->op, r->len, now);
            return pop(&t->waiting[i]);
        }
        if (r && w < *wait)
            *wait = w;
    }
    return NULL;
}

static void sleep_for(struct throttled *t, ns_t wait)
{
    struct timespec until;

    if (wait == NS_NEVER) {
        pthread_cond_wait(&t->changed, &t->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    wait += (ns_t)until.tv_nsec;
    until.tv_sec += (time_t)(wait / NS_PER_SEC);
    until.tv_nsec = (long)(wait % NS_PER_SEC);
    pthread_cond_timedwait(&t->changed, &t->lock, &until);
}

// Sends on what is due, with the lock dropped around each; returns when the rest must wait.
static ns_t send_due(struct throttled *t)
{
    struct block_request *r;
    ns_t wait;

    while ((r = next_due(t, &wait))) {
        t->sending++;
        pthread_mutex_unlock(&t->lock);
        t->below->type->submit(t->below, r);
        pthread_mutex_lock(&t->lock);
        if (--t->sending == 0)
            pthread_cond_broadcast(&t->changed);
    }
    return wait;
}

static void wake_when_due(void *opaque)
{
    struct throttled *t = opaque;

    host_thread_confine(HOST_THREAD_BLOCK);
    pthread_mutex_lock(&t->lock);
    while (!t->stop)
        sleep_for(t, send_due(t));
    pthread_mutex_unlock(&t->lock);
}

static void add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static void count(struct block_counters *c, const struct block_request *r)
{
    switch (r->op) {
    case BLOCK_READ:
        add(&c->reads, 1);
        add(&c->read_bytes, r->len);
        break;
    case BLOCK_WRITE:
        add(&c->writes, 1);
        add(&c->written_bytes, r->len);
        break;
    case BLOCK_FLUSH: add(&c->flushes, 1); break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES: add(&c->discards, 1); break;
    }
}

static void throttled_submit(struct block *block, struct block_request *r)
{
    struct throttled *t = throttled_of(block);
    struct fifo *queue = &t->waiting[r->op != BLOCK_READ];
    ns_t now;

    count(&t->counters, r);
    if (!__atomic_load_n(&t->limited, __ATOMIC_ACQUIRE)) {
        t->below->type->submit(t->below, r);
        return;
    }
    pthread_mutex_lock(&t->lock);
    now = host_now();
    if (!t->draining && (queue->head || throttle_wait(&t->throttle, r->op, now))) {
        add(&t->counters.delayed, 1);
        r->next = NULL;
        *queue->tail = r;
        queue->tail = &r->next;
        if (queue->head == r)
            pthread_cond_broadcast(&t->changed);
        r = NULL;
    } else {
        throttle_take(&t->throttle, r->op, r->len, now);
    }
    pthread_mutex_unlock(&t->lock);
    if (r)
        t->below->type->submit(t->below, r);
}

// A disk with limits goes the long way: it is slower than that anyway.
static bool throttled_at_once(struct block *block, const struct block_request *r, err_t *result)
{
    struct throttled *t = throttled_of(block);

    if (__atomic_load_n(&t->limited, __ATOMIC_ACQUIRE) || !block_at_once(t->below, r, result))
        return false;
    count(&t->counters, r);
    add(&t->counters.at_once, 1);
    return true;
}

static void throttled_drain(struct block *block)
{
    struct throttled *t = throttled_of(block);

    pthread_mutex_lock(&t->lock);
    t->draining = true;
    send_due(t);
    while (t->sending)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
    t->below->type->drain(t->below);
    pthread_mutex_lock(&t->lock);
    t->draining = false;
    pthread_mutex_unlock(&t->lock);
}

static void throttled_close(struct block *block)
{
    struct throttled *t;

    if (!block)
        return;
    t = throttled_of(block);
    throttled_drain(block);
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    host_thread_join(&t->thread);
    block_close(t->below);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct block_type throttled_type = {.name = "throttle",
                                                 .submit = throttled_submit,
                                                 .at_once = throttled_at_once,
                                                 .drain = throttled_drain,
                                                 .close = throttled_close};

void block_throttle_set(struct block *block, const struct throttle_limits *limits)
{
    struct throttled *t = throttled_of(block);

    pthread_mutex_lock(&t->lock);
    throttle_set(&t->throttle, limits, host_now());
    __atomic_store_n(&t->limited, any_limit(limits), __ATOMIC_RELEASE);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

void block_throttle_get(struct block *block, struct throttle_limits *limits)
{
    struct throttled *t = throttled_of(block);

    pthread_mutex_lock(&t->lock);
    *limits = t->throttle.limits;
    pthread_mutex_unlock(&t->lock);
}

void block_throttle_counters(struct block *block, struct block_counters *out)
{
    const struct block_counters *c = &throttled_of(block)->counters;
    const uint64_t *from = (const uint64_t *)c;
    uint64_t *to = (uint64_t *)out;

    for (size_t i = 0; i < sizeof *c / sizeof *from; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

static void init_locks(struct throttled *t)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&t->lock, NULL);
}

err_t block_throttle_new(struct block *below, const struct throttle_limits *limits,
                         struct block **out, struct error *e)
{
    struct throttled *t = calloc(1, sizeof *t);
    err_t err;

    if (!t) {
        block_close(below);
        return error_set(e, ERR_NO_MEMORY, "no memory for a disk's limits");
    }
    t->block = *below;
    t->block.type = &throttled_type;
    t->below = below;
    t->limited = any_limit(limits);
    throttle_init(&t->throttle, limits, host_now());
    for (unsigned i = 0; i < 2; i++)
        t->waiting[i].tail = &t->waiting[i].head;
    init_locks(t);
    err = host_thread_start(&t->thread, "limits", wake_when_due, t, e);
    if (err != OK) {
        block_close(below);
        pthread_cond_destroy(&t->changed);
        pthread_mutex_destroy(&t->lock);
        free(t);
        return err;
    }
    *out = &t->block;
    return OK;
}
