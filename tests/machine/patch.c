// Processors that change code while others run it, and code that lies beside data: in one page all
// the time, so that it is no longer worth protecting. Needs --cpus 4.

#include "guest.h"

#define CPUS 4u
#define ROUNDS 20000u

typedef u64 function(void);

static volatile unsigned work;
static volatile u64 published, done, bad;
static u8 *page; // a function at 0, another at 64, data at 2048

static u64 add(volatile void *at, u64 v)
{
    return __atomic_fetch_add((volatile u64 *)at, v, __ATOMIC_SEQ_CST);
}

static u64 call(unsigned at)
{
    return ((function *)(word)(page + at))();
}

static void serialize(void)
{
    u32 a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

// nop; nop; nop; mov $imm32, %eax; ret: the immediate is aligned.
static void write_number(u32 imm)
{
    static const u8 code[] = {0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(page, code, sizeof code);
    __atomic_store_n((u32 *)(page + 4), imm, __ATOMIC_SEQ_CST);
}

// What is called gives the number that was published before, or a later one.
static void call_number(void)
{
    u64 last = 0;
    while (last < ROUNDS) {
        u64 least = published;
        serialize();
        u64 now = call(0);
        if (now < least || now < last || now > ROUNDS) {
            add(&bad, 1);
        }
        last = now;
    }
}

// lock incq (the counter at 2048); mov the counter, %rax; ret
static void write_counter(void)
{
    static const u8 code[] = {0xf0, 0x48, 0xff, 0x05, 0, 0, 0, 0,
                              0x48, 0x8b, 0x05, 0,    0, 0, 0, 0xc3};
    memcpy(page + 64, code, sizeof code);
    u32 first = 2048 - (64 + 8), second = 2048 - (64 + 15);
    memcpy(page + 64 + 4, &first, 4);
    memcpy(page + 64 + 11, &second, 4);
}

static void call_counter(void)
{
    u64 last = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 now = call(64);
        if (now <= last) {
            add(&bad, 1);
        }
        last = now;
    }
}

enum { IDLE, NUMBER, COUNTER };

static void other(void *unused)
{
    (void)unused;
    for (;;) {
        unsigned what = work;
        if (what == NUMBER) {
            call_number();
        } else if (what == COUNTER) {
            call_counter();
        } else {
            pause();
            continue;
        }
        add(&done, 1);
        while (work == what) {
            pause();
        }
        add(&done, -1ul);
    }
}

static bool begin(unsigned what)
{
    static bool tried, ok;
    if (!tried) {
        tried = ok = true;
        for (unsigned i = 1; i < CPUS; i++) {
            ok &= smp_start(i, other, NULL);
        }
    }
    CHECK(ok);
    if (!page) {
        page = page_alloc();
    }
    bad = 0;
    memset(page, 0, 4096);
    write_number(0);
    write_counter();
    serialize();
    work = what;
    return ok;
}

static void wait_until_done(u64 processors)
{
    u64 limit = rdtsc() + tsc_per_ms() * 60000;
    while (done != processors && rdtsc() < limit) {
        pause();
    }
    CHECK_EQ(done, processors);
}

static void end(void)
{
    wait_until_done(CPUS - 1);
    work = IDLE;
    wait_until_done(0);
    CHECK_EQ(bad, 0);
}

static void processors_run_what_another_has_written(void)
{
    published = 0;
    if (!begin(NUMBER)) {
        return;
    }
    for (u32 i = 1; i <= ROUNDS; i++) {
        __atomic_store_n((u32 *)(page + 4), i, __ATOMIC_SEQ_CST);
        published = i;
        if (i % 64 == 0) {
            CHECK_EQ(call(0), i);
        }
    }
    end();
}

static void code_may_count_in_its_own_page(void)
{
    if (!begin(COUNTER)) {
        return;
    }
    call_counter();
    end();
    CHECK_EQ(*(volatile u64 *)(page + 2048), (u64)ROUNDS * CPUS);
}

// Data beside code that runs all the time, and now and then another function.
static void data_beside_code_costs_the_code_nothing(void)
{
    if (!begin(COUNTER)) {
        return;
    }
    for (u32 i = 1; i <= ROUNDS; i++) {
        *(volatile u64 *)(page + 3072) = i;
        write_number(i);
        if (call(0) != i) {
            add(&bad, 1);
        }
    }
    end();
    CHECK_EQ(*(volatile u64 *)(page + 2048), (u64)ROUNDS * (CPUS - 1));
}

// A function that stores to its own next instruction, its page being open by now.
static void code_sees_its_own_stores_at_once(void)
{
    if (!begin(IDLE)) {
        return;
    }
    // movb %al, imm of the next instruction; mov $0, %al; movzbl %al, %eax; ret
    static const u8 code[] = {0x88, 0x05, 1, 0, 0, 0, 0xb0, 0, 0x0f, 0xb6, 0xc0, 0xc3};
    memcpy(page + 128, code, sizeof code);
    for (unsigned i = 0; i < 5000; i++) {
        u64 got;
        __asm__ volatile("call *%1" : "=a"(got) : "r"(page + 128), "a"((u64)i) : "memory", "cc");
        if (got != (i & 0xff)) {
            CHECK_EQ(got, i & 0xff);
            return;
        }
    }
}

TESTS(TEST(processors_run_what_another_has_written), TEST(code_may_count_in_its_own_page),
      TEST(data_beside_code_costs_the_code_nothing), TEST(code_sees_its_own_stores_at_once));
