// String instructions: overlap, direction, faults half way, interruption, address sizes.
#include "fake_cpu.h"
#include "test.h"

#include "base/bytes.h"

#define SOURCE (FAKE_BASE + PAGE_SIZE)
#define DEST (FAKE_BASE + 4 * PAGE_SIZE)

// Runs a repeated instruction until it is through.
#define RUN_OUT(c, code) \
    do {                 \
        (c)->s.rip = 0;  \
        RUN(c, code);    \
    } while ((c)->s.rip == 0)

static struct tcpu *start(uint64_t count)
{
    fake_memory_reset();
    for (unsigned i = 0; i < FAKE_BYTES; i++)
        fake_memory()[i] = (uint8_t)(i * 7 + (i >> 8));
    struct tcpu *c = fake_cpu_new(8);
    c->s.gpr[RSI] = SOURCE;
    c->s.gpr[RDI] = DEST;
    c->s.gpr[RCX] = count;
    return c;
}

static void movs_copies_across_pages_in_both_directions(void)
{
    for (unsigned hide = 0; hide < 2; hide++) {
        struct tcpu *c = start(5000);
        fake_hide_host(hide);
        RUN_OUT(c, "\xf3\xa4");
        CHECK_EQ(memcmp((void *)SOURCE, (void *)DEST, 5000), 0);
        CHECK_EQ(c->s.gpr[RCX], 0);
        CHECK_EQ(c->s.gpr[RSI], SOURCE + 5000);
        c->s.rflags |= FLAG_DF;
        memset((void *)DEST, 0, 5000);
        c->s.gpr[RCX] = 5000, c->s.gpr[RSI] = SOURCE + 4999, c->s.gpr[RDI] = DEST + 4999;
        RUN_OUT(c, "\xf3\xa4");
        CHECK_EQ(memcmp((void *)SOURCE, (void *)DEST, 5000), 0);
        CHECK_EQ(c->s.gpr[RDI], DEST - 1);
        fake_cpu_free(c);
    }
}

static void overlapping_movs_repeats_the_first_element(void)
{
    struct tcpu *c = start(100);
    c->s.gpr[RDI] = SOURCE + 1;
    uint8_t first = *(uint8_t *)SOURCE;
    RUN_OUT(c, "\xf3\xa4");
    CHECK_EQ(((uint8_t *)SOURCE)[100], first);
    CHECK_EQ(((uint8_t *)SOURCE)[50], first);
    fake_cpu_free(c);
}

static void elements_across_page_ends_are_moved_whole(void)
{
    struct tcpu *c = start(1200);
    c->s.gpr[RSI] = SOURCE + 3;
    c->s.gpr[RDI] = DEST + 5;
    RUN_OUT(c, "\xf3\x48\xa5");
    CHECK_EQ(memcmp((void *)(SOURCE + 3), (void *)(DEST + 5), 9600), 0);
    fake_cpu_free(c);
}

static void a_fault_leaves_exact_registers_and_the_rest_untouched(void)
{
    struct tcpu *c = start(5000);
    fake_protect(5, true, false);
    struct fake_fault fault;
    do
        fault = RUN(c, "\xf3\xaa");
    while (!fault.raised && c->s.gpr[RCX]);
    CHECK_EQ(fault.vector, VEC_PF);
    CHECK_EQ(fault.address, DEST + PAGE_SIZE);
    CHECK_EQ(c->s.gpr[RCX], 5000 - PAGE_SIZE);
    CHECK_EQ(c->s.gpr[RDI], DEST + PAGE_SIZE);
    fake_protect(5, true, true);
    RUN_OUT(c, "\xf3\xaa");
    CHECK_EQ(c->s.gpr[RCX], 0);
    CHECK_EQ(*(uint8_t *)(DEST + 4999), 0);
    fake_cpu_free(c);
}

static void a_pending_event_stops_the_repetition_with_rip_at_the_instruction(void)
{
    struct tcpu *c = start(10000);
    c->s.rip = 0x1000;
    c->pending = PENDING_INTR;
    RUN(c, "\xf3\xaa");
    CHECK_EQ(c->s.rip, 0x1000);
    CHECK(c->s.gpr[RCX] < 10000 && c->s.gpr[RCX] > 0);
    CHECK_EQ(c->s.gpr[RDI] - DEST, 10000 - c->s.gpr[RCX]);
    fake_cpu_free(c);
}

static void single_stepping_stops_after_every_element(void)
{
    struct tcpu *c = start(3);
    c->mode |= MODE_STEP;
    c->s.rip = 0x1000;
    RUN(c, "\xf3\xa4");
    CHECK_EQ(c->s.gpr[RCX], 2);
    CHECK_EQ(c->s.rip, 0x1000);
    RUN(c, "\xf3\xa4");
    RUN(c, "\xf3\xa4");
    CHECK_EQ(c->s.rip, 0x1002);
    fake_cpu_free(c);
}

static void scas_stops_after_the_match(void)
{
    for (unsigned hide = 0; hide < 2; hide++) {
        struct tcpu *c = start(9000);
        fake_hide_host(hide);
        memset((void *)DEST, 1, 9000);
        *(uint8_t *)(DEST + 4500) = 0x55;
        c->s.gpr[RAX] = 0x1155;
        RUN_OUT(c, "\xf2\xae");
        CHECK_EQ(c->s.gpr[RDI], DEST + 4501);
        CHECK_EQ(c->s.gpr[RCX], 9000 - 4501);
        CHECK_EQ(c->s.rflags & FLAG_ZF, FLAG_ZF);
        CHECK_EQ(c->s.gpr[RAX], 0x1155);
        fake_cpu_free(c);
    }
}

static void cmps_sets_flags_of_the_last_pair(void)
{
    struct tcpu *c = start(64);
    memcpy((void *)DEST, (void *)SOURCE, 64);
    *(uint8_t *)(SOURCE + 20) = 1;
    *(uint8_t *)(DEST + 20) = 2;
    RUN_OUT(c, "\xf3\xa6");
    CHECK_EQ(c->s.gpr[RCX], 64 - 21);
    CHECK_EQ(c->s.rflags & FLAGS_ARITH, FLAG_CF | FLAG_AF | FLAG_SF | FLAG_PF);
    fake_cpu_free(c);
}

static void a_count_of_zero_changes_nothing(void)
{
    struct tcpu *c = start(0);
    uint64_t flags = c->s.rflags;
    RUN(c, "\xf3\xa6");
    CHECK_EQ(c->s.rflags, flags);
    CHECK_EQ(c->s.gpr[RSI], SOURCE);
    CHECK_EQ(c->s.rip, 2);
    fake_cpu_free(c);
}

static void lods_keeps_the_rest_of_the_accumulator(void)
{
    struct tcpu *c = start(0);
    c->s.gpr[RAX] = ~0ull;
    store_le32((void *)SOURCE, 0x11223344);
    RUN(c, "\xac");
    CHECK_EQ(c->s.gpr[RAX], 0xffffffffffffff44);
    c->s.gpr[RSI] = SOURCE;
    RUN(c, "\xad");
    CHECK_EQ(c->s.gpr[RAX], 0x11223344);
    fake_cpu_free(c);
}

static void a_32_bit_address_size_counts_in_ecx_and_clears_upper_halves(void)
{
    struct tcpu *c = start(0);
    c->s.gpr[RCX] = 0xf00000003;
    c->s.gpr[RSI] |= 0xa00000000;
    c->s.gpr[RDI] |= 0xb00000000;
    RUN_OUT(c, "\x67\xf3\xa4");
    CHECK_EQ(c->s.gpr[RCX], 0);
    CHECK_EQ(c->s.gpr[RSI], SOURCE + 3);
    CHECK_EQ(c->s.gpr[RDI], DEST + 3);
    fake_cpu_free(c);
}

TEST_MAIN(TEST(movs_copies_across_pages_in_both_directions),
          TEST(overlapping_movs_repeats_the_first_element),
          TEST(elements_across_page_ends_are_moved_whole),
          TEST(a_fault_leaves_exact_registers_and_the_rest_untouched),
          TEST(a_pending_event_stops_the_repetition_with_rip_at_the_instruction),
          TEST(single_stepping_stops_after_every_element), TEST(scas_stops_after_the_match),
          TEST(cmps_sets_flags_of_the_last_pair), TEST(a_count_of_zero_changes_nothing),
          TEST(lods_keeps_the_rest_of_the_accumulator),
          TEST(a_32_bit_address_size_counts_in_ecx_and_clears_upper_halves))
