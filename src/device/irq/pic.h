// The pair of 8259A interrupt controllers with their edge/level registers. See apic_route.h for the
// lock.
#pragma once

#include "cpu/chips.h"
#include "device/device.h"

struct pic_config {
    void (*output)(void *opaque, bool level); // INTR to the processors changed (apic_extint())
    void *opaque;
};

extern const struct device_type pic_type; // config: struct pic_config; ports from platform.h

// Level of ISA interrupt line 0..15 (2 is the cascade: ignored).
void pic_set_line(struct device *dev, unsigned irq, bool level);

bool pic_intr(const struct device *dev); // the INTR output
// The processor's interrupt acknowledge cycle: returns the vector, spurious ones included.
uint8_t pic_ack(struct device *dev);

// The chips' registers (master, slave) for an engine that keeps them while the VM runs, and back.
void pic_export(const struct device *dev, struct chip_pic out[2]);
void pic_import(struct device *dev, const struct chip_pic in[2]);
