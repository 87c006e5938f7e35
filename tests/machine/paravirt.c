// What Linux knows from KVM: IPIs to many processors by one call, and a call that ends the halt of
// a processor whose interrupts are off. Needs --cpus 2.

#include "guest.h"

#define VECTOR 0x51
#define PV_UNHALT (1u << 7)
#define PV_TLB_FLUSH (1u << 9)
#define PV_SEND_IPI (1u << 11)
#define MSR_STEAL_TIME 0x4b564d03
#define VA 0x200000000000ull
#define CALL_KICK 5
#define CALL_IPI 10
#define DELIVER_NMI (4u << 8)

static volatile unsigned interrupts[2], nmis[2], ap_runs, halting, halted, go;
static bool amd;
static u8 *steal_page;
static volatile u64 page_before, page_after;

static u64 call(u64 number, u64 a, u64 b, u64 c, u64 d)
{
    u64 result;
    if (amd) {
        __asm__ volatile("vmmcall"
                         : "=a"(result)
                         : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d)
                         : "memory");
    } else {
        __asm__ volatile("vmcall"
                         : "=a"(result)
                         : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d)
                         : "memory");
    }
    return result;
}

static unsigned self(void)
{
    return lapic_read(0x20) >> 24;
}

static void on_vector(struct frame *f)
{
    (void)f;
    interrupts[self() & 1]++;
    lapic_eoi();
}

static void on_nmi(struct frame *f)
{
    (void)f;
    nmis[self() & 1]++;
}

static bool until(volatile unsigned *flag, unsigned value)
{
    u64 end = rdtsc() + tsc_per_ms() * 5000;
    while (*flag != value && rdtsc() < end) {
        pause();
    }
    return *flag == value;
}

// Halts with interrupts off whenever it is told to, else takes interrupts.
static void second(void *unused)
{
    (void)unused;
    lapic_enable();
    ap_runs = 1;
    for (;;) {
        sti();
        while (!go) {
            pause();
        }
        cli();
        bool away = go == 3;
        if (away) {
            wrmsr(MSR_STEAL_TIME, (u64)steal_page | 1);
            page_before = read64(VA);
        }
        halting = 1;
        while (go == 2) {
            pause();
        }
        __asm__ volatile("hlt" ::: "memory");
        page_after = away ? read64(VA) : 0;
        halted++;
        halting = go = 0;
    }
}

static bool have(u32 feature)
{
    static bool tried, ok;
    if (!tried) {
        tried = true;
        amd = cpuid(0, 0).ecx == 0x444d4163;
        lapic_enable();
        trap_set(VECTOR, on_vector);
        trap_set(2, on_nmi);
        (void)tsc_per_ms();
        ok = smp_start(1, second, NULL) && until(&ap_runs, 1);
    }
    if (!(cpuid(0x40000001, 0).eax & feature)) {
        test_skip("the engine does not offer it here");
        return false;
    }
    if (!ok) {
        test_failed(__FILE__, __LINE__, "the second processor started");
    }
    return ok;
}

static void one_call_interrupts_all_processors_named(void)
{
    if (!have(PV_SEND_IPI)) {
        return;
    }
    unsigned before[] = {interrupts[0], interrupts[1]};
    CHECK_EQ(call(CALL_IPI, 3, 0, 0, VECTOR), 2);
    CHECK(until(&interrupts[1], before[1] + 1));
    CHECK_EQ(interrupts[0], before[0]); // interrupts are off here
    sti();
    CHECK(until(&interrupts[0], before[0] + 1));
    cli();
}

static void bits_of_the_map_count_from_the_lowest_id(void)
{
    if (!have(PV_SEND_IPI)) {
        return;
    }
    unsigned before = interrupts[1];
    CHECK_EQ(call(CALL_IPI, 1, 0, 1, VECTOR), 1);
    CHECK(until(&interrupts[1], before + 1));
}

static void processors_that_do_not_exist_take_nothing(void)
{
    if (have(PV_SEND_IPI)) {
        CHECK_EQ(call(CALL_IPI, ~0ull, ~0ull, 2, VECTOR), 0);
        CHECK_EQ(call(CALL_IPI, ~0ull, ~0ull, 0xffffffff, VECTOR), 0);
    }
}

static void call_sends_nmis(void)
{
    if (!have(PV_SEND_IPI)) {
        return;
    }
    unsigned before = nmis[1];
    CHECK_EQ(call(CALL_IPI, 2, 0, 0, DELIVER_NMI), 1);
    CHECK(until(&nmis[1], before + 1));
}

static void call_refuses_shorthands(void)
{
    if (have(PV_SEND_IPI)) {
        CHECK_EQ(call(CALL_IPI, 2, 0, 0, 1u << 18 | VECTOR), -22);
    }
}

static void kick_ends_a_halt_with_interrupts_off(void)
{
    if (!have(PV_UNHALT)) {
        return;
    }
    unsigned before = halted;
    go = 1;
    CHECK(until(&halting, 1));
    delay_us(5000);
    CHECK_EQ(halted, before);
    CHECK_EQ(call(CALL_KICK, 0, 1, 0, 0), 0);
    CHECK(until(&halted, before + 1));
}

static void kick_before_the_halt_is_not_lost(void)
{
    if (!have(PV_UNHALT)) {
        return;
    }
    unsigned before = halted;
    go = 2;
    CHECK(until(&halting, 1));
    CHECK_EQ(call(CALL_KICK, 0, 1, 0, 0), 0);
    go = 1;
    CHECK(until(&halted, before + 1));
}

static void kick_ends_one_halt_only(void)
{
    if (!have(PV_UNHALT)) {
        return;
    }
    unsigned before = halted;
    go = 1;
    CHECK(until(&halting, 1));
    delay_us(5000);
    CHECK_EQ(halted, before);
    CHECK_EQ(call(CALL_KICK, 0, 1, 0, 0), 0);
    CHECK(until(&halted, before + 1));
    CHECK(until(&go, 0));
}

// A vCPU that does not run says so in its page, and flushes its TLB for who asks there. Linux since
// 5.19 says so only of vCPUs that were interrupted, not of those that halt.
static void tlb_of_a_processor_away_is_flushed_for_whoever_asks(void)
{
    if (!have(PV_TLB_FLUSH)) {
        return;
    }
    u64 *a = page_alloc(), *b = page_alloc();
    *a = 1;
    *b = 2;
    steal_page = page_alloc();
    page_map(VA, (u64)a, PTE_P | PTE_W, 1);
    unsigned before = halted;
    go = 3;
    CHECK(until(&halting, 1));
    volatile unsigned *preempted = (volatile unsigned *)(void *)(steal_page + 16);
    bool away_is_said = until(preempted, 1);
    if (!away_is_said && boot_option("kvm")) {
        CHECK_EQ(call(CALL_KICK, 0, 1, 0, 0), 0);
        CHECK(until(&halted, before + 1));
        test_skip("this KVM does not say that a processor sleeps");
        return;
    }
    CHECK(away_is_said);
    page_map(VA, (u64)b, PTE_P | PTE_W, 1);
    u8 away = 1;
    CHECK(__atomic_compare_exchange_n(steal_page + 16, &away, 3, false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST));
    CHECK_EQ(call(CALL_KICK, 0, 1, 0, 0), 0);
    CHECK(until(&halted, before + 1));
    CHECK_EQ(page_before, 1);
    CHECK_EQ(page_after, 2);
    CHECK_EQ(*preempted, 0);
}

static void unknown_call_is_refused(void)
{
    if (have(PV_SEND_IPI)) {
        CHECK_EQ(call(999, 0, 0, 0, 0), -1000);
    }
}

TESTS(TEST(one_call_interrupts_all_processors_named),
      TEST(bits_of_the_map_count_from_the_lowest_id),
      TEST(processors_that_do_not_exist_take_nothing), TEST(call_sends_nmis),
      TEST(call_refuses_shorthands), TEST(kick_ends_a_halt_with_interrupts_off),
      TEST(kick_before_the_halt_is_not_lost), TEST(kick_ends_one_halt_only),
      TEST(tlb_of_a_processor_away_is_flushed_for_whoever_asks), TEST(unknown_call_is_refused));
