// The x87 and SSE unit: control registers that switch it off, lazy switching, saving, exceptions.

#include "guest.h"

#define CR0_MP 2ul
#define CR0_EM 4ul
#define CR0_TS 8ul
#define CR4_OSFXSR 0x200ul
#define CR4_OSXMMEXCPT 0x400ul
#define CR4_OSXSAVE 0x40000ul

static void setup(void)
{
    write_cr0((read_cr0() & ~(CR0_TS | CR0_EM)) | CR0_MP);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    __asm__ volatile("fninit");
}

static void do_x87(void *unused)
{
    (void)unused;
    __asm__ volatile("fld1; fstp %st(0)");
}

static void do_sse(void *unused)
{
    (void)unused;
    __asm__ volatile(".byte 0x0f, 0x57, 0xc0"); // xorps %xmm0, %xmm0
}

static void do_wait(void *unused)
{
    (void)unused;
    __asm__ volatile("fwait");
}

static void task_switched_traps_every_use(void)
{
    setup();
    write_cr0(read_cr0() | CR0_TS);
    CHECK_EQ(try_call(do_x87, NULL, NULL), 7);
    CHECK_EQ(try_call(do_sse, NULL, NULL), 7);
    CHECK_EQ(try_call(do_wait, NULL, NULL), 7); // MP is set
    write_cr0(read_cr0() & ~CR0_MP);
    CHECK_EQ(try_call(do_wait, NULL, NULL), NO_TRAP);
    __asm__ volatile("clts");
    CHECK_EQ(try_call(do_x87, NULL, NULL), NO_TRAP);
}

static void emulation_traps_x87_and_forbids_sse(void)
{
    setup();
    write_cr0(read_cr0() | CR0_EM);
    CHECK_EQ(try_call(do_x87, NULL, NULL), 7);
    CHECK_EQ(try_call(do_sse, NULL, NULL), 6);
    write_cr0(read_cr0() & ~CR0_EM);
}

static void sse_needs_osfxsr(void)
{
    setup();
    write_cr4(read_cr4() & ~CR4_OSFXSR);
    CHECK_EQ(try_call(do_sse, NULL, NULL), 6);
    write_cr4(read_cr4() | CR4_OSFXSR);
    CHECK_EQ(try_call(do_sse, NULL, NULL), NO_TRAP);
}

static volatile unsigned lazy_traps;

static void on_not_available(struct frame *f)
{
    (void)f;
    lazy_traps++;
    __asm__ volatile("clts");
}

static void lazy_switch_continues_the_instruction(void)
{
    setup();
    u64 in = 0x1122334455667788, out = 0;
    lazy_traps = 0;
    trap_set(7, on_not_available);
    write_cr0(read_cr0() | CR0_TS);
    __asm__ volatile("movq %1, %%xmm3\n movq %%xmm3, %0\n" : "=m"(out) : "m"(in));
    trap_set(7, NULL);
    CHECK_EQ(lazy_traps, 1);
    CHECK_EQ(out, in);
}

static void on_breakpoint(struct frame *f)
{
    (void)f;
}

static void registers_survive_interrupts_and_calls(void)
{
    setup();
    trap_set(3, on_breakpoint);
    u64 in = 0xfedcba9876543210, out = 0;
    __asm__ volatile("movq %0, %%xmm15" ::"m"(in));
    for (unsigned i = 0; i < 100; i++) {
        inb(0x61);                    // the machine, outside the engine
        try_call(do_x87, NULL, NULL); // more x87
        __asm__ volatile("int3" ::: "memory");
    }
    __asm__ volatile("movq %%xmm15, %0" : "=m"(out));
    trap_set(3, NULL);
    CHECK_EQ(out, in);
}

static void fxsave_and_fxrstor_keep_the_state(void)
{
    static u8 area[512] __attribute__((aligned(16)));
    setup();
    u64 in = 0x0123456789abcdef, out = 0, seven = 0;
    __asm__ volatile("movq %1, %%xmm7\n fldpi\n fxsave64 %0\n" : "=m"(area) : "m"(in));
    __asm__ volatile("fninit\n pxor %%xmm7, %%xmm7\n movq %%xmm7, %0" : "=m"(seven));
    CHECK_EQ(seven, 0);
    u64 pi_bits = 0;
    __asm__ volatile("fxrstor64 %2\n movq %%xmm7, %0\n fstpl %1\n"
                     : "=m"(out), "=m"(pi_bits)
                     : "m"(area));
    CHECK_EQ(out, in);
    CHECK_EQ(pi_bits, 0x400921fb54442d18);
    CHECK_EQ(*(u16 *)(void *)area, 0x37f); // control word
}

static void divide_unmasked(void *unused)
{
    u16 control = 0x037b; // zero divide unmasked
    (void)unused;
    __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" ::"m"(control));
}

static void x87_exception_is_reported_at_the_next_instruction(void)
{
    setup();
    CHECK_EQ(try_call(divide_unmasked, NULL, NULL), 16); // CR0.NE is set
    __asm__ volatile("fnclex; fninit");
}

static void sse_divide_unmasked(void *unused)
{
    u32 mxcsr = 0x1f80 & ~0x200u;
    u32 one = 0x3f800000;
    (void)unused;
    __asm__ volatile(
        "ldmxcsr %0\n movss %1, %%xmm0\n xorps %%xmm1, %%xmm1\n divss %%xmm1, %%xmm0\n" ::"m"(
            mxcsr),
        "m"(one));
}

static void sse_exception_has_its_vector(void)
{
    setup();
    CHECK_EQ(try_call(sse_divide_unmasked, NULL, NULL), 19);
    write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
    CHECK_EQ(try_call(sse_divide_unmasked, NULL, NULL), 6);
    setup();
    u32 mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
}

static void load_bad_mxcsr(void *unused)
{
    u32 mxcsr = 0xffff0000;
    (void)unused;
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
}

static void reserved_mxcsr_bits_fault(void)
{
    setup();
    CHECK_EQ(try_call(load_bad_mxcsr, NULL, NULL), 13);
}

static void do_xgetbv(void *unused)
{
    u32 lo, hi;
    (void)unused;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
}

static void do_xsetbv(void *value)
{
    __asm__ volatile("xsetbv" ::"a"((u32)(word)value), "d"(0), "c"(0));
}

static void avx_needs_xcr0(void)
{
    setup();
    if (!(cpuid(1, 0).ecx & 1u << 26) || !(cpuid(1, 0).ecx & 1u << 28)) {
        test_skip("no XSAVE or no AVX");
        return;
    }
    CHECK_EQ(try_call(do_xgetbv, NULL, NULL), 6);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    CHECK(cpuid(1, 0).ecx & 1u << 27);
    CHECK_EQ(try_call(do_xsetbv, (void *)5, NULL), 13); // AVX without SSE
    CHECK_EQ(try_call(do_xsetbv, (void *)2, NULL), 13); // without x87
    CHECK_EQ(try_call(do_xsetbv, (void *)7, NULL), NO_TRAP);
    u64 in[4] = {1, 2, 3, 4}, out[4] = {0};
    __asm__ volatile("vmovdqu %1, %%ymm4\n vpxor %%ymm5, %%ymm5, %%ymm5\n vmovdqu %%ymm4, %0"
                     : "=m"(out)
                     : "m"(in));
    CHECK_EQ(out[3], 4);
    __asm__ volatile("vmovdqu %1, %%xmm4\n vmovdqu %%ymm4, %0" : "=m"(out) : "m"(in));
    CHECK_EQ(out[3], 0); // VEX.128 clears the upper half
    write_cr4(read_cr4() & ~CR4_OSXSAVE);
}

TESTS(TEST(task_switched_traps_every_use), TEST(emulation_traps_x87_and_forbids_sse),
      TEST(sse_needs_osfxsr), TEST(lazy_switch_continues_the_instruction),
      TEST(registers_survive_interrupts_and_calls), TEST(fxsave_and_fxrstor_keep_the_state),
      TEST(x87_exception_is_reported_at_the_next_instruction), TEST(sse_exception_has_its_vector),
      TEST(reserved_mxcsr_bits_fault), TEST(avx_needs_xcr0));
