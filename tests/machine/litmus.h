// Litmus tests of the memory model of x86, as plain code for processors of a guest and for threads
// of the host alike. Source: Sewell and others, "x86-TSO"; Intel SDM vol. 3 section 9.2.
//
// Each test runs over an array of instances of its variables, so that processors that begin
// together race in each. An outcome that the model forbids is an error; what it allows is counted.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LITMUS_PROCESSORS 4
#define LITMUS_INSTANCES 512
#define LITMUS_ROUNDS 12

struct litmus_instance {
    uint64_t x __attribute__((aligned(64)));
    uint64_t y __attribute__((aligned(64)));
    uint64_t r[4] __attribute__((aligned(64))); // what was read
};

struct litmus {
    const char *name;
    unsigned processors;
    void (*body[LITMUS_PROCESSORS])(struct litmus_instance *i);
    bool (*forbidden)(const struct litmus_instance *i);
    bool (*weak)(const struct litmus_instance *i); // allowed, but not by sequential consistency
};

// One run of a test by several processors that call litmus_take_part().
struct litmus_run {
    const struct litmus *test;
    struct litmus_instance *instance; // LITMUS_INSTANCES of them
    unsigned arrived, round;          // the barrier
    unsigned forbidden, weak;         // outcomes
};

#define STORE(at, v) __asm__ volatile("movq %1, %0" : "=m"(at) : "r"((uint64_t)(v)) : "memory")
#define LOAD(to, at)                                                         \
    do {                                                                     \
        uint64_t loaded;                                                     \
        __asm__ volatile("movq %1, %0" : "=r"(loaded) : "m"(at) : "memory"); \
        (to) = loaded;                                                       \
    } while (0)
#define MFENCE() __asm__ volatile("mfence" ::: "memory")
#define LOCKED() __asm__ volatile("lock; addq $0, (%%rsp)" ::: "memory", "cc")
#define EXCHANGE(at, v)                                                         \
    do {                                                                        \
        uint64_t exchanged = (v);                                               \
        __asm__ volatile("xchgq %0, %1" : "+r"(exchanged), "+m"(at)::"memory"); \
    } while (0)
#define ADD(at, v) \
    __asm__ volatile("lock; addq %1, %0" : "+m"(at) : "r"((uint64_t)(v)) : "memory", "cc")

// Message passing: what was stored first is seen first.
static void mp0(struct litmus_instance *i)
{
    STORE(i->x, 1);
    STORE(i->y, 1);
}
static void mp1(struct litmus_instance *i)
{
    LOAD(i->r[0], i->y);
    LOAD(i->r[1], i->x);
}
static bool mp_forbidden(const struct litmus_instance *i)
{
    return i->r[0] == 1 && i->r[1] == 0;
}
static void mp_locked0(struct litmus_instance *i)
{
    ADD(i->x, 1);
    ADD(i->y, 1);
}

// Store buffering: a load may pass an earlier store to elsewhere, but no fence.
static bool both_old(const struct litmus_instance *i)
{
    return i->r[0] == 0 && i->r[1] == 0;
}
static bool none(const struct litmus_instance *i)
{
    (void)i;
    return false;
}
#define STORE_BUFFERING(suffix, STORING, FENCE)           \
    static void sb##suffix##0(struct litmus_instance * i) \
    {                                                     \
        STORING(i->x, 1);                                 \
        FENCE;                                            \
        LOAD(i->r[0], i->y);                              \
    }                                                     \
    static void sb##suffix##1(struct litmus_instance * i) \
    {                                                     \
        STORING(i->y, 1);                                 \
        FENCE;                                            \
        LOAD(i->r[1], i->x);                              \
    }
STORE_BUFFERING(_plain, STORE, (void)0)
STORE_BUFFERING(_fenced, STORE, MFENCE())
STORE_BUFFERING(_locked, STORE, LOCKED())
STORE_BUFFERING(_exchanged, EXCHANGE, (void)0)

// Load buffering: no store passes an earlier load.
static void lb0(struct litmus_instance *i)
{
    LOAD(i->r[0], i->x);
    STORE(i->y, 1);
}
static void lb1(struct litmus_instance *i)
{
    LOAD(i->r[1], i->y);
    STORE(i->x, 1);
}
static bool lb_forbidden(const struct litmus_instance *i)
{
    return i->r[0] == 1 && i->r[1] == 1;
}
static void lb_fenced0(struct litmus_instance *i)
{
    LOAD(i->r[0], i->x);
    MFENCE();
    STORE(i->y, 1);
}
static void lb_locked1(struct litmus_instance *i)
{
    LOAD(i->r[1], i->y);
    EXCHANGE(i->x, 1);
}

// Independent reads of independent writes: all see two stores in one order.
static void iriw0(struct litmus_instance *i)
{
    STORE(i->x, 1);
}
static void iriw1(struct litmus_instance *i)
{
    STORE(i->y, 1);
}
static void iriw_locked0(struct litmus_instance *i)
{
    EXCHANGE(i->x, 1);
}
static void iriw_locked1(struct litmus_instance *i)
{
    EXCHANGE(i->y, 1);
}
static void iriw2(struct litmus_instance *i)
{
    LOAD(i->r[0], i->x);
    LOAD(i->r[1], i->y);
}
static void iriw3(struct litmus_instance *i)
{
    LOAD(i->r[2], i->y);
    LOAD(i->r[3], i->x);
}
static void iriw_fenced2(struct litmus_instance *i)
{
    LOAD(i->r[0], i->x);
    MFENCE();
    LOAD(i->r[1], i->y);
}
static bool iriw_forbidden(const struct litmus_instance *i)
{
    return i->r[0] == 1 && i->r[1] == 0 && i->r[2] == 1 && i->r[3] == 0;
}

// Two stores each, in opposite order: the later ones cannot both be overwritten.
static void w0(struct litmus_instance *i)
{
    STORE(i->x, 1);
    STORE(i->y, 2);
}
static void w1(struct litmus_instance *i)
{
    STORE(i->y, 1);
    STORE(i->x, 2);
}
static bool w_forbidden(const struct litmus_instance *i)
{
    return i->x == 1 && i->y == 1;
}

// Two loads from one place: never back to the older value.
static void corr1(struct litmus_instance *i)
{
    LOAD(i->r[0], i->x);
    LOAD(i->r[1], i->x);
}

static const struct litmus litmus_tests[] = {
    {"message passing", 2, {mp0, mp1}, mp_forbidden, none},
    {"message passing, locked", 2, {mp_locked0, mp1}, mp_forbidden, none},
    {"store buffering", 2, {sb_plain0, sb_plain1}, none, both_old},
    {"store buffering, fenced", 2, {sb_fenced0, sb_fenced1}, both_old, none},
    {"store buffering, locked", 2, {sb_locked0, sb_locked1}, both_old, none},
    {"store buffering, exchanged", 2, {sb_exchanged0, sb_exchanged1}, both_old, none},
    {"store buffering, fence and exchange", 2, {sb_fenced0, sb_exchanged1}, both_old, none},
    {"load buffering", 2, {lb0, lb1}, lb_forbidden, none},
    {"load buffering, fenced and locked", 2, {lb_fenced0, lb_locked1}, lb_forbidden, none},
    {"independent reads", 4, {iriw0, iriw1, iriw2, iriw3}, iriw_forbidden, none},
    {"independent reads, locked",
     4,
     {iriw_locked0, iriw_locked1, iriw2, iriw3},
     iriw_forbidden,
     none},
    {"independent reads, fenced", 4, {iriw0, iriw1, iriw_fenced2, iriw3}, iriw_forbidden, none},
    {"opposite stores", 2, {w0, w1}, w_forbidden, none},
    {"two loads", 2, {iriw0, corr1}, mp_forbidden, none},
};
#define LITMUS_TESTS (sizeof litmus_tests / sizeof litmus_tests[0])

static void litmus_wait(struct litmus_run *run, unsigned *phase, void (*relax)(void))
{
    ++*phase;
    if (__atomic_add_fetch(&run->arrived, 1, __ATOMIC_SEQ_CST) == run->test->processors) {
        __atomic_store_n(&run->arrived, 0, __ATOMIC_SEQ_CST);
        __atomic_store_n(&run->round, *phase, __ATOMIC_SEQ_CST);
    }
    while (__atomic_load_n(&run->round, __ATOMIC_SEQ_CST) != *phase)
        relax();
}

static void litmus_judge(struct litmus_run *run)
{
    for (unsigned i = 0; i < LITMUS_INSTANCES; i++) {
        struct litmus_instance *at = &run->instance[i];
        run->forbidden += run->test->forbidden(at);
        run->weak += run->test->weak(at);
        at->x = at->y = at->r[0] = at->r[1] = at->r[2] = at->r[3] = 0;
    }
}

// What processor n (below test->processors) does; 0 judges. The run is over when it returns.
static void litmus_take_part(struct litmus_run *run, unsigned n, void (*relax)(void))
{
    unsigned phase = 0;
    for (unsigned round = 0; round < LITMUS_ROUNDS; round++) {
        litmus_wait(run, &phase, relax);
        for (unsigned i = 0; i < LITMUS_INSTANCES; i++)
            run->test->body[n](&run->instance[i]);
        litmus_wait(run, &phase, relax);
        if (n == 0)
            litmus_judge(run);
    }
    litmus_wait(run, &phase, relax);
}
