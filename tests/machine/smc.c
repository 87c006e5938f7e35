// Self-modifying code: the next instruction, other pages' code, pages that hold data and code,
// aliases.

#include "guest.h"

#define VA 0x200000000000ull

typedef unsigned function(void);

// mov $imm32, %eax; ret
static void write_function(u8 *at, u32 result)
{
    at[0] = 0xb8;
    at[1] = (u8)result;
    at[2] = (u8)(result >> 8);
    at[3] = (u8)(result >> 16);
    at[4] = (u8)(result >> 24);
    at[5] = 0xc3;
}

static unsigned call(const u8 *at)
{
    return ((function *)(word)at)();
}

static void changed_function_runs_as_changed(void)
{
    u8 *page = page_alloc();
    for (u32 i = 0; i < 1000; i++) {
        write_function(page, i);
        if (call(page) != i) {
            CHECK_EQ(call(page), i);
            return;
        }
    }
}

static void instruction_may_change_the_next_one(void)
{
    u8 *page = page_alloc();
    // movb $7, imm of the next instruction; mov $1, %eax; ret
    static const u8 code[] = {0xc6, 0x05, 1, 0, 0, 0, 7, 0xb8, 1, 0, 0, 0, 0xc3};
    for (unsigned i = 0; i < 100; i++) {
        memcpy(page, code, sizeof code);
        CHECK_EQ(call(page), 7);
    }
}

static void loop_may_change_its_own_body(void)
{
    u8 *page = page_alloc();
    // xor %eax,%eax; mov $5,%ecx; l: add $1,%eax; incb (the 1); dec %ecx; jnz l; ret
    static const u8 code[] = {0x31, 0xc0, 0xb9, 5,    0,    0,    0,    0x83, 0xc0, 1,   0xfe,
                              0x05, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf3, 0xc3};
    memcpy(page, code, sizeof code);
    CHECK_EQ(call(page), 1 + 2 + 3 + 4 + 5);
}

static void code_across_two_pages_sees_changes_in_both(void)
{
    u8 *first = page_alloc();
    u8 *second = page_alloc();
    CHECK_EQ((u64)second - (u64)first, 4096);
    u8 *at = second - 3; // the immediate lies in both pages
    for (u32 i = 0; i < 100; i++) {
        write_function(at, i << 24 | i);
        CHECK_EQ(call(at), i << 24 | i);
        second[1] = (u8)(i + 1); // the immediate's last byte, in the second page
        CHECK_EQ(call(at), (i + 1) << 24 | i);
    }
}

static void writing_data_beside_code_leaves_the_code_alone(void)
{
    u8 *page = page_alloc();
    write_function(page, 77);
    volatile u64 *data = (volatile u64 *)(page + 2048);
    for (unsigned i = 0; i < 2000; i++) {
        *data += 1;
        if (i % 100 == 0) {
            CHECK_EQ(call(page), 77);
        }
    }
    CHECK_EQ(*data, 2000);
}

static void change_through_an_alias_is_seen(void)
{
    u8 *page = page_alloc();
    page_map(VA, (u64)page, PTE_P | PTE_W, 1);
    write_function(page, 1);
    CHECK_EQ(call((u8 *)VA), 1);
    write_function(page, 2);
    CHECK_EQ(call((u8 *)VA), 2);
    write_function((u8 *)VA, 3);
    CHECK_EQ(call(page), 3);
}

static void remapped_page_runs_the_new_pages_code(void)
{
    u8 *a = page_alloc(), *b = page_alloc();
    write_function(a, 1);
    write_function(b, 2);
    for (unsigned i = 0; i < 50; i++) {
        page_map(VA, (u64)(i & 1 ? b : a), PTE_P | PTE_W, 1);
        CHECK_EQ(call((u8 *)VA), 1 + (i & 1));
    }
}

static void string_instruction_may_write_code(void)
{
    u8 *page = page_alloc(), image[6];
    for (u32 i = 0; i < 100; i++) {
        write_function(image, i);
        memcpy(page, image, 6);
        CHECK_EQ(call(page), i);
    }
}

static void call_chain_sees_a_changed_callee(void)
{
    u8 *caller = page_alloc(), *callee = page_alloc();
    // call callee; add $1, %eax; ret
    caller[0] = 0xe8;
    u32 distance = (u32)((u64)callee - (u64)caller - 5);
    memcpy(caller + 1, &distance, 4);
    caller[5] = 0x83;
    caller[6] = 0xc0;
    caller[7] = 1;
    caller[8] = 0xc3;
    for (u32 i = 0; i < 200; i++) {
        write_function(callee, i);
        CHECK_EQ(call(caller), i + 1);
    }
}

TESTS(TEST(changed_function_runs_as_changed), TEST(instruction_may_change_the_next_one),
      TEST(loop_may_change_its_own_body), TEST(code_across_two_pages_sees_changes_in_both),
      TEST(writing_data_beside_code_leaves_the_code_alone), TEST(change_through_an_alias_is_seen),
      TEST(remapped_page_runs_the_new_pages_code), TEST(string_instruction_may_write_code),
      TEST(call_chain_sees_a_changed_callee));
