// Integer handlers: what faults leave untouched, the stack's special cases, LOCK, division at its
// edges, and what only 16- and 32-bit code has.
#include "fake_cpu.h"
#include "test.h"

#include <pthread.h>

#include "base/bytes.h"

#define DATA (FAKE_BASE + PAGE_SIZE)
#define STACK (FAKE_BASE + 4 * PAGE_SIZE)

static struct tcpu *start(unsigned mode)
{
    fake_memory_reset();
    struct tcpu *c = fake_cpu_new(mode);
    c->s.gpr[RSP] = STACK;
    c->s.gpr[RBX] = DATA;
    return c;
}

static void add_to_a_read_only_page_faults_as_a_write_and_changes_nothing(void)
{
    struct tcpu *c = start(8);
    fake_protect(1, true, false);
    c->s.gpr[RAX] = 5;
    uint64_t flags = c->s.rflags;
    struct fake_fault fault = RUN(c, "\x48\x01\x03"); // add [rbx], rax
    CHECK_EQ(fault.vector, VEC_PF);
    CHECK_EQ(fault.error, PF_WRITE | PF_PRESENT);
    CHECK_EQ(c->s.rflags, flags);
    CHECK_EQ(c->s.rip, 0);
    fake_cpu_free(c);
}

static void push_that_faults_keeps_rsp(void)
{
    struct tcpu *c = start(8);
    fake_protect(3, true, false);
    CHECK_EQ(RUN(c, "\x50").vector, VEC_PF);
    CHECK_EQ(c->s.gpr[RSP], STACK);
    fake_cpu_free(c);
}

static void push_rsp_pushes_the_old_value(void)
{
    struct tcpu *c = start(8);
    RUN(c, "\x54");
    CHECK_EQ(load_le64((void *)(STACK - 8)), STACK);
    fake_cpu_free(c);
}

static void pop_to_memory_based_on_rsp_uses_the_new_rsp(void)
{
    struct tcpu *c = start(8);
    store_le64((void *)STACK, 0x1234);
    RUN(c, "\x8f\x44\x24\x08"); // pop [rsp+8]
    CHECK_EQ(load_le64((void *)(STACK + 16)), 0x1234);
    CHECK_EQ(c->s.gpr[RSP], STACK + 8);
    fake_cpu_free(c);
}

static void pop_to_memory_that_faults_keeps_rsp(void)
{
    struct tcpu *c = start(8);
    fake_protect(1, true, false);
    CHECK_EQ(RUN(c, "\x8f\x03").vector, VEC_PF); // pop [rbx]
    CHECK_EQ(c->s.gpr[RSP], STACK);
    fake_cpu_free(c);
}

static void pop_rsp_loads_the_value(void)
{
    struct tcpu *c = start(8);
    store_le64((void *)STACK, 0x5678);
    RUN(c, "\x5c");
    CHECK_EQ(c->s.gpr[RSP], 0x5678);
    fake_cpu_free(c);
}

static void call_pushes_the_next_rip_and_ret_releases_its_immediate(void)
{
    struct tcpu *c = start(8);
    c->s.rip = 0x1000;
    RUN(c, "\xe8\x10\x00\x00\x00");
    CHECK_EQ(c->s.rip, 0x1015);
    CHECK_EQ(load_le64((void *)(STACK - 8)), 0x1005);
    RUN(c, "\xc2\x20\x00");
    CHECK_EQ(c->s.rip, 0x1005);
    CHECK_EQ(c->s.gpr[RSP], STACK + 0x20);
    fake_cpu_free(c);
}

static void call_to_a_non_canonical_target_pushes_nothing(void)
{
    struct tcpu *c = start(8);
    c->s.gpr[RAX] = 1ull << 60;
    CHECK_EQ(RUN(c, "\xff\xd0").vector, VEC_GP);
    CHECK_EQ(c->s.gpr[RSP], STACK);
    CHECK_EQ(load_le64((void *)(STACK - 8)), 0);
    fake_cpu_free(c);
}

static void enter_builds_nested_frames(void)
{
    struct tcpu *c = start(8);
    c->s.gpr[RBP] = STACK + 0x100;
    store_le64((void *)(STACK + 0x100 - 8), 0xaa);
    RUN(c, "\xc8\x10\x00\x02"); // enter 16, 2
    CHECK_EQ(load_le64((void *)(STACK - 8)), STACK + 0x100);
    CHECK_EQ(load_le64((void *)(STACK - 16)), 0xaa);
    CHECK_EQ(load_le64((void *)(STACK - 24)), STACK - 8);
    CHECK_EQ(c->s.gpr[RBP], STACK - 8);
    CHECK_EQ(c->s.gpr[RSP], STACK - 24 - 16);
    RUN(c, "\xc9");
    CHECK_EQ(c->s.gpr[RSP], STACK);
    CHECK_EQ(c->s.gpr[RBP], STACK + 0x100);
    fake_cpu_free(c);
}

static void pusha_and_popa_keep_all_but_esp(void)
{
    struct tcpu *c = start(4);
    for (unsigned i = 0; i < 8; i++)
        if (i != RSP)
            c->s.gpr[i] = 0x100 + i;
    RUN(c, "\x60");
    CHECK_EQ(c->s.gpr[RSP], STACK - 32);
    CHECK_EQ(load_le32((void *)(STACK - 20)), (uint32_t)STACK);
    memset(c->s.gpr, 0, 4 * 8);
    RUN(c, "\x61");
    CHECK_EQ(c->s.gpr[RSP], STACK);
    CHECK_EQ(c->s.gpr[RDX], 0x102);
    fake_cpu_free(c);
}

static void pusha_that_faults_half_way_stores_nothing(void)
{
    struct tcpu *c = start(4);
    c->s.gpr[RSP] = STACK + 8;
    c->s.gpr[RAX] = 0x11111111;
    fake_protect(3, true, false);
    CHECK_EQ(RUN(c, "\x60").vector, VEC_PF);
    CHECK_EQ(load_le32((void *)(STACK + 4)), 0);
    CHECK_EQ(c->s.gpr[RSP], STACK + 8);
    fake_cpu_free(c);
}

static void sixteen_bit_stack_wraps_and_keeps_the_upper_half_of_esp(void)
{
    struct tcpu *c = start(2);
    c->s.seg[SEG_SS].base = FAKE_BASE;
    c->s.gpr[RSP] = 0xabcd0002;
    c->s.gpr[RAX] = 0x1234;
    RUN(c, "\x50");
    CHECK_EQ(c->s.gpr[RSP], 0xabcd0000);
    CHECK_EQ(load_le16((void *)FAKE_BASE), 0x1234);
    fake_cpu_free(c);
}

static void division_overflow_raises_and_keeps_registers(void)
{
    struct tcpu *c = start(8);
    c->s.gpr[RDX] = 1;
    c->s.gpr[RAX] = 7;
    c->s.gpr[RCX] = 1;
    CHECK_EQ(RUN(c, "\x48\xf7\xf1").vector, VEC_DE); // div rcx
    CHECK_EQ(c->s.gpr[RAX], 7);
    c->s.gpr[RCX] = 0;
    struct fake_fault fault = RUN(c, "\x48\xf7\xf9"); // idiv rcx
    CHECK(fault.raised);
    CHECK_EQ(fault.vector, VEC_DE);
    fake_cpu_free(c);
}

static void idiv_accepts_the_most_negative_quotient_only(void)
{
    struct tcpu *c = start(8);
    c->s.gpr[RAX] = 0xff80 & 0xffff; // -128
    c->s.gpr[RCX] = 1;
    CHECK(!RUN(c, "\xf6\xf9").raised); // idiv cl
    CHECK_EQ(c->s.gpr[RAX] & 0xff, 0x80);
    c->s.gpr[RAX] = 0xff80;
    c->s.gpr[RCX] = 0xff; // -128 / -1
    CHECK_EQ(RUN(c, "\xf6\xf9").vector, VEC_DE);
    c->s.gpr[RDX] = 1ull << 63, c->s.gpr[RAX] = 0, c->s.gpr[RCX] = ~0ull;
    CHECK_EQ(RUN(c, "\x48\xf7\xf9").vector, VEC_DE);
    c->s.gpr[RDX] = ~0ull, c->s.gpr[RAX] = 1ull << 63, c->s.gpr[RCX] = 1;
    CHECK(!RUN(c, "\x48\xf7\xf9").raised);
    CHECK_EQ(c->s.gpr[RAX], 1ull << 63);
    fake_cpu_free(c);
}

static void bit_string_reaches_below_its_operand(void)
{
    struct tcpu *c = start(8);
    c->s.gpr[RAX] = (uint64_t)-1;
    RUN(c, "\x48\x0f\xab\x03"); // bts [rbx], rax
    CHECK_EQ(load_le64((void *)(DATA - 8)), 1ull << 63);
    CHECK_EQ(c->s.rflags & FLAG_CF, 0);
    RUN(c, "\x48\x0f\xa3\x03"); // bt
    CHECK_EQ(c->s.rflags & FLAG_CF, FLAG_CF);
    fake_cpu_free(c);
}

static void cmpxchg_that_fails_loads_the_accumulator_and_needs_a_writable_page(void)
{
    struct tcpu *c = start(8);
    store_le32((void *)DATA, 0x80000001);
    c->s.gpr[RAX] = ~0ull;
    RUN(c, "\x0f\xb1\x0b"); // cmpxchg [rbx], ecx
    CHECK_EQ(c->s.gpr[RAX], 0x80000001);
    CHECK_EQ(c->s.rflags & FLAG_ZF, 0);
    fake_protect(1, true, false);
    CHECK_EQ(RUN(c, "\x0f\xb1\x0b").vector, VEC_PF);
    fake_cpu_free(c);
}

static void cmpxchg16b_checks_alignment_and_works_without_host_memory(void)
{
    struct tcpu *c = start(8);
    c->s.gpr[RBX] = 0x11, c->s.gpr[RCX] = 0x22, c->s.gpr[RSI] = DATA;
    for (unsigned hide = 0; hide < 2; hide++) {
        fake_hide_host(hide);
        memset((void *)DATA, 0, 16);
        c->s.gpr[RAX] = c->s.gpr[RDX] = 0;
        CHECK(!RUN(c, "\xf0\x48\x0f\xc7\x0e").raised);
        CHECK_EQ(load_le64((void *)DATA), 0x11);
        CHECK_EQ(load_le64((void *)(DATA + 8)), 0x22);
        RUN(c, "\xf0\x48\x0f\xc7\x0e");
        CHECK_EQ(c->s.gpr[RAX], 0x11);
        CHECK_EQ(c->s.gpr[RDX], 0x22);
    }
    c->s.gpr[RSI] = DATA + 8;
    CHECK_EQ(RUN(c, "\xf0\x48\x0f\xc7\x0e").vector, VEC_GP);
    fake_cpu_free(c);
}

static void locked_add_across_a_page_end_works(void)
{
    struct tcpu *c = start(8);
    uint64_t at = DATA + PAGE_SIZE - 3;
    store_le64((void *)at, 0x00ffffffffffffff);
    c->s.gpr[RBX] = at, c->s.gpr[RAX] = 1;
    CHECK(!RUN(c, "\xf0\x48\x01\x03").raised);
    CHECK_EQ(load_le64((void *)at), 0x0100000000000000);
    fake_protect(2, true, false);
    CHECK_EQ(RUN(c, "\xf0\x48\x01\x03").vector, VEC_PF);
    CHECK_EQ(load_le64((void *)at), 0x0100000000000000);
    fake_cpu_free(c);
}

#define ROUNDS 20000

static void *add_many(void *opaque)
{
    volatile uint32_t *word = opaque;
    for (unsigned i = 0; i < ROUNDS; i++)
        __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void locked_operations_are_atomic_against_other_threads(void)
{
    struct tcpu *c = start(8);
    pthread_t thread;
    pthread_create(&thread, NULL, add_many, (void *)DATA);
    c->s.gpr[RAX] = 1;
    for (unsigned i = 0; i < ROUNDS; i++) {
        RUN(c, "\xf0\x01\x03"); // lock add [rbx], eax
        c->s.gpr[RAX] = 1;
        RUN(c, "\xf0\x0f\xc1\x03"); // lock xadd [rbx], eax
        c->s.gpr[RAX] = 1;
    }
    pthread_join(thread, NULL);
    CHECK_EQ(load_le32((void *)DATA), 3 * ROUNDS);
    fake_cpu_free(c);
}

static void decimal_adjustments_follow_the_manual(void)
{
    struct tcpu *c = start(4);
    c->s.gpr[RAX] = 0xae;
    RUN(c, "\x27"); // daa
    CHECK_EQ(c->s.gpr[RAX] & 0xff, 0x14);
    CHECK_EQ(c->s.rflags & (FLAG_CF | FLAG_AF), FLAG_CF | FLAG_AF);
    c->s.rflags = FLAG_FIXED | FLAG_AF;
    c->s.gpr[RAX] = 0x03;
    RUN(c, "\x2f"); // das: borrows out of the low digit
    CHECK_EQ(c->s.gpr[RAX] & 0xff, 0xfd);
    CHECK_EQ(c->s.rflags & FLAG_CF, FLAG_CF);
    c->s.rflags = FLAG_FIXED;
    c->s.gpr[RAX] = 0x01ff;
    RUN(c, "\x37"); // aaa
    CHECK_EQ(c->s.gpr[RAX] & 0xffff, 0x0305);
    c->s.gpr[RAX] = 0x3f;
    RUN(c, "\xd4\x0a"); // aam
    CHECK_EQ(c->s.gpr[RAX] & 0xffff, 0x0603);
    RUN(c, "\xd5\x0a"); // aad
    CHECK_EQ(c->s.gpr[RAX] & 0xffff, 0x3f);
    CHECK_EQ(RUN(c, "\xd4\x00").vector, VEC_DE);
    fake_cpu_free(c);
}

static void loop_counts_in_the_address_size(void)
{
    struct tcpu *c = start(8);
    c->s.rip = 0x1000;
    c->s.gpr[RCX] = 0x500000000;
    RUN(c, "\x67\xe2\x10"); // loop with ecx: wraps to ffffffff
    CHECK_EQ(c->s.gpr[RCX], 0xffffffff);
    CHECK_EQ(c->s.rip, 0x1013);
    c->s.gpr[RCX] = 0;
    RUN(c, "\xe3\x10");
    CHECK_EQ(c->s.rip, 0x1013 + 0x12);
    fake_cpu_free(c);
}

static void random_numbers_set_carry_alone(void)
{
    struct tcpu *c = start(8);
    c->s.rflags |= FLAGS_ARITH;
    RUN(c, "\x48\x0f\xc7\xf0");
    CHECK_EQ(c->s.rflags & FLAGS_ARITH & ~FLAG_CF, 0);
    fake_cpu_free(c);
}

// Translated code takes address ^ tag < 4096 for a match, and in places what overlaps the page from
// below, whatever the address: neither page may lead to the entry.
static void free_tlb_entries_match_no_address(void)
{
    struct tcpu *c = start(8);
    uint32_t full = c->tlb_mask;
    for (unsigned i = 0; i < TLB_ENTRIES; i++) {
        uint64_t tag = tlb_no_tag(i);
        CHECK_EQ(tag & PAGE_MASK, 0);
        c->tlb_mask = full;
        CHECK(tlb_index(c, tag) != i && tlb_index(c, tag - 1) != i);
        c->tlb_mask = 0;
        if (i < 2)
            CHECK(tlb_index(c, tag) != i && tlb_index(c, tag - 1) != i);
    }
    CHECK_EQ(tlb_index(c, 0), tlb_index(c, 0x7ffffffff000));
    CHECK_EQ(tlb_index(c, 0), tlb_index(c, 0xffff800000000000));
    fake_cpu_free(c);
}

TEST_MAIN(TEST(free_tlb_entries_match_no_address),
          TEST(add_to_a_read_only_page_faults_as_a_write_and_changes_nothing),
          TEST(push_that_faults_keeps_rsp), TEST(push_rsp_pushes_the_old_value),
          TEST(pop_to_memory_based_on_rsp_uses_the_new_rsp),
          TEST(pop_to_memory_that_faults_keeps_rsp), TEST(pop_rsp_loads_the_value),
          TEST(call_pushes_the_next_rip_and_ret_releases_its_immediate),
          TEST(call_to_a_non_canonical_target_pushes_nothing), TEST(enter_builds_nested_frames),
          TEST(pusha_and_popa_keep_all_but_esp), TEST(pusha_that_faults_half_way_stores_nothing),
          TEST(sixteen_bit_stack_wraps_and_keeps_the_upper_half_of_esp),
          TEST(division_overflow_raises_and_keeps_registers),
          TEST(idiv_accepts_the_most_negative_quotient_only),
          TEST(bit_string_reaches_below_its_operand),
          TEST(cmpxchg_that_fails_loads_the_accumulator_and_needs_a_writable_page),
          TEST(cmpxchg16b_checks_alignment_and_works_without_host_memory),
          TEST(locked_add_across_a_page_end_works),
          TEST(locked_operations_are_atomic_against_other_threads),
          TEST(decimal_adjustments_follow_the_manual), TEST(loop_counts_in_the_address_size),
          TEST(random_numbers_set_carry_alone))
