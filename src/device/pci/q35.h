// The chipset's own PCI functions: the Q35 host bridge at 00:00.0 and the ICH9 LPC bridge at
// 00:1f.0.
#pragma once

#include "device/pci/pci.h"

// "q35-host": configuration mechanism 1 at ports 0xcf8 and 0xcfc, and the memory-mapped window at
// PC_ECAM. Plugs itself into its bus. Claims port 0xcf8 for 4-byte accesses only, as one port, so
// that 0xcf9 (the reset register) belongs to another device.
struct q35_host_config {
    struct pci_bus *bus;
};
extern const struct device_type q35_host_type;

// "ich9-lpc": PIRQ routing registers.
struct ich9_lpc_config {
    // Called whenever the route of pirq (0..7) may have changed, and for all at reset: irq is the
    // ISA interrupt (3..15) that PIRQ also drives, -1 for none. The IOAPIC pins 16..23 follow
    // always.
    void (*route)(void *opaque, unsigned pirq, int irq);
    void *opaque;
};
extern const struct device_type ich9_lpc_type;

#define ICH9_PIRQ_ROUTE(pirq) ((pirq) < 4 ? 0x60 + (pirq) : 0x64 + (pirq)) // 0x60..63, 0x68..6b
