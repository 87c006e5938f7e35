// Which local APICs a message is for, and what a vCPU's interrupt input sees.
// Sources: Intel SDM vol. 3 sections 11.6.2 (destinations), 11.6.2.4 (lowest priority), 11.8.
//
// Lock: PIC, IOAPIC and all local APICs of a VM share the machine's interrupt router lock. It is
// taken around every function of this folder (device callbacks included), so they call each other
// freely.
#pragma once

#include "device/device.h"
#include "device/irq/apic.h"

#define APIC_ROUTER_LAPICS 64

enum apic_event {
    APIC_EVENT_INTR, // apic_intr() may have changed: evaluate it again
    APIC_EVENT_NMI,
    APIC_EVENT_SMI,
    APIC_EVENT_INIT, // the local APIC has already been reset; its processor follows
    APIC_EVENT_SIPI, // with its vector; means something only to a processor that waits for it
};

struct apic_router {
    struct device *lapic[APIC_ROUTER_LAPICS]; // by vCPU index, set by the machine
    struct device *pic;                       // may be NULL
    struct device *ioapic;                    // may be NULL
    unsigned lapics;
    uint32_t turn; // where the next lowest-priority search among equals begins
    // Something for vCPU `vcpu`. Called with the router lock held, on any thread: must not call
    // back.
    void (*attention)(void *opaque, unsigned vcpu, enum apic_event what, uint8_t vector);
    void *opaque;
};

// Delivers m; false when no local APIC took it. from is the sending vCPU's index for the
// shorthands; ignored for APIC_DEST_FIELD.
bool apic_send(struct apic_router *router, const struct apic_message *m, unsigned from);

// A device's or IOAPIC's message signalled interrupt.
void apic_send_msi(struct apic_router *router, uint64_t address, uint32_t data);

// A local APIC has seen the EOI of a level-triggered vector: the IOAPIC is told.
void apic_eoi(struct apic_router *router, uint8_t vector);

// The level of the PIC's INTR output: it reaches LINT0 of every local APIC.
void apic_extint(struct apic_router *router, bool level);

// True when vCPU's INTR input is active (TPR and PPR considered, RFLAGS.IF of course not).
bool apic_intr(struct apic_router *router, unsigned vcpu);

// Acknowledges what apic_intr() announced and returns the vector; -1 when nothing is left.
int apic_intr_ack(struct apic_router *router, unsigned vcpu);
