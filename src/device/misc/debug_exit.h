// A port whose writing ends the machine with an exit status: for test guests.
#pragma once

#include "device/device.h"

// No config; port from platform.h. A write of v makes a MACHINE_DEBUG_EXIT request with (v << 1)
// | 1.
extern const struct device_type debug_exit_type;
