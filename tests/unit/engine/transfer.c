// Far transfers: call gates, IRET, task switches, virtual-8086 mode, fast system calls, port
// permission. Intel SDM vol. 3 chapters 5, 7 and 20; vol. 1 chapter 19.
#include "box.h"

#define STACKED32(b, n) box_read(b, (b)->s.gpr[RSP] + 4 * (n), 4)
#define TARGET 0xa000

static void call_gate(struct box *b, unsigned attr, unsigned params, uint32_t offset)
{
    uint64_t d = (offset & 0xffff) | SEL_CODE << 16 | (uint64_t)params << 32 |
                 (uint64_t)attr << 40 | (uint64_t)(offset >> 16) << 48;
    box_write(b, BOX_GDT + SEL_GATE, 8, d);
    box_write(b, BOX_GDT + SEL_GATE + 8, 8, 0);
}

static void call_gate_to_ring_0_copies_parameters_and_retf_returns(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    box_ring3(b);
    call_gate(b, 0xec, 2, TARGET);
    // at the target: mov eax,[esp+8]; retf 8
    box_put(b, TARGET, (const uint8_t[]){0x8b, 0x44, 0x24, 0x08, 0xca, 0x08, 0x00}, 7);
    // push 0x11; push 0x22; call far gate; then ud2 in ring 3
    BOX_RUN(b, 0x6a, 0x11, 0x6a, 0x22, 0x9a, 0, 0, 0, 0, SEL_GATE, 0, 0x0f, 0x0b);
    CHECK_EQ(box_stopped_in(b), VEC_UD);
    CHECK_EQ(b->s.gpr[RAX], 0x22);
    CHECK_EQ(STACKED32(b, 0), BOX_CODE + 11);
    CHECK_EQ(STACKED32(b, 1), SEL_UCODE | 3);
    CHECK_EQ(STACKED32(b, 3), BOX_USTACK); // both parameters are released
    CHECK_EQ(STACKED32(b, 4), SEL_UDATA | 3);
    box_free(b);
}

static void call_gate_frame_holds_the_callers_stack(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    box_ring3(b);
    call_gate(b, 0xec, 0, TARGET);
    box_write(b, TARGET, 1, 0xf4);
    BOX_RUN(b, 0x9a, 0, 0, 0, 0, SEL_GATE, 0);
    CHECK_EQ(b->s.rip, TARGET + 1);
    CHECK_EQ(b->s.gpr[RSP], BOX_STACK - 16);
    CHECK_EQ(STACKED32(b, 0), BOX_CODE + 7);
    CHECK_EQ(STACKED32(b, 1), SEL_UCODE | 3);
    CHECK_EQ(STACKED32(b, 2), BOX_USTACK);
    CHECK_EQ(b->s.seg[SEG_CS].selector, SEL_CODE);
    CHECK_EQ(b->s.seg[SEG_SS].selector, SEL_DATA);
    box_free(b);
}

static void call_gate_refuses_callers_below_its_privilege(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    box_ring3(b);
    call_gate(b, 0x8c, 0, TARGET);
    BOX_RUN(b, 0x9a, 0, 0, 0, 0, SEL_GATE, 0);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(STACKED32(b, 0), SEL_GATE);
    box_free(b);
}

static void long_mode_call_gate_takes_its_stack_from_the_tss(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_ring3(b);
    call_gate(b, 0xec, 0, TARGET);
    box_write(b, TARGET, 1, 0xf4);
    const uint8_t pointer[] = {0, 0, 0, 0, SEL_GATE, 0};
    box_put(b, 0x60000, pointer, sizeof pointer);
    b->s.gpr[RDI] = 0x60000;
    BOX_RUN(b, 0xff, 0x1f); // call far [rdi]
    CHECK_EQ(b->s.rip, TARGET + 1);
    CHECK_EQ(b->s.gpr[RSP], BOX_STACK - 32);
    CHECK_EQ(box_read(b, BOX_STACK - 16, 8), BOX_USTACK);
    CHECK_EQ(b->s.seg[SEG_SS].selector, 0);
    box_free(b);
}

static void second_task(struct box *b)
{
    box_gdt(b, SEL_TSS2, BOX_TSS2, 0x67, 0x0089);
    box_write(b, BOX_TSS2 + 32, 4, TARGET);
    box_write(b, BOX_TSS2 + 36, 4, 2);
    box_write(b, BOX_TSS2 + 40 + 4 * RBX, 4, 0xb0b);
    box_write(b, BOX_TSS2 + 40 + 4 * RSP, 4, 0x4000);
    for (unsigned i = 0; i < 6; i++)
        box_write(b, BOX_TSS2 + 72 + 4 * i, 4, i == SEG_CS ? SEL_CODE : SEL_DATA);
}

static void jump_to_a_tss_switches_tasks(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    second_task(b);
    box_write(b, TARGET, 1, 0xf4);
    b->s.gpr[RBX] = 0x123;
    BOX_RUN(b, 0xea, 0, 0, 0, 0, SEL_TSS2, 0);
    CHECK_EQ(b->s.rip, TARGET + 1);
    CHECK_EQ(b->s.gpr[RBX], 0xb0b);
    CHECK_EQ(b->s.tr.selector, SEL_TSS2);
    CHECK_EQ(b->s.cr0 & CR0_TS, CR0_TS);
    CHECK_EQ(box_read(b, BOX_TSS + 32, 4), BOX_CODE + 7);
    CHECK_EQ(box_read(b, BOX_TSS + 40 + 4 * RBX, 4), 0x123);
    CHECK_EQ(box_read(b, BOX_GDT + SEL_TSS + 5, 1), 0x89);  // no longer busy
    CHECK_EQ(box_read(b, BOX_GDT + SEL_TSS2 + 5, 1), 0x8b); // busy
    CHECK_EQ(b->s.rflags & FLAG_NT, 0);
    box_free(b);
}

static void call_to_a_tss_nests_and_iret_comes_back(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    second_task(b);
    box_write(b, TARGET, 1, 0xcf); // iret
    b->s.gpr[RBX] = 0x123;
    BOX_RUN(b, 0x9a, 0, 0, 0, 0, SEL_TSS2, 0, 0xf4);
    CHECK_EQ(b->s.rip, BOX_CODE + 8);
    CHECK_EQ(b->s.gpr[RBX], 0x123);
    CHECK_EQ(b->s.tr.selector, SEL_TSS);
    CHECK_EQ(box_read(b, BOX_TSS2, 2), SEL_TSS);
    CHECK_EQ(box_read(b, BOX_GDT + SEL_TSS2 + 5, 1), 0x89);
    CHECK_EQ(b->s.rflags & FLAG_NT, 0);
    box_free(b);
}

static void task_gate_gets_the_error_code_on_its_stack(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    second_task(b);
    box_write(b, TARGET, 1, 0xf4);
    box_gate(b, VEC_GP, 0x85, SEL_TSS2, 0);
    BOX_RUN(b, 0x66, 0xb8, 0xf8, 0x03, 0x8e, 0xd8);
    CHECK_EQ(b->s.rip, TARGET + 1);
    CHECK_EQ(b->s.gpr[RSP], 0x3ffc);
    CHECK_EQ(STACKED32(b, 0), 0x3f8);
    CHECK_EQ(b->s.rflags & FLAG_NT, FLAG_NT);
    CHECK_EQ(box_read(b, BOX_TSS + 32, 4), BOX_CODE + 4);
    box_free(b);
}

static void busy_tss_is_refused(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    BOX_RUN(b, 0xea, 0, 0, 0, 0, SEL_TSS, 0);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(STACKED32(b, 0), SEL_TSS);
    box_free(b);
}

static void enter_v86(struct box *b, unsigned iopl)
{
    box_protected(b);
    const uint32_t frame[] = {TARGET & 0xffff, 0,     (uint32_t)(FLAG_VM | 2 | iopl << 12),
                              0x5000,          0x100, 0x200,
                              0x300,           0x400, 0x500};
    box_put(b, 0x4000, frame, sizeof frame);
    b->s.gpr[RSP] = 0x4000;
}

static void iret_enters_virtual_8086_mode_and_faults_leave_it(void)
{
    struct box *b = box_new(0);
    enter_v86(b, 0);
    // mov ax,ds; mov bx,[0]; hlt (privileged)
    box_put(b, TARGET, (const uint8_t[]){0x8c, 0xd8, 0x8b, 0x1e, 0, 0, 0xf4}, 7);
    box_write(b, 0x300 << 4, 2, 0xabcd);
    BOX_RUN(b, 0xcf);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(b->s.gpr[RAX] & 0xffff, 0x300);
    CHECK_EQ(b->s.gpr[RBX] & 0xffff, 0xabcd);
    CHECK_EQ(STACKED32(b, 0), 0);
    CHECK_EQ(STACKED32(b, 1), TARGET + 6);
    CHECK_EQ(STACKED32(b, 3) & FLAG_VM, FLAG_VM);
    CHECK_EQ(STACKED32(b, 4), 0x5000);
    CHECK_EQ(STACKED32(b, 5), 0x100);
    CHECK_EQ(STACKED32(b, 6), 0x200);
    CHECK_EQ(STACKED32(b, 7), 0x300);
    CHECK_EQ(STACKED32(b, 9), 0x500);
    CHECK_EQ(b->s.seg[SEG_DS].selector, 0);
    CHECK_EQ(b->s.rflags & FLAG_VM, 0);
    box_free(b);
}

static void int_n_in_virtual_8086_mode_needs_iopl_3(void)
{
    struct box *b = box_new(0);
    enter_v86(b, 0);
    box_put(b, TARGET, (const uint8_t[]){0xcd, 0x21}, 2);
    BOX_RUN(b, 0xcf);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    enter_v86(b, 3);
    box_gate(b, 0x21, 0xee, SEL_CODE, BOX_HANDLER + 16 * 0x21);
    b->s.rip = BOX_CODE;
    BOX_RUN(b, 0xcf);
    CHECK_EQ(box_stopped_in(b), 0x21);
    box_free(b);
}

static void iret_to_an_outer_ring_nulls_inner_segments(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    const uint32_t frame[] = {TARGET, SEL_UCODE | 3, 2, BOX_USTACK, SEL_UDATA | 3};
    box_put(b, 0x4000, frame, sizeof frame);
    b->s.gpr[RSP] = 0x4000;
    box_write(b, TARGET, 2, 0x0b0f);
    BOX_RUN(b, 0xcf);
    CHECK_EQ(box_stopped_in(b), VEC_UD);
    CHECK_EQ(b->s.seg[SEG_DS].selector, 0);
    CHECK_EQ(STACKED32(b, 0), TARGET);
    CHECK_EQ(STACKED32(b, 3), BOX_USTACK);
    box_free(b);
}

// To the same segments; whatever is in the GDT by then counts.
static void iret_to_the_same_ring_reads_descriptors_again(void)
{
    struct box *b = box_new(0);
    box_long(b);
    const uint64_t frame[] = {TARGET, SEL_CODE, FLAG_CF | FLAG_IF | FLAG_FIXED, 0x5008, SEL_DATA};
    box_put(b, 0x4000, frame, sizeof frame);
    b->s.gpr[RSP] = 0x4000;
    box_write(b, TARGET, 1, 0xf4);
    b->s.rflags = FLAG_FIXED | FLAG_ZF;
    struct cpu_state before = b->s;
    BOX_RUN(b, 0x48, 0xcf); // iretq
    CHECK_EQ(b->s.rip, TARGET + 1);
    CHECK_EQ(b->s.gpr[RSP], 0x5008);
    CHECK_EQ(b->s.rflags & (FLAGS_ARITH | FLAG_IF), FLAG_CF | FLAG_IF);
    b->s = before;
    uint64_t code = box_read(b, BOX_GDT + SEL_CODE, 8);
    box_write(b, BOX_GDT + SEL_CODE, 8, code & ~BIT(47)); // not present
    BOX_RUN(b, 0x48, 0xcf);
    CHECK_EQ(b->s.activity, CPU_SHUTDOWN); // handlers have the same segment
    b->s = before;
    box_write(b, BOX_GDT + SEL_CODE, 8, code);
    box_write(b, BOX_GDT + SEL_DATA, 8, box_read(b, BOX_GDT + SEL_DATA, 8) & ~BIT(41)); // read-only
    BOX_RUN(b, 0x48, 0xcf);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    box_free(b);
}

static void syscall_and_sysret_change_rings(void)
{
    struct box *b = box_new(0);
    box_long(b);
    box_ring3(b);
    b->s.star = (uint64_t)SEL_DATA << 48 | (uint64_t)SEL_CODE << 32;
    b->s.lstar = TARGET;
    b->s.sfmask = FLAG_IF;
    b->s.rflags |= FLAG_IF;
    box_put(b, TARGET, (const uint8_t[]){0x48, 0x0f, 0x07}, 3); // sysretq
    BOX_RUN(b, 0x0f, 0x05, 0x0f, 0x0b);
    CHECK_EQ(box_stopped_in(b), VEC_UD);
    uint64_t at = b->s.gpr[RSP];
    CHECK_EQ(box_read(b, at, 8), BOX_CODE + 2);
    CHECK_EQ(box_read(b, at + 8, 8), (SEL_DATA + 16) | 3);
    CHECK_EQ(box_read(b, at + 16, 8) & FLAG_IF, FLAG_IF);
    CHECK_EQ(box_read(b, at + 32, 8), (SEL_DATA + 8) | 3);
    CHECK_EQ(b->s.gpr[RCX], BOX_CODE + 2);
    box_free(b);
}

static void sysret_to_a_non_canonical_address_is_gp_in_ring_0(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.gpr[RCX] = 1ull << 47;
    BOX_RUN(b, 0x48, 0x0f, 0x07);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(b->s.gpr[RSP], BOX_STACK - 48);
    box_free(b);
}

static void port_access_from_ring_3_asks_the_bitmap(void)
{
    struct box *b = box_new(0);
    box_protected(b);
    box_ring3(b);
    memset(b->ram + BOX_TSS + 0x68, 0xff, 0x20);
    b->s.tr.limit = 0x87;
    b->s.gpr[RDX] = 0x21;
    BOX_RUN(b, 0xec);
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    box_protected(b);
    box_ring3(b);
    b->s.tr.limit = 0x87;
    b->ram[BOX_TSS + 0x68 + 4] = 0xfd;
    b->s.gpr[RDX] = 0x21;
    BOX_RUN(b, 0xec, 0x66, 0xed); // in al,dx; in ax,dx: port 0x22 is closed
    CHECK_EQ(box_stopped_in(b), VEC_GP);
    CHECK_EQ(STACKED32(b, 1), BOX_CODE + 1);
    CHECK_EQ(b->s.gpr[RAX] & 0xff, 0x21);
    box_free(b);
}

static void real_to_long_mode_and_back_by_control_registers(void)
{
    struct box *b = box_new(0);
    box_long(b); // for the tables
    struct cpu_state wide = b->s;
    box_protected(b);
    box_gdt(b, SEL_SPARE, 0, 0xfffff, 0xa09b);
    b->s.efer = EFER_LME;
    b->s.cr4 = CR4_PAE;
    b->s.cr3 = wide.cr3;
    // mov eax,cr0; or eax,1<<31; mov cr0,eax; jmp far 0x30:TARGET
    box_put(b, TARGET, (const uint8_t[]){0x48, 0xff, 0xc3, 0xf4}, 4); // inc rbx; hlt
    b->s.gpr[RBX] = 0xffffffff;
    BOX_RUN(b, 0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80, 0x0f, 0x22, 0xc0, 0xea, 0x00, 0xa0, 0, 0,
            SEL_SPARE, 0);
    CHECK_EQ(b->s.rip, TARGET + 4);
    CHECK_EQ(b->s.efer & EFER_LMA, EFER_LMA);
    CHECK_EQ(b->s.gpr[RBX], 0x100000000);
    box_free(b);
}

static void guests_may_turn_on_automatic_ibrs(void)
{
    struct box *b = box_new(0);
    box_long(b);
    b->s.gpr[RCX] = MSR_EFER;
    // rdmsr; bts eax,21; wrmsr; rdmsr; hlt
    BOX_RUN(b, 0x0f, 0x32, 0x0f, 0xba, 0xe8, 21, 0x0f, 0x30, 0x0f, 0x32, 0xf4);
    CHECK_EQ(b->s.efer & EFER_AUTOIBRS, EFER_AUTOIBRS);
    CHECK_EQ(b->s.gpr[RAX] & EFER_AUTOIBRS, EFER_AUTOIBRS);
    box_free(b);
}

TEST_MAIN(TEST(guests_may_turn_on_automatic_ibrs),
          TEST(call_gate_to_ring_0_copies_parameters_and_retf_returns),
          TEST(call_gate_frame_holds_the_callers_stack),
          TEST(call_gate_refuses_callers_below_its_privilege),
          TEST(long_mode_call_gate_takes_its_stack_from_the_tss),
          TEST(jump_to_a_tss_switches_tasks), TEST(call_to_a_tss_nests_and_iret_comes_back),
          TEST(task_gate_gets_the_error_code_on_its_stack), TEST(busy_tss_is_refused),
          TEST(iret_enters_virtual_8086_mode_and_faults_leave_it),
          TEST(int_n_in_virtual_8086_mode_needs_iopl_3),
          TEST(iret_to_an_outer_ring_nulls_inner_segments),
          TEST(iret_to_the_same_ring_reads_descriptors_again),
          TEST(syscall_and_sysret_change_rings),
          TEST(sysret_to_a_non_canonical_address_is_gp_in_ring_0),
          TEST(port_access_from_ring_3_asks_the_bitmap),
          TEST(real_to_long_mode_and_back_by_control_registers))
