// The local APIC's registers, through the xAPIC page and through x2APIC MSRs, and IA32_APIC_BASE.
//
// Source: Intel SDM vol. 3 chapter 11 (11.4 registers, 11.5.3 errors, 11.6.1 ICR, 11.12 x2APIC). A
// P4-type APIC: version 0x14, six local vector table entries. Not modelled: CMCI, EOI broadcast
// suppression, focus processors, remote read, a changeable xAPIC ID.
#include <string.h>

#include "base/bits.h"
#include "cpu/x86.h"
#include "device/irq/lapic_impl.h"

#define VERSION (0x14 | (LVT_COUNT - 1) << 16)

#define ICR_SEND_STATUS BIT(12)
// What a guest may write to each entry; bits 12 (and 14 of the pins) are read-only.
const uint32_t lapic_lvt_writable[LVT_COUNT] = {0x700ff, 0x107ff, 0x107ff,
                                                0x1a7ff, 0x1a7ff, 0x100ff};

static const struct state_field lapic_fields[] = {
    SKIP(struct lapic, dev, "wiring, rebuilt from configuration"),
    SKIP(struct lapic, config, "wiring, rebuilt from configuration"),
    FIELD(struct lapic, base),
    FIELD(struct lapic, icr),
    FIELD(struct lapic, deadline),
    FIELD(struct lapic, due),
    ARRAY(struct lapic, irr),
    ARRAY(struct lapic, isr),
    ARRAY(struct lapic, tmr),
    ARRAY(struct lapic, lvt),
    FIELD(struct lapic, tpr),
    FIELD(struct lapic, ldr),
    FIELD(struct lapic, dfr),
    FIELD(struct lapic, svr),
    FIELD(struct lapic, esr),
    FIELD(struct lapic, esr_latest),
    FIELD(struct lapic, initial_count),
    FIELD(struct lapic, divide),
    ARRAY(struct lapic, lint),
    FIELD(struct lapic, extint),
    SKIP(struct lapic, intr, "follows from the rest"),
    SKIP(struct lapic, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc lapic_state = STATE_DESC("lapic", struct lapic, 1, lapic_fields);

static uint32_t logical_id(const struct lapic *l)
{
    uint32_t id = l->config.apic_id;
    return lapic_x2(l) ? (id >> 4) << 16 | 1u << (id & 15) : l->ldr;
}

bool lapic_matches(const struct device *dev, const struct apic_message *m)
{
    const struct lapic *l = (const struct lapic *)dev;
    if (!lapic_on(l))
        return false;
    uint32_t everyone = m->wide ? 0xffffffff : 0xff;
    if (m->dest == everyone)
        return true;
    if (!m->logical)
        return m->dest == l->config.apic_id;
    uint32_t id = logical_id(l);
    if (lapic_x2(l))
        return m->dest >> 16 == id >> 16 && (m->dest & id & 0xffff);
    if (m->dest > 0xff)
        return false;
    uint8_t mda = (uint8_t)m->dest, mine = (uint8_t)(id >> 24);
    if (l->dfr >> 28 == 0xf)
        return (mda & mine) != 0;
    return (mda >> 4 == mine >> 4 || mda >> 4 == 0xf) && (mda & mine & 0xf); // cluster model
}

// --- the interrupt command register ---

static void send_ipi(struct lapic *l)
{
    struct apic_message m = {
        .dest = (uint32_t)bits_get(l->icr, 63, lapic_x2(l) ? 32 : 56),
        .logical = (uint8_t)bits_get(l->icr, 11, 11),
        .wide = lapic_x2(l),
        .shorthand = (uint8_t)bits_get(l->icr, 19, 18),
        .delivery = (uint8_t)bits_get(l->icr, 10, 8),
        .vector = (uint8_t)l->icr,
        .level = (uint8_t)bits_get(l->icr, 14, 14),
    };
    if (m.delivery == APIC_REMOTE_READ)
        return;
    if (m.delivery == APIC_INIT && !m.level && bits_get(l->icr, 15, 15))
        return; // INIT level de-assert: nothing since the Pentium 4
    if (m.delivery <= APIC_LOWEST && m.vector < 16) {
        lapic_error(l, ESR_SEND_VECTOR);
        return;
    }
    (void)apic_send(l->config.router, &m, l->config.index);
}

// --- registers ---

static bool read_register(struct lapic *l, unsigned reg, uint32_t *value)
{
    if (reg >= REG_ISR && reg < REG_ESR) {
        const uint32_t *set = reg >= REG_IRR ? l->irr : reg >= REG_TMR ? l->tmr : l->isr;
        *value = set[reg & 7];
        return true;
    }
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT) {
        *value = l->lvt[reg - REG_LVT];
        return true;
    }
    switch (reg) {
    case REG_ID: *value = l->config.apic_id << (lapic_x2(l) ? 0 : 24); return true;
    case REG_VERSION: *value = VERSION; return true;
    case REG_TPR: *value = l->tpr; return true;
    case REG_PPR: *value = lapic_ppr(l); return true;
    case REG_LDR: *value = logical_id(l); return true;
    case REG_SVR: *value = l->svr; return true;
    case REG_ESR: *value = l->esr; return true;
    case REG_ICR_LOW: *value = (uint32_t)l->icr; return true;
    case REG_INITIAL: *value = l->initial_count; return true;
    case REG_CURRENT: *value = lapic_timer_count(l); return true;
    case REG_DIVIDE: *value = l->divide; return true;
    case REG_APR:
    case REG_EOI:
    case REG_RRD: *value = 0; return !lapic_x2(l);
    case REG_DFR: *value = l->dfr; return !lapic_x2(l);
    case REG_ICR_HIGH: *value = (uint32_t)(l->icr >> 32); return !lapic_x2(l);
    default: *value = 0; return false;
    }
}

static void write_lvt(struct lapic *l, unsigned which, uint32_t value)
{
    uint32_t lvt = (value & lapic_lvt_writable[which]) | (l->lvt[which] & LVT_READ_ONLY);
    if (!(l->svr & SVR_ENABLED))
        lvt |= LVT_MASKED;
    if (which == LVT_TIMER) {
        lapic_timer_set_mode(l, lvt);
        return;
    }
    l->lvt[which] = lvt;
    if (which == LVT_LINT0 || which == LVT_LINT1)
        lapic_lint_changed(l, which - LVT_LINT0);
}

static void write_svr(struct lapic *l, uint32_t value)
{
    l->svr = value & SVR_WRITABLE;
    if (l->svr & SVR_ENABLED)
        return;
    for (unsigned i = 0; i < LVT_COUNT; i++) // a disabled APIC holds them masked (section 11.4.7.2)
        write_lvt(l, i, l->lvt[i]);
}

static void write_tpr(struct lapic *l, uint8_t value)
{
    l->tpr = value;
    lapic_update(l);
}

// False: there is no such register to write.
static bool write_register(struct lapic *l, unsigned reg, uint32_t value)
{
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT) {
        write_lvt(l, reg - REG_LVT, value);
        return true;
    }
    switch (reg) {
    case REG_TPR: write_tpr(l, (uint8_t)value); return true;
    case REG_EOI: lapic_end(l); return true;
    case REG_SVR: write_svr(l, value); return true;
    case REG_ESR:
        l->esr = l->esr_latest;
        l->esr_latest = 0;
        return true;
    case REG_ICR_LOW:
        l->icr = bits_set(l->icr, 31, 0, value) & ICR_WRITABLE;
        send_ipi(l);
        return true;
    case REG_INITIAL: lapic_timer_set_count(l, value); return true;
    case REG_DIVIDE: lapic_timer_set_divide(l, value); return true;
    default: return false;
    }
}

// --- the xAPIC page ---

gpa_t lapic_base(const struct device *dev)
{
    const struct lapic *l = (const struct lapic *)dev;
    return lapic_on(l) && !lapic_x2(l) ? l->base & APIC_BASE_ADDRESS : ~0ull;
}

uint64_t lapic_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct lapic *l = lapic_of(dev);
    unsigned byte = offset & 15;
    uint32_t value;
    if (offset >= LAPIC_PAGE_SIZE || byte + size > 4)
        return 0;
    if (!read_register(l, (unsigned)(offset >> 4), &value))
        lapic_error(l, ESR_REGISTER);
    return (value >> (8 * byte)) & size_mask(size);
}

void lapic_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct lapic *l = lapic_of(dev);
    if (offset >= LAPIC_PAGE_SIZE || (offset & 15) || size != 4)
        return;
    unsigned reg = (unsigned)(offset >> 4);
    switch (reg) {
    case REG_LDR: l->ldr = (uint32_t)value & 0xff000000; break;
    case REG_DFR: l->dfr = (uint32_t)value | 0x0fffffff; break;
    case REG_ICR_HIGH: l->icr = bits_set(l->icr, 63, 32, (uint32_t)value & 0xff000000); break;
    default:
        if (!write_register(l, reg, (uint32_t)value) && reg != REG_ID)
            lapic_error(l, ESR_REGISTER);
    }
}

// --- MSRs ---

// Back to the state after power-up, except for what neither INIT nor a mode change touches: ID,
// base and the levels of the pins.
void lapic_init_reset(struct lapic *l)
{
    memset(l->irr, 0, sizeof l->irr);
    memset(l->isr, 0, sizeof l->isr);
    memset(l->tmr, 0, sizeof l->tmr);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = LVT_MASKED;
    l->icr = 0;
    l->tpr = 0;
    l->ldr = 0;
    l->dfr = 0xffffffff;
    l->svr = 0xff;
    l->esr = 0;
    l->esr_latest = 0;
    l->extint = 0;
    lapic_timer_reset(l);
    lapic_update(l);
}

static uint64_t base_mode(uint64_t base)
{
    return base & (APIC_BASE_ENABLE | APIC_BASE_X2);
}

// The transitions of figure 11-27; all others are #GP.
static err_t write_base(struct lapic *l, uint64_t value)
{
    if (value & ~(APIC_BASE_ADDRESS | APIC_BASE_BSP | APIC_BASE_X2 | APIC_BASE_ENABLE))
        return ERR_INVALID;
    uint64_t from = base_mode(l->base), to = base_mode(value);
    bool leaves_x2 = (from & APIC_BASE_X2) && to == APIC_BASE_ENABLE;
    bool skips_xapic = !from && (to & APIC_BASE_X2);
    if (to == APIC_BASE_X2 || leaves_x2 || skips_xapic)
        return ERR_INVALID;
    l->base = (value & ~APIC_BASE_BSP) | (l->base & APIC_BASE_BSP);
    if (!to && from)
        lapic_init_reset(l);
    else if ((to & APIC_BASE_X2) && !(from & APIC_BASE_X2))
        l->icr &= 0xffffffff; // the destination has another layout
    lapic_update(l);
    return OK;
}

static err_t read_x2(struct lapic *l, unsigned reg, uint64_t *value)
{
    uint32_t low;
    if (reg == REG_ICR_LOW) {
        *value = l->icr;
        return OK;
    }
    if (!read_register(l, reg, &low))
        return ERR_INVALID;
    *value = low;
    return OK;
}

// Bits that must be zero in a write to an x2APIC register.
static uint64_t reserved_x2(unsigned reg)
{
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT)
        return ~(uint64_t)(lapic_lvt_writable[reg - REG_LVT] | LVT_READ_ONLY);
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI: return ~0xffull;
    case REG_EOI:
    case REG_ESR: return ~0ull;
    case REG_SVR: return ~(uint64_t)SVR_WRITABLE;
    case REG_ICR_LOW: return ~ICR_WRITABLE;
    case REG_INITIAL: return ~0xffffffffull;
    case REG_DIVIDE: return ~0xbull;
    default: return 0; // write_register() refuses it
    }
}

static err_t write_x2(struct lapic *l, unsigned reg, uint64_t value)
{
    if (value & reserved_x2(reg))
        return ERR_INVALID;
    switch (reg) {
    case REG_ICR_LOW:
        l->icr = value;
        send_ipi(l);
        return OK;
    case REG_SELF_IPI:
        if (value < 16)
            lapic_error(l, ESR_SEND_VECTOR);
        else
            (void)lapic_interrupt(l, (uint8_t)value, false);
        return OK;
    default: return write_register(l, reg, (uint32_t)value) ? OK : ERR_INVALID;
    }
}

err_t lapic_msr_read(struct device *dev, uint32_t msr, uint64_t *value)
{
    struct lapic *l = lapic_of(dev);
    if (msr == MSR_APIC_BASE) {
        *value = l->base;
        return OK;
    }
    if (msr == MSR_TSC_DEADLINE) {
        *value = lapic_timer_deadline(l);
        return OK;
    }
    if (msr < MSR_X2APIC_BASE || msr > MSR_X2APIC_LAST || !lapic_x2(l))
        return ERR_INVALID;
    return read_x2(l, msr - MSR_X2APIC_BASE, value);
}

err_t lapic_msr_write(struct device *dev, uint32_t msr, uint64_t value)
{
    struct lapic *l = lapic_of(dev);
    if (msr == MSR_APIC_BASE)
        return write_base(l, value);
    if (msr == MSR_TSC_DEADLINE) {
        lapic_timer_set_deadline(l, value);
        return OK;
    }
    if (msr < MSR_X2APIC_BASE || msr > MSR_X2APIC_LAST || !lapic_x2(l))
        return ERR_INVALID;
    return write_x2(l, msr - MSR_X2APIC_BASE, value);
}

uint8_t lapic_cr8_read(const struct device *dev)
{
    return (uint8_t)(((const struct lapic *)dev)->tpr >> 4);
}

void lapic_cr8_write(struct device *dev, uint8_t value)
{
    write_tpr(lapic_of(dev), (uint8_t)(value << 4));
}

void lapic_virtual_wire(struct device *dev)
{
    struct lapic *l = lapic_of(dev);
    write_svr(l, SVR_ENABLED | 0xff);
    if (l->config.bsp)
        write_lvt(l, LVT_LINT0, APIC_EXTINT << 8);
    write_lvt(l, LVT_LINT1, APIC_NMI << 8);
}

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    struct lapic *l = lapic_of(dev);
    l->config = *(const struct lapic_config *)config;
    if (!l->config.bus_khz || !l->config.tsc_khz || l->config.apic_id >= 0xff ||
        l->config.index >= APIC_ROUTER_LAPICS)
        return error_set(e, ERR_INVALID, "local APIC %u: impossible configuration",
                         l->config.index);
    return OK;
}

static void reset(struct device *dev)
{
    struct lapic *l = lapic_of(dev);
    l->base = 0xfee00000 | APIC_BASE_ENABLE | (l->config.bsp ? APIC_BASE_BSP : 0);
    lapic_init_reset(l);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct lapic *l = lapic_of(dev);
    uint64_t mode = base_mode(l->base);
    bool bsp = (l->base & APIC_BASE_BSP) != 0;
    bool bad = mode == APIC_BASE_X2 || bsp != l->config.bsp || (l->icr & ~ICR_WRITABLE) ||
               l->tpr > 0xff || (l->svr & ~SVR_WRITABLE) || (l->divide & ~0xbu) ||
               (l->ldr & 0xffffff) || (l->dfr | 0xf0000000) != 0xffffffff || l->irr[0] & 0xffff ||
               l->isr[0] & 0xffff || l->lint[0] > 1 || l->lint[1] > 1 || l->extint > 1;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        bad |= (l->lvt[i] & ~(lapic_lvt_writable[i] | LVT_READ_ONLY)) != 0;
    if (bad)
        return error_set(e, ERR_CORRUPT, "local APIC %u: impossible register values",
                         l->config.index);
    lapic_announce(l); // the machine evaluates INTR anew, whatever it was before
    lapic_timer_arm(l);
    return OK;
}

static void timer(struct device *dev, unsigned which)
{
    lapic_timer_expired(lapic_of(dev));
}

const struct device_type lapic_type = {
    .name = "lapic",
    .size = sizeof(struct lapic),
    .timers = 1,
    .state = &lapic_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .timer = timer,
};
