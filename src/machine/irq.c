#include "machine/irq.h"

#include "base/bits.h"
#include "device/irq/ioapic.h"
#include "device/irq/lapic.h"
#include "device/irq/pic.h"

#define PIT_PIN 2 // where ISA line 0 arrives at the IOAPIC

static void attention(void *opaque, unsigned vcpu, enum apic_event what, uint8_t vector)
{
    struct irq *irq = opaque;
    if (what != APIC_EVENT_INTR)
        irq->event(irq->opaque, vcpu, what, vector);
    else if (irq->kept == ENGINE_CHIPS_NONE)
        irq->changed |= BIT(vcpu);
}

void irq_init(struct irq *irq)
{
    *irq = (struct irq){.kept = ENGINE_CHIPS_NONE};
    pthread_mutex_init(&irq->lock, NULL);
    irq->router.attention = attention;
    irq->router.opaque = irq;
}

void irq_release(struct irq *irq)
{
    pthread_mutex_destroy(&irq->lock);
}

void irq_lock(struct irq *irq)
{
    pthread_mutex_lock(&irq->lock);
}

void irq_unlock(struct irq *irq)
{
    while (irq->changed) {
        unsigned vcpu = (unsigned)__builtin_ctzll(irq->changed);
        irq->changed &= irq->changed - 1;
        irq->intr(irq->opaque, vcpu, apic_intr(&irq->router, vcpu));
    }
    pthread_mutex_unlock(&irq->lock);
}

// Chips that the engine keeps are the models' as long as the VM is paused.
static bool away(const struct irq *irq, enum engine_chips chips)
{
    return irq->live && irq->kept == chips;
}

static bool pic_level(const struct irq *irq, unsigned line)
{
    bool level = irq->asserted[line] != 0;
    for (unsigned i = 0; i < ARRAY_LEN(irq->pirq_isa); i++)
        if (irq->pirq_isa[i] == line && irq->asserted[PC_GSI_PIRQ + i])
            level = true;
    return level;
}

static unsigned pin_of(unsigned gsi)
{
    return gsi == PC_IRQ_PIT ? PIT_PIN : gsi;
}

uint16_t irq_pic_lines(const struct irq *irq)
{
    uint16_t lines = 0;
    for (unsigned line = 0; line < PC_GSI_PIRQ; line++)
        lines |= (uint16_t)(pic_level(irq, line) << line);
    return lines;
}

uint32_t irq_ioapic_pins(const struct irq *irq)
{
    uint32_t pins = 0;
    for (unsigned gsi = 0; gsi < PC_GSIS; gsi++)
        pins |= (uint32_t)(irq->asserted[gsi] != 0) << pin_of(gsi);
    return pins;
}

static void drive_pic(struct irq *irq, unsigned line)
{
    if (away(irq, ENGINE_CHIPS_ALL))
        irq->chips->pic_line(irq->engine_vm, line, pic_level(irq, line));
    else
        pic_set_line(irq->router.pic, line, pic_level(irq, line));
}

static void drive_ioapic(struct irq *irq, unsigned gsi, bool level)
{
    if (away(irq, ENGINE_CHIPS_ALL))
        irq->chips->ioapic_pin(irq->engine_vm, pin_of(gsi), level);
    else
        ioapic_set_line(irq->router.ioapic, pin_of(gsi), level);
}

static void source_locked(struct irq *irq, unsigned gsi, bool level)
{
    uint16_t before = irq->asserted[gsi];
    irq->asserted[gsi] = (uint16_t)(level ? before + 1 : before - (before != 0));
    if ((before != 0) != (irq->asserted[gsi] != 0)) {
        if (gsi < PC_GSI_PIRQ)
            drive_pic(irq, gsi);
        else if (irq->pirq_isa[gsi - PC_GSI_PIRQ])
            drive_pic(irq, irq->pirq_isa[gsi - PC_GSI_PIRQ]);
        drive_ioapic(irq, gsi, level);
    }
}

void irq_follow_lines(struct irq *irq)
{
    irq_lock(irq);
    for (unsigned line = 0; line < PC_GSI_PIRQ; line++)
        pic_set_line(irq->router.pic, line, pic_level(irq, line));
    for (unsigned gsi = 0; gsi < PC_GSIS; gsi++)
        ioapic_set_line(irq->router.ioapic, pin_of(gsi), irq->asserted[gsi] != 0);
    irq_unlock(irq);
}

void irq_source(struct irq *irq, unsigned gsi, bool level)
{
    irq_lock(irq);
    source_locked(irq, gsi, level);
    irq_unlock(irq);
}

static bool legacy_level(uint8_t wires, enum irq_legacy chip, enum irq_legacy hpet)
{
    return wires >> (wires >> IRQ_LEGACY_ON & 1 ? hpet : chip) & 1;
}

void irq_legacy(struct irq *irq, enum irq_legacy wire, bool level)
{
    irq_lock(irq);
    uint8_t old = irq->legacy;
    irq->legacy = (uint8_t)bits_set(old, wire, wire, level);
    bool line0 = legacy_level(irq->legacy, IRQ_LEGACY_PIT, IRQ_LEGACY_HPET0);
    bool line8 = legacy_level(irq->legacy, IRQ_LEGACY_RTC, IRQ_LEGACY_HPET8);
    if (line0 != legacy_level(old, IRQ_LEGACY_PIT, IRQ_LEGACY_HPET0))
        source_locked(irq, PC_IRQ_PIT, line0);
    if (line8 != legacy_level(old, IRQ_LEGACY_RTC, IRQ_LEGACY_HPET8))
        source_locked(irq, PC_IRQ_RTC, line8);
    if (wire == IRQ_LEGACY_ON && old != irq->legacy && away(irq, ENGINE_CHIPS_ALL))
        irq->chips->mute_pit(irq->engine_vm, level);
    irq_unlock(irq);
}

void irq_msi(struct irq *irq, uint64_t address, uint32_t data)
{
    irq_lock(irq);
    if (irq->live)
        (void)irq->chips->message(irq->engine_vm, address, data);
    else
        apic_send_msi(&irq->router, address, data);
    irq_unlock(irq);
}

void irq_route_pirq(struct irq *irq, unsigned pirq, unsigned isa_line)
{
    irq_lock(irq);
    unsigned old = irq->pirq_isa[pirq];
    irq->pirq_isa[pirq] = (uint8_t)isa_line;
    if (old)
        drive_pic(irq, old);
    if (isa_line)
        drive_pic(irq, isa_line);
    irq_unlock(irq);
}

int irq_ack(struct irq *irq, unsigned vcpu)
{
    struct device *pic = irq->router.pic;
    int vector = -1;
    irq_lock(irq);
    if (irq->kept == ENGINE_CHIPS_NONE) {
        vector = apic_intr_ack(&irq->router, vcpu);
        irq->changed |= BIT(vcpu);
    } else if (pic_intr(pic)) {
        vector = pic_ack(pic);
    }
    irq_unlock(irq);
    return vector;
}

// --- beside an engine's local APICs

void irq_extint(struct irq *irq, bool level)
{
    apic_extint(&irq->router, level);
    if (away(irq, ENGINE_CHIPS_LAPIC))
        irq->intr(irq->opaque, 0, level);
}

bool irq_deliver(struct irq *irq, const struct apic_message *m)
{
    uint64_t address;
    uint32_t data;
    if (!away(irq, ENGINE_CHIPS_LAPIC))
        return apic_send(&irq->router, m, 0);
    apic_message_to_msi(m, &address, &data);
    return irq->chips->message(irq->engine_vm, address, data);
}

void irq_await(struct irq *irq, unsigned pin, const struct apic_message *m)
{
    uint64_t address = 0;
    uint32_t data = 0;
    if (!away(irq, ENGINE_CHIPS_LAPIC))
        return;
    if (m)
        apic_message_to_msi(m, &address, &data);
    irq->chips->await_eoi(irq->engine_vm, pin, address, data, m != NULL);
}

void irq_eoi(struct irq *irq, uint8_t vector)
{
    irq_lock(irq);
    ioapic_eoi(irq->router.ioapic, vector);
    irq_unlock(irq);
}
