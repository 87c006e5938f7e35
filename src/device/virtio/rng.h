// A virtio entropy source.
#pragma once

#include "device/device.h"

struct virtio_rng_config {
    // Fills data with len random bytes; never fails and never blocks for long.
    void (*fill)(void *opaque, void *data, size_t len);
    void *opaque;
    // What the guest may take, so that it cannot make the host's generator its workload; 0: 1
    // MiB/s.
    uint32_t bytes_per_second;
};

extern const struct device_type virtio_rng_type; // config: struct virtio_rng_config
