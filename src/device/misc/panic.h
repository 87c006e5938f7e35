// The paravirtual panic device: a guest says that it has crashed.
#pragma once

#include "device/device.h"

#define PANIC_PANICKED 1     // the guest has crashed
#define PANIC_CRASH_LOADED 2 // ... and runs its own crash kernel: told, but the machine goes on

// No config; port from platform.h. Makes a MACHINE_PANIC request with the event bits written.
extern const struct device_type panic_type;
