// A virtio network card.
#pragma once

#include "device/net/nic.h"

#define VIRTIO_NET_MTU_MIN 68
#define VIRTIO_NET_MTU_MAX 65535
#define VIRTIO_NET_PAIRS_MAX 4

extern const struct device_type virtio_net_type; // config: struct nic_config
extern const struct nic_model virtio_nic;
