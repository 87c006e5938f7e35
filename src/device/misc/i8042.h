// The keyboard controller with a PS/2 keyboard and a wheel mouse.
#pragma once

#include "device/device.h"

// Output 0: keyboard (IRQ 1), 1: mouse (IRQ 12).
extern const struct device_type i8042_type; // no config; ports from platform.h

#define I8042_KEY_EXTENDED 0x100

// A key goes down or up. key: its scan code in set 1 (0x01 Esc .. 0x58 F12), with
// I8042_KEY_EXTENDED for those that have an 0xe0 prefix. Unknown codes, and keys while the guest
// does not listen, are dropped. False: the keyboard's buffer is full; the key may be tried again.
// With the device's lock held.
bool i8042_key(struct device *dev, unsigned key, bool down);

// The mouse moves (right and up are positive, wheel towards the user positive) or its buttons
// change (bit 0 left, 1 right, 2 middle).
void i8042_mouse(struct device *dev, int dx, int dy, int wheel, unsigned buttons);
