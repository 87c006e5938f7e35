// The I/O APIC: 24 inputs, each with a redirection entry. See apic_route.h for the lock.
#pragma once

#include "device/device.h"
#include "device/irq/apic.h"

#define IOAPIC_PINS 24

struct ioapic_config {
    gpa_t base; // PC_IOAPIC
    uint8_t id;
    bool (*deliver)(void *opaque, const struct apic_message *m); // false: nobody took it
    void *opaque;
};

extern const struct device_type ioapic_type; // config: struct ioapic_config

// Level of input pin (0..23), active high; the board ORs shared lines and inverts none.
void ioapic_set_line(struct device *dev, unsigned pin, bool level);

// The processors have finished a level-triggered interrupt with this vector.
void ioapic_eoi(struct device *dev, uint8_t vector);
