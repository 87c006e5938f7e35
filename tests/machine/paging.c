// Long-mode paging: page sizes, permissions, accessed and dirty bits, the TLB, PCIDs.

#include "guest.h"

#define VA 0x200000000000ull // nothing is mapped here
#define CR0_WP 0x10000ul
#define CR4_PGE 0x80ul
#define CR4_PCIDE 0x20000ul
#define CR4_SMEP 0x100000ul
#define CR4_SMAP 0x200000ul
#define CR4_FSGSBASE 0x10000ul
#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_RSVD 8
#define PF_I 16

static void do_read(void *at)
{
    (void)*(volatile u8 *)at;
}

static void do_write(void *at)
{
    *(volatile u8 *)at = 1;
}

static void do_call(void *at)
{
    ((void (*)(void))at)();
}

// The page fault's error code, or NO_TRAP, or the vector of another trap + 1000.
static unsigned fault(void (*fn)(void *), u64 at)
{
    struct trap t;
    unsigned vector = try_call(fn, (void *)at, &t);
    if (vector == 14) {
        CHECK_EQ(t.cr2, at);
        return (unsigned)t.error;
    }
    return vector == NO_TRAP ? NO_TRAP : vector + 1000;
}

static u8 *code_page(void)
{
    u8 *page = page_alloc();
    page[0] = 0xc3; // ret
    return page;
}

static void absent_page_faults_with_its_address(void)
{
    CHECK_EQ(fault(do_read, VA + 0x123), 0);
    CHECK_EQ(fault(do_write, VA + 0x123), PF_W);
    CHECK_EQ(fault(do_call, VA + 0x123), rdmsr(0xc0000080) & 0x800 ? PF_I : 0);
}

static void pages_of_4k_2m_and_1g_reach_their_memory(void)
{
    static const u64 at[] = {VA, VA + (1ull << 39), VA + (2ull << 39)};
    volatile u64 *target = page_alloc();
    for (unsigned level = 1; level <= 3; level++) {
        if (level == 3 && !(cpuid(0x80000001, 0).edx & 1u << 26)) {
            continue;
        }
        u64 size = 1ull << (12 + 9 * (level - 1)), offset = (u64)target & (size - 1);
        page_map(at[level - 1], (u64)target - offset, PTE_P | PTE_W, level);
        *target = level;
        CHECK_EQ(read64(at[level - 1] + offset), level);
        write64(at[level - 1] + offset, 100 + level);
        CHECK_EQ(*target, 100 + level);
    }
}

static void accessed_and_dirty_bits_are_set(void)
{
    volatile u64 *entry = page_map(VA, (u64)page_alloc(), PTE_P | PTE_W, 1);
    CHECK_EQ(*entry & (PTE_A | PTE_D), 0);
    do_read((void *)VA);
    CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A);
    do_write((void *)VA);
    CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
    *entry &= ~PTE_D;
    invlpg(VA);
    do_write((void *)VA);
    CHECK_EQ(*entry & PTE_D, PTE_D);
}

static void write_protection_holds_for_the_kernel_only_with_wp(void)
{
    page_map(VA, (u64)page_alloc(), PTE_P, 1);
    CHECK_EQ(fault(do_write, VA), PF_P | PF_W);
    write_cr0(read_cr0() & ~CR0_WP);
    CHECK_EQ(fault(do_write, VA), NO_TRAP);
    write_cr0(read_cr0() | CR0_WP);
    CHECK_EQ(fault(do_write, VA), PF_P | PF_W);
}

static void no_execute_pages_fault_on_fetch(void)
{
    u64 page = (u64)code_page();
    page_map(VA, page, PTE_P | PTE_NX, 1);
    CHECK_EQ(fault(do_call, VA), PF_P | PF_I);
    CHECK_EQ(fault(do_read, VA), NO_TRAP);
    page_map(VA, page, PTE_P, 1);
    CHECK_EQ(fault(do_call, VA), NO_TRAP);
}

static void reserved_bits_fault(void)
{
    page_map(VA, (u64)page_alloc() | 1ull << 51, PTE_P | PTE_W, 1);
    if ((cpuid(0x80000008, 0).eax & 0xff) >= 52) {
        test_skip("all physical address bits are in use");
        return;
    }
    CHECK_EQ(fault(do_read, VA), PF_P | PF_RSVD);
    page_map(VA, 0, 0, 1);
}

static void smep_forbids_running_user_pages(void)
{
    if (!(cpuid(7, 0).ebx & 1u << 7)) {
        test_skip("no SMEP");
        return;
    }
    page_map(VA, (u64)code_page(), PTE_P | PTE_U, 1);
    CHECK_EQ(fault(do_call, VA), NO_TRAP);
    write_cr4(read_cr4() | CR4_SMEP);
    CHECK_EQ(fault(do_call, VA), PF_P | PF_I);
    write_cr4(read_cr4() & ~CR4_SMEP);
    CHECK_EQ(fault(do_call, VA), NO_TRAP);
}

static void smap_forbids_touching_user_pages_unless_ac(void)
{
    if (!(cpuid(7, 0).ebx & 1u << 20)) {
        test_skip("no SMAP");
        return;
    }
    page_map(VA, (u64)page_alloc(), PTE_P | PTE_W | PTE_U, 1);
    write_cr4(read_cr4() | CR4_SMAP);
    CHECK_EQ(fault(do_read, VA), PF_P);
    CHECK_EQ(fault(do_write, VA), PF_P | PF_W);
    __asm__ volatile("stac");
    do_write((void *)VA);
    __asm__ volatile("clac");
    CHECK_EQ(fault(do_read, VA), PF_P);
    write_cr4(read_cr4() & ~CR4_SMAP);
}

static void stale_translation_lasts_at_most_until_invlpg(void)
{
    volatile u64 *a = page_alloc(), *b = page_alloc();
    *a = 1;
    *b = 2;
    volatile u64 *entry = page_map(VA, (u64)a, PTE_P | PTE_W, 1);
    CHECK_EQ(read64(VA), 1);
    *entry = (u64)b | PTE_P | PTE_W;
    invlpg(VA);
    CHECK_EQ(read64(VA), 2);
    *entry = (u64)a | PTE_P | PTE_W;
    write_cr3(read_cr3());
    CHECK_EQ(read64(VA), 1);
}

static void global_page_survives_a_load_of_cr3(void)
{
    volatile u64 *a = page_alloc(), *b = page_alloc();
    *a = 1;
    *b = 2;
    volatile u64 *entry = page_map(VA, (u64)a, PTE_P | PTE_W | PTE_G, 1);
    write_cr4(read_cr4() | CR4_PGE);
    CHECK_EQ(read64(VA), 1);
    *entry = (u64)b | PTE_P | PTE_W | PTE_G;
    write_cr3(read_cr3()); // may keep it
    u64 seen = read64(VA);
    CHECK(seen == 1 || seen == 2);
    write_cr4(read_cr4() & ~CR4_PGE); // must drop it
    CHECK_EQ(read64(VA), 2);
}

static void set_pcid(unsigned pcid, u64 keep)
{
    write_cr3((read_cr3() & ~0xfffull) | pcid | keep);
}

static void invpcid(u64 type, u64 pcid, u64 at)
{
    u64 descriptor[2] = {pcid, at};
    __asm__ volatile("invpcid %0, %1" ::"m"(descriptor), "r"(type) : "memory");
}

static void pcids_keep_translations_apart(void)
{
    if (!(cpuid(1, 0).ecx & 1u << 17)) {
        test_skip("no PCID");
        return;
    }
    volatile u64 *a = page_alloc(), *b = page_alloc();
    *a = 1;
    *b = 2;
    volatile u64 *entry = page_map(VA, (u64)a, PTE_P | PTE_W, 1);
    write_cr3(read_cr3() & ~0xfffull);
    write_cr4(read_cr4() | CR4_PCIDE);
    set_pcid(1, 0);
    CHECK_EQ(read64(VA), 1);
    *entry = (u64)b | PTE_P | PTE_W;
    set_pcid(2, 0); // nothing of PCID 2 is cached
    CHECK_EQ(read64(VA), 2);
    set_pcid(1, 0); // without bit 63: PCID 1 is flushed
    CHECK_EQ(read64(VA), 2);
    if (cpuid(7, 0).ebx & 1u << 10) {
        *entry = (u64)a | PTE_P | PTE_W;
        invpcid(0, 1, VA);
        CHECK_EQ(read64(VA), 1);
        *entry = (u64)b | PTE_P | PTE_W;
        invpcid(1, 1, 0);
        CHECK_EQ(read64(VA), 2);
        *entry = (u64)a | PTE_P | PTE_W;
        invpcid(2, 0, 0);
        CHECK_EQ(read64(VA), 1);
    }
    set_pcid(0, 0);
    write_cr4(read_cr4() & ~CR4_PCIDE);
}

static void non_canonical_addresses_are_general_protection(void)
{
    CHECK_EQ(fault(do_read, 0x800000000000ull), 1013);
    CHECK_EQ(fault(do_write, 0xffff7fffffffffffull), 1013);
}

static void write_8_bytes(void *at)
{
    *(volatile u64 *)at = ~0ull;
}

static void write_across_two_pages_is_all_or_nothing(void)
{
    u64 *page = page_alloc();
    page[511] = 0x1111111111111111;
    page_map(VA, (u64)page, PTE_P | PTE_W, 1);
    page_map(VA + 4096, 0, 0, 1);
    struct trap t;
    CHECK_EQ(try_call(write_8_bytes, (void *)(VA + 4092), &t), 14);
    CHECK_EQ(t.cr2, VA + 4096);
    CHECK_EQ(page[511], 0x1111111111111111);
}

TESTS(TEST(absent_page_faults_with_its_address), TEST(pages_of_4k_2m_and_1g_reach_their_memory),
      TEST(accessed_and_dirty_bits_are_set),
      TEST(write_protection_holds_for_the_kernel_only_with_wp),
      TEST(no_execute_pages_fault_on_fetch), TEST(reserved_bits_fault),
      TEST(smep_forbids_running_user_pages), TEST(smap_forbids_touching_user_pages_unless_ac),
      TEST(stale_translation_lasts_at_most_until_invlpg), TEST(global_page_survives_a_load_of_cr3),
      TEST(pcids_keep_translations_apart), TEST(non_canonical_addresses_are_general_protection),
      TEST(write_across_two_pages_is_all_or_nothing));
