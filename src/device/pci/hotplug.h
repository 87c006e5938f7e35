// Hot-plug of PCI slots through ACPI: a few ports by which the DSDT's methods learn which slots
// have changed and give back those that the guest lets go of.
#pragma once

#include "device/device.h"

// Registers behind PC_PORT_HOTPLUG, 32 bits each, a bit for every slot of bus 0.
enum {
    HOTPLUG_ARRIVED = 0, // cards that were plugged in; ones written clear
    HOTPLUG_LEAVING = 4, // cards that are asked to go; ones written clear
    HOTPLUG_EJECT = 8,   // ones written: the guest has let go of them
    HOTPLUG_BYTES = 16,
};

extern const struct device_type pci_hotplug_type; // no config

// A card was plugged in, or is to go. Whoever says so raises PC_GPE_HOTPLUG behind it.
void pci_hotplug_tell(struct device *dev, unsigned slot, bool arrived);
// The slots whose cards the guest has let go of since the last call (MACHINE_EJECT was requested).
uint32_t pci_hotplug_take(struct device *dev);
