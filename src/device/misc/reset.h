// Port 0x92 (A20 gate and fast reset), and the reset control register at port 0xcf9.
#pragma once

#include "device/device.h"

extern const struct device_type fast_a20_type; // no config; port from platform.h

// The reset control register, for the device that owns the dword at 0xcf8 it lies in (bytes that
// are accessed singly at 0xcf9 are this register, not the PCI address). Returns the new register
// value and sets *reset when the write asks for a reset: RST_CPU (bit 2) going from 0 to 1.
uint8_t reset_control_write(uint8_t old, uint8_t value, bool *reset);

// The register as a device of its own at port 0xcf9. No config.
extern const struct device_type reset_control_type;
