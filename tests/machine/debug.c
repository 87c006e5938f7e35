// Debugging features: single step, instruction and data breakpoints, DR6 and DR7.

#include "guest.h"

#define TF 0x100ul
#define RF 0x10000ul
#define DR6_BS 0x4000ul
#define DR6_BD 0x2000ul

#define DR_ACCESSORS(n)                                         \
    __attribute__((unused)) static inline word read_dr##n(void) \
    {                                                           \
        word v;                                                 \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v));       \
        return v;                                               \
    }                                                           \
    static inline void write_dr##n(word v)                      \
    {                                                           \
        __asm__ volatile("mov %0, %%dr" #n ::"r"(v));           \
    }
DR_ACCESSORS(0)
DR_ACCESSORS(6)
DR_ACCESSORS(7)

static volatile unsigned count;
static volatile u64 ip[32], dr6;

static void on_debug(struct frame *f)
{
    ip[count++ & 31] = f->ip;
    dr6 = read_dr6();
    write_dr6(0xffff0ff0);
    f->flags |= RF;
}

static void on_debug_stop_stepping(struct frame *f)
{
    on_debug(f);
    if (count == 8) {
        f->flags &= ~TF;
    }
}

static void setup(trap_handler *handler)
{
    count = 0;
    dr6 = 0;
    trap_set(1, handler);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
}

static void single_step_traps_after_every_instruction(void)
{
    setup(on_debug_stop_stepping);
    __asm__ volatile("pushf\n orl $0x100, (%%rsp)\n popf\n"
                     "nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n" ::
                         : "cc", "memory");
    CHECK_EQ(count, 8);
    CHECK_EQ(dr6 & DR6_BS, DR6_BS);
    CHECK_EQ(ip[1] - ip[0], 1);
    CHECK_EQ(ip[7] - ip[0], 7);
}

static void stepped_repeat_traps_after_every_iteration(void)
{
    setup(on_debug_stop_stepping);
    static u8 buffer[16];
    u8 *to = buffer;
    word n = 5;
    __asm__ volatile("pushf\n orl $0x100, (%%rsp)\n popf\n"
                     "rep stosb\n nop\n nop\n nop\n nop\n"
                     : "+D"(to), "+c"(n)
                     : "a"(0x55)
                     : "cc", "memory");
    CHECK_EQ(count, 8);
    CHECK_EQ(ip[0], ip[3]); // still at the rep
    CHECK_EQ(ip[4] - ip[3], 2);
    CHECK_EQ(buffer[4], 0x55);
}

static void instruction_breakpoint_traps_before_it_runs(void)
{
    extern u8 break_here[];
    setup(on_debug);
    write_dr0((word)break_here);
    write_dr7(0x402);
    word marker = 0;
    __asm__ volatile("nop\n .globl break_here\n break_here: inc %0\n" : "+r"(marker));
    write_dr7(0x400);
    CHECK_EQ(count, 1);
    CHECK_EQ(ip[0], (word)break_here);
    CHECK_EQ(dr6 & 0xf, 1);
    CHECK_EQ(marker, 1); // RF let it run
}

static volatile u64 watched[2];

static void data_breakpoint_traps_after_a_write(void)
{
    setup(on_debug);
    watched[0] = 0;
    write_dr0((word)&watched[0]);
    write_dr7(0x402 | 1u << 16 | 2u << 18); // write, 8 bytes
    (void)watched[0];
    CHECK_EQ(count, 0);
    watched[1] = 1;
    CHECK_EQ(count, 0);
    *(volatile u8 *)((u8 *)watched + 7) = 1;
    write_dr7(0x400);
    CHECK_EQ(count, 1);
    CHECK_EQ(dr6 & 0xf, 1);
    CHECK_EQ(*(volatile u8 *)((u8 *)watched + 7), 1);
}

static void data_breakpoint_traps_after_a_read(void)
{
    setup(on_debug);
    write_dr0((word)&watched[1]);
    write_dr7(0x402 | 3u << 16 | 2u << 18);
    (void)watched[1];
    write_dr7(0x400);
    CHECK_EQ(count, 1);
}

static void read_dr7_fn(void *unused)
{
    (void)unused;
    (void)read_dr7();
}

static void general_detect_guards_the_registers(void)
{
    setup(NULL);
    write_dr7(0x2400);
    struct trap t;
    CHECK_EQ(try_call(read_dr7_fn, NULL, &t), 1);
    CHECK_EQ(read_dr6() & DR6_BD, DR6_BD);
    CHECK_EQ(read_dr7() & 0x2000, 0); // cleared by delivery
}

static void int1_and_int3_have_their_vectors(void)
{
    setup(on_debug);
    __asm__ volatile(".byte 0xf1");
    CHECK_EQ(count, 1);
    trap_set(3, on_debug);
    __asm__ volatile("int3");
    CHECK_EQ(count, 2);
    trap_set(3, NULL);
}

static void mov_ss_delays_a_data_breakpoint(void)
{
    static u16 selector[4] __attribute__((aligned(8))) = {SEL_DATA};
    extern u8 after_shadow[];
    setup(on_debug);
    write_dr0((word)selector);
    write_dr7(0x402 | 3u << 16 | 1u << 18);
    __asm__ volatile(
        "mov %0, %%ss\n nop\n .globl after_shadow\n after_shadow: nop\n" ::"m"(selector[0]));
    write_dr7(0x400);
    CHECK_EQ(count, 1);
    CHECK_EQ(ip[0], (word)after_shadow);
}

TESTS(TEST(single_step_traps_after_every_instruction),
      TEST(stepped_repeat_traps_after_every_iteration),
      TEST(instruction_breakpoint_traps_before_it_runs), TEST(data_breakpoint_traps_after_a_write),
      TEST(data_breakpoint_traps_after_a_read), TEST(general_detect_guards_the_registers),
      TEST(int1_and_int3_have_their_vectors), TEST(mov_ss_delays_a_data_breakpoint));
