// The high precision event timer.
#pragma once

#include "device/device.h"

// Outputs 0..23 are IOAPIC pins that a comparator can be routed to (20..23 are offered).
#define HPET_LINE_IRQ0 24   // comparator 0 in place of the PIT: ISA line 0
#define HPET_LINE_IRQ8 25   // comparator 1 in place of the RTC: ISA line 8
#define HPET_LINE_LEGACY 26 // while high, the board cuts PIT and RTC off from ISA lines 0 and 8

struct hpet_config {
    gpa_t base; // PC_HPET
};

extern const struct device_type hpet_type; // config: struct hpet_config
