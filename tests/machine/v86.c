// Virtual 8086 mode: entering and leaving it, what traps to the monitor, segments as in real mode,
// the I/O permission map, VME's interrupt redirection. And real mode itself, there and back.
// 32-bit flavour.

#include "guest.h"

#define VM 0x20000u
#define IOPL3 0x3000u
#define CODE 0x30000u // where 16-bit code is put: segment 0x3000
#define STACK_SEGMENT 0x4000u

struct v86_frame { // what a trap from V86 mode pushes, after struct frame's ss
    u32 es, ds, fs, gs;
};

static volatile u32 seen_es, seen_ds, seen_ss, seen_sp, seen_flags;

static void enter_v86(void *flags)
{
    __asm__ volatile("push $0x3333; push $0x2222; push $0x3000; push $0x1111\n" // gs fs ds es
                     "push %0; push $0x1000; push %1; push $0x3000; push $0\n"
                     "iret" ::"r"(STACK_SEGMENT),
                     "r"((u32)flags | VM | 2));
}

// Runs 16-bit code in V86 mode; the vector that ended it.
static unsigned run_v86(const u8 *code, size_t len, u32 flags, struct trap *t)
{
    memset((void *)CODE, 0x90, 64);
    memcpy((void *)CODE, code, len);
    return try_call(enter_v86, (void *)flags, t);
}

#define RUN(t, flags, ...) \
    run_v86((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}), flags, t)

static void undefined_opcode_ends_it_with_vm_set(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0, 0x90, 0x0f, 0x0b), 6);
    CHECK_EQ(t.flags & VM, VM);
    CHECK_EQ(t.cs, 0x3000);
    CHECK_EQ(t.ip, 1);
}

static void note_frame(struct frame *f)
{
    const struct v86_frame *v = (const struct v86_frame *)(f + 1);
    seen_es = v->es;
    seen_ds = v->ds;
    seen_ss = f->ss;
    seen_sp = f->sp;
    seen_flags = f->flags;
    f->ip = 0x20; // on to where ud2 is
}

static void trap_saves_and_iret_restores_real_mode_segments(void)
{
    struct trap t;
    // 0: hlt -> #GP -> continues at 0x20: mov %es, %ax; cmp $0x1111, %ax; je +1; hlt; ud2
    static const u8 code[0x30] = {0xf4, [0x20] = 0x8c, 0xc0, 0x3d, 0x11, 0x11,
                                  0x74, 0x01,          0xf4, 0x0f, 0x0b};
    trap_set(13, note_frame);
    CHECK_EQ(run_v86(code, sizeof code, 0, &t), 6);
    trap_set(13, NULL);
    CHECK_EQ(seen_es, 0x1111);
    CHECK_EQ(seen_ds, 0x3000);
    CHECK_EQ(seen_ss, STACK_SEGMENT);
    CHECK_EQ(seen_sp, 0x1000);
    CHECK_EQ(t.ip, 0x28);
}

static void sensitive_instructions_trap_without_iopl_3(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0, 0xfa), 13);       // cli
    CHECK_EQ(RUN(&t, 0, 0xfb), 13);       // sti
    CHECK_EQ(RUN(&t, 0, 0x9c), 13);       // pushf
    CHECK_EQ(RUN(&t, 0, 0x9d), 13);       // popf
    CHECK_EQ(RUN(&t, 0, 0xcd, 0x21), 13); // int
    CHECK_EQ(RUN(&t, 0, 0xcf), 13);       // iret
    CHECK_EQ(RUN(&t, 0, 0xf4), 13);       // hlt
    CHECK_EQ(RUN(&t, IOPL3, 0xf4), 13);   // hlt always
    CHECK_EQ(RUN(&t, IOPL3, 0xfa, 0x9c, 0x9d, 0x0f, 0x0b), 6);
    CHECK_EQ(t.ip, 3);
    CHECK_EQ(RUN(&t, 0, 0x0f, 0x20, 0xc0), 13); // mov %cr0, %eax
    CHECK_EQ(RUN(&t, 0, 0x0f, 0x00, 0xc8), 6);  // str: not in V86 mode
}

static void ports_follow_the_permission_map(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, IOPL3, 0xe4, 0x80), 13); // in $0x80, %al: the map ends before it
}

static void segments_are_real_mode_ones(void)
{
    struct trap t;
    *(volatile u16 *)0x52340 = 0xbeef;
    // mov $0x5000, %ax; mov %ax, %ds; mov 0x2340, %bx; cmp $0xbeef, %bx; je +1; hlt; ud2
    CHECK_EQ(RUN(&t, 0, 0xb8, 0x00, 0x50, 0x8e, 0xd8, 0x8b, 0x1e, 0x40, 0x23, 0x81, 0xfb, 0xef,
                 0xbe, 0x74, 0x01, 0xf4, 0x0f, 0x0b),
             6);
    // mov 0xffff, %ax: the word crosses the segment's limit
    CHECK_EQ(RUN(&t, 0, 0xa1, 0xff, 0xff), 13);
}

static void breakpoint_goes_through_its_gate(void)
{
    struct trap t;
    CHECK_EQ(RUN(&t, 0, 0xcc), 3);
    CHECK_EQ(t.flags & VM, VM);
}

static void far_jumps_use_segments_as_paragraphs(void)
{
    struct trap t;
    *(volatile u16 *)0x35010 = 0x0b0f; // ud2 at 0x3500:0x10
    CHECK_EQ(RUN(&t, 0, 0xea, 0x10, 0x00, 0x00, 0x35), 6);
    CHECK_EQ(t.cs, 0x3500);
    CHECK_EQ(t.ip, 0x10);
}

// Real mode: leaves protected mode through a 16-bit segment, calls a handler of the interrupt
// table, and comes back.
extern u8 real_mode_code[], real_mode_end[];
__asm__(".pushsection .rodata\n"
        ".code16\n"
        ".globl real_mode_code, real_mode_end\n"
        "real_mode_code:\n" // at 0x7000, in a 16-bit code segment
        "  movl %cr0, %eax\n  andb $0xfe, %al\n  movl %eax, %cr0\n"
        "  ljmp $0, $0x7000 + 1f - real_mode_code\n"
        "1: xorw %ax, %ax\n  movw %ax, %ds\n  movw %ax, %es\n  movw %ax, %ss\n"
        "  movw $0x6ff0, %sp\n"
        "  lidtl 0x7000 + real_idt - real_mode_code\n"
        "  movw $0, 0x6000\n"
        "  int $0x60\n"
        "  movw %sp, 0x6004\n"
        "  movl $0xffff, %ebx\n  movb (%bx), %al\n" // the last byte of the segment: allowed
        "  movl %cr0, %eax\n  orb $1, %al\n  movl %eax, %cr0\n"
        "  ljmpl $0x10, $real_mode_return\n"
        "real_int: movw $0x1234, 0x6000\n  pushf\n  popw 0x6002\n  iret\n"
        "real_idt: .word 0x3ff\n .long 0\n"
        "real_mode_end:\n"
        ".code32\n"
        ".popsection\n"
        ".globl go_to_real_mode\n"
        "go_to_real_mode:\n"
        "  pushal\n  movl %esp, real_mode_esp\n"
        "  movl $0x60, %eax\n  movl %eax, %ds\n  movl %eax, %es\n  movl %eax, %ss\n"
        "  ljmp $0x58, $0x7000\n"
        "real_mode_return:\n"
        "  movl $0x18, %eax\n  movl %eax, %ds\n  movl %eax, %es\n  movl %eax, %ss\n"
        "  movl %eax, %fs\n  movl %eax, %gs\n"
        "  movl real_mode_esp, %esp\n  lidt idt_pointer\n  popal\n  ret\n"
        ".pushsection .data\n real_mode_esp: .long 0\n .popsection\n");
extern void go_to_real_mode(void);
extern u8 real_int[];

static void real_mode_runs_and_returns(void)
{
    _Static_assert(SEL_FREE == 0x58, "as in the code above");
    u32 handler = 0x7000 + (u32)(real_int - real_mode_code);
    memcpy((void *)0x7000, real_mode_code, (size_t)(real_mode_end - real_mode_code));
    volatile u32 vector = 0x60; // not a constant to the compiler: it takes low addresses for NULL
    ((volatile u32 *)0)[vector] = handler;
    gdt[SEL_FREE / 8] = 0x00009b000000ffff;     // 16-bit code
    gdt[SEL_FREE / 8 + 1] = 0x000093000000ffff; // 16-bit data
    go_to_real_mode();
    CHECK_EQ(*(volatile u16 *)0x6000, 0x1234);
    CHECK_EQ(*(volatile u16 *)0x6002 & 0x200, 0); // interrupts off in the handler
    CHECK_EQ(*(volatile u16 *)0x6004, 0x6ff0);
}

TESTS(TEST(undefined_opcode_ends_it_with_vm_set),
      TEST(trap_saves_and_iret_restores_real_mode_segments),
      TEST(sensitive_instructions_trap_without_iopl_3), TEST(ports_follow_the_permission_map),
      TEST(segments_are_real_mode_ones), TEST(breakpoint_goes_through_its_gate),
      TEST(far_jumps_use_segments_as_paragraphs), TEST(real_mode_runs_and_returns));
