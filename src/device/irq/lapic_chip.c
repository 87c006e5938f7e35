// The local APIC's registers as plain data, for engines that keep the chip while the VM runs.
//
// Source: Intel SDM vol. 3 section 11.4.1 (the register page), 11.12.1 (what x2APIC mode changes).
#include "device/irq/lapic_impl.h"

void lapic_export(struct device *dev, struct chip_lapic *out)
{
    struct lapic *l = lapic_of(dev);
    uint32_t count = lapic_timer_count(l);
    *out = (struct chip_lapic){.base = l->base, .deadline = lapic_timer_deadline(l)};
    out->reg[REG_ID] = l->config.apic_id << 24;
    out->reg[REG_TPR] = l->tpr;
    out->reg[REG_LDR] = l->ldr;
    out->reg[REG_DFR] = l->dfr;
    out->reg[REG_SVR] = l->svr;
    for (unsigned i = 0; i < 8; i++) {
        out->reg[REG_ISR + i] = l->isr[i];
        out->reg[REG_TMR + i] = l->tmr[i];
        out->reg[REG_IRR + i] = l->irr[i];
    }
    out->reg[REG_ESR] = l->esr;
    out->reg[REG_ICR_LOW] = (uint32_t)l->icr;
    out->reg[REG_ICR_HIGH] = (uint32_t)(l->icr >> 32);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        out->reg[REG_LVT + i] = l->lvt[i];
    out->reg[REG_INITIAL] = l->due == NS_NEVER ? 0 : l->initial_count; // 0: does not count
    out->reg[REG_CURRENT] = count;
    out->reg[REG_DIVIDE] = l->divide;
}

void lapic_import(struct device *dev, const struct chip_lapic *in)
{
    struct lapic *l = lapic_of(dev);
    const uint32_t *reg = in->reg;
    l->base = (in->base & ~APIC_BASE_BSP) | (l->config.bsp ? APIC_BASE_BSP : 0);
    l->tpr = reg[REG_TPR] & 0xff;
    l->ldr = lapic_x2(l) ? 0 : reg[REG_LDR] & 0xff000000;
    l->dfr = reg[REG_DFR] | 0x0fffffff;
    l->svr = reg[REG_SVR] & SVR_WRITABLE;
    for (unsigned i = 0; i < 8; i++) {
        l->isr[i] = reg[REG_ISR + i];
        l->tmr[i] = reg[REG_TMR + i];
        l->irr[i] = reg[REG_IRR + i];
    }
    l->isr[0] &= ~0xffffu; // vectors below 16 do not exist
    l->irr[0] &= ~0xffffu;
    l->esr = reg[REG_ESR];
    l->esr_latest = 0;
    l->extint = 0;
    l->icr = ((uint64_t)reg[REG_ICR_HIGH] << 32 | reg[REG_ICR_LOW]) & ICR_WRITABLE;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = reg[REG_LVT + i] & (lapic_lvt_writable[i] | LVT_READ_ONLY);
    l->divide = reg[REG_DIVIDE] & 0xb;
    l->initial_count = reg[REG_INITIAL];
    l->deadline = in->deadline;
    lapic_timer_resume(l, reg[REG_CURRENT]);
    lapic_announce(l);
}
