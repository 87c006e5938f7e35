// The local APIC's delivery: messages and local sources in, priorities, the interrupt to the
// processor, end of interrupt.
//
// Source: Intel SDM vol. 3 sections 11.5 (local vector table), 11.8 (handling).
#include "base/bits.h"
#include "device/irq/lapic_impl.h"

static bool test(const uint32_t set[8], unsigned vector)
{
    return set[vector / 32] >> (vector % 32) & 1;
}

static void put(uint32_t set[8], unsigned vector, bool on)
{
    uint32_t bit = 1u << (vector % 32);
    set[vector / 32] = on ? set[vector / 32] | bit : set[vector / 32] & ~bit;
}

int lapic_highest(const uint32_t set[8])
{
    for (int i = 7; i >= 0; i--)
        if (set[i])
            return i * 32 + 31 - __builtin_clz(set[i]);
    return -1;
}

uint8_t lapic_ppr(const struct lapic *l)
{
    int serving = lapic_highest(l->isr);
    uint8_t isrv = serving < 0 ? 0 : (uint8_t)serving & 0xf0;
    return (l->tpr & 0xf0) >= isrv ? (uint8_t)l->tpr : isrv;
}

int lapic_pending(const struct device *dev)
{
    const struct lapic *l = (const struct lapic *)dev;
    if (!lapic_on(l))
        return -1;
    int vector = lapic_highest(l->irr);
    return vector >= 0 && (vector & 0xf0) > (lapic_ppr(l) & 0xf0) ? vector : -1;
}

bool lapic_extint(const struct device *dev)
{
    const struct lapic *l = (const struct lapic *)dev;
    if (!lapic_on(l)) // LINT0 is then the processor's INTR pin; the PIC is the boot processor's
        return l->config.bsp && l->lint[0];
    if (l->extint)
        return true;
    uint32_t lvt = l->lvt[LVT_LINT0];
    return l->lint[0] && !(lvt & LVT_MASKED) && bits_get(lvt, 10, 8) == APIC_EXTINT;
}

void lapic_ack_extint(struct device *dev)
{
    struct lapic *l = lapic_of(dev);
    l->extint = 0;
    lapic_update(l);
}

static void attention(struct lapic *l, enum apic_event what, uint8_t vector)
{
    struct apic_router *router = l->config.router;
    router->attention(router->opaque, l->config.index, what, vector);
}

static bool intr_now(const struct lapic *l)
{
    return lapic_pending(&l->dev) >= 0 || lapic_extint(&l->dev);
}

void lapic_announce(struct lapic *l)
{
    l->intr = intr_now(l);
    attention(l, APIC_EVENT_INTR, 0);
}

void lapic_update(struct lapic *l)
{
    if (intr_now(l) != l->intr)
        lapic_announce(l);
}

int lapic_ack(struct device *dev)
{
    struct lapic *l = lapic_of(dev);
    int vector = lapic_pending(dev);
    if (vector < 0)
        return -1;
    put(l->irr, (unsigned)vector, false);
    put(l->isr, (unsigned)vector, true);
    lapic_update(l);
    return vector;
}

bool lapic_interrupt(struct lapic *l, uint8_t vector, bool level)
{
    if (!lapic_enabled(&l->dev))
        return false;
    if (vector < 16) {
        lapic_error(l, ESR_RECEIVE_VECTOR);
        return true;
    }
    put(l->irr, vector, true);
    put(l->tmr, vector, level);
    lapic_update(l);
    return true;
}

// The error interrupt is raised once per kind of error until ESR is written, which also bounds the
// recursion through an illegal vector in the error entry itself.
void lapic_error(struct lapic *l, uint32_t esr_bit)
{
    if (l->esr_latest & esr_bit)
        return;
    l->esr_latest |= esr_bit;
    lapic_fire(l, LVT_ERROR);
}

// What a delivery mode other than fixed does. Level means nothing to these.
static bool deliver_special(struct lapic *l, unsigned delivery, uint8_t vector)
{
    switch (delivery) {
    case APIC_NMI: attention(l, APIC_EVENT_NMI, 0); return true;
    case APIC_SMI: attention(l, APIC_EVENT_SMI, 0); return true;
    case APIC_INIT:
        // All but the ID and IA32_APIC_BASE goes back to its reset value (section 11.4.7.3).
        lapic_init_reset(l);
        attention(l, APIC_EVENT_INIT, 0);
        return true;
    case APIC_SIPI: attention(l, APIC_EVENT_SIPI, vector); return true;
    case APIC_EXTINT:
        if (!lapic_enabled(&l->dev))
            return false;
        l->extint = 1;
        lapic_update(l);
        return true;
    default: return false;
    }
}

bool lapic_accept(struct device *dev, const struct apic_message *m)
{
    struct lapic *l = lapic_of(dev);
    if (!lapic_on(l))
        return false;
    if (m->delivery <= APIC_LOWEST)
        return lapic_interrupt(l, m->vector, m->trigger);
    return deliver_special(l, m->delivery, m->vector);
}

void lapic_fire(struct lapic *l, enum lapic_lvt which)
{
    uint32_t lvt = l->lvt[which];
    if (lvt & LVT_MASKED)
        return;
    unsigned delivery =
        which == LVT_TIMER || which == LVT_ERROR ? APIC_FIXED : bits_get(lvt, 10, 8);
    if (delivery == APIC_FIXED)
        (void)lapic_interrupt(l, (uint8_t)lvt, false);
    else
        (void)deliver_special(l, delivery, (uint8_t)lvt);
}

// LINT1 is always edge-triggered; LINT0 may be level-triggered when it is fixed (section 11.5.1).
static bool lint_is_level(const struct lapic *l, unsigned pin)
{
    uint32_t lvt = l->lvt[LVT_LINT0 + pin];
    return pin == 0 && (lvt & LVT_LEVEL) && bits_get(lvt, 10, 8) == APIC_FIXED;
}

static void service_lint_level(struct lapic *l, unsigned pin)
{
    uint32_t *lvt = &l->lvt[LVT_LINT0 + pin];
    if (!l->lint[pin] || (*lvt & (LVT_MASKED | LVT_REMOTE_IRR)) || !lint_is_level(l, pin))
        return;
    if ((uint8_t)*lvt >= 16)
        *lvt |= LVT_REMOTE_IRR;
    (void)lapic_interrupt(l, (uint8_t)*lvt, true);
}

void lapic_lint_changed(struct lapic *l, unsigned pin)
{
    if (!lint_is_level(l, pin))
        l->lvt[LVT_LINT0 + pin] &= ~LVT_REMOTE_IRR;
    service_lint_level(l, pin);
    lapic_update(l);
}

void lapic_set_lint(struct device *dev, unsigned pin, bool level)
{
    struct lapic *l = lapic_of(dev);
    bool rises = level && !l->lint[pin];
    l->lint[pin] = level;
    if (!lapic_on(l)) { // LINT1 is then the NMI pin
        if (rises && pin == 1)
            attention(l, APIC_EVENT_NMI, 0);
    } else if (lint_is_level(l, pin)) {
        service_lint_level(l, pin);
    } else if (rises && bits_get(l->lvt[LVT_LINT0 + pin], 10, 8) != APIC_EXTINT) {
        lapic_fire(l, LVT_LINT0 + pin);
    }
    lapic_update(l);
}

void lapic_end(struct lapic *l)
{
    int vector = lapic_highest(l->isr);
    if (vector < 0)
        return;
    put(l->isr, (unsigned)vector, false);
    if (test(l->tmr, (unsigned)vector)) {
        uint32_t *lvt = &l->lvt[LVT_LINT0];
        if ((*lvt & LVT_REMOTE_IRR) && (uint8_t)*lvt == vector) {
            *lvt &= ~LVT_REMOTE_IRR;
            service_lint_level(l, 0);
        }
        apic_eoi(l->config.router, (uint8_t)vector);
    }
    lapic_update(l);
}

bool lapic_enabled(const struct device *dev)
{
    const struct lapic *l = (const struct lapic *)dev;
    return lapic_on(l) && (l->svr & SVR_ENABLED);
}

uint8_t lapic_priority(const struct device *dev)
{
    return lapic_ppr((const struct lapic *)dev);
}
