// Page walks and TLBs of the translator against the rules of Intel SDM vol. 3 chapter 4.
#include "box.h"
#include "engine/translate/tlb2.h"

#define FAULT(code) (1 + (code))
#define PAGE 0x50000

static void long_mode_read_sets_accessed_and_write_sets_dirty(void)
{
    struct box *b = box_new(0);
    box_long(b);
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), 0);
    CHECK_EQ(*box_pte(b, PAGE) & (PTE_A | PTE_D), PTE_A);
    CHECK_EQ(box_read(b, BOX_TABLES, 8) & (PTE_A | PTE_D), PTE_A);
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, false), 0);
    CHECK_EQ(*box_pte(b, PAGE) & (PTE_A | PTE_D), PTE_A | PTE_D);
    CHECK_EQ(b->ram[PAGE], 0x5a);
    box_free(b);
}

static void absent_page_faults_with_the_access_in_the_error_code(void)
{
    struct box *b = box_new(0);
    box_long(b);
    *box_pte(b, PAGE) = 0;
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), FAULT(0));
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, false), FAULT(PF_WRITE));
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, true), FAULT(PF_WRITE | PF_USER));
    CHECK_EQ(box_access(b, PAGE, ACCESS_EXEC, true), FAULT(PF_FETCH | PF_USER));
    CHECK_EQ(b->c->s.cr2, PAGE);
    box_free(b);
}

static void supervisor_page_refuses_user_accesses(void)
{
    struct box *b = box_new(0);
    box_long(b);
    *box_pte(b, PAGE) &= ~PTE_U;
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), 0);
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, true), FAULT(PF_PRESENT | PF_USER));
    box_free(b);
}

static void read_only_page_obeys_wp_for_the_supervisor(void)
{
    struct box *b = box_new(0);
    box_long(b);
    *box_pte(b, PAGE) &= ~PTE_W;
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, false), FAULT(PF_PRESENT | PF_WRITE));
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, true), FAULT(PF_PRESENT | PF_WRITE | PF_USER));
    CHECK_EQ(*box_pte(b, PAGE) & PTE_D, 0);
    b->s.cr0 &= ~CR0_WP;
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, false), 0);
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, true), FAULT(PF_PRESENT | PF_WRITE | PF_USER));
    box_free(b);
}

static void rights_of_upper_levels_narrow_lower_ones(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->ram[BOX_TABLES + 0x1000] &= (uint8_t)~PTE_W;
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, false), FAULT(PF_PRESENT | PF_WRITE));
    box_free(b);
}

static void nx_page_refuses_fetches(void)
{
    struct box *b = box_new(0);
    box_long(b);
    *box_pte(b, PAGE) |= PTE_NX;
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), 0);
    CHECK_EQ(box_access(b, PAGE, ACCESS_EXEC, false), FAULT(PF_PRESENT | PF_FETCH));
    b->s.efer &= ~EFER_NXE;
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), FAULT(PF_PRESENT | PF_RESERVED));
    box_free(b);
}

static void smep_refuses_supervisor_fetches_from_user_pages(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.cr4 |= CR4_SMEP;
    CHECK_EQ(box_access(b, PAGE, ACCESS_EXEC, false), FAULT(PF_PRESENT | PF_FETCH));
    CHECK_EQ(box_access(b, PAGE, ACCESS_EXEC, true), 0);
    box_free(b);
}

static void address_bits_beyond_the_physical_width_are_reserved(void)
{
    struct box *b = box_new(0);
    box_long(b);
    *box_pte(b, PAGE) |= BIT(40);
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), FAULT(PF_PRESENT | PF_RESERVED));
    *box_pte(b, PAGE) ^= BIT(40) | BIT(39);
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), 0);
    CHECK_EQ(b->mmio_at, BIT(39) | PAGE);
    box_free(b);
}

static void large_pages_map_2_mib_and_1_gib(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_write(b, BOX_TABLES + 0x2000 + 8, 8, 0x200000 | PTE_PS | 7); // 2 MiB at 2 MiB
    CHECK_EQ(box_access(b, 0x2abcde, ACCESS_WRITE, false), 0);
    CHECK_EQ(b->ram[0x2abcde], 0x5a);
    CHECK_EQ(box_read(b, BOX_TABLES + 0x2000 + 8, 8) & (PTE_A | PTE_D), PTE_A | PTE_D);
    box_write(b, BOX_TABLES + 0x1000 + 8, 8, PTE_PS | 7); // 1 GiB at 1 GiB, leads to 0
    CHECK_EQ(box_access(b, 0x40123456, ACCESS_WRITE, false), 0);
    CHECK_EQ(b->ram[0x123456], 0x5a);
    box_write(b, BOX_TABLES + 0x2000 + 8, 8, 0x202000 | PTE_PS | 7); // address bit 13 is reserved
    CHECK_EQ(box_access(b, 0x2abcde, ACCESS_READ, false), FAULT(PF_PRESENT | PF_RESERVED));
    box_free(b);
}

static void pae_uses_the_four_entries_held_in_the_cpu(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    b->s.cr0 |= CR0_PG;
    b->s.cr4 |= CR4_PAE;
    b->s.pdpte[0] = (BOX_TABLES + 0x1000) | 1;
    box_write(b, BOX_TABLES + 0x1000, 8, (BOX_TABLES + 0x2000) | 7);
    box_write(b, BOX_TABLES + 0x2000 + 0x50 * 8, 8, 0x51000 | 7);
    CHECK_EQ(box_access(b, PAGE + 5, ACCESS_WRITE, true), 0);
    CHECK_EQ(b->ram[0x51005], 0x5a);
    CHECK_EQ(box_access(b, 0x40000000, ACCESS_READ, false), FAULT(0));
    box_write(b, BOX_TABLES + 0x2000 + 0x50 * 8, 8, BIT(52) | 0x51000 | 7);
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), FAULT(PF_PRESENT | PF_RESERVED));
    box_free(b);
}

static void thirty_two_bit_paging_has_4_kib_and_4_mib_pages(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    b->s.cr0 |= CR0_PG;
    b->s.cr3 = BOX_TABLES;
    box_write(b, BOX_TABLES, 4, (BOX_TABLES + 0x1000) | 7);
    box_write(b, BOX_TABLES + 0x1000 + 0x50 * 4, 4, 0x52000 | 7);
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, true), 0);
    CHECK_EQ(b->ram[0x52000], 0x5a);
    box_write(b, BOX_TABLES + 4, 4, PTE_PS | 7);
    CHECK_EQ(box_access(b, 0x400000, ACCESS_READ, false), FAULT(0)); // without CR4.PSE: table at 0
    b->s.cr4 |= CR4_PSE;
    CHECK_EQ(box_access(b, 0x412345, ACCESS_WRITE, false), 0);
    CHECK_EQ(b->ram[0x12345], 0x5a);
    box_write(b, BOX_TABLES + 4, 4, PTE_PS | 7 | BIT(13)); // PSE-36: address bit 32
    CHECK_EQ(box_access(b, 0x412345, ACCESS_READ, false), 0);
    CHECK_EQ(b->mmio_at, BIT(32) | 0x12345);
    box_free(b);
}

static void write_across_pages_faults_before_the_first_changes(void)
{
    struct box *b = box_new(0);
    box_long(b);
    *box_pte(b, PAGE + 0x1000) = 0;
    b->s.gpr[RDI] = PAGE + 0xffc;
    b->s.gpr[RAX] = ~0ull;
    CHECK_EQ(BOX_RUN(b, 0x48, 0x89, 0x07), ENGINE_HALTED); // mov [rdi], rax
    CHECK_EQ(box_stopped_in(b), VEC_PF);
    CHECK_EQ(b->s.cr2, PAGE + 0x1000);
    CHECK_EQ(box_read(b, PAGE + 0xffc, 4), 0);
    box_free(b);
}

static void stale_translation_lives_until_invlpg(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_write(b, 0x60000, 1, 0x11);
    box_write(b, 0x61000, 1, 0x22);
    b->s.gpr[RDI] = 0x60000;
    b->s.gpr[RSI] = BOX_TABLES + 0x3000 + 0x60 * 8;
    // mov al,[rdi]; mov qword [rsi],0x61007; invlpg [rdi]; mov ah,[rdi]; hlt
    BOX_RUN(b, 0x8a, 0x07, 0x48, 0xc7, 0x06, 0x07, 0x10, 0x06, 0x00, 0x0f, 0x01, 0x3f, 0x8a, 0x27,
            0xf4);
    CHECK_EQ(b->s.gpr[RAX] & 0xffff, 0x2211);
    box_free(b);
}

static void invlpg_drops_all_fragments_of_a_large_page(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_write(b, BOX_TABLES + 0x2000 + 8, 8, 0x200000 | PTE_PS | 7);
    box_write(b, 0x201000, 1, 0x11);
    box_write(b, 0x001000, 1, 0x22);
    b->s.gpr[RDI] = 0x201000;
    b->s.gpr[RSI] = BOX_TABLES + 0x2000 + 8;
    // mov al,[rdi]; mov qword [rsi],0x87; invlpg [rdi+0x1000]; mov ah,[rdi]; hlt
    BOX_RUN(b, 0x8a, 0x07, 0x48, 0xc7, 0x06, 0x87, 0, 0, 0, 0x0f, 0x01, 0xbf, 0, 0x10, 0, 0, 0x8a,
            0x27, 0xf4);
    CHECK_EQ(b->s.gpr[RAX] & 0xffff, 0x2211);
    box_free(b);
}

// Translates `at`, points its page elsewhere, writes CR3, and tells whether the old page is still
// seen.
static bool survives_cr3(struct box *b, gva_t at, uint64_t new_cr3)
{
    struct tcpu *c = b->c;
    volatile bool same = false;
    tvm_enter(c);
    if (setjmp(c->unwind) == 0) {
        uint64_t before = mem_read(c, at, 1);
        *box_pte(b, at) ^= 0x1000;
        const struct insn load = {.op = OP_MOV_CR,
                                  .operands = 2,
                                  .operand = {{.kind = OPND_CR, .reg = 3, .size = 8},
                                              {.kind = OPND_GPR, .reg = RAX, .size = 8}}};
        c->s.gpr[RAX] = new_cr3;
        sys_mov_cr(c, &load);
        same = mem_read(c, at, 1) == before;
    }
    tvm_leave(c);
    return same;
}

static void global_pages_survive_cr3_writes(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_write(b, 0x60000, 1, 1);
    box_write(b, 0x61000, 1, 2);
    struct error e;
    CHECK_EQ(engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e), OK);
    CHECK(!survives_cr3(b, 0x60000, BOX_TABLES));
    *box_pte(b, 0x60000) = 0x60000 | PTE_G | 7;
    tlb_flush_all(b->c);
    CHECK(survives_cr3(b, 0x60000, BOX_TABLES));
    box_free(b);
}

static void pcid_keeps_entries_when_bit_63_asks_for_it(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.cr4 |= CR4_PCIDE;
    b->s.cr3 = BOX_TABLES | 1;
    box_write(b, 0x60000, 1, 1);
    box_write(b, 0x61000, 1, 2);
    struct error e;
    CHECK_EQ(engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e), OK);
    CHECK(survives_cr3(b, 0x60000, BOX_TABLES | 1 | BIT(63)));
    tlb_flush_all(b->c);
    CHECK(!survives_cr3(b, 0x60000, BOX_TABLES | 2 | BIT(63))); // another context knows nothing
    tlb_flush_all(b->c);
    CHECK(!survives_cr3(b, 0x60000, BOX_TABLES | 2));
    box_free(b);
}

static void memory_outside_ram_is_asked_of_the_machine(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    b->mmio_value = 0x12345678;
    b->s.gpr[RDI] = 0xfee00030;
    BOX_RUN(b, 0x8b, 0x07, 0xf4); // mov eax,[edi]; hlt
    CHECK_EQ(b->s.gpr[RAX], 0x12345678);
    CHECK_EQ(b->mmio_at, 0xfee00030);
    CHECK_EQ(b->mmio_size, 4);
    b->s.rip = BOX_CODE;
    b->s.gpr[RDI] = BOX_RAM - 2; // half in RAM
    b->mmio_value = 0xbeef;
    BOX_RUN(b, 0x8b, 0x07, 0xf4);
    CHECK_EQ(b->s.gpr[RAX], 0xbeef0000);
    CHECK_EQ(b->mmio_at, BOX_RAM);
    box_free(b);
}

static void only_pages_that_were_written_are_asked_for_when_they_become_code(void)
{
    struct box *b = box_new(0);
    box_long(b);
    CHECK_EQ(box_access(b, PAGE, ACCESS_READ, false), 0);
    CHECK(!tlb_may_write(b->c, PAGE));
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, false), 0);
    CHECK(tlb_may_write(b->c, PAGE));
    CHECK(!tlb_may_write(b->c, PAGE + PAGE_SIZE));
    tlb_flush_all(b->c);
    CHECK(!tlb_may_write(b->c, PAGE));
    box_free(b);
}

static void all_of_it_holds_with_one_tlb_entry(void)
{
    struct box *b = box_new(ENGINE_DEBUG_TINY_TLB);
    box_long(b);
    CHECK_EQ(box_access(b, PAGE, ACCESS_WRITE, false), 0);
    b->s.gpr[RDI] = 0x60000;
    b->s.gpr[RSI] = 0x71000;
    b->s.gpr[RCX] = 0x3000;
    b->s.gpr[RAX] = 0;
    memset(b->ram + 0x71000, 0x77, 0x3000);
    CHECK_EQ(BOX_RUN(b, 0xf3, 0xa4, 0xf4), ENGINE_HALTED); // rep movsb; hlt
    CHECK(memcmp(b->ram + 0x60000, b->ram + 0x71000, 0x3000) == 0);
    box_free(b);
}

TEST_MAIN(TEST(long_mode_read_sets_accessed_and_write_sets_dirty),
          TEST(absent_page_faults_with_the_access_in_the_error_code),
          TEST(supervisor_page_refuses_user_accesses),
          TEST(read_only_page_obeys_wp_for_the_supervisor),
          TEST(rights_of_upper_levels_narrow_lower_ones), TEST(nx_page_refuses_fetches),
          TEST(smep_refuses_supervisor_fetches_from_user_pages),
          TEST(address_bits_beyond_the_physical_width_are_reserved),
          TEST(large_pages_map_2_mib_and_1_gib), TEST(pae_uses_the_four_entries_held_in_the_cpu),
          TEST(thirty_two_bit_paging_has_4_kib_and_4_mib_pages),
          TEST(write_across_pages_faults_before_the_first_changes),
          TEST(stale_translation_lives_until_invlpg),
          TEST(invlpg_drops_all_fragments_of_a_large_page), TEST(global_pages_survive_cr3_writes),
          TEST(pcid_keeps_entries_when_bit_63_asks_for_it),
          TEST(memory_outside_ram_is_asked_of_the_machine),
          TEST(only_pages_that_were_written_are_asked_for_when_they_become_code),
          TEST(all_of_it_holds_with_one_tlb_entry))
