// The local APIC of one vCPU: registers through the xAPIC page and through x2APIC MSRs, APIC base,
// timer with TSC deadline. Contract for the machine; see apic_route.h for the lock.
#pragma once

#include "cpu/chips.h"
#include "device/irq/apic_route.h"

#define LAPIC_PAGE_SIZE 4096

struct lapic_config {
    struct apic_router *router;
    unsigned index;   // of the vCPU, in router->lapic too
    uint32_t apic_id; // below 255
    bool bsp;
    uint32_t bus_khz;                                  // timer input clock (PC_APIC_BUS_KHZ)
    uint64_t tsc_khz;                                  // the guest's TSC
    uint64_t (*tsc_now)(void *opaque, unsigned index); // guest TSC now; any thread
    void *opaque;
};

extern const struct device_type lapic_type; // config: struct lapic_config

// The register page. It is at lapic_base() for this vCPU only, so the machine dispatches it before
// the bus. Accesses are 32 bits at multiples of 16; others read 0 and write nothing.
uint64_t lapic_read(struct device *dev, uint64_t offset, unsigned size);
void lapic_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value);
// Where the page is; all ones when the APIC is disabled or in x2APIC mode.
gpa_t lapic_base(const struct device *dev);

// MSR_APIC_BASE, MSR_TSC_DEADLINE and 0x800..0x8ff. Anything but OK is the guest's #GP.
err_t lapic_msr_read(struct device *dev, uint32_t msr, uint64_t *value);
err_t lapic_msr_write(struct device *dev, uint32_t msr, uint64_t value);

uint8_t lapic_cr8_read(const struct device *dev);
void lapic_cr8_write(struct device *dev, uint8_t value);

// Takes a message that is for this APIC and tells the machine through router->attention. False when
// the APIC's state makes it refuse.
bool lapic_accept(struct device *dev, const struct apic_message *m);

// The highest vector that may interrupt the processor now, or -1.
int lapic_pending(const struct device *dev);
// Moves it from IRR to ISR and returns it; -1 when there is none.
int lapic_ack(struct device *dev);
// True while an external (PIC) interrupt waits for this processor; lapic_ack_extint() forgets one
// that came as a message before the PIC is asked for its vector.
bool lapic_extint(const struct device *dev);
void lapic_ack_extint(struct device *dev);

// Levels of the two local interrupt pins: 0 is the PIC, 1 is NMI.
void lapic_set_lint(struct device *dev, unsigned pin, bool level);

// The guest's TSC was written or its frequency changed: the deadline timer is armed anew.
void lapic_tsc_changed(struct device *dev);

// What firmware leaves behind for an operating system: enabled, LINT0 of the boot processor as
// ExtINT, LINT1 as NMI. For machines that start a kernel without firmware.
void lapic_virtual_wire(struct device *dev);

// The registers for an engine that keeps the local APIC while the VM runs, and back. Errors that
// ESR does not show yet and an ExtINT message are not handed over: they end here.
void lapic_export(struct device *dev, struct chip_lapic *out);
void lapic_import(struct device *dev, const struct chip_lapic *in);

// For routing (apic_route.c).
bool lapic_matches(const struct device *dev, const struct apic_message *m);
bool lapic_enabled(const struct device *dev);     // hardware and software enabled
uint8_t lapic_priority(const struct device *dev); // processor priority (PPR), for lowest priority
