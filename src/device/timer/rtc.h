// The real-time clock and its battery-backed memory.
#pragma once

#include "device/device.h"

struct rtc_config {
    uint64_t ram_below_4g; // bytes: what firmware finds in the memory size cells
    uint64_t ram_above_4g;
    uint8_t boot_order[3]; // firmware's boot devices: 1 floppy, 2 disk, 3 CD-ROM, 4 network; 0 none
    uint8_t cpus;          // cell 0x5f holds cpus - 1
};

extern const struct device_type rtc_type; // config: struct rtc_config; line 0: IRQ 8
