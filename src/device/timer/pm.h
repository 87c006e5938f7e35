// ACPI power management: PM1 event and control blocks, PM timer, GPE0, SMI command port.
#pragma once

#include "device/device.h"

extern const struct device_type pm_type; // no config; ports from platform.h; line 0: SCI (level)

// Somebody presses the power button: the guest is asked to shut down. False: it does not listen.
bool pm_power_button(struct device *dev);

// Sets general purpose event 0..63 pending (hot-plug and its like); the guest clears it. False: it
// does not listen to it.
bool pm_gpe(struct device *dev, unsigned event);
