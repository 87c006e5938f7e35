// A virtio disk.
//
// Threads: block requests end on the back end's threads; the model takes their results through
// `enter`, which the machine supplies. Before reset and save the machine drains the block back end
// (block->type->drain) without holding the device's lock; nothing is in flight then.
#pragma once

#include "block/block.h"
#include "device/device.h"

#define VIRTIO_BLK_SERIAL 20 // bytes

struct virtio_blk_config {
    struct block *block; // not owned; outlives the device
    // Runs fn(dev, argument) with dev's lock held, on the caller's thread, before it returns.
    // Called on the back end's threads only. Without it (tests) fn is called directly.
    void (*enter)(struct device *dev, void (*fn)(struct device *dev, void *argument),
                  void *argument);
    char
        serial[VIRTIO_BLK_SERIAL + 1]; // what the guest sees as the disk's serial number; may be ""
    uint16_t queues;                   // 1..8; 0 means 1
};

extern const struct device_type virtio_blk_type; // config: struct virtio_blk_config
