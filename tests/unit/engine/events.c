// Exceptions, interrupts, debugging traps: Intel SDM vol. 3 chapters 6 and 17.
#include "box.h"

#define STACKED(b, n) box_read(b, (b)->s.gpr[RSP] + 8 * (n), 8) // long mode
#define STACKED32(b, n) box_read(b, (b)->s.gpr[RSP] + 4 * (n), 4)

static void ud2_faults_at_itself_without_an_error_code(void)
{
    struct box *b = box_new(0);
    box_long(b);
    BOX_RUN(b, 0x90, 0x0f, 0x0b); // nop; ud2
    CHECK_EQ(box_stopped_in(b), VEC_UD);
    CHECK_EQ(STACKED(b, 0), BOX_CODE + 1);
    CHECK_EQ(STACKED(b, 1), SEL_CODE);
    CHECK_EQ(STACKED(b, 2) & FLAG_RF, FLAG_RF);
    CHECK_EQ(STACKED(b, 3), BOX_STACK);
    CHECK_EQ(b->s.gpr[RSP], BOX_STACK - 40);
    box_free(b);
}

static void bad_selector_is_the_error_code(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    BOX_RUN(b, 0x66, 0xb8, 0xf8, 0x03, 0x8e, 0xd8); // mov ax,0x3f8; mov ds,ax
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(STACKED32(b, 0), 0x3f8);
    CHECK_EQ(STACKED32(b, 1), BOX_CODE + 4);
    CHECK_EQ(b->s.seg[SEG_DS].selector, SEL_DATA);
    box_free(b);
}

static void absent_segment_is_np_and_absent_stack_is_ss(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    box_gdt(b, SEL_SPARE, 0, 0xfffff, 0xc013);
    BOX_RUN(b, 0x66, 0xb8, SEL_SPARE, 0, 0x8e, 0xd8);
    CHECK_EQ(box_stopped_in(b), VEC_NP);
    CHECK_EQ(STACKED32(b, 0), SEL_SPARE);
    box_protected(b);
    box_gdt(b, SEL_SPARE, 0, 0xfffff, 0xc013);
    BOX_RUN(b, 0x66, 0xb8, SEL_SPARE, 0, 0x8e, 0xd0);
    CHECK_EQ(box_stopped_in(b), VEC_SS);
    CHECK_EQ(STACKED32(b, 0), SEL_SPARE);
    box_free(b);
}

static void software_interrupt_needs_the_gates_privilege(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_ring3(b);
    BOX_RUN(b, 0xcd, 0x21);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(STACKED(b, 0), 0x21 * 8 + 2);
    box_long(b);
    box_ring3(b);
    box_gate(b, 0x21, 0xee, SEL_CODE, BOX_HANDLER + 16 * 0x21);
    BOX_RUN(b, 0xcd, 0x21);
    CHECK_EQ(box_stopped_in(b), 0x21);
    CHECK_EQ(STACKED(b, 0), BOX_CODE + 2);
    CHECK_EQ(STACKED(b, 3), BOX_USTACK);
    CHECK_EQ(STACKED(b, 4), SEL_UDATA | 3);
    CHECK_EQ(b->s.seg[SEG_SS].selector, 0);
    CHECK_EQ(b->s.gpr[RSP], BOX_STACK - 40);
    box_free(b);
}

static void external_interrupt_ignores_the_gates_privilege_and_clears_if(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_ring3(b);
    b->s.rflags |= FLAG_IF;
    b->vector = 0x30;
    engine_translate.set_intr(b->vcpu, true);
    BOX_RUN(b, 0xeb, 0xfe); // jmp $
    CHECK_EQ(box_stopped_in(b), 0x30);
    CHECK_EQ(STACKED(b, 0), BOX_CODE);
    CHECK_EQ(STACKED(b, 2) & FLAG_IF, FLAG_IF);
    CHECK_EQ(b->s.rflags & FLAG_IF, 0);
    box_free(b);
}

static void ist_replaces_the_stack(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_write(b, BOX_IDT + 16 * VEC_UD + 4, 1, 1);
    BOX_RUN(b, 0x0f, 0x0b);
    CHECK_EQ(box_stopped_in(b), VEC_UD);
    CHECK_EQ(b->s.gpr[RSP], 0x5000 - 40);
    box_free(b);
}

static void fault_in_delivering_a_page_fault_is_a_double_fault(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_gate(b, VEC_PF, 0x0e, SEL_CODE, BOX_HANDLER); // not present
    BOX_RUN(b, 0x8a, 0x04, 0x25, 0, 0, 0x40, 0);      // mov al,[0x400000]: not mapped
    CHECK_EQ(box_stopped_in(b), VEC_DF);
    CHECK_EQ(STACKED(b, 0), 0);
    CHECK_EQ(STACKED(b, 1), BOX_CODE);
    box_free(b);
}

static void page_fault_after_ud_is_delivered_by_itself(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.gpr[RSP] = 0x400000; // the stack of the #UD frame is not mapped; #PF has its own
    *box_pte(b, 0x1ff000) = 0;
    b->s.gpr[RSP] = 0x200000;
    box_write(b, BOX_IDT + 16 * VEC_PF + 4, 1, 1);
    BOX_RUN(b, 0x0f, 0x0b);
    CHECK_EQ(box_stopped_in(b), VEC_PF);
    CHECK_EQ(STACKED(b, 0), PF_WRITE);
    CHECK_EQ(STACKED(b, 1), BOX_CODE);
    box_free(b);
}

static void fault_in_a_double_fault_shuts_down(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.idtr.limit = 0;
    CHECK_EQ(BOX_RUN(b, 0x0f, 0x0b), ENGINE_SHUTDOWN);
    CHECK_EQ(b->s.activity, CPU_SHUTDOWN);
    box_free(b);
}

static void real_mode_pushes_three_words(void)
{
    struct box *b = box_new(0);
    box_real(b);
    b->s.rflags |= FLAG_IF;
    BOX_RUN(b, 0xcd, 0x10);
    CHECK_EQ(box_stopped_in(b), 0x10);
    CHECK_EQ(b->s.gpr[RSP], BOX_STACK - 6);
    CHECK_EQ(box_read(b, b->s.gpr[RSP], 2), BOX_CODE + 2);
    CHECK_EQ(box_read(b, b->s.gpr[RSP] + 4, 2) & FLAG_IF, FLAG_IF);
    CHECK_EQ(b->s.rflags & FLAG_IF, 0);
    box_free(b);
}

static void sti_holds_interrupts_for_one_instruction(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->vector = 0x30;
    engine_translate.set_intr(b->vcpu, true);
    BOX_RUN(b, 0xfb, 0xff, 0xc0, 0xff, 0xc0, 0xf4); // sti; inc eax; inc eax; hlt
    CHECK_EQ(box_stopped_in(b), 0x30);
    CHECK_EQ(b->s.gpr[RAX], 1);
    box_free(b);
}

static void mov_ss_holds_interrupts_for_one_instruction(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    b->s.rflags |= FLAG_IF;
    b->s.gpr[RAX] = SEL_DATA;
    b->s.interrupt_shadow = 1;
    b->vector = 0x30;
    engine_translate.set_intr(b->vcpu, true);
    BOX_RUN(b, 0x8e, 0xd0, 0x40, 0x40, 0xf4); // mov ss,eax; inc eax; inc eax; hlt
    CHECK_EQ(box_stopped_in(b), 0x30);
    CHECK_EQ(b->s.gpr[RAX], SEL_DATA + 1);
    box_free(b);
}

static void halted_cpu_wakes_for_an_interrupt_only_with_if(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->vector = 0x30;
    CHECK_EQ(BOX_RUN(b, 0xf4, 0x90), ENGINE_HALTED);
    engine_translate.set_intr(b->vcpu, true);
    CHECK_EQ(engine_translate.run(b->vcpu), ENGINE_HALTED);
    engine_translate.get(b->vcpu, ENGINE_ALL, &b->s);
    CHECK_EQ(b->s.rip, BOX_CODE + 1);
    engine_translate.nmi(b->vcpu);
    CHECK_EQ(engine_translate.run(b->vcpu), ENGINE_HALTED);
    engine_translate.get(b->vcpu, ENGINE_ALL, &b->s);
    CHECK_EQ(box_stopped_in(b), VEC_NMI);
    CHECK_EQ(b->s.nmi_blocked, 1);
    box_free(b);
}

static void nmi_waits_for_iret_of_the_one_before(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.nmi_blocked = 1;
    engine_translate.nmi(b->vcpu);
    uint64_t frame[] = {BOX_CODE + 0x20, SEL_CODE, 2, BOX_STACK, SEL_DATA};
    box_put(b, 0x4000, frame, sizeof frame);
    b->s.gpr[RSP] = 0x4000;
    box_write(b, BOX_CODE + 0x20, 4, 0xf4909090);
    BOX_RUN(b, 0x48, 0xcf); // iretq
    CHECK_EQ(box_stopped_in(b), VEC_NMI);
    CHECK_EQ(STACKED(b, 0), BOX_CODE + 0x20);
    box_free(b);
}

static void trap_flag_stops_after_one_instruction(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.rflags |= FLAG_TF;
    BOX_RUN(b, 0xff, 0xc0, 0xff, 0xc0, 0xf4);
    CHECK_EQ(box_stopped_in(b), VEC_DB);
    CHECK_EQ(STACKED(b, 0), BOX_CODE + 2);
    CHECK_EQ(b->s.dr6 & DR6_BS, DR6_BS);
    CHECK_EQ(b->s.gpr[RAX], 1);
    CHECK_EQ(b->s.rflags & FLAG_TF, 0);
    box_free(b);
}

static void trap_flag_stops_after_each_repetition(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.rflags |= FLAG_TF;
    b->s.gpr[RCX] = 5;
    b->s.gpr[RDI] = 0x60000;
    BOX_RUN(b, 0xf3, 0xaa, 0xf4); // rep stosb
    CHECK_EQ(box_stopped_in(b), VEC_DB);
    CHECK_EQ(STACKED(b, 0), BOX_CODE);
    CHECK_EQ(b->s.gpr[RCX], 4);
    box_free(b);
}

static void code_breakpoint_faults_before_its_instruction_and_rf_passes_it(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.dr[0] = BOX_CODE + 2;
    b->s.dr7 |= 1;
    BOX_RUN(b, 0xff, 0xc0, 0xff, 0xc0, 0xf4);
    CHECK_EQ(box_stopped_in(b), VEC_DB);
    CHECK_EQ(STACKED(b, 0), BOX_CODE + 2);
    CHECK_EQ(b->s.dr6 & 15, 1);
    CHECK_EQ(b->s.gpr[RAX], 1);
    b->s.rip = BOX_CODE + 2;
    b->s.rflags |= FLAG_RF;
    BOX_RUN(b, 0xff, 0xc0, 0xf4);
    CHECK_EQ(b->s.rip, BOX_CODE + 5);
    CHECK_EQ(b->s.gpr[RAX], 2);
    box_free(b);
}

static void data_breakpoint_traps_after_the_write(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.dr[1] = 0x60004;
    b->s.dr7 |= 1u << 2 | 1u << 20 | 3u << 22; // L1, writes, 4 bytes
    b->s.gpr[RDI] = 0x60000;
    // mov [rdi],eax; mov eax,[rdi+4]; mov [rdi+6],al; inc eax; hlt
    BOX_RUN(b, 0x89, 0x07, 0x8b, 0x47, 0x04, 0x88, 0x47, 0x06, 0xff, 0xc0, 0xf4);
    CHECK_EQ(box_stopped_in(b), VEC_DB);
    CHECK_EQ(STACKED(b, 0), BOX_CODE + 8);
    CHECK_EQ(b->s.dr6 & 15, 2);
    box_free(b);
}

static void general_detect_guards_debug_registers(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.dr7 |= DR7_GD;
    BOX_RUN(b, 0x0f, 0x21, 0xc0); // mov rax,dr0
    CHECK_EQ(box_stopped_in(b), VEC_DB);
    CHECK_EQ(b->s.dr6 & DR6_BD, DR6_BD);
    CHECK_EQ(b->s.dr7 & DR7_GD, 0);
    CHECK_EQ(STACKED(b, 0), BOX_CODE);
    box_free(b);
}

static void kick_is_remembered_until_run_returns(void)
{
    struct box *b = box_new(0);
    box_long(b);
    engine_translate.kick(b->vcpu);
    CHECK_EQ(BOX_RUN(b, 0xeb, 0xfe), ENGINE_KICKED);
    box_free(b);
}

static void changed_code_is_seen_by_the_next_instruction(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.gpr[RCX] = 2;
    b->s.gpr[RDI] = BOX_CODE + 4;
    // 0: nop; nop; nop(dec later); 3: mov al,1; 5: mov byte [rdi],7; loop 3; hlt
    BOX_RUN(b, 0x90, 0x90, 0x90, 0xb0, 0x01, 0xc6, 0x07, 0x07, 0xe2, 0xf9, 0xf4);
    CHECK_EQ(b->s.gpr[RAX] & 0xff, 7);
    CHECK_EQ(b->s.rip, BOX_CODE + 11);
    box_free(b);
}

static void code_of_a_vcpu_that_rests_is_given_back_when_it_is_written(void)
{
    struct box *b = box_new(0);
    box_long(b);
    const uint8_t *flags = tvm_slot(b->c->vm, 0)->flags;
    BOX_RUN(b, 0xb0, 0x01, 0xf4); // mov al,1; hlt
    CHECK_EQ(b->s.gpr[RAX] & 0xff, 1);
    CHECK(flags[BOX_CODE >> PAGE_SHIFT] & PAGE_CODE);
    b->ram[BOX_CODE + 1] = 2;
    tvm_written(b->c->vm, NULL, BOX_CODE + 1, 1);
    CHECK(!(flags[BOX_CODE >> PAGE_SHIFT] & PAGE_CODE));
    b->s.rip = BOX_CODE;
    CHECK_EQ(box_run(b, NULL, 0), ENGINE_HALTED);
    CHECK_EQ(b->s.gpr[RAX] & 0xff, 2);
    box_free(b);
}

static void code_that_ends_at_an_unmapped_page_faults_there(void)
{
    struct box *b = box_new(0);
    box_long(b);
    *box_pte(b, 0x62000) = 0;
    b->s.rip = 0x61fff;
    BOX_RUN(b, 0xb8); // mov eax, imm32
    CHECK_EQ(box_stopped_in(b), VEC_PF);
    CHECK_EQ(b->s.cr2, 0x62000);
    CHECK_EQ(STACKED(b, 1), 0x61fff);
    box_free(b);
}

static void overlong_instruction_is_gp(void)
{
    struct box *b = box_new(0);
    box_long(b);
    BOX_RUN(b, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
            0x66, 0x90);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(STACKED(b, 0), 0);
    box_free(b);
}

static void system_management_mode_is_refused_in_words(void)
{
    struct box *b = box_new(0);
    struct error e = {0};
    b->s.smm = CPU_SMM;
    CHECK_EQ(engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e), ERR_UNSUPPORTED);
    CHECK(strstr(e.text, "engine kvm") != NULL);
    b->s.smm = 0;
    b->s.smbase = 0x7f000; // carried for a later move
    CHECK_EQ(engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e), OK);
    b->s.smbase = 0;
    engine_translate.get(b->vcpu, ENGINE_ALL, &b->s);
    CHECK_EQ(b->s.smbase, 0x7f000);
    box_free(b);
}

static void tsc_is_the_hosts_with_its_offset(void)
{
    struct box *b = box_new(0);
    struct error e;
    b->s.tsc = 12345;
    b->s.tsc_adjust = 500;
    CHECK_EQ(engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e), OK);
    uint64_t before = __builtin_ia32_rdtsc();
    engine_translate.tsc_offset(b->vcpu, 1000000);
    engine_translate.get(b->vcpu, ENGINE_MSRS, &b->s);
    uint64_t after = __builtin_ia32_rdtsc();
    CHECK(b->s.tsc >= before + 1000500 && b->s.tsc <= after + 1000500);
    box_free(b);
}

TEST_MAIN(TEST(ud2_faults_at_itself_without_an_error_code), TEST(bad_selector_is_the_error_code),
          TEST(absent_segment_is_np_and_absent_stack_is_ss),
          TEST(software_interrupt_needs_the_gates_privilege),
          TEST(external_interrupt_ignores_the_gates_privilege_and_clears_if),
          TEST(ist_replaces_the_stack), TEST(fault_in_delivering_a_page_fault_is_a_double_fault),
          TEST(page_fault_after_ud_is_delivered_by_itself),
          TEST(fault_in_a_double_fault_shuts_down), TEST(real_mode_pushes_three_words),
          TEST(sti_holds_interrupts_for_one_instruction),
          TEST(mov_ss_holds_interrupts_for_one_instruction),
          TEST(halted_cpu_wakes_for_an_interrupt_only_with_if),
          TEST(nmi_waits_for_iret_of_the_one_before), TEST(trap_flag_stops_after_one_instruction),
          TEST(trap_flag_stops_after_each_repetition),
          TEST(code_breakpoint_faults_before_its_instruction_and_rf_passes_it),
          TEST(data_breakpoint_traps_after_the_write), TEST(general_detect_guards_debug_registers),
          TEST(kick_is_remembered_until_run_returns),
          TEST(changed_code_is_seen_by_the_next_instruction),
          TEST(code_of_a_vcpu_that_rests_is_given_back_when_it_is_written),
          TEST(code_that_ends_at_an_unmapped_page_faults_there), TEST(overlong_instruction_is_gp),
          TEST(system_management_mode_is_refused_in_words), TEST(tsc_is_the_hosts_with_its_offset))
