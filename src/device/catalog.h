// All device types by name. The key in configuration and state streams is device_type.name.
#pragma once

#include "device/device.h"

extern const struct device_type *const device_catalog[]; // ended by NULL

// NULL when there is no such type.
const struct device_type *device_find(const char *name);
