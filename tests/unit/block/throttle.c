// Limits: the buckets with a clock of the test's, the layer with the host's.
#include "block/throttle.h"

#include <stdlib.h>

#include "host/clock.h"
#include "test.h"

// Sends requests of one kind as fast as the limits let them go for `seconds`; returns how many
// went.
static unsigned send_for(struct throttle *t, enum block_op op, uint64_t len, ns_t *now,
                         unsigned seconds)
{
    ns_t end = *now + seconds * NS_PER_SEC;
    unsigned n = 0;

    for (;;) {
        ns_t wait = throttle_wait(t, op, *now);
        if (wait > end - *now)
            break;
        *now += wait;
        if (!wait) {
            throttle_take(t, op, len, *now);
            n++;
        }
    }
    *now = end;
    return n;
}

static bool within_5_percent(double got, double want)
{
    if (got > want * 0.95 && got < want * 1.05)
        return true;
    printf("# %g, expected %g\n", got, want);
    return false;
}

static struct throttle_limits limit(enum throttle_kind kind, uint64_t rate, uint64_t burst)
{
    struct throttle_limits limits = {0};

    limits.of[kind] = (struct throttle_limit){rate, burst};
    return limits;
}

static void rates_are_kept_within_5_percent(void)
{
    static const struct {
        enum throttle_kind kind;
        uint64_t rate;
        enum block_op op;
        uint64_t len;
    } cases[] = {{THROTTLE_BPS, 10 * MIB, BLOCK_READ, 4096},
                 {THROTTLE_BPS, 10 * MIB, BLOCK_WRITE, 1 * MIB},
                 {THROTTLE_BPS_WRITE, 1 * MIB, BLOCK_WRITE, 8 * MIB}, // larger than the bucket
                 {THROTTLE_IOPS, 500, BLOCK_READ, 4096},
                 {THROTTLE_IOPS, 3, BLOCK_FLUSH, 0},
                 {THROTTLE_IOPS_READ, 10000, BLOCK_READ, 512},
                 {THROTTLE_BPS_BOUND, 2 * MIB, BLOCK_READ, 4096},
                 {THROTTLE_IOPS_BOUND, 200, BLOCK_WRITE, 4096}};

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct throttle_limits limits = limit(cases[i].kind, cases[i].rate, 0);
        bool bytes = cases[i].kind <= THROTTLE_BPS_WRITE || cases[i].kind == THROTTLE_BPS_BOUND;
        struct throttle t;
        ns_t now = 5;
        throttle_init(&t, &limits, now);
        unsigned n = send_for(&t, cases[i].op, cases[i].len, &now, 200);
        CHECK(within_5_percent(bytes ? (double)n * (double)cases[i].len : n,
                               200.0 * (double)cases[i].rate));
    }
}

static void a_burst_goes_at_once_after_a_pause(void)
{
    struct throttle_limits limits = limit(THROTTLE_IOPS, 10, 100);
    struct throttle t;
    ns_t now = 0;
    unsigned n = 0;

    throttle_init(&t, &limits, now);
    for (; !throttle_wait(&t, BLOCK_READ, now); n++)
        throttle_take(&t, BLOCK_READ, 4096, now);
    CHECK_EQ(n, 100);
    CHECK(throttle_wait(&t, BLOCK_READ, now) <= NS_PER_SEC / 10 + 1);
    now += 5 * NS_PER_SEC;
    for (n = 0; !throttle_wait(&t, BLOCK_READ, now); n++)
        throttle_take(&t, BLOCK_READ, 4096, now);
    CHECK(n >= 49 && n <= 51);
    now += 3600 * NS_PER_SEC; // no more than the burst is saved up
    for (n = 0; !throttle_wait(&t, BLOCK_READ, now); n++)
        throttle_take(&t, BLOCK_READ, 4096, now);
    CHECK_EQ(n, 100);
}

static void reads_and_writes_have_limits_of_their_own_and_together(void)
{
    struct throttle_limits limits = limit(THROTTLE_BPS_WRITE, 1 * MIB, 0);
    struct throttle t;
    ns_t now = 0;

    limits.of[THROTTLE_BPS].rate = 4 * MIB;
    throttle_init(&t, &limits, now);
    CHECK(within_5_percent(send_for(&t, BLOCK_WRITE, 64 * KIB, &now, 100), 1600));
    CHECK(within_5_percent(send_for(&t, BLOCK_READ, 64 * KIB, &now, 100), 6400));
}

static void changing_a_limit_forgives_no_debt(void)
{
    struct throttle_limits limits = limit(THROTTLE_BPS, 1 * MIB, 0);
    struct throttle t;

    throttle_init(&t, &limits, 0);
    throttle_take(&t, BLOCK_WRITE, 11 * MIB, 0);
    limits.of[THROTTLE_BPS].rate = 2 * MIB;
    throttle_set(&t, &limits, 0);
    CHECK(within_5_percent((double)throttle_wait(&t, BLOCK_WRITE, 0), 5.5 * NS_PER_SEC));
    limits.of[THROTTLE_BPS].rate = 0;
    throttle_set(&t, &limits, 0);
    CHECK_EQ(throttle_wait(&t, BLOCK_WRITE, 0), 0);
}

// --- The layer

struct sink {
    struct block block;
    unsigned arrived, drained;
};

static void sink_submit(struct block *block, struct block_request *r)
{
    __atomic_fetch_add(&container_of(block, struct sink, block)->arrived, 1, __ATOMIC_RELAXED);
}

static void sink_drain(struct block *block)
{
    container_of(block, struct sink, block)->drained++;
}

static void sink_close(struct block *block)
{
}

static const struct block_type sink_type = {
    .name = "sink", .submit = sink_submit, .drain = sink_drain, .close = sink_close};

static void the_layer_lets_requests_go_in_time_and_all_when_drained(void)
{
    struct throttle_limits limits = limit(THROTTLE_IOPS, 100, 1);
    struct sink sink = {.block = {.type = &sink_type}};
    struct block_request requests[100] = {0};
    struct block *block;
    ns_t start = host_now();

    CHECK(block_throttle_new(&sink.block, &limits, &block, NULL) == OK);
    for (unsigned i = 0; i < ARRAY_LEN(requests); i++)
        block->type->submit(block, &requests[i]);
    CHECK(__atomic_load_n(&sink.arrived, __ATOMIC_RELAXED) < 50);
    while (__atomic_load_n(&sink.arrived, __ATOMIC_RELAXED) < 20)
        if (host_now() - start > 20 * NS_PER_SEC)
            break;
    CHECK(host_now() - start > 150 * NS_PER_MS);
    block->type->drain(block);
    CHECK_EQ(sink.arrived, 100);
    CHECK_EQ(sink.drained, 1);
    block_close(block);
}

static void lifting_a_limit_lets_what_waits_go(void)
{
    struct throttle_limits limits = limit(THROTTLE_IOPS, 1, 1);
    struct sink sink = {.block = {.type = &sink_type}};
    struct block_request requests[50] = {0};
    struct block *block;
    ns_t start = host_now();

    CHECK(block_throttle_new(&sink.block, &limits, &block, NULL) == OK);
    for (unsigned i = 0; i < ARRAY_LEN(requests); i++)
        block->type->submit(block, &requests[i]);
    limits.of[THROTTLE_IOPS].rate = limits.of[THROTTLE_IOPS].burst = 0;
    block_throttle_set(block, &limits);
    while (__atomic_load_n(&sink.arrived, __ATOMIC_RELAXED) < 50)
        if (host_now() - start > 10 * NS_PER_SEC)
            break;
    CHECK_EQ(__atomic_load_n(&sink.arrived, __ATOMIC_RELAXED), 50);
    block_close(block);
}

TEST_MAIN(TEST(rates_are_kept_within_5_percent), TEST(a_burst_goes_at_once_after_a_pause),
          TEST(reads_and_writes_have_limits_of_their_own_and_together),
          TEST(changing_a_limit_forgives_no_debt),
          TEST(the_layer_lets_requests_go_in_time_and_all_when_drained),
          TEST(lifting_a_limit_lets_what_waits_go))
