// String instructions and page borders: faults in the middle, both directions, overlaps; locked
// operations that cross pages.

#include "guest.h"

#define VA 0x200000000000ull

static u8 *pages; // two pages at VA, a hole after them

static void setup(void)
{
    if (!pages) {
        pages = page_alloc();
        u8 *second = page_alloc();
        page_map(VA, (u64)pages, PTE_P | PTE_W, 1);
        page_map(VA + 4096, (u64)second, PTE_P | PTE_W, 1);
    }
    memset(pages, 0, 8192);
}

struct string {
    u64 di, si, cx;
};
static struct string regs;
static unsigned skip; // length of the instruction that faults

static void on_fault(struct frame *f)
{
    regs = (struct string){f->di, f->si, f->cx};
    f->ip += skip;
}

static void fill_stops_at_a_hole_with_exact_registers(void)
{
    setup();
    trap_set(14, on_fault);
    skip = 2;
    u64 to = VA + 8192 - 100, n = 1000;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0xaa) : "memory");
    trap_set(14, NULL);
    CHECK_EQ(regs.di, VA + 8192);
    CHECK_EQ(regs.cx, 900);
    CHECK_EQ(pages[8191], 0xaa);
    CHECK_EQ(pages[8192 - 101], 0);
}

static void copy_stops_at_a_hole_with_exact_registers(void)
{
    setup();
    static u8 from[512];
    memset(from, 0x77, sizeof from);
    trap_set(14, on_fault);
    skip = 3;
    u64 to = VA + 8192 - 64, n = 64; // 8-byte units: 8 fit
    void *source = from;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(source), "+c"(n)::"memory");
    trap_set(14, NULL);
    CHECK_EQ(regs.di, VA + 8192);
    CHECK_EQ(regs.si, (u64)from + 64);
    CHECK_EQ(regs.cx, 56);
    CHECK_EQ(pages[8191], 0x77);
}

static void copy_backwards_crosses_pages(void)
{
    setup();
    for (unsigned i = 0; i < 100; i++) {
        pages[4046 + i] = (u8)i;
    }
    u64 from = VA + 4046 + 99, to = VA + 4146 + 99, n = 100;
    __asm__ volatile("std; rep movsb; cld" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    bool same = true;
    for (unsigned i = 0; i < 100; i++) {
        same &= pages[4146 + i] == i;
    }
    CHECK(same);
    CHECK_EQ(to, VA + 4145);
}

static void overlapping_copy_repeats_bytes(void)
{
    setup();
    pages[4090] = 0x5c;
    u64 from = VA + 4090, to = VA + 4091, n = 50;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    CHECK_EQ(pages[4140], 0x5c);
    CHECK_EQ(pages[4141], 0);
}

static void compare_and_scan_stop_where_they_should(void)
{
    setup();
    pages[4100] = 9;
    u64 at = VA + 4000, n = 1000;
    __asm__ volatile("repne scasb" : "+D"(at), "+c"(n) : "a"(9) : "cc", "memory");
    CHECK_EQ(at, VA + 4101);
    CHECK_EQ(n, 899);
    static u8 other[200];
    other[150] = 1;
    u64 a = VA + 4101, b = (u64)other;
    n = 200;
    bool equal;
    __asm__ volatile("repe cmpsb; sete %b3"
                     : "+D"(a), "+S"(b), "+c"(n), "=q"(equal)::"cc", "memory");
    CHECK(!equal);
    CHECK_EQ(n, 200 - 151);
}

static void count_of_zero_touches_nothing(void)
{
    u64 to = VA + 8192, n = 0; // not mapped
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(1) : "memory");
    CHECK_EQ(to, VA + 8192);
}

static void input_string_reads_a_port_into_memory(void)
{
    setup();
    outb(0x70, 0x50);
    outb(0x71, 0x3c);
    u64 to = VA + 4094, n = 4;
    __asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(0x71) : "memory");
    CHECK_EQ(pages[4094], 0x3c);
    CHECK_EQ(pages[4097], 0x3c);
    CHECK_EQ(to, VA + 4098);
}

static void unaligned_access_crosses_pages(void)
{
    setup();
    write64(VA + 4093, 0x1122334455667788);
    CHECK_EQ(read64(VA + 4093), 0x1122334455667788);
    CHECK_EQ(pages[4095], 0x66);
    CHECK_EQ(pages[4096], 0x55);
}

static void locked_operations_cross_pages(void)
{
    setup();
    write64(VA + 4092, 5);
    __asm__ volatile("lock addq $3, (%0)" ::"r"(VA + 4092) : "memory", "cc");
    CHECK_EQ(read64(VA + 4092), 8);
    u64 v = 0x100000001;
    __asm__ volatile("lock xaddq %0, (%1)" : "+r"(v) : "r"(VA + 4092) : "memory", "cc");
    CHECK_EQ(v, 8);
    CHECK_EQ(read64(VA + 4092), 0x100000009);
    u64 old = 0x100000009;
    bool done;
    __asm__ volatile("lock cmpxchgq %3, (%2); sete %1"
                     : "+a"(old), "=q"(done)
                     : "r"(VA + 4092), "r"(42ull)
                     : "memory", "cc");
    CHECK(done);
    CHECK_EQ(read64(VA + 4092), 42);
}

static void locked_add(void *at)
{
    __asm__ volatile("lock addq $1, (%0)" ::"r"(at) : "memory", "cc");
}

static void locked_access_of_a_hole_changes_nothing(void)
{
    setup();
    write32(VA + 8188, 7);
    trap_set(14, NULL);
    struct trap t;
    CHECK_EQ(try_call(locked_add, (void *)(VA + 8188), &t), 14);
    CHECK_EQ(t.cr2, VA + 8192);
    CHECK_EQ(read32(VA + 8188), 7);
}

static void cmpxchg16b_exchanges_16_bytes(void)
{
    if (!(cpuid(1, 0).ecx & 1u << 13)) {
        test_skip("no CMPXCHG16B");
        return;
    }
    static u64 pair[2] __attribute__((aligned(16))) = {1, 2};
    u64 lo = 1, hi = 2;
    bool done;
    __asm__ volatile("lock cmpxchg16b %0; sete %3"
                     : "+m"(*(u64(*)[2])pair), "+a"(lo), "+d"(hi), "=q"(done)
                     : "b"(3ull), "c"(4ull)
                     : "cc", "memory");
    CHECK(done);
    CHECK_EQ(pair[0], 3);
    CHECK_EQ(pair[1], 4);
}

TESTS(TEST(fill_stops_at_a_hole_with_exact_registers),
      TEST(copy_stops_at_a_hole_with_exact_registers), TEST(copy_backwards_crosses_pages),
      TEST(overlapping_copy_repeats_bytes), TEST(compare_and_scan_stop_where_they_should),
      TEST(count_of_zero_touches_nothing), TEST(input_string_reads_a_port_into_memory),
      TEST(unaligned_access_crosses_pages), TEST(locked_operations_cross_pages),
      TEST(locked_access_of_a_hole_changes_nothing), TEST(cmpxchg16b_exchanges_16_bytes));
