// An NVMe controller with one namespace, for guests without virtio drivers.
//
// Threads: as for virtio disks: block requests end on the back end's threads and come in through
// `enter`; before reset and save the machine drains the back end.
#pragma once

#include "device/storage/backend.h"

#define NVME_SERIAL 20 // bytes

struct nvme_config {
    struct block *block; // not owned; outlives the device
    storage_enter_fn enter;
    char serial[NVME_SERIAL + 1]; // what the guest sees; may be ""
};

extern const struct device_type nvme_type; // config: struct nvme_config
