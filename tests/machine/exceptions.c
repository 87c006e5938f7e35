// Exceptions of long mode: vectors, error codes, where they restart, double faults, interrupt
// shadows, NMI blocking, alignment checks.

#include "guest.h"

#define CODE_VA 0x300000000000ull
#define STACK_TOP 0x300000010000ull
#define VA 0x200000000000ull
#define VECTOR 0x50
#define SELF 0x40000
#define CR0_AM 0x40000ul
#define AC 0x40000ul

extern u8 idt[];

static void divide(void *by)
{
    word a = 100, d = 0;
    __asm__ volatile("div %2" : "+a"(a), "+d"(d) : "r"(by) : "cc");
}

static void divide_overflow(void *unused)
{
    word a = 0, d = 5;
    (void)unused;
    __asm__ volatile("div %2" : "+a"(a), "+d"(d) : "r"(2ul) : "cc");
}

static void divide_error_has_vector_0(void)
{
    CHECK_EQ(try_call(divide, (void *)0, NULL), 0);
    CHECK_EQ(try_call(divide_overflow, NULL, NULL), 0);
    CHECK_EQ(try_call(divide, (void *)3, NULL), NO_TRAP);
}

static void idivide_minimum(void *unused)
{
    u32 a = 0x80000000, d = 0xffffffff;
    (void)unused;
    __asm__ volatile("idivl %2" : "+a"(a), "+d"(d) : "r"(-1) : "cc");
}

static void most_negative_by_minus_one_is_a_divide_error(void)
{
    CHECK_EQ(try_call(idivide_minimum, NULL, NULL), 0);
}

static u64 seen_ip, seen_sp, seen_error;
static unsigned seen;

static void skip_fault(struct frame *f)
{
    seen_ip = f->ip;
    seen_sp = f->sp;
    seen_error = f->error;
    seen++;
    f->ip += 2;
}

static void fault_leaves_registers_and_points_to_the_instruction(void)
{
    extern u8 faulting[];
    u64 rax = 1, sp;
    seen = 0;
    trap_set(6, skip_fault);
    __asm__ volatile("mov $0x1234, %0\n mov %%rsp, %1\n"
                     ".globl faulting\n faulting: ud2\n"
                     "inc %0\n"
                     : "+a"(rax), "=&r"(sp)::"cc", "memory");
    trap_set(6, NULL);
    CHECK_EQ(seen, 1);
    CHECK_EQ(seen_ip, (u64)faulting);
    CHECK_EQ(seen_sp, sp);
    CHECK_EQ(rax, 0x1235);
}

static void load_bad_selector(void *selector)
{
    __asm__ volatile("mov %0, %%es" ::"r"(selector));
}

static void gp_error_code_is_the_selector(void)
{
    struct trap t;
    __asm__ volatile("lldt %w0" ::"r"(0));
    CHECK_EQ(try_call(load_bad_selector, (void *)0xff8, &t), 13);
    CHECK_EQ(t.error, 0xff8);
    CHECK_EQ(try_call(load_bad_selector, (void *)0x14, &t), 13); // LDT: there is none
    CHECK_EQ(t.error, 0x14);
}

static void use_bad_stack(void *unused)
{
    (void)unused;
    __asm__ volatile(
        "mov %%rsp, %%rbx; mov $0x8000000000000000, %%rax; mov %%rax, %%rsp; push %%rax" ::
            : "rax", "rbx", "memory");
}

static void fault_on_a_bad_stack_is_a_double_fault(void)
{
    struct trap t;
    // #SS for the push; its own delivery pushes to the same stack; #DF has a stack of its own.
    CHECK_EQ(try_call(use_bad_stack, NULL, &t), 8);
    CHECK_EQ(t.error, 0);
}

static void int_60(void *unused)
{
    (void)unused;
    __asm__ volatile("int $0x60");
}

static void absent_gate_is_not_present(void)
{
    struct trap t;
    u8 *gate = idt + 16 * 0x60 + 5, old = *gate;
    *gate = old & 0x7f;
    CHECK_EQ(try_call(int_60, NULL, &t), 11);
    CHECK_EQ(t.error, 0x60 * 8 + 2);
    *gate = old;
    CHECK_EQ(try_call(int_60, NULL, &t), 0x60);
}
static volatile unsigned count;
static volatile u64 interrupted_at;

static void on_vector(struct frame *f)
{
    count++;
    interrupted_at = f->ip;
    lapic_eoi();
}

static void ask_for_interrupt(void)
{
    count = 0;
    trap_set(VECTOR, on_vector);
    lapic_enable();
    lapic_write(0x80, 0);
    cli();
    lapic_write(0x300, SELF | VECTOR);
}

static void sti_holds_interrupts_for_one_instruction(void)
{
    extern u8 after_sti[];
    ask_for_interrupt();
    __asm__ volatile("sti\n nop\n .globl after_sti\n after_sti: nop\n cli\n" ::: "memory", "cc");
    CHECK_EQ(count, 1);
    CHECK_EQ(interrupted_at, (u64)after_sti);
    ask_for_interrupt();
    __asm__ volatile("sti\n cli\n nop\n" ::: "memory", "cc");
    CHECK_EQ(count, 0); // no window
    __asm__ volatile("sti\n nop\n nop\n cli\n" ::: "memory", "cc");
    CHECK_EQ(count, 1);
}

static void mov_ss_holds_interrupts_for_one_instruction(void)
{
    extern u8 after_mov_ss[];
    ask_for_interrupt();
    u64 flags;
    __asm__ volatile(
        "pushf\n pop %0\n or $0x200, %0\n push %0\n" // IF on by popf: no shadow of its own
        "mov %1, %%ss\n popf\n .globl after_mov_ss\n after_mov_ss: nop\n cli\n"
        : "=&r"(flags)
        : "r"(SEL_DATA)
        : "memory", "cc");
    CHECK_EQ(count, 1);
    CHECK_EQ(interrupted_at, (u64)after_mov_ss);
}

static void popf_and_iret_let_interrupts_in_at_once(void)
{
    extern u8 after_popf[];
    ask_for_interrupt();
    u64 flags;
    __asm__ volatile("pushf\n pop %0\n or $0x200, %0\n push %0\n"
                     "popf\n .globl after_popf\n after_popf: nop\n cli\n"
                     : "=&r"(flags)::"memory", "cc");
    CHECK_EQ(count, 1);
    CHECK_EQ(interrupted_at, (u64)after_popf);
}

static volatile unsigned nmis, nmi_depth, nmi_nested;

static void send_nmi(void)
{
    lapic_write(0x310, lapic_read(0x20));
    lapic_write(0x300, 0x4400);
}

static void on_nmi(struct frame *f)
{
    (void)f;
    nmis++;
    nmi_nested |= nmi_depth;
    nmi_depth = 1;
    if (nmis == 1) {
        send_nmi(); // must wait for our IRET
        delay_us(500);
    }
    nmi_depth = 0;
}

static void nmi_waits_for_the_iret_of_another(void)
{
    trap_set(2, on_nmi);
    lapic_enable();
    nmis = nmi_nested = 0;
    send_nmi();
    delay_us(2000);
    CHECK_EQ(nmis, 2);
    CHECK_EQ(nmi_nested, 0);
}

static void enter_user(void *flags)
{
    user_enter(CODE_VA, STACK_TOP, (u64)flags);
}

static void alignment_is_checked_in_ring_3(void)
{
    // movl -7(%rsp), %eax; int $0x80
    static const u8 code[] = {0x8b, 0x44, 0x24, 0xf9, 0xcd, 0x80};
    struct trap t;
    u8 *page = page_alloc();
    memcpy(page, code, sizeof code);
    page_map(CODE_VA, (u64)page, PTE_P | PTE_U, 1);
    page_map(STACK_TOP - 4096, (u64)page_alloc(), PTE_P | PTE_W | PTE_U, 1);
    CHECK_EQ(try_call(enter_user, (void *)(2 | AC), &t), 0x80);
    write_cr0(read_cr0() | CR0_AM);
    CHECK_EQ(try_call(enter_user, (void *)2, &t), 0x80);
    CHECK_EQ(try_call(enter_user, (void *)(2 | AC), &t), 17);
    CHECK_EQ(t.error, 0);
    write_cr0(read_cr0() & ~CR0_AM);
}

static void long_instruction(void *unused)
{
    (void)unused;
    __asm__ volatile(
        ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
}

static void instruction_of_16_bytes_is_refused(void)
{
    CHECK_EQ(try_call(long_instruction, NULL, NULL), 13);
}

static void call_at(void *at)
{
    ((void (*)(void))at)();
}

static void instruction_across_a_hole_faults_at_the_hole(void)
{
    struct trap t;
    u8 *page = page_alloc();
    memset(page, 0x90, 4096);
    page[4094] = 0xb8; // mov $imm32, %eax: three bytes are missing
    page_map(VA, (u64)page, PTE_P, 1);
    page_map(VA + 4096, 0, 0, 1);
    CHECK_EQ(try_call(call_at, (void *)(VA + 4000), &t), 14);
    CHECK_EQ(t.cr2, VA + 4096);
    CHECK_EQ(t.ip, VA + 4094);
    // With the page there it runs.
    u8 *second = page_alloc();
    second[3] = 0xc3;
    page_map(VA + 4096, (u64)second, PTE_P, 1);
    CHECK_EQ(try_call(call_at, (void *)(VA + 4000), &t), NO_TRAP);
}

TESTS(TEST(divide_error_has_vector_0), TEST(most_negative_by_minus_one_is_a_divide_error),
      TEST(fault_leaves_registers_and_points_to_the_instruction),
      TEST(gp_error_code_is_the_selector), TEST(fault_on_a_bad_stack_is_a_double_fault),
      TEST(absent_gate_is_not_present), TEST(sti_holds_interrupts_for_one_instruction),
      TEST(mov_ss_holds_interrupts_for_one_instruction),
      TEST(popf_and_iret_let_interrupts_in_at_once), TEST(nmi_waits_for_the_iret_of_another),
      TEST(alignment_is_checked_in_ring_3), TEST(instruction_of_16_bytes_is_refused),
      TEST(instruction_across_a_hole_faults_at_the_hole));
