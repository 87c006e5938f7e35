// The local APIC: timer modes, interrupts to itself, priorities, NMI, the x2APIC interface.

#include "guest.h"

#define VECTOR 0x50
#define HIGH_VECTOR 0x90
#define REG_TPR 0x80
#define REG_PPR 0xa0
#define REG_ISR 0x100
#define REG_IRR 0x200
#define REG_ICR 0x300
#define REG_LVT_TIMER 0x320
#define REG_TIMER_INITIAL 0x380
#define REG_TIMER_CURRENT 0x390
#define REG_TIMER_DIVIDE 0x3e0
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define SELF 0x40000

static volatile unsigned count, high_count, nmi_count, high_seen_by_low, isr_seen;

static void on_vector(struct frame *f)
{
    (void)f;
    count++;
    isr_seen = lapic_read(REG_ISR + 0x10 * (VECTOR / 32)) >> (VECTOR % 32) & 1;
    lapic_eoi();
}

static void on_high(struct frame *f)
{
    (void)f;
    high_count++;
    lapic_eoi();
}

static void on_nmi(struct frame *f)
{
    (void)f;
    nmi_count++;
}

static void setup(void)
{
    count = high_count = 0;
    trap_set(VECTOR, on_vector);
    trap_set(HIGH_VECTOR, on_high);
    trap_set(2, on_nmi);
    lapic_enable();
    lapic_write(REG_TPR, 0);
    lapic_write(REG_TIMER_DIVIDE, 0xb); // by 1
    lapic_write(REG_LVT_TIMER, 0x10000);
    lapic_write(REG_TIMER_INITIAL, 0);
}

static void idle_ms(unsigned ms)
{
    sti();
    delay_us(ms * 1000);
    cli();
}

static void one_shot_timer_fires_once(void)
{
    setup();
    lapic_write(REG_LVT_TIMER, VECTOR);
    lapic_write(REG_TIMER_INITIAL, 1000000); // 1 ms at 1 GHz
    CHECK(wait_for(&count, 10000));
    idle_ms(20); // no second one comes
    CHECK_EQ(count, 1);
    CHECK_EQ(isr_seen, 1);
    CHECK_EQ(lapic_read(REG_TIMER_CURRENT), 0);
}

static void periodic_timer_keeps_firing_until_stopped(void)
{
    setup();
    lapic_write(REG_LVT_TIMER, 0x20000 | VECTOR);
    lapic_write(REG_TIMER_INITIAL, 2000000);
    u64 end = rdtsc() + tsc_per_ms() * 10000;
    while (count < 10 && rdtsc() < end) {
        sti_hlt_cli();
    }
    CHECK(count >= 10);
    lapic_write(REG_TIMER_INITIAL, 0);
    idle_ms(5);
    unsigned stopped = count;
    idle_ms(10);
    CHECK_EQ(count, stopped);
}

static void masked_timer_counts_but_does_not_interrupt(void)
{
    setup();
    lapic_write(REG_LVT_TIMER, 0x10000 | VECTOR);
    lapic_write(REG_TIMER_INITIAL, 100000);
    idle_ms(5);
    CHECK_EQ(count, 0);
    CHECK_EQ(lapic_read(REG_TIMER_CURRENT), 0);
}

static void tsc_deadline_fires_at_its_time(void)
{
    if (!(cpuid(1, 0).ecx & 1u << 24)) {
        test_skip("no TSC deadline timer");
        return;
    }
    setup();
    lapic_write(REG_LVT_TIMER, 0x40000 | VECTOR);
    u64 far = rdtsc() + tsc_per_ms() * 3600000; // no pause of the host's reaches it
    wrmsr(MSR_TSC_DEADLINE, far);
    CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), far);
    u64 deadline;
    do {
        deadline = rdtsc() + tsc_per_ms() * 20;
        wrmsr(MSR_TSC_DEADLINE, deadline);
        wrmsr(MSR_TSC_DEADLINE, 0);
    } while (rdtsc() >= deadline); // it was disarmed too late: the host was busy
    sti();
    cli();
    count = 0;
    idle_ms(40);
    CHECK_EQ(count, 0);
    deadline = rdtsc() + tsc_per_ms() * 5;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    CHECK(wait_for(&count, 10000));
    CHECK(rdtsc() >= deadline);
    CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
    count = 0;
    wrmsr(MSR_TSC_DEADLINE, 1); // long past: at once
    CHECK(wait_for(&count, 10000));
    lapic_write(REG_LVT_TIMER, 0x10000);
}

static void halted_processor_wakes_by_the_timer(void)
{
    setup();
    lapic_write(REG_LVT_TIMER, VECTOR);
    lapic_write(REG_TIMER_INITIAL, 3000000);
    sti_hlt_cli();
    CHECK_EQ(count, 1);
}

static void interrupt_to_itself_arrives(void)
{
    setup();
    lapic_write(REG_ICR, SELF | VECTOR);
    CHECK(wait_for(&count, 10000));
    CHECK_EQ(count, 1);
    lapic_write(REG_ICR + 0x10, lapic_read(0x20)); // the same by its id
    lapic_write(REG_ICR, VECTOR);
    idle_ms(1);
    CHECK_EQ(count, 2);
}

static void pending_interrupt_shows_in_irr(void)
{
    setup();
    lapic_write(REG_ICR, SELF | VECTOR);
    CHECK_EQ(lapic_read(REG_IRR + 0x10 * (VECTOR / 32)) >> (VECTOR % 32) & 1, 1);
    idle_ms(1);
    CHECK_EQ(lapic_read(REG_IRR + 0x10 * (VECTOR / 32)) >> (VECTOR % 32) & 1, 0);
}

static void task_priority_holds_back_lower_vectors(void)
{
    setup();
    lapic_write(REG_TPR, 0x60);
    CHECK_EQ(lapic_read(REG_PPR), 0x60);
    lapic_write(REG_ICR, SELF | VECTOR);
    lapic_write(REG_ICR, SELF | HIGH_VECTOR);
    idle_ms(2);
    CHECK_EQ(count, 0);
    CHECK_EQ(high_count, 1);
    lapic_write(REG_TPR, 0);
    idle_ms(2);
    CHECK_EQ(count, 1);
}

static void cr8_is_the_task_priority(void)
{
    setup();
    __asm__ volatile("mov %0, %%cr8" ::"r"(6ul));
    CHECK_EQ(lapic_read(REG_TPR), 0x60);
    lapic_write(REG_TPR, 0x30);
    word cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    CHECK_EQ(cr8, 3);
    lapic_write(REG_ICR, SELF | VECTOR);
    __asm__ volatile("mov %0, %%cr8" ::"r"(15ul));
    idle_ms(2);
    CHECK_EQ(count, 0);
    __asm__ volatile("mov %0, %%cr8" ::"r"(0ul));
    idle_ms(2);
    CHECK_EQ(count, 1);
}

static void on_low_nesting(struct frame *f)
{
    (void)f;
    lapic_write(REG_ICR, SELF | HIGH_VECTOR);
    sti();
    delay_us(500);
    cli();
    high_seen_by_low = high_count;
    count++;
    lapic_eoi();
}

static void higher_vector_interrupts_a_handler(void)
{
    setup();
    trap_set(VECTOR, on_low_nesting);
    lapic_write(REG_ICR, SELF | VECTOR);
    CHECK(wait_for(&count, 10000));
    CHECK_EQ(high_seen_by_low, 1);
}

static void nmi_arrives_with_interrupts_off(void)
{
    setup();
    nmi_count = 0;
    lapic_write(REG_ICR + 0x10, lapic_read(0x20));
    lapic_write(REG_ICR, 0x4400);
    delay_us(1000);
    CHECK_EQ(nmi_count, 1);
}

static void x2apic_registers_are_msrs(void)
{
    if (!(cpuid(1, 0).ecx & 1u << 21)) {
        test_skip("no x2APIC");
        return;
    }
    setup();
    u32 id = lapic_read(0x20) >> 24, version = lapic_read(0x30);
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x400);
    CHECK_EQ(rdmsr(0x802), id);
    CHECK_EQ(rdmsr(0x803), version);
    wrmsr(0x83f, VECTOR); // self IPI
    sti();
    delay_us(1000);
    cli();
    CHECK_EQ(rdmsr(0x808), 0);
    CHECK_EQ(count, 1);
    wrmsr(0x80b, 0); // the handler's EOI went to the memory interface, which is off
}

static void reserved_x2apic_accesses_fault(void *msr)
{
    rdmsr((u32)(word)msr);
}

static void unknown_x2apic_register_faults(void)
{
    if (!(rdmsr(MSR_APIC_BASE) & 0x400)) {
        test_skip("not in x2APIC mode");
        return;
    }
    CHECK_EQ(try_call(reserved_x2apic_accesses_fault, (void *)0x804, NULL), 13);
}

TESTS(TEST(one_shot_timer_fires_once), TEST(periodic_timer_keeps_firing_until_stopped),
      TEST(masked_timer_counts_but_does_not_interrupt), TEST(tsc_deadline_fires_at_its_time),
      TEST(halted_processor_wakes_by_the_timer), TEST(interrupt_to_itself_arrives),
      TEST(pending_interrupt_shows_in_irr), TEST(task_priority_holds_back_lower_vectors),
      TEST(cr8_is_the_task_priority), TEST(higher_vector_interrupts_a_handler),
      TEST(nmi_arrives_with_interrupts_off), TEST(x2apic_registers_are_msrs),
      TEST(unknown_x2apic_register_faults));
