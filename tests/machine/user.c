// Ring 3 of long mode: entering and leaving it, what it may not do, system calls.

#include "guest.h"

#define CODE_VA 0x300000000000ull
#define STACK_TOP 0x300000010000ull
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define EFER_SCE 1
#define CR4_UMIP 0x800ul
#define CR4_TSD 4ul

static u8 *user_code;

static void setup(void)
{
    if (!user_code) {
        user_code = page_alloc();
        page_map(CODE_VA, (u64)user_code, PTE_P | PTE_W | PTE_U, 1);
        page_map(STACK_TOP - 4096, (u64)page_alloc(), PTE_P | PTE_W | PTE_U, 1);
    }
}

static void enter(void *flags)
{
    user_enter(CODE_VA, STACK_TOP, (u64)flags);
}

// Runs these bytes in ring 3, followed by int $0x80; the trap that ended them.
static unsigned run_user(const void *code, unsigned len, struct trap *t)
{
    setup();
    memset(user_code, 0x90, 4096);
    memcpy(user_code, code, len);
    user_code[len] = 0xcd;
    user_code[len + 1] = 0x80;
    return try_call(enter, (void *)2, t);
}

#define RUN(t, ...) run_user((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}), t)

static void software_interrupt_returns_to_ring_0(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0x90), 0x80);
    CHECK_EQ(t.cs, SEL_USER_CODE);
    CHECK_EQ(t.ip, CODE_VA + 3);
}

static void privileged_instructions_are_general_protection(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0xf4), 13);                         // hlt
    CHECK_EQ(RUN(&t, 0xfa), 13);                         // cli
    CHECK_EQ(RUN(&t, 0x0f, 0x20, 0xc0), 13);             // mov %cr0, %rax
    CHECK_EQ(RUN(&t, 0x0f, 0x32), 13);                   // rdmsr
    CHECK_EQ(RUN(&t, 0x0f, 0x01, 0x3c, 0x24), 13);       // invlpg (%rsp)
    CHECK_EQ(RUN(&t, 0x0f, 0x00, 0xd8), 13);             // ltr %ax
    CHECK_EQ(RUN(&t, 0x0f, 0x09), 13);                   // wbinvd
    CHECK_EQ(RUN(&t, 0x0f, 0x01, 0x54, 0x24, 0xf0), 13); // lgdt
    CHECK_EQ(RUN(&t, 0xe4, 0x80), 13);                   // in $0x80, %al
    CHECK_EQ(RUN(&t, 0x0f, 0x06), 13);                   // clts
}

static void kernel_pages_are_out_of_reach(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00), 14); // mov 0x100000, %eax
    CHECK_EQ(t.error, 5);
    CHECK_EQ(t.cr2, 0x100000);
    CHECK_EQ(RUN(&t, 0xc6, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0x00), 14);
    CHECK_EQ(t.error, 7);
}

static void interrupt_gates_of_ring_0_refuse_ring_3(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0xcd, 0x21), 13);
    CHECK_EQ(t.error, 0x21 * 8 + 2);
    CHECK_EQ(RUN(&t, 0xcc), 3); // int3's gate is open
}

static void undefined_instruction_traps(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0x0f, 0x0b), 6);
    CHECK_EQ(t.ip, CODE_VA);
}

static void timestamp_can_be_kept_from_ring_3(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0x0f, 0x31), 0x80);
    write_cr4(read_cr4() | CR4_TSD);
    CHECK_EQ(RUN(&t, 0x0f, 0x31), 13);
    write_cr4(read_cr4() & ~CR4_TSD);
}

static void umip_keeps_descriptor_tables_from_ring_3(void)
{
    struct trap t;
    if (!(cpuid(7, 0).ecx & 4)) {
        test_skip("no UMIP");
        return;
    }
    CHECK_EQ(RUN(&t, 0x0f, 0x01, 0x44, 0x24, 0xf0), 0x80); // sgdt -16(%rsp)
    write_cr4(read_cr4() | CR4_UMIP);
    CHECK_EQ(RUN(&t, 0x0f, 0x01, 0x44, 0x24, 0xf0), 13);
    write_cr4(read_cr4() & ~CR4_UMIP);
}

static void popf_in_ring_3_cannot_change_if_or_iopl(void)
{
    struct trap t;
    // push $0x3202; popf
    CHECK_EQ(RUN(&t, 0x68, 0x02, 0x32, 0x00, 0x00, 0x9d), 0x80);
    CHECK_EQ(t.flags & 0x3200, 0);
}

void syscall_entry(void);
void sysenter_entry(void);
extern volatile u64 syscall_rcx, syscall_r11, syscall_cs, syscall_ss, syscall_flags, syscall_count;
__asm__(".pushsection .data\n"
        ".globl syscall_rcx, syscall_r11, syscall_cs, syscall_ss, syscall_flags, syscall_count\n"
        "syscall_rcx: .quad 0\nsyscall_r11: .quad 0\nsyscall_cs: .quad 0\nsyscall_ss: .quad 0\n"
        "syscall_flags: .quad 0\nsyscall_count: .quad 0\n"
        ".popsection\n"
        ".globl syscall_entry\n"
        "syscall_entry:\n"
        "  mov %rcx, syscall_rcx\n  mov %r11, syscall_r11\n"
        "  mov %cs, %rax\n  mov %rax, syscall_cs\n  mov %ss, %rax\n  mov %rax, syscall_ss\n"
        "  mov %rsp, %r8\n  mov $boot_stack_top, %esp\n  sub $32768, %rsp\n"
        "  pushf\n  pop %rax\n  mov %rax, syscall_flags\n  incq syscall_count\n"
        "  mov %r8, %rsp\n  sysretq\n"
        ".globl sysenter_entry\n"
        "sysenter_entry:\n"
        "  mov %cs, %rax\n  mov %rax, syscall_cs\n  mov %ss, %rax\n  mov %rax, syscall_ss\n"
        "  pushf\n  pop %rax\n  mov %rax, syscall_flags\n  incq syscall_count\n"
        "  sysexitq\n");

static void syscall_and_sysret_go_there_and_back(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0x0f, 0x05), 6); // not enabled yet
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (u64)0x20 << 48 | (u64)SEL_CODE << 32);
    wrmsr(MSR_LSTAR, (u64)syscall_entry);
    wrmsr(MSR_SFMASK, 0x401);
    syscall_count = 0;
    CHECK_EQ(RUN(&t, 0xf9, 0xfd, 0x0f, 0x05), 0x80); // stc; std; syscall
    CHECK_EQ(syscall_count, 1);
    CHECK_EQ(syscall_rcx, CODE_VA + 4);
    CHECK_EQ(syscall_r11 & 0x401, 0x401);
    CHECK_EQ(syscall_cs, SEL_CODE);
    CHECK_EQ(syscall_ss, SEL_DATA);
    CHECK_EQ(syscall_flags & 0x401, 0); // masked
    CHECK_EQ(t.cs, SEL_USER_CODE);
    CHECK_EQ(t.flags & 0x401, 0x401); // from R11
}

static void sysenter_and_sysexit_go_there_and_back(void)
{
    struct trap t;
    if (!(cpuid(1, 0).edx & 1u << 11)) {
        test_skip("no SYSENTER");
        return;
    }
    // mov $back, %rdx (where sysexit goes); mov %rsp, %rcx; sysenter; back:
    static const u8 code[] = {0x48, 0xba, 0x0f, 0,    0,    0,    0,   0x30,
                              0,    0,    0x48, 0x89, 0xe1, 0x0f, 0x34};
    wrmsr(0x174, 0);
    unsigned vector = run_user(code, sizeof code, &t);
    if (vector == 6) {
        test_skip("SYSENTER is undefined in long mode here, as on AMD");
        return;
    }
    CHECK_EQ(vector, 13);
    wrmsr(0x174, SEL_CODE);
    wrmsr(0x175, (u64)page_alloc() + 4096);
    wrmsr(0x176, (u64)sysenter_entry);
    syscall_count = 0;
    CHECK_EQ(run_user(code, sizeof code, &t), 0x80);
    CHECK_EQ(syscall_count, 1);
    CHECK_EQ(syscall_cs, SEL_CODE);
    CHECK_EQ(syscall_ss, SEL_DATA);
    CHECK_EQ(t.cs, SEL_USER_CODE);
    wrmsr(0x174, 0);
}

static void swapgs_exchanges_the_bases(void)
{
    wrmsr(0xc0000101, 0x1111);
    wrmsr(0xc0000102, 0xffff800000002222);
    __asm__ volatile("swapgs");
    CHECK_EQ(rdmsr(0xc0000101), 0xffff800000002222);
    CHECK_EQ(rdmsr(0xc0000102), 0x1111);
    __asm__ volatile("swapgs");
}

static void compatibility_mode_runs_32_bit_code(void)
{
    // Far return to the 32-bit code segment and back; 32-bit code sees inc %eax (0x40) as such.
    u32 result;
    __asm__ volatile("lea 1f(%%rip), %%rax\n"
                     "push %1\n push %%rax\n lretq\n"
                     ".code32\n"
                     "1: movl $41, %%eax\n .byte 0x40\n"
                     "ljmp %2, $2f\n"
                     ".code64\n"
                     "2: mov %%eax, %0\n"
                     : "=&b"(result)
                     : "i"(SEL_CODE32), "i"(SEL_CODE)
                     : "rax", "memory", "cc");
    CHECK_EQ(result, 42);
}

TESTS(TEST(software_interrupt_returns_to_ring_0),
      TEST(privileged_instructions_are_general_protection), TEST(kernel_pages_are_out_of_reach),
      TEST(interrupt_gates_of_ring_0_refuse_ring_3), TEST(undefined_instruction_traps),
      TEST(timestamp_can_be_kept_from_ring_3), TEST(umip_keeps_descriptor_tables_from_ring_3),
      TEST(popf_in_ring_3_cannot_change_if_or_iopl), TEST(syscall_and_sysret_go_there_and_back),
      TEST(sysenter_and_sysexit_go_there_and_back), TEST(swapgs_exchanges_the_bases),
      TEST(compatibility_mode_runs_32_bit_code));
