// Long computations interrupted at random places: every register, flag and vector must come back.
// What an engine saves and restores around interrupts shows here.

#include "guest.h"

#define VECTOR 0x50
#define VA 0x200000000000ull

static volatile unsigned interrupts;
static u64 noise = 88172645463325252ull;

static u64 draw(void)
{
    noise ^= noise << 13;
    noise ^= noise >> 7;
    noise ^= noise << 17;
    return noise;
}

static void arm(void)
{
    lapic_write(0x380, 20000 + (u32)(draw() % 200000)); // 20..220 us
}

static void on_timer(struct frame *f)
{
    (void)f;
    interrupts++;
    lapic_eoi();
    arm();
}

static void start(void)
{
    interrupts = 0;
    trap_set(VECTOR, on_timer);
    lapic_enable();
    lapic_write(0x80, 0);
    lapic_write(0x3e0, 0xb);
    lapic_write(0x320, VECTOR);
    arm();
    sti();
}

static void stop(void)
{
    cli();
    lapic_write(0x320, 0x10000);
    lapic_write(0x380, 0);
}

// All integer registers and flags carry the state.
static u64 integer_work(u64 rounds)
{
    u64 result;
    __asm__ volatile(
        "mov $1, %%rbx\n mov $2, %%rcx\n mov $3, %%rdx\n mov $4, %%rsi\n mov $5, %%rdi\n"
        "mov $6, %%r8\n mov $7, %%r9\n mov $8, %%r10\n mov $9, %%r11\n mov $10, %%r12\n"
        "mov $11, %%r13\n mov $12, %%r14\n clc\n"
        "1: adc %%rbx, %%rcx\n rcl $3, %%rcx\n adc %%rcx, %%rdx\n rol %%rdx\n"
        "sbb %%rdx, %%rsi\n imul $13, %%rsi, %%rsi\n adc %%rsi, %%rdi\n adc %%rdi, %%r8\n"
        "rcr $7, %%r8\n adc %%r8, %%r9\n adc %%r9, %%r10\n bswap %%r10\n adc %%r10, %%r11\n"
        "adc %%r11, %%r12\n adc %%r12, %%r13\n adc %%r13, %%r14\n adc %%r14, %%rbx\n"
        "setc %%al\n dec %1\n jz 2f\n bt $0, %%eax\n jmp 1b\n"
        "2: lea (%%rbx,%%rcx), %0\n xor %%rdx, %0\n xor %%r14, %0\n"
        : "=a"(result), "+r"(rounds)::"rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
          "r12", "r13", "r14", "cc");
    return result;
}

static void vector_setup(void)
{
    write_cr0((read_cr0() & ~0xcul) | 2);
    write_cr4(read_cr4() | 0x600);
    __asm__ volatile("fninit");
}

static u64 vector_work(u64 rounds)
{
    static const u64 seed[2] = {0x0123456789abcdef, 0xfedcba9876543210};
    u64 out[2], st;
    __asm__ volatile(
        "movdqu %3, %%xmm0\n movdqa %%xmm0, %%xmm7\n movdqa %%xmm0, %%xmm15\n fld1\n fldpi\n"
        "1: paddq %%xmm0, %%xmm7\n pxor %%xmm7, %%xmm15\n psrlq $3, %%xmm0\n"
        "paddd %%xmm15, %%xmm0\n pshufd $0x39, %%xmm0, %%xmm0\n"
        "fadd %%st(1), %%st\n fxch\n"
        "dec %2\n jnz 1b\n"
        "pxor %%xmm15, %%xmm0\n movdqu %%xmm0, %0\n fstpl %1\n fstp %%st(0)\n"
        : "=m"(out), "=m"(st), "+r"(rounds)
        : "m"(seed)
        : "cc");
    return out[0] ^ out[1] ^ st;
}

static void memory_work_once(u64 *page, u64 round)
{
    for (unsigned i = 0; i < 512; i++) {
        page[i] = page[(i * 7 + round) & 511] * 6364136223846793005ull + i;
    }
    memcpy(page + 256, page, 2048);
}

static u64 memory_work(u64 rounds)
{
    static u64 *page;
    page = page ? page : page_alloc();
    memset(page, 1, 4096);
    for (u64 r = 0; r < rounds; r++) {
        memory_work_once(page, r);
    }
    return page[100] ^ page[511];
}

// The same result with and without interrupts; enough of them came.
static void same_with_interrupts(u64 (*work)(u64), u64 rounds)
{
    u64 quiet = work(rounds);
    start();
    for (unsigned i = 0; i < 20 || (interrupts < 50 && i < 200000); i++) {
        u64 got = work(rounds);
        if (got != quiet) {
            stop();
            CHECK_EQ(got, quiet);
            return;
        }
    }
    stop();
    CHECK(interrupts >= 50);
}

static void integer_registers_and_flags_survive(void)
{
    same_with_interrupts(integer_work, 20000);
}

static void vector_and_x87_registers_survive(void)
{
    vector_setup();
    same_with_interrupts(vector_work, 20000);
}

static void memory_work_survives(void)
{
    same_with_interrupts(memory_work, 50);
}

// The handler uses the vector unit too, after saving it, as a kernel does.
static void on_timer_with_vectors(struct frame *f)
{
    static u8 area[512] __attribute__((aligned(16)));
    __asm__ volatile("fxsave64 %0; fninit; pcmpeqd %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7;"
                     "fldpi; fxrstor64 %0"
                     : "+m"(area));
    on_timer(f);
}

static void handler_may_use_the_vector_unit(void)
{
    vector_setup();
    u64 quiet = vector_work(20000);
    start();
    trap_set(VECTOR, on_timer_with_vectors);
    bool same = true;
    for (unsigned i = 0; i < 20 || (interrupts < 50 && i < 200000); i++) {
        same &= vector_work(20000) == quiet;
    }
    stop();
    CHECK(same);
    CHECK(interrupts >= 50);
}

// Many small functions called through pointers, on many pages, more than any cache of translations
// for a single page holds.
static void thousands_of_functions_run_right(void)
{
    enum { PAGES = 64, EACH = 64 };
    u8 *first = page_alloc();
    for (unsigned p = 1; p < PAGES; p++) {
        page_alloc();
    }
    for (u32 i = 0; i < PAGES * EACH; i++) {
        u8 *at = first + 64 * i;
        u8 code[] = {0xb8, (u8)i, (u8)(i >> 8), 0, 0, 0xff, 0xc0, 0xc3}; // mov $i, %eax; inc; ret
        memcpy(at, code, sizeof code);
    }
    start();
    bool right = true;
    for (unsigned round = 0; round < 5; round++) {
        for (u32 n = 0; n < PAGES * EACH; n++) {
            u32 i = (u32)(draw() % (PAGES * EACH));
            right &= ((u32(*)(void))(word)(first + 64 * i))() == i + 1;
        }
    }
    stop();
    CHECK(right);
}

// Many pages, more than a TLB holds, at addresses that collide in it.
static void many_pages_keep_their_contents(void)
{
    enum { PAGES = 2048 };
    for (u64 i = 0; i < PAGES; i++) {
        page_map(VA + i * 0x101000, (u64)page_alloc(), PTE_P | PTE_W, 1);
        write64(VA + i * 0x101000 + 8 * (i & 511), i);
    }
    start();
    bool right = true;
    for (u64 i = 0; i < PAGES; i++) {
        u64 n = draw() % PAGES;
        right &= read64(VA + n * 0x101000 + 8 * (n & 511)) == n;
    }
    stop();
    CHECK(right);
}

TESTS(TEST(integer_registers_and_flags_survive), TEST(vector_and_x87_registers_survive),
      TEST(memory_work_survives), TEST(handler_may_use_the_vector_unit),
      TEST(thousands_of_functions_run_right), TEST(many_pages_keep_their_contents));
