// The memory model as a guest's processors see it: litmus tests, locked additions that lie across
// cache lines and pages, and code that one processor changes while others run it. Needs --cpus 4.
// litmus_host.c runs the first on the host's processors.

#include "litmus.h"
#include "guest.h"

#define PROCESSORS LITMUS_PROCESSORS
#define ADDITIONS 500u
#define PATCHES 200u

static struct litmus_instance instances[LITMUS_INSTANCES];
static struct litmus_run litmus;

// What all processors but the first wait for: a job with a new number.
static void (*volatile job)(unsigned processor);
static volatile unsigned job_number, done, ready;

static void relax(void)
{
    pause();
}

static bool until_at_least(volatile unsigned *at, unsigned value)
{
    u64 end = rdtsc() + tsc_per_ms() * 60000;
    while (*at < value && rdtsc() < end) {
        pause();
    }
    return *at >= value;
}

static void other(void *opaque)
{
    unsigned processor = (unsigned)(word)opaque;
    unsigned seen = 0;
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        while (job_number == seen) {
            pause();
        }
        seen = job_number;
        job(processor);
        __atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
    }
}

static bool have_all(void)
{
    static bool tried, ok;
    if (!tried) {
        tried = true;
        (void)tsc_per_ms();
        ok = true;
        for (unsigned i = 1; i < PROCESSORS && ok; i++) {
            ok = smp_start(i, other, (void *)(word)i) && until_at_least(&ready, i);
        }
    }
    if (!ok) {
        test_failed(__FILE__, __LINE__, "four processors started");
    }
    return ok;
}

static void all_do(void (*what)(unsigned processor))
{
    done = 0;
    job = what;
    __atomic_fetch_add(&job_number, 1, __ATOMIC_SEQ_CST);
    what(0);
    CHECK(until_at_least(&done, PROCESSORS - 1));
}

// --- litmus --------------------------------------------------------------------------------------

static void take_part(unsigned processor)
{
    if (processor < litmus.test->processors) {
        litmus_take_part(&litmus, processor, relax);
    }
}

static void forbidden_outcomes_never_appear(void)
{
    if (!have_all()) {
        return;
    }
    for (unsigned i = 0; i < LITMUS_TESTS; i++) {
        litmus = (struct litmus_run){.test = &litmus_tests[i], .instance = instances};
        memset(instances, 0, sizeof instances);
        all_do(take_part);
        print("# %s: %u forbidden, %u weak outcomes\n", litmus.test->name, litmus.forbidden,
              litmus.weak);
        CHECK_EQ(litmus.forbidden, 0);
    }
}

// --- locked additions ----------------------------------------------------------------------------

static u8 area[3 * 4096] __attribute__((aligned(4096)));
static volatile u64 *sum;

static void add_up(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < ADDITIONS; i++) {
        ADD(*sum, 0x100000001ull);
    }
}

static void additions_at(unsigned offset)
{
    sum = (volatile u64 *)(void *)(area + offset);
    memset(area, 0, sizeof area);
    all_do(add_up);
    u64 total;
    memcpy(&total, area + offset, sizeof total);
    CHECK_EQ(total, PROCESSORS * ADDITIONS * 0x100000001ull);
}

static void locked_additions_across_lines_and_pages_lose_nothing(void)
{
    static const unsigned offsets[] = {64, 61, 60, 4096 - 4, 4096 - 1, 4096 - 7};
    for (unsigned i = 0; i < ARRAY_LEN(offsets) && have_all(); i++) {
        additions_at(offsets[i]);
    }
}

static u64 pair[2] __attribute__((aligned(16)));

// CMPXCHG16B: both halves always change together.
static void count_pairs(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < ADDITIONS; i++) {
        u64 low = pair[0], high = pair[1];
        bool swapped;
        do {
            __asm__ volatile("lock; cmpxchg16b %0"
                             : "+m"(pair), "+a"(low), "+d"(high), "=@ccz"(swapped)
                             : "b"(low + 1), "c"(high + 3)
                             : "memory");
        } while (!swapped);
    }
}

static void sixteen_bytes_are_exchanged_as_one(void)
{
    if (!have_all()) {
        return;
    }
    pair[0] = pair[1] = 0;
    all_do(count_pairs);
    CHECK_EQ(pair[0], PROCESSORS * ADDITIONS);
    CHECK_EQ(pair[1], 3 * PROCESSORS * ADDITIONS);
}

// --- code ----------------------------------------------------------------------------------------

static u64 *code; // mov $n, %eax; ret, in one aligned quadword
static volatile unsigned written, finished, bad[PROCESSORS];

static void write_code(unsigned value)
{
    __atomic_store_n(code, 0xc300000000b8ull | (u64)value << 8, __ATOMIC_SEQ_CST);
}

static unsigned call_code(void)
{
    return ((unsigned (*)(void))(word)code)();
}

// The first writes; the others call all the time, and never see an older value than before, nor
// than what was announced before they serialized.
static void patch_or_call(unsigned processor)
{
    unsigned last = 0;
    if (processor == 0) {
        for (unsigned i = 1; i <= PATCHES; i++) {
            write_code(i);
            written = i;
            for (unsigned spin = 0; spin < (i & 31); spin++) {
                pause();
            }
        }
        finished = 1;
        return;
    }
    while (!finished) {
        unsigned announced = written;
        (void)cpuid(0, 0);
        unsigned value = call_code();
        bad[processor] += value < last || value < announced || value > PATCHES;
        last = value;
    }
}

static void code_patched_by_another_processor_is_never_stale(void)
{
    if (!have_all()) {
        return;
    }
    code = page_alloc();
    write_code(0);
    written = finished = 0;
    memset((void *)bad, 0, sizeof bad);
    all_do(patch_or_call);
    for (unsigned i = 1; i < PROCESSORS; i++) {
        CHECK_EQ(bad[i], 0);
    }
    CHECK_EQ(call_code(), PATCHES);
}

// Each writes and runs code of its own, all in one page.
static void patch_own(unsigned processor)
{
    volatile u64 *own = code + 16 * processor;
    for (unsigned i = 0; i < PATCHES; i++) {
        unsigned value = i << 2 | processor;
        *own = 0xc300000000b8ull | (u64)value << 8;
        bad[processor] += ((unsigned (*)(void))(word)own)() != value;
    }
}

static void processors_patch_code_of_their_own_in_one_page(void)
{
    if (!have_all()) {
        return;
    }
    code = page_alloc();
    memset((void *)bad, 0, sizeof bad);
    all_do(patch_own);
    for (unsigned i = 0; i < PROCESSORS; i++) {
        CHECK_EQ(bad[i], 0);
    }
}

TESTS(TEST(forbidden_outcomes_never_appear),
      TEST(locked_additions_across_lines_and_pages_lose_nothing),
      TEST(sixteen_bytes_are_exchanged_as_one),
      TEST(code_patched_by_another_processor_is_never_stale),
      TEST(processors_patch_code_of_their_own_in_one_page));
