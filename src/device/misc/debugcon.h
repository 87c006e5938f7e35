// Port 0x402, where firmware writes its debug output a byte at a time; reading gives 0xe9.
#pragma once

#include "device/device.h"

struct debugcon_config {
    uint16_t port;                             // DEBUGCON_PORT
    void (*write)(void *opaque, uint8_t byte); // never blocks and never calls back; may be NULL
    void *opaque;
};

#define DEBUGCON_PORT 0x402

extern const struct device_type debugcon_type; // config: struct debugcon_config
