// A virtio disk.
//
// Threads: block requests end on the back end's threads; the model takes their results through
// `enter`, which the machine supplies. Before reset and save the machine drains the block back end
// (block->type->drain) without holding the device's lock; nothing is in flight then.
#pragma once

#include "device/storage/backend.h"

#define VIRTIO_BLK_SERIAL 20 // bytes
#define VIRTIO_BLK_QUEUES 8

struct virtio_blk_config {
    struct block *block; // not owned; outlives the device
    storage_enter_fn enter;
    char serial[VIRTIO_BLK_SERIAL + 1]; // what the guest sees; may be ""
    uint16_t queues;                    // 1..VIRTIO_BLK_QUEUES; 0 means 1
};

extern const struct device_type virtio_blk_type; // config: struct virtio_blk_config
