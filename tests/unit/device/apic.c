// I/O APIC, local APICs and the routing between them.
#include "fake_env.h"

#include "cpu/x86.h"
#include "device/irq/ioapic.h"
#include "device/irq/lapic.h"
#include "device/irq/pic.h"
#include "device/platform.h"
#include "test.h"

#define CPUS 4

struct fabric {
    struct fake_env *env;
    struct apic_router router;
    unsigned nmis[CPUS], inits[CPUS], sipis[CPUS];
    uint8_t sipi_vector[CPUS];
    uint64_t tsc; // added to twice the virtual time
};

static void attention(void *opaque, unsigned vcpu, enum apic_event what, uint8_t vector)
{
    struct fabric *f = opaque;
    f->nmis[vcpu] += what == APIC_EVENT_NMI;
    f->inits[vcpu] += what == APIC_EVENT_INIT;
    f->sipis[vcpu] += what == APIC_EVENT_SIPI;
    if (what == APIC_EVENT_SIPI)
        f->sipi_vector[vcpu] = vector;
}

static bool deliver(void *opaque, const struct apic_message *m)
{
    return apic_send(&((struct fabric *)opaque)->router, m, 0);
}

static void pic_output(void *opaque, bool level)
{
    apic_extint(&((struct fabric *)opaque)->router, level);
}

static uint64_t tsc_now(void *opaque, unsigned index)
{
    struct fabric *f = opaque;
    return f->tsc + 2 * f->env->now;
}

static struct lapic_config lapic_config(struct fabric *f, unsigned i)
{
    return (struct lapic_config){.router = &f->router,
                                 .index = i,
                                 .apic_id = i,
                                 .bsp = i == 0,
                                 .bus_khz = PC_APIC_BUS_KHZ,
                                 .tsc_khz = 2000000,
                                 .tsc_now = tsc_now,
                                 .opaque = f};
}

static void wr(struct fabric *f, unsigned cpu, unsigned at, uint32_t value)
{
    lapic_write(f->router.lapic[cpu], at, 4, value);
}

static uint32_t rd(struct fabric *f, unsigned cpu, unsigned at)
{
    return (uint32_t)lapic_read(f->router.lapic[cpu], at, 4);
}

static void start(struct fabric *f)
{
    *f = (struct fabric){.env = fake_env_new()};
    f->router.attention = attention;
    f->router.opaque = f;
    for (unsigned i = 0; i < CPUS; i++) {
        struct lapic_config config = lapic_config(f, i);
        f->router.lapic[i] = fake_add(f->env, &lapic_type, &config);
        f->router.lapics = i + 1;
        wr(f, i, 0xf0, 0x1ff);
    }
    f->router.pic = fake_add(f->env, &pic_type, &(struct pic_config){pic_output, f});
    f->router.ioapic = fake_add(f->env, &ioapic_type,
                                &(struct ioapic_config){PC_IOAPIC, PC_IOAPIC_ID, deliver, f});
}

static void enable_x2(struct fabric *f, unsigned cpu)
{
    uint64_t base = 0;
    CHECK_EQ(lapic_msr_read(f->router.lapic[cpu], MSR_APIC_BASE, &base), OK);
    CHECK_EQ(lapic_msr_write(f->router.lapic[cpu], MSR_APIC_BASE, base | 0x400), OK);
}

static void io_wr(struct fabric *f, unsigned reg, uint32_t value)
{
    fake_mmio_write(f->env, PC_IOAPIC, 4, reg);
    fake_mmio_write(f->env, PC_IOAPIC + 0x10, 4, value);
}

static uint32_t io_rd(struct fabric *f, unsigned reg)
{
    fake_mmio_write(f->env, PC_IOAPIC, 4, reg);
    return (uint32_t)fake_mmio_read(f->env, PC_IOAPIC + 0x10, 4);
}

static void route(struct fabric *f, unsigned pin, uint32_t low, uint8_t dest)
{
    io_wr(f, 0x11 + 2 * pin, (uint32_t)dest << 24);
    io_wr(f, 0x10 + 2 * pin, low);
}

static int ack(struct fabric *f, unsigned cpu)
{
    return apic_intr_ack(&f->router, cpu);
}

static void stop(struct fabric *f)
{
    fake_env_free(f->env);
}

// --- I/O APIC ---

static void ioapic_edge_interrupts_once(void)
{
    struct fabric f;
    start(&f);
    route(&f, 4, 0x41, 1);
    ioapic_set_line(f.router.ioapic, 4, true);
    CHECK(apic_intr(&f.router, 1));
    CHECK(!apic_intr(&f.router, 0));
    CHECK_EQ(ack(&f, 1), 0x41);
    wr(&f, 1, 0xb0, 0);
    CHECK(!apic_intr(&f.router, 1));
    stop(&f);
}

static void ioapic_masked_edge_is_lost(void)
{
    struct fabric f;
    start(&f);
    route(&f, 4, 0x10041, 0);
    ioapic_set_line(f.router.ioapic, 4, true);
    route(&f, 4, 0x41, 0);
    CHECK(!apic_intr(&f.router, 0));
    stop(&f);
}

static void ioapic_level_line_resends_after_eoi(void)
{
    struct fabric f;
    start(&f);
    route(&f, 17, 0x8051, 0);
    ioapic_set_line(f.router.ioapic, 17, true);
    CHECK_EQ(io_rd(&f, 0x10 + 34) & 0x4000, 0x4000); // remote IRR
    CHECK_EQ(ack(&f, 0), 0x51);
    CHECK(!apic_intr(&f.router, 0));
    wr(&f, 0, 0xb0, 0);
    CHECK(apic_intr(&f.router, 0));
    CHECK_EQ(ack(&f, 0), 0x51);
    ioapic_set_line(f.router.ioapic, 17, false);
    wr(&f, 0, 0xb0, 0);
    CHECK(!apic_intr(&f.router, 0));
    CHECK_EQ(io_rd(&f, 0x10 + 34) & 0x4000, 0);
    stop(&f);
}

static void ioapic_level_line_fires_when_unmasked(void)
{
    struct fabric f;
    start(&f);
    route(&f, 17, 0x18051, 0);
    ioapic_set_line(f.router.ioapic, 17, true);
    CHECK(!apic_intr(&f.router, 0));
    route(&f, 17, 0x8051, 0);
    CHECK(apic_intr(&f.router, 0));
    stop(&f);
}

static void ioapic_eoi_register_ends_by_vector(void)
{
    struct fabric f;
    start(&f);
    route(&f, 17, 0x8051, 0);
    ioapic_set_line(f.router.ioapic, 17, true);
    ioapic_set_line(f.router.ioapic, 17, false);
    fake_mmio_write(f.env, PC_IOAPIC + 0x40, 4, 0x51);
    CHECK_EQ(io_rd(&f, 0x10 + 34) & 0x4000, 0);
    stop(&f);
}

static void ioapic_identifies_itself(void)
{
    struct fabric f;
    start(&f);
    CHECK_EQ(io_rd(&f, 1), 0x00170020);
    io_wr(&f, 0, 0x05000000);
    CHECK_EQ(io_rd(&f, 0), 0x05000000);
    CHECK_EQ(io_rd(&f, 2), 0x05000000);
    CHECK_EQ(io_rd(&f, 0x10), 0x10000);
    stop(&f);
}

static void ioapic_message_that_nobody_takes_leaves_remote_irr_clear(void)
{
    struct fabric f;
    start(&f);
    route(&f, 17, 0x8051, 77);
    ioapic_set_line(f.router.ioapic, 17, true);
    CHECK_EQ(io_rd(&f, 0x10 + 34) & 0x4000, 0);
    stop(&f);
}

// --- local APIC ---

static void lapic_reset_values(void)
{
    struct fabric f;
    start(&f);
    f.router.lapic[1]->type->reset(f.router.lapic[1]);
    CHECK_EQ(rd(&f, 1, 0x20), 0x01000000);
    CHECK_EQ(rd(&f, 1, 0x30), 0x00050014);
    CHECK_EQ(rd(&f, 1, 0xe0), 0xffffffff);
    CHECK_EQ(rd(&f, 1, 0xf0), 0xff);
    for (unsigned at = 0x320; at <= 0x370; at += 0x10)
        CHECK_EQ(rd(&f, 1, at), 0x10000);
    CHECK_EQ(lapic_base(f.router.lapic[1]), 0xfee00000);
    stop(&f);
}

static void lapic_priority_blocks_lower_classes(void)
{
    struct fabric f;
    start(&f);
    apic_send_msi(&f.router, 0xfee00000, 0x51);
    apic_send_msi(&f.router, 0xfee00000, 0x62);
    CHECK_EQ(ack(&f, 0), 0x62);
    CHECK_EQ(rd(&f, 0, 0xa0), 0x60); // PPR
    CHECK(!apic_intr(&f.router, 0));
    wr(&f, 0, 0xb0, 0);
    CHECK_EQ(ack(&f, 0), 0x51);
    wr(&f, 0, 0xb0, 0);
    lapic_cr8_write(f.router.lapic[0], 5);
    CHECK_EQ(rd(&f, 0, 0x80), 0x50);
    apic_send_msi(&f.router, 0xfee00000, 0x5f);
    CHECK(!apic_intr(&f.router, 0));
    lapic_cr8_write(f.router.lapic[0], 4);
    CHECK(apic_intr(&f.router, 0));
    CHECK_EQ(lapic_cr8_read(f.router.lapic[0]), 4);
    stop(&f);
}

static void lapic_disabled_by_software_takes_nothing(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x350, 0x30);
    wr(&f, 0, 0xf0, 0xff);
    CHECK_EQ(rd(&f, 0, 0x350), 0x10030);
    wr(&f, 0, 0x350, 0x31);
    CHECK_EQ(rd(&f, 0, 0x350), 0x10031); // stays masked
    apic_send_msi(&f.router, 0xfee00000, 0x51);
    CHECK(!apic_intr(&f.router, 0));
    apic_send_msi(&f.router, 0xfee00000, 0x400); // but an NMI
    CHECK_EQ(f.nmis[0], 1);
    stop(&f);
}

static void lapic_ipi_shorthands(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 1, 0x300, 0x40071); // self
    CHECK_EQ(ack(&f, 1), 0x71);
    CHECK(!apic_intr(&f.router, 0));
    wr(&f, 1, 0x300, 0xc0072); // all but self
    CHECK(!apic_intr(&f.router, 1));
    CHECK_EQ(ack(&f, 0), 0x72);
    CHECK_EQ(ack(&f, 3), 0x72);
    wr(&f, 2, 0x300, 0x80083); // all
    for (unsigned i = 0; i < CPUS; i++)
        CHECK_EQ(ack(&f, i), 0x83);
    stop(&f);
}

static void lapic_starts_a_processor(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x310, 2u << 24);
    wr(&f, 0, 0x300, 0xc500); // INIT, assert, level
    CHECK_EQ(f.inits[2], 1);
    CHECK_EQ(rd(&f, 2, 0xf0), 0xff);
    wr(&f, 0, 0x300, 0x8500); // INIT, de-assert
    CHECK_EQ(f.inits[2], 1);
    wr(&f, 0, 0x300, 0x0699);
    CHECK_EQ(f.sipis[2], 1);
    CHECK_EQ(f.sipi_vector[2], 0x99);
    CHECK_EQ(f.sipis[1], 0);
    stop(&f);
}

static void lapic_flat_and_cluster_destinations(void)
{
    struct fabric f;
    start(&f);
    for (unsigned i = 0; i < CPUS; i++)
        wr(&f, i, 0xd0, 1u << (24 + i));
    route(&f, 1, 0x842, 0x0a); // logical: 1 and 3
    ioapic_set_line(f.router.ioapic, 1, true);
    CHECK(!apic_intr(&f.router, 0));
    CHECK_EQ(ack(&f, 1), 0x42);
    CHECK(!apic_intr(&f.router, 2));
    CHECK_EQ(ack(&f, 3), 0x42);
    for (unsigned i = 0; i < CPUS; i++) { // two clusters of two
        wr(&f, i, 0xe0, 0x0fffffff);
        wr(&f, i, 0xd0, (i / 2 << 4 | 1u << i % 2) << 24);
    }
    route(&f, 2, 0x843, 0x12);
    ioapic_set_line(f.router.ioapic, 2, true);
    CHECK(!apic_intr(&f.router, 1));
    CHECK(!apic_intr(&f.router, 3)); // 0x42 in service blocks its class
    wr(&f, 3, 0xb0, 0);
    CHECK_EQ(ack(&f, 3), 0x43);
    stop(&f);
}

static void lapic_lowest_priority_prefers_the_idle_and_takes_turns(void)
{
    struct fabric f;
    start(&f);
    for (unsigned i = 0; i < CPUS; i++)
        wr(&f, i, 0xd0, 1u << (24 + i));
    lapic_cr8_write(f.router.lapic[0], 8);
    lapic_cr8_write(f.router.lapic[1], 8);
    unsigned got[CPUS] = {0};
    for (unsigned n = 0; n < 4; n++) {
        apic_send_msi(&f.router, 0xfee0f00c, 0x951u & 0x7ff); // logical, hint, lowest
        for (unsigned i = 0; i < CPUS; i++) {
            if (ack(&f, i) < 0)
                continue;
            got[i]++;
            wr(&f, i, 0xb0, 0);
        }
    }
    CHECK_EQ(got[0] + got[1], 0);
    CHECK_EQ(got[2], 2);
    CHECK_EQ(got[3], 2);
    stop(&f);
}

static void lapic_errors_are_latched_until_esr_is_written(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x370, 0x33);
    wr(&f, 0, 0x300, 0x4000c); // vector 12 to itself
    CHECK_EQ(rd(&f, 0, 0x280), 0);
    CHECK_EQ(ack(&f, 0), 0x33);
    wr(&f, 0, 0x280, 0);
    CHECK_EQ(rd(&f, 0, 0x280), 0x20);
    apic_send_msi(&f.router, 0xfee00000, 5);
    (void)rd(&f, 0, 0x3f0);
    wr(&f, 0, 0x280, 0);
    CHECK_EQ(rd(&f, 0, 0x280), 0xc0);
    stop(&f);
}

static void lapic_pic_comes_through_lint0(void)
{
    struct fabric f;
    start(&f);
    fake_out(f.env, 0x20, 1, 0x11);
    fake_out(f.env, 0x21, 1, 0x20);
    fake_out(f.env, 0x21, 1, 4);
    fake_out(f.env, 0x21, 1, 1);
    pic_set_line(f.router.pic, 1, true);
    CHECK(!apic_intr(&f.router, 0)); // LINT0 is masked
    lapic_virtual_wire(f.router.lapic[0]);
    CHECK(apic_intr(&f.router, 0));
    CHECK(!apic_intr(&f.router, 1));
    CHECK_EQ(ack(&f, 0), 0x21);
    CHECK(!apic_intr(&f.router, 0));
    stop(&f);
}

static void lapic_switched_off_passes_the_pic(void)
{
    struct fabric f;
    start(&f);
    fake_out(f.env, 0x20, 1, 0x13);
    fake_out(f.env, 0x21, 1, 0x20);
    fake_out(f.env, 0x21, 1, 1);
    CHECK_EQ(lapic_msr_write(f.router.lapic[0], MSR_APIC_BASE, 0xfee00100), OK);
    CHECK_EQ(lapic_base(f.router.lapic[0]), ~0ull);
    pic_set_line(f.router.pic, 0, true);
    CHECK_EQ(ack(&f, 0), 0x20);
    stop(&f);
}

static void lapic_nmi_pin(void)
{
    struct fabric f;
    start(&f);
    lapic_virtual_wire(f.router.lapic[1]);
    lapic_set_lint(f.router.lapic[1], 1, true);
    lapic_set_lint(f.router.lapic[1], 1, true);
    CHECK_EQ(f.nmis[1], 1);
    stop(&f);
}

// --- x2APIC ---

static void x2apic_mode_transitions(void)
{
    struct fabric f;
    start(&f);
    struct device *l = f.router.lapic[0];
    CHECK(lapic_msr_write(l, MSR_APIC_BASE, 0xfee00500) != OK); // x2 without enable
    enable_x2(&f, 0);
    CHECK_EQ(lapic_base(l), ~0ull);
    CHECK(lapic_msr_write(l, MSR_APIC_BASE, 0xfee00900) != OK); // back to xAPIC
    CHECK_EQ(lapic_msr_write(l, MSR_APIC_BASE, 0xfee00100), OK);
    CHECK(lapic_msr_write(l, MSR_APIC_BASE, 0xfee00d00) != OK); // skips xAPIC
    CHECK_EQ(lapic_msr_write(l, MSR_APIC_BASE, 0xfee00900), OK);
    CHECK(lapic_msr_write(l, MSR_APIC_BASE, 1ull << 60 | 0xfee00900) != OK);
    stop(&f);
}

static void x2apic_registers_refuse_what_the_page_ignores(void)
{
    struct fabric f;
    start(&f);
    struct device *l = f.router.lapic[3];
    uint64_t v = 0;
    CHECK(lapic_msr_read(l, 0x802, &v) != OK); // not in x2APIC mode
    enable_x2(&f, 3);
    CHECK_EQ(lapic_msr_read(l, 0x802, &v), OK);
    CHECK_EQ(v, 3);
    CHECK_EQ(lapic_msr_read(l, 0x80d, &v), OK);
    CHECK_EQ(v, 8);
    CHECK(lapic_msr_write(l, 0x80d, 1) != OK);
    CHECK(lapic_msr_write(l, 0x80b, 1) != OK);
    CHECK_EQ(lapic_msr_write(l, 0x80b, 0), OK);
    CHECK(lapic_msr_read(l, 0x80b, &v) != OK);
    CHECK(lapic_msr_write(l, 0x808, 0x100) != OK);
    CHECK(lapic_msr_read(l, 0x831, &v) != OK);
    CHECK(lapic_msr_read(l, 0x80e, &v) != OK);
    CHECK(lapic_msr_write(l, 0x830, 1 << 12) != OK);
    CHECK(lapic_msr_write(l, 0x832, 1 << 13) != OK);
    stop(&f);
}

static void x2apic_sends_to_wide_destinations(void)
{
    struct fabric f;
    start(&f);
    for (unsigned i = 0; i < CPUS; i++)
        enable_x2(&f, i);
    struct device *l = f.router.lapic[0];
    CHECK_EQ(lapic_msr_write(l, 0x830, 2ull << 32 | 0x61), OK);
    CHECK_EQ(ack(&f, 2), 0x61);
    CHECK_EQ(lapic_msr_write(l, 0x830, 0xaull << 32 | 0x871), OK); // logical, cluster 0: 1 and 3
    CHECK_EQ(ack(&f, 1), 0x71);
    CHECK_EQ(ack(&f, 3), 0x71);
    CHECK(!apic_intr(&f.router, 2));
    CHECK_EQ(lapic_msr_write(l, 0x830, 0xffffffffull << 32 | 0x81), OK);
    for (unsigned i = 0; i < CPUS; i++)
        CHECK_EQ(ack(&f, i), 0x81);
    CHECK_EQ(lapic_msr_write(l, 0x83f, 0x91), OK);
    CHECK_EQ(ack(&f, 0), 0x91);
    CHECK(lapic_msr_write(l, 0x83f, 0x191) != OK);
    stop(&f);
}

// --- timer ---

static void lapic_timer_one_shot_counts_and_fires(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x3e0, 0x3); // by 16
    wr(&f, 0, 0x320, 0x40);
    wr(&f, 0, 0x380, 1000); // 16 us
    fake_advance(f.env, 4000);
    CHECK_EQ(rd(&f, 0, 0x390), 750);
    fake_advance(f.env, 11999);
    CHECK(!apic_intr(&f.router, 0));
    fake_advance(f.env, 1);
    CHECK_EQ(ack(&f, 0), 0x40);
    CHECK_EQ(rd(&f, 0, 0x390), 0);
    CHECK_EQ(fake_next_timer(f.env), NS_NEVER);
    stop(&f);
}

static void lapic_timer_periodic_keeps_its_phase(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x3e0, 0xb); // by 1
    wr(&f, 0, 0x320, 0x20040);
    wr(&f, 0, 0x380, 1000000);
    unsigned fired = 0;
    for (unsigned i = 0; i < 100; i++) {
        fake_advance(f.env, 100000);
        if (ack(&f, 0) >= 0) {
            wr(&f, 0, 0xb0, 0);
            fired++;
        }
    }
    CHECK_EQ(fired, 10);
    fake_advance(f.env, 250000);
    CHECK_EQ(rd(&f, 0, 0x390), 750000);
    stop(&f);
}

static void lapic_timer_masked_needs_no_host_timer(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x320, 0x30040);
    wr(&f, 0, 0x380, 1000000);
    CHECK_EQ(fake_next_timer(f.env), NS_NEVER);
    fake_advance(f.env, 3500000);
    CHECK_EQ(rd(&f, 0, 0x390), 250000); // divided by 2: half way is gone
    wr(&f, 0, 0x320, 0x20040);
    CHECK_EQ(fake_next_timer(f.env), 4000000);
    CHECK(!apic_intr(&f.router, 0));
    stop(&f);
}

static void lapic_timer_tiny_period_is_bounded(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x3e0, 0xb);
    wr(&f, 0, 0x320, 0x20040);
    wr(&f, 0, 0x380, 1);
    fake_advance(f.env, NS_PER_SEC / 100);
    CHECK(f.env->timers_fired <= 201);
    stop(&f);
}

static void lapic_tsc_deadline_fires_once_and_clears(void)
{
    struct fabric f;
    start(&f);
    struct device *l = f.router.lapic[0];
    uint64_t v = 1;
    CHECK_EQ(lapic_msr_write(l, MSR_TSC_DEADLINE, 5000), OK); // ignored in this mode
    CHECK_EQ(lapic_msr_read(l, MSR_TSC_DEADLINE, &v), OK);
    CHECK_EQ(v, 0);
    wr(&f, 0, 0x320, 0x40040);
    CHECK_EQ(lapic_msr_write(l, MSR_TSC_DEADLINE, 5001), OK); // 2 GHz: 2500.5 ns
    CHECK_EQ(fake_next_timer(f.env), 2501);
    fake_advance(f.env, 2500);
    CHECK(!apic_intr(&f.router, 0));
    fake_advance(f.env, 1);
    CHECK_EQ(ack(&f, 0), 0x40);
    CHECK_EQ(lapic_msr_read(l, MSR_TSC_DEADLINE, &v), OK);
    CHECK_EQ(v, 0);
    wr(&f, 0, 0xb0, 0);
    CHECK_EQ(lapic_msr_write(l, MSR_TSC_DEADLINE, 100), OK); // in the past
    CHECK_EQ(ack(&f, 0), 0x40);
    CHECK_EQ(lapic_msr_write(l, MSR_TSC_DEADLINE, ~0ull), OK);
    CHECK(fake_next_timer(f.env) > NS_PER_SEC * 3600);
    stop(&f);
}

static void lapic_deadline_follows_a_changed_tsc(void)
{
    struct fabric f;
    start(&f);
    wr(&f, 0, 0x320, 0x40040);
    CHECK_EQ(lapic_msr_write(f.router.lapic[0], MSR_TSC_DEADLINE, 20000), OK);
    f.tsc = 10000;
    lapic_tsc_changed(f.router.lapic[0]);
    CHECK_EQ(fake_next_timer(f.env), 5000);
    stop(&f);
}

static void lapic_state_survives_a_reload(void)
{
    struct fabric f;
    start(&f);
    struct lapic_config config = lapic_config(&f, 0);
    wr(&f, 0, 0x3e0, 0xb);
    wr(&f, 0, 0x320, 0x20040);
    wr(&f, 0, 0x380, 1000000);
    apic_send_msi(&f.router, 0xfee00000, 0x8081);
    CHECK_EQ(ack(&f, 0), 0x81);
    fake_advance(f.env, 1500000);
    f.router.lapic[0] = fake_reload(f.router.lapic[0], &config);
    CHECK_EQ(fake_next_timer(f.env), 2000000);
    CHECK_EQ(rd(&f, 0, 0x390), 500000);
    wr(&f, 0, 0xb0, 0);
    CHECK_EQ(ack(&f, 0), 0x40);
    route(&f, 17, 0x8051, 0);
    ioapic_set_line(f.router.ioapic, 17, true);
    f.router.ioapic =
        fake_reload(f.router.ioapic, &(struct ioapic_config){PC_IOAPIC, PC_IOAPIC_ID, deliver, &f});
    CHECK_EQ(io_rd(&f, 0x10 + 34), 0xc051);
    stop(&f);
}

static void apic_msi_is_decoded(void)
{
    struct apic_message m = apic_message_from_msi(0xfee7f004, 0xc5a3);
    CHECK_EQ(m.dest, 0x7f);
    CHECK_EQ(m.logical, 1);
    CHECK_EQ(m.vector, 0xa3);
    CHECK_EQ(m.delivery, APIC_INIT);
    CHECK_EQ(m.trigger, 1);
}

TEST_MAIN(TEST(ioapic_edge_interrupts_once), TEST(ioapic_masked_edge_is_lost),
          TEST(ioapic_level_line_resends_after_eoi), TEST(ioapic_level_line_fires_when_unmasked),
          TEST(ioapic_eoi_register_ends_by_vector), TEST(ioapic_identifies_itself),
          TEST(ioapic_message_that_nobody_takes_leaves_remote_irr_clear), TEST(lapic_reset_values),
          TEST(lapic_priority_blocks_lower_classes), TEST(lapic_disabled_by_software_takes_nothing),
          TEST(lapic_ipi_shorthands), TEST(lapic_starts_a_processor),
          TEST(lapic_flat_and_cluster_destinations),
          TEST(lapic_lowest_priority_prefers_the_idle_and_takes_turns),
          TEST(lapic_errors_are_latched_until_esr_is_written), TEST(lapic_pic_comes_through_lint0),
          TEST(lapic_switched_off_passes_the_pic), TEST(lapic_nmi_pin),
          TEST(x2apic_mode_transitions), TEST(x2apic_registers_refuse_what_the_page_ignores),
          TEST(x2apic_sends_to_wide_destinations), TEST(lapic_timer_one_shot_counts_and_fires),
          TEST(lapic_timer_periodic_keeps_its_phase), TEST(lapic_timer_masked_needs_no_host_timer),
          TEST(lapic_timer_tiny_period_is_bounded), TEST(lapic_tsc_deadline_fires_once_and_clears),
          TEST(lapic_deadline_follows_a_changed_tsc), TEST(lapic_state_survives_a_reload),
          TEST(apic_msi_is_decoded))
