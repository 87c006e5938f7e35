// Protected mode's hardware tasks and segments: task switches by jump, call, gate and interrupt,
// busy bits, the NT flag; segment limits and types; call gates; rings. 32-bit flavour.

#include "guest.h"

#define SEL_TSS2 SEL_FREE
#define SEL_TASK_GATE (SEL_FREE + 8)
#define SEL_SMALL (SEL_FREE + 16)
#define SEL_CALL_GATE (SEL_FREE + 24)
#define SEL_ABSENT (SEL_FREE + 32)
#define SEL_READ_ONLY (SEL_FREE + 40)
#define NT 0x4000u
#define TYPE_TSS 0x89ull

struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi;
    u32 es, cs, ss, ds, fs, gs, ldt;
    u16 trap, io_map;
};

static struct tss other;
static u32 other_stack[256];
static volatile u32 entered, seen_nt, seen_ts;

static u64 segment(u32 base, u32 limit, u64 type, u64 flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | type << 40 |
           (u64)(limit >> 16 & 15) << 48 | flags << 52 | (u64)(base >> 24) << 56;
}

static unsigned tss_type(unsigned selector)
{
    return gdt[selector / 8] >> 40 & 0xff;
}

// The other task: notes what it sees and returns by IRET, again and again.
static void other_task(void)
{
    for (;;) {
        u32 flags;
        entered++;
        __asm__ volatile("pushf; pop %0" : "=r"(flags));
        seen_nt = flags & NT;
        seen_ts = read_cr0() & 8;
        __asm__ volatile("clts; iret");
    }
}

static void setup(void)
{
    memset(&other, 0, sizeof other);
    other.eip = (u32)other_task;
    other.eflags = 2;
    other.esp = (u32)(other_stack + ARRAY_LEN(other_stack));
    other.cs = SEL_CODE;
    other.es = other.ss = other.ds = other.fs = other.gs = SEL_DATA;
    other.io_map = sizeof other;
    gdt[SEL_TSS2 / 8] = segment((u32)&other, sizeof other - 1, TYPE_TSS, 0);
    gdt[SEL_TASK_GATE / 8] = (u64)SEL_TSS2 << 16 | 0x85ull << 40;
    entered = 0;
}

static void far_call(unsigned selector)
{
    struct {
        u32 offset;
        u16 selector;
    } __attribute__((packed)) target = {0, (u16)selector};
    __asm__ volatile("lcall *%0" ::"m"(target) : "memory", "cc", "eax", "ecx", "edx");
}

static void call_switches_and_iret_comes_back(void)
{
    setup();
    far_call(SEL_TSS2);
    CHECK_EQ(entered, 1);
    CHECK_EQ(seen_nt, NT);
    CHECK_EQ(seen_ts, 8);
    CHECK_EQ(other.link, SEL_TSS);
    CHECK_EQ(tss_type(SEL_TSS2), 0x89); // no longer busy
    CHECK_EQ(tss_type(SEL_TSS), 0x8b);
}

static void task_keeps_its_registers(void)
{
    setup();
    far_call(SEL_TSS2);
    u32 eip = other.eip;
    CHECK(eip != (u32)other_task); // saved after its IRET
    far_call(SEL_TSS2);
    CHECK_EQ(entered, 2);
    CHECK_EQ(other.eip, eip);
}

static void task_gate_leads_to_the_task(void)
{
    setup();
    far_call(SEL_TASK_GATE);
    CHECK_EQ(entered, 1);
}

static void interrupt_through_a_task_gate(void)
{
    extern u8 idt[];
    u64 *gate = (u64 *)(void *)(idt + 8 * 0x40), old = *gate;
    setup();
    *gate = (u64)SEL_TSS2 << 16 | 0x85ull << 40;
    __asm__ volatile("int $0x40" ::: "memory");
    *gate = old;
    CHECK_EQ(entered, 1);
    CHECK_EQ(other.link, SEL_TSS);
}

static void call_busy(void *unused)
{
    (void)unused;
    far_call(SEL_TSS);
}

static void call_absent(void *unused)
{
    (void)unused;
    far_call(SEL_TSS2);
}

static void busy_or_absent_task_faults(void)
{
    struct trap t;
    setup();
    CHECK_EQ(try_call(call_busy, NULL, &t), 13);
    CHECK_EQ(t.error, SEL_TSS);
    gdt[SEL_TSS2 / 8] &= ~(1ull << 47);
    CHECK_EQ(try_call(call_absent, NULL, &t), 11);
    CHECK_EQ(t.error, SEL_TSS2);
}

static void read_segment(void *at)
{
    __asm__ volatile("mov %0, %%es; mov %%es:(%1), %%eax; mov %2, %%es" ::"r"(SEL_SMALL), "r"(at),
                     "r"(SEL_DATA)
                     : "eax");
}

static void limit_is_checked_to_the_byte(void)
{
    struct trap t;
    gdt[SEL_SMALL / 8] = segment(0, 0xfff, 0x93, 4);
    CHECK_EQ(try_call(read_segment, (void *)0xffc, NULL), NO_TRAP);
    CHECK_EQ(try_call(read_segment, (void *)0xffd, &t), 13);
    CHECK_EQ(t.error, 0);
    gdt[SEL_SMALL / 8] = segment(0, 0xfff, 0x97, 4); // expand-down: valid above the limit
    CHECK_EQ(try_call(read_segment, (void *)0xfff, NULL), 13);
    CHECK_EQ(try_call(read_segment, (void *)0x1000, NULL), NO_TRAP);
    gdt[SEL_SMALL / 8] = segment(0, 0, 0x93, 12); // granularity: 4 KiB
    CHECK_EQ(try_call(read_segment, (void *)0xffc, NULL), NO_TRAP);
    CHECK_EQ(try_call(read_segment, (void *)0x1000, NULL), 13);
}

static void base_is_added(void)
{
    static u32 value = 0x600dcafe;
    u32 got;
    gdt[SEL_SMALL / 8] = segment((u32)&value, 3, 0x93, 4);
    __asm__ volatile("mov %1, %%fs; movl %%fs:0, %0" : "=r"(got) : "r"(SEL_SMALL));
    CHECK_EQ(got, 0x600dcafe);
}

static void load_ds(void *selector)
{
    __asm__ volatile("mov %0, %%es" ::"r"(selector));
}

static void load_ss(void *selector)
{
    __asm__ volatile("mov %0, %%ss" ::"r"(selector));
}

static void write_read_only(void *unused)
{
    (void)unused;
    __asm__ volatile("mov %0, %%es; movl $0, %%es:0" ::"r"(SEL_READ_ONLY));
}

static void null_es(void *unused)
{
    (void)unused;
    __asm__ volatile("mov %0, %%es; movl %%es:0, %%eax" ::"r"(0) : "eax");
}

static void segment_loads_are_checked(void)
{
    struct trap t;
    gdt[SEL_ABSENT / 8] = segment(0, 0xfffff, 0x13, 12);
    gdt[SEL_READ_ONLY / 8] = segment(0, 0xfffff, 0x91, 12);
    CHECK_EQ(try_call(load_ds, (void *)SEL_ABSENT, &t), 11);
    CHECK_EQ(t.error, SEL_ABSENT);
    CHECK_EQ(try_call(load_ss, (void *)SEL_ABSENT, &t), 12);
    CHECK_EQ(try_call(load_ss, (void *)SEL_READ_ONLY, &t), 13);
    CHECK_EQ(try_call(load_ss, (void *)0, &t), 13);
    CHECK_EQ(try_call(load_ds, (void *)0x7f8, &t), 13); // beyond the table
    CHECK_EQ(t.error, 0x7f8);
    CHECK_EQ(try_call(load_ds, (void *)0, &t), NO_TRAP); // null may be loaded
    CHECK_EQ(try_call(null_es, NULL, &t), 13);           // not used
    CHECK_EQ(try_call(write_read_only, NULL, &t), 13);
}

static void accessed_bit_is_set_by_loading(void)
{
    gdt[SEL_SMALL / 8] = segment(0, 0xfffff, 0x92, 12);
    __asm__ volatile("mov %0, %%fs" ::"r"(SEL_SMALL) : "memory");
    CHECK_EQ(gdt[SEL_SMALL / 8] >> 40 & 0xff, 0x93);
}

// Ring 3 reaches this through a gate, with one parameter copied to the ring 0 stack. DS is null:
// the way to ring 3 has cleared it.
extern u8 gate_target[];
extern volatile u32 gate_parameter, gate_cs, gate_calls;
__asm__(".pushsection .data\n"
        ".globl gate_parameter, gate_cs, gate_calls\n"
        "gate_parameter: .long 0\ngate_cs: .long 0\ngate_calls: .long 0\n"
        ".popsection\n"
        ".globl gate_target\n"
        "gate_target:\n"
        "  movl 8(%esp), %eax\n  movl %eax, %ss:gate_parameter\n"
        "  mov %cs, %eax\n  movl %eax, %ss:gate_cs\n  incl %ss:gate_calls\n"
        "  lret $4\n"
        ".globl ring3_code\n"
        "ring3_code:\n"
        "  pushl $0x1234abcd\n"
        "  lcall $0x73, $0\n" // SEL_CALL_GATE | 3
        "  int $0x80\n");
extern u8 ring3_code[];

static void enter_ring_3(void *unused)
{
    static u32 stack[64];
    (void)unused;
    __asm__ volatile("push %0; push %1; push $2; push %2; push %3; iret" ::"r"(SEL_USER_DATA),
                     "r"(stack + 64), "r"(SEL_USER_CODE32), "r"(ring3_code));
}

static void call_gate_changes_rings_and_copies_parameters(void)
{
    struct trap t;
    _Static_assert(SEL_CALL_GATE + 3 == 0x73, "as in the code above");
    u32 target = (u32)gate_target;
    gdt[SEL_CALL_GATE / 8] = (target & 0xffff) | (u64)SEL_CODE << 16 | 1ull << 32 | 0xecull << 40 |
                             (u64)(target >> 16) << 48;
    CHECK_EQ(try_call(enter_ring_3, NULL, &t), 0x80);
    CHECK_EQ(gate_calls, 1);
    CHECK_EQ(gate_parameter, 0x1234abcd);
    CHECK_EQ(gate_cs, SEL_CODE);
    CHECK_EQ(t.cs, SEL_USER_CODE32);
}

static void do_bound(void *index)
{
    static const u32 bounds[2] = {1, 3};
    __asm__ volatile("bound %0, %1" ::"r"(index), "m"(bounds));
}

static void do_into(void *unused)
{
    (void)unused;
    __asm__ volatile("movb $0x7f, %%al; addb $1, %%al; into" ::: "eax", "cc");
}

static void bound_and_into_trap(void)
{
    CHECK_EQ(try_call(do_bound, (void *)2, NULL), NO_TRAP);
    CHECK_EQ(try_call(do_bound, (void *)4, NULL), 5);
    CHECK_EQ(try_call(do_into, NULL, NULL), 4);
}

static void decimal_adjustment_works(void)
{
    u32 al;
    __asm__ volatile("movb $0x38, %%al; addb $0x45, %%al; daa" : "=a"(al)::"cc");
    CHECK_EQ(al & 0xff, 0x83);
    __asm__ volatile("mov $0x0709, %%eax; aad" : "=a"(al)::"cc");
    CHECK_EQ(al & 0xffff, 79);
}

TESTS(TEST(call_switches_and_iret_comes_back), TEST(task_keeps_its_registers),
      TEST(task_gate_leads_to_the_task), TEST(interrupt_through_a_task_gate),
      TEST(busy_or_absent_task_faults), TEST(limit_is_checked_to_the_byte), TEST(base_is_added),
      TEST(segment_loads_are_checked), TEST(accessed_bit_is_set_by_loading),
      TEST(call_gate_changes_rings_and_copies_parameters), TEST(bound_and_into_trap),
      TEST(decimal_adjustment_works));
