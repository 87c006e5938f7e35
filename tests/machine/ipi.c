// Interrupts between processors in all modes of the local APIC: by physical and logical numbers
// (flat, cluster), by shorthands and broadcasts, to the lowest priority, as NMIs, by the xAPIC's
// page and by the x2APIC's MSRs; INIT in the middle of work. Intel SDM volume 3, chapter 11.
// Needs --cpus 4. (Which of several processors has the lowest priority is seen by
// tests/unit/device: KVM takes another of those named.)

#include "guest.h"

#define CPUS 4
#define VECTOR 0x51
#define APIC_BASE 0x1b
#define ICR_SELF 0x40000
#define ICR_ALL 0x80000
#define ICR_OTHERS 0xc0000
#define ICR_LOGICAL 0x800
#define ICR_LOWEST 0x100
#define ICR_NMI 0x400
#define ICR_INIT 0x4500

static volatile unsigned starts[CPUS], turns[CPUS], done[CPUS], interrupts[CPUS], nmis[CPUS];
static void (*volatile job)(void);
static volatile unsigned jobs;
static bool wide; // the processors are in x2APIC mode

static bool is_wide(void)
{
    return rdmsr(APIC_BASE) & 0x400;
}

static unsigned self(void)
{
    return (is_wide() ? (unsigned)rdmsr(0x802) : lapic_read(0x20) >> 24) % CPUS;
}

static void on_vector(struct frame *f)
{
    (void)f;
    interrupts[self()]++;
    if (is_wide()) {
        wrmsr(0x80b, 0);
    } else {
        lapic_eoi();
    }
}

static void on_nmi(struct frame *f)
{
    (void)f;
    nmis[self()]++;
}

// Takes interrupts, and does what all are told to do.
static void work(void *unused)
{
    (void)unused;
    lapic_enable();
    unsigned i = self(), seen = jobs;
    starts[i]++;
    for (;;) {
        sti();
        turns[i]++;
        pause();
        cli();
        if (jobs != seen) {
            seen = jobs;
            job();
            done[i] = seen;
        }
    }
}

static bool changes(volatile unsigned *value, unsigned from)
{
    u64 end = rdtsc() + tsc_per_ms() * 5000;
    while (*value == from && rdtsc() < end) {
        pause();
    }
    return *value != from;
}

static bool on_all(void (*what)(void))
{
    bool all = true;
    job = what;
    jobs++;
    what();
    for (unsigned i = 1; i < CPUS; i++) {
        all &= done[i] == jobs || changes(&done[i], done[i]);
    }
    return all;
}

static bool have_four(void)
{
    static bool tried, ok;
    if (!tried) {
        tried = ok = true;
        lapic_enable();
        trap_set(VECTOR, on_vector);
        trap_set(2, on_nmi);
        for (unsigned i = 1; i < CPUS; i++) {
            ok &= smp_start(i, work, NULL) && (starts[i] || changes(&starts[i], 0));
        }
    }
    if (!ok) {
        test_failed(__FILE__, __LINE__, "all processors started");
    }
    return ok;
}

static void send(u32 to, u32 low)
{
    if (wide) {
        wrmsr(0x830, (u64)to << 32 | low);
    } else {
        lapic_write(0x310, to << 24);
        lapic_write(0x300, low);
    }
}

// Which processors take what is sent: a bit for one, a bit 8 places higher for more than one.
static unsigned takers(u32 to, u32 low, unsigned want)
{
    volatile unsigned *count = (low & 0x700) == ICR_NMI ? nmis : interrupts;
    unsigned before[CPUS], took = 0;
    for (unsigned i = 0; i < CPUS; i++) {
        before[i] = count[i];
    }
    sti();
    send(to, low);
    for (unsigned i = 0; i < CPUS; i++) {
        if (want & 1u << i && count[i] == before[i]) {
            changes(&count[i], before[i]);
        }
    }
    delay_us(500); // for those that should not come
    cli();
    for (unsigned i = 0; i < CPUS; i++) {
        took |= (count[i] != before[i]) << i | (count[i] - before[i] > 1) << (8 + i);
    }
    return took;
}

#define TAKEN_BY(want, to, low) CHECK_EQ(takers(to, low, want), want)

static void physical_numbers_name_one_processor(void)
{
    if (!have_four()) {
        return;
    }
    for (unsigned i = 0; i < CPUS; i++) {
        TAKEN_BY(1u << i, i, VECTOR);
    }
    TAKEN_BY(0, 0x3c, VECTOR);
}

static void flat(void)
{
    lapic_write(0xe0, 0xffffffff);
    lapic_write(0xd0, 1u << (24 + self()));
}

static void logical_flat_numbers_are_a_mask(void)
{
    if (!have_four() || !on_all(flat)) {
        return;
    }
    for (unsigned mask = 1; mask < 1u << CPUS; mask++) {
        TAKEN_BY(mask, mask, ICR_LOGICAL | VECTOR);
    }
}

static void clusters(void)
{
    lapic_write(0xe0, 0x0fffffff);
    lapic_write(0xd0, (self() / 2 << 4 | 1u << self() % 2) << 24);
}

static void logical_cluster_numbers_are_a_mask_in_a_cluster(void)
{
    if (!have_four() || !on_all(clusters)) {
        return;
    }
    TAKEN_BY(1, 0x01, ICR_LOGICAL | VECTOR);
    TAKEN_BY(3, 0x03, ICR_LOGICAL | VECTOR);
    TAKEN_BY(4, 0x11, ICR_LOGICAL | VECTOR);
    TAKEN_BY(12, 0x13, ICR_LOGICAL | VECTOR);
    TAKEN_BY(0, 0x23, ICR_LOGICAL | VECTOR);
    CHECK(on_all(flat));
}

static void shorthands_and_broadcasts_reach_all(void)
{
    if (!have_four()) {
        return;
    }
    TAKEN_BY(1, 0, ICR_SELF | VECTOR);
    TAKEN_BY(15, 0, ICR_ALL | VECTOR);
    TAKEN_BY(14, 0, ICR_OTHERS | VECTOR);
    TAKEN_BY(15, 0xff, VECTOR);
    TAKEN_BY(15, 0xff, ICR_LOGICAL | VECTOR);
}

static void lowest_priority_is_one_of_those_named(void)
{
    if (!have_four() || !on_all(flat)) {
        return;
    }
    unsigned before = interrupts[2] + interrupts[3];
    for (unsigned i = 1; i <= 16; i++) {
        send(12, ICR_LOGICAL | ICR_LOWEST | VECTOR);
        for (u64 end = rdtsc() + tsc_per_ms() * 5000; rdtsc() < end;) {
            if (interrupts[2] + interrupts[3] != before + i - 1) {
                break;
            }
        }
        delay_us(500); // for a second one
        CHECK_EQ(interrupts[2] + interrupts[3], before + i);
    }
}

static void nmis_arrive_where_interrupts_do(void)
{
    if (!have_four()) {
        return;
    }
    TAKEN_BY(2, 1, ICR_NMI);
    TAKEN_BY(10, 10, ICR_LOGICAL | ICR_NMI);
    TAKEN_BY(14, 0, ICR_OTHERS | ICR_NMI);
}

static void init_stops_a_processor_at_work_until_it_is_started(void)
{
    if (!have_four()) {
        return;
    }
    CHECK(changes(&turns[3], turns[3]));
    send(3, ICR_INIT);
    delay_us(20000);
    unsigned stopped = turns[3], before = starts[3];
    TAKEN_BY(0, 3, VECTOR); // its local APIC is off
    CHECK_EQ(turns[3], stopped);
    CHECK(smp_start(3, work, NULL));
    CHECK(starts[3] != before || changes(&starts[3], before));
    CHECK(changes(&turns[3], turns[3]));
    TAKEN_BY(8, 3, VECTOR);
}

static void widen(void)
{
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 0x400);
}

static void x2apic_numbers_are_wide(void)
{
    if (!have_four()) {
        return;
    }
    if (!(cpuid(1, 0).ecx & 1u << 21)) {
        test_skip("no x2APIC");
        return;
    }
    CHECK(on_all(widen));
    wide = true;
    for (unsigned i = 0; i < CPUS; i++) {
        TAKEN_BY(1u << i, i, VECTOR);
    }
    TAKEN_BY(0, 0x103, VECTOR); // its low byte is a processor's
    TAKEN_BY(10, 10, ICR_LOGICAL | VECTOR);
    TAKEN_BY(0, 0x1000a, ICR_LOGICAL | VECTOR); // another cluster
    TAKEN_BY(15, 0xffffffff, VECTOR);
    TAKEN_BY(15, 0, ICR_ALL | VECTOR);
    TAKEN_BY(14, 0, ICR_OTHERS | VECTOR);
    TAKEN_BY(4, 2, ICR_NMI);
    unsigned before = interrupts[0];
    sti();
    wrmsr(0x83f, VECTOR); // self
    CHECK(interrupts[0] != before || changes(&interrupts[0], before));
    cli();
}

TESTS(TEST(physical_numbers_name_one_processor), TEST(logical_flat_numbers_are_a_mask),
      TEST(logical_cluster_numbers_are_a_mask_in_a_cluster),
      TEST(shorthands_and_broadcasts_reach_all), TEST(lowest_priority_is_one_of_those_named),
      TEST(nmis_arrive_where_interrupts_do),
      TEST(init_stops_a_processor_at_work_until_it_is_started), TEST(x2apic_numbers_are_wide));
