// The CPU's state: its table is complete, RESET and INIT give the documented values, and damaged
// states are refused.
#include "cpu/cpu_state.h"

#include "test.h"

#define HOST_XCR0 7

static void every_member_is_in_the_table(void)
{
    struct error e = {0};
    CHECK_EQ(state_check(&cpu_state_desc, &e), OK);
    CHECK_STR(e.text, "");
}

static void state_survives_save_and_load(void)
{
    static struct cpu_state a, b;
    struct buffer out = {0};
    struct error e;
    cpu_state_reset(&a, true, 0x00a00f11);
    a.gpr[R15] = 0x123456789abcdef0;
    a.seg[SEG_GS].base = 0xffff888000000000;
    a.xsave[700] = 0x5a;
    state_save(&cpu_state_desc, &a, &out);
    CHECK_EQ(state_load(&cpu_state_desc, &b, out.data, out.len, &e), OK);
    CHECK_EQ(state_compare(&cpu_state_desc, &a, &b, &e), OK);
    buffer_release(&out);
}

static void reset_fetches_below_4_gib(void)
{
    static struct cpu_state s;
    struct error e;
    cpu_state_reset(&s, true, 0x00a00f11);
    CHECK_EQ(s.seg[SEG_CS].base + s.rip, 0xfffffff0);
    CHECK_EQ(s.gpr[RDX], 0x00a00f11);
    CHECK_EQ(s.cr0, 0x60000010);
    CHECK_EQ(s.activity, CPU_RUNNING);
    CHECK_EQ(s.xsave[0], 0x40);
    CHECK_EQ(cpu_state_check(&s, HOST_XCR0, &e), OK);
    cpu_state_reset(&s, false, 0);
    CHECK_EQ(s.activity, CPU_WAIT_FOR_SIPI);
}

static void init_keeps_vector_state_and_msrs(void)
{
    static struct cpu_state s;
    cpu_state_reset(&s, true, 1);
    s.xsave[160] = 0x77;
    s.lstar = 0x1000;
    s.tsc = 99;
    s.smbase = 0x50000;
    s.cr0 = 0x80000011; // caching on, paging
    s.efer = EFER_LME | EFER_LMA;
    cpu_state_init(&s, false, 1);
    CHECK_EQ(s.xsave[160], 0x77);
    CHECK_EQ(s.lstar, 0x1000);
    CHECK_EQ(s.tsc, 99);
    CHECK_EQ(s.smbase, 0x50000);
    CHECK_EQ(s.cr0, 0x10);
    CHECK_EQ(s.efer, 0);
    CHECK_EQ(s.activity, CPU_WAIT_FOR_SIPI);
}

static void impossible_states_are_refused(void)
{
    static struct cpu_state good, s;
    struct error e;
    cpu_state_reset(&good, true, 1);
#define REFUSED(change)                                  \
    do {                                                 \
        s = good;                                        \
        change;                                          \
        CHECK(cpu_state_check(&s, HOST_XCR0, &e) != OK); \
    } while (0)
    REFUSED(s.cr0 |= CR0_PG);
    REFUSED(s.cr4 |= CR4_LA57);
    REFUSED(s.efer = EFER_LMA);
    REFUSED(s.rflags = 0);
    REFUSED(s.rflags |= FLAG_VM);
    REFUSED(s.rip = 1ull << 40);
    REFUSED(s.seg[SEG_FS].base = 1ull << 60);
    REFUSED(s.lstar = 1ull << 55);
    REFUSED(s.pat = 2);
    REFUSED(s.xcr0 = 0);
    REFUSED(s.xcr0 = 5);
    REFUSED(s.xcr0 = 0xe7);
    REFUSED(s.xsave[513] = 1);
    REFUSED(s.xsave[520] = 1);
    REFUSED(s.xsave[27] = 1);
    REFUSED(s.activity = 9);
    REFUSED(s.event_pending = 2);
    REFUSED(s.smm = 8);
    REFUSED(s.smm = CPU_SMM_IN_NMI);
    REFUSED(s.smi_pending = 2);
    REFUSED(s.smbase = 1ull << 32);
    REFUSED(s.mtrr_def_type = 2);
#undef REFUSED
}

TEST_MAIN(TEST(every_member_is_in_the_table), TEST(state_survives_save_and_load),
          TEST(reset_fetches_below_4_gib), TEST(init_keeps_vector_state_and_msrs),
          TEST(impossible_states_are_refused))
