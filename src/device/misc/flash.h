// Flash memory that firmware keeps its variables in.
#pragma once

#include "device/device.h"

#define FLASH_BLOCK 4096 // bytes that are erased together

struct flash_config {
    gpa_t at;
    uint8_t *data; // its content, changed in place; the caller's, valid until the device is gone
    uint64_t len;  // a multiple of FLASH_BLOCK
};

extern const struct device_type flash_type; // config: struct flash_config
