// A virtio device under test that copies what it reads into what it may write.
#pragma once

#include "device/virtio/virtio_pci.h"

#define ECHO_QUEUES 2

struct echo {
    struct virtio_pci virtio;
    struct virtq_chain chain;
    bool busy;  // what the transport is told
    bool stall; // leave the chains in the ring
    uint32_t config_value;
};

extern const struct device_type echo_type; // no config
