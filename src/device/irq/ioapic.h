// The I/O APIC: 24 inputs, each with a redirection entry. See apic_route.h for the lock.
#pragma once

#include "cpu/chips.h"
#include "device/device.h"
#include "device/irq/apic.h"

#define IOAPIC_PINS CHIP_IOAPIC_PINS

struct ioapic_config {
    gpa_t base; // PC_IOAPIC
    uint8_t id;
    bool (*deliver)(void *opaque, const struct apic_message *m); // false: nobody took it
    void *opaque;
    // A pin's entry has changed; m: the message of which it must hear the end; NULL: none (any
    // more). awaits may be NULL.
    void (*awaits)(void *opaque, unsigned pin, const struct apic_message *m);
};

extern const struct device_type ioapic_type; // config: struct ioapic_config

// Level of input pin (0..23), active high; the board ORs shared lines and inverts none.
void ioapic_set_line(struct device *dev, unsigned pin, bool level);

// The processors have finished a level-triggered interrupt with this vector.
void ioapic_eoi(struct device *dev, uint8_t vector);

// The chip's registers for an engine that keeps it while the VM runs, and back.
void ioapic_export(const struct device *dev, struct chip_ioapic *out);
void ioapic_import(struct device *dev, const struct chip_ioapic *in);
// Says anew to config.awaits what each pin waits for.
void ioapic_announce(struct device *dev);
