// Intel's 82540EM gigabit Ethernet controller, for guests without virtio drivers.
#pragma once

#include "device/net/nic.h"

extern const struct device_type e1000_type; // config: struct nic_config
extern const struct nic_model e1000_nic;
