// Random instruction streams through the block translator and the interpreter: registers, flags,
// vector state and memory must be equal afterwards.
#include "../test.h"

#include "streams.h"

static void compare(uint32_t debug, bool code64, uint64_t base, bool patches, unsigned number)
{
    struct guest want, got;
    if (!guest_init(&want, ENGINE_DEBUG_INTERPRET, code64) || !guest_init(&got, debug, code64)) {
        CHECK(false);
        return;
    }
    struct seeds seeds = seeds_of(number);
    uint64_t seed;
    while (next_seed(&seeds, &seed)) {
        struct random r = {seed};
        struct stream s;
        make_stream(&r, code64, base, patches, &s);
        load_stream(&want, &s, code64, r.state);
        load_stream(&got, &s, code64, r.state);
        enum engine_exit expected = guest_run(&want); // SHUTDOWN when the stack is gone
        enum engine_exit reached = guest_run(&got);
        if (changed_tables(&want) || changed_tables(&got))
            continue;
        CHECK_EQ(reached, expected);
        if (!same(&want, &got, &s, debug & ENGINE_DEBUG_FLAGS_LIVE)) {
            printf("# seed %#" PRIx64 ", debug mode %#x, %d-bit code\n", seed, debug,
                   code64 ? 64 : 32);
            print_stream(&s, code64);
            break;
        }
    }
    guest_release(&want);
    guest_release(&got);
}

static void compare_streams(uint32_t debug, bool code64, uint64_t base, unsigned number)
{
    compare(debug, code64, base, false, number);
}

static void random_64_bit_streams_agree_with_the_interpreter(void)
{
    compare_streams(0, true, 0, 1);
}

static void random_64_bit_streams_agree_with_flags_live_everywhere(void)
{
    compare_streams(ENGINE_DEBUG_FLAGS_LIVE, true, 0, 2);
}

static void random_64_bit_streams_agree_with_a_tiny_tlb(void)
{
    compare_streams(ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_TINY_CACHE, true, 0, 3);
}

static void random_64_bit_streams_agree_in_hot_blocks(void)
{
    compare_streams(ENGINE_DEBUG_ALL_HOT, true, 0, 5);
}

static void random_64_bit_streams_agree_in_hot_blocks_whose_slots_miss(void)
{
    compare_streams(ENGINE_DEBUG_ALL_HOT | ENGINE_DEBUG_SLOTS_MISS, true, 0, 6);
}

static void random_64_bit_streams_agree_in_hot_blocks_with_a_tiny_tlb_and_flags_live(void)
{
    compare_streams(ENGINE_DEBUG_ALL_HOT | ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_FLAGS_LIVE, true, 0,
                    7);
}

static void random_32_bit_streams_agree_in_hot_blocks(void)
{
    compare_streams(ENGINE_DEBUG_ALL_HOT, false, 0, 8);
}

static void random_32_bit_streams_agree_with_the_interpreter(void)
{
    compare_streams(0, false, 0, 4);
}

static void random_64_bit_streams_agree_in_copied_blocks(void)
{
    compare_streams(ENGINE_DEBUG_COPY_BLOCKS, true, 0, 9);
}

static void random_64_bit_streams_agree_in_copied_blocks_with_a_tiny_tlb_and_flags_live(void)
{
    compare_streams(ENGINE_DEBUG_COPY_BLOCKS | ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_FLAGS_LIVE,
                    true, 0, 10);
}

static void random_32_bit_streams_agree_in_copied_blocks(void)
{
    compare_streams(ENGINE_DEBUG_COPY_BLOCKS | ENGINE_DEBUG_TINY_CACHE, false, 0, 11);
}

static void random_streams_where_kernels_lie_agree_with_the_interpreter(void)
{
    compare_streams(0, true, GUEST_HIGH(0), 12);
}

static void random_streams_where_kernels_lie_agree_in_copied_blocks(void)
{
    compare_streams(ENGINE_DEBUG_COPY_BLOCKS, true, GUEST_HIGH(0), 13);
}

static void random_streams_where_kernels_lie_agree_in_copied_blocks_with_a_tiny_tlb(void)
{
    compare_streams(ENGINE_DEBUG_COPY_BLOCKS | ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_FLAGS_LIVE,
                    true, GUEST_HIGH(0), 14);
}

static void random_64_bit_streams_agree_in_blocks_that_verify_themselves(void)
{
    compare_streams(ENGINE_DEBUG_OPEN_PAGES, true, 0, 15);
}

static void random_64_bit_streams_agree_in_such_blocks_with_a_tiny_tlb_and_flags_live(void)
{
    compare_streams(ENGINE_DEBUG_OPEN_PAGES | ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_FLAGS_LIVE, true,
                    0, 16);
}

static void random_32_bit_streams_agree_in_blocks_that_verify_themselves(void)
{
    compare_streams(ENGINE_DEBUG_OPEN_PAGES, false, 0, 17);
}

static void random_streams_that_change_themselves_agree_with_the_interpreter(void)
{
    compare(0, true, 0, true, 18);
    compare(ENGINE_DEBUG_ALL_HOT, true, 0, true, 19);
}

static void random_streams_that_change_themselves_agree_in_blocks_that_verify_themselves(void)
{
    compare(ENGINE_DEBUG_OPEN_PAGES, true, 0, true, 20);
    compare(ENGINE_DEBUG_OPEN_PAGES | ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_FLAGS_LIVE, true, 0,
            true, 21);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(random_64_bit_streams_agree_with_the_interpreter),
        TEST(random_64_bit_streams_agree_with_flags_live_everywhere),
        TEST(random_64_bit_streams_agree_with_a_tiny_tlb),
        TEST(random_32_bit_streams_agree_with_the_interpreter),
        TEST(random_64_bit_streams_agree_in_hot_blocks),
        TEST(random_64_bit_streams_agree_in_hot_blocks_whose_slots_miss),
        TEST(random_64_bit_streams_agree_in_hot_blocks_with_a_tiny_tlb_and_flags_live),
        TEST(random_32_bit_streams_agree_in_hot_blocks),
        TEST(random_64_bit_streams_agree_in_copied_blocks),
        TEST(random_64_bit_streams_agree_in_copied_blocks_with_a_tiny_tlb_and_flags_live),
        TEST(random_32_bit_streams_agree_in_copied_blocks),
        TEST(random_streams_where_kernels_lie_agree_with_the_interpreter),
        TEST(random_streams_where_kernels_lie_agree_in_copied_blocks),
        TEST(random_streams_where_kernels_lie_agree_in_copied_blocks_with_a_tiny_tlb),
        TEST(random_64_bit_streams_agree_in_blocks_that_verify_themselves),
        TEST(random_64_bit_streams_agree_in_such_blocks_with_a_tiny_tlb_and_flags_live),
        TEST(random_32_bit_streams_agree_in_blocks_that_verify_themselves),
        TEST(random_streams_that_change_themselves_agree_with_the_interpreter),
        TEST(random_streams_that_change_themselves_agree_in_blocks_that_verify_themselves),
    };
    return test_main(tests, ARRAY_LEN(tests));
}
