// The 8254 interval timer and port 0x61, through which its channel 2 is gated and heard.
#pragma once

#include "cpu/chips.h"
#include "device/device.h"

extern const struct device_type pit_type; // no config; ports from platform.h; line 0: IRQ 0

// The registers for an engine that keeps the chip while the VM runs, and back. The engine's chip
// then drives the line, so this one lets it go. Counting begins anew.
void pit_export(struct device *dev, struct chip_pit *out);
void pit_import(struct device *dev, const struct chip_pit *in);
