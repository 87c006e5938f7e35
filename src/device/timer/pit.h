// The 8254 interval timer and port 0x61, through which its channel 2 is gated and heard.
#pragma once

#include "device/device.h"

extern const struct device_type pit_type; // no config; ports from platform.h; line 0: IRQ 0
