// Interrupt routing of a VM: global system interrupts to PIC and IOAPIC, messages to local APICs,
// and what those say to vCPUs. One lock guards all of it and every interrupt controller.
#pragma once

#include <pthread.h>

#include "device/irq/apic_route.h"
#include "device/platform.h"
#include "engine/engine.h"

// The two ISA lines that HPET takes over from PIT and RTC while its legacy replacement is on.
enum irq_legacy {
    IRQ_LEGACY_PIT,
    IRQ_LEGACY_RTC,
    IRQ_LEGACY_HPET0,
    IRQ_LEGACY_HPET8,
    IRQ_LEGACY_ON
};

struct irq {
    pthread_mutex_t lock;
    struct apic_router router;
    uint16_t asserted[PC_GSIS]; // how many sources drive each line
    uint8_t pirq_isa[8];        // the PIC line of each PIRQ; 0: none
    uint8_t legacy;             // levels, a bit for each of enum irq_legacy
    enum engine_chips kept;     // by the engine, while the VM runs (chips.c)
    bool live;                  // they are with the engine now
    const struct engine_irqchip *chips;
    struct engine_vm *engine_vm;
    uint64_t changed; // vCPUs whose INTR input must be looked at before unlocking
    // Told with the lock held.
    void (*intr)(void *opaque, unsigned vcpu, bool level);
    void (*event)(void *opaque, unsigned vcpu, enum apic_event what, uint8_t vector);
    void *opaque;
};

// router.pic, router.ioapic and router.lapic[] are set by whoever creates those devices.
void irq_init(struct irq *irq);
void irq_release(struct irq *irq);

// The lock around the interrupt controllers' own callbacks; unlocking reports changed INTR inputs.
void irq_lock(struct irq *irq);
void irq_unlock(struct irq *irq);

// One source of a line goes up or down; the line is up while any source is. Sources say changes
// only.
void irq_source(struct irq *irq, unsigned gsi, bool level);
void irq_legacy(struct irq *irq, enum irq_legacy wire, bool level);
void irq_msi(struct irq *irq, uint64_t address, uint32_t data);

// After a load: what devices no longer drive goes down in PIC and IOAPIC, too. While paused.
void irq_follow_lines(struct irq *irq);

// LPC bridge: PIRQ n (0..7) also drives this ISA line of the PIC; 0 disconnects it.
void irq_route_pirq(struct irq *irq, unsigned pirq, unsigned isa_line);

// The vCPU takes an interrupt: its vector or -1.
int irq_ack(struct irq *irq, unsigned vcpu);

// For the chips that the machine keeps beside an engine's local APICs: the PIC's output, a message
// of the IOAPIC's and what it waits for (router lock held); the end of one of its interrupts.
void irq_extint(struct irq *irq, bool level);
bool irq_deliver(struct irq *irq, const struct apic_message *m);
void irq_await(struct irq *irq, unsigned pin, const struct apic_message *m);
void irq_eoi(struct irq *irq, uint8_t vector);

// What devices drive each PIC line (bit 0..15) and IOAPIC pin with (router lock held).
uint16_t irq_pic_lines(const struct irq *irq);
uint32_t irq_ioapic_pins(const struct irq *irq);
