// The chipset's own PCI functions: the Q35 host bridge at 00:00.0 and the ICH9 LPC bridge at
// 00:1f.0.
#pragma once

#include "device/pci/pci.h"

// "q35-host": configuration mechanism 1 at ports 0xcf8 and 0xcfc, and the memory-mapped window that
// PCIEXBAR opens (closed after reset). Plugs itself into its bus. Claims port 0xcf8 for 4-byte
// accesses only, as one port, so that 0xcf9 (the reset register) belongs to another device.
struct q35_host_config {
    struct pci_bus *bus;
    // Called whenever q35_legacy_ranges() may say something else. Or NULL.
    void (*legacy_changed)(void *opaque);
    void *opaque;
};
extern const struct device_type q35_host_type;

// The 16 KiB ranges from 0xc0000 to 0xfffff: what each does with an access. Reads that do not go to
// RAM see the firmware's ROM below 4 GiB, for the last 128 KiB; writes that do not are lost.
#define Q35_LEGACY_RANGES 16
#define Q35_LEGACY_READ_RAM 1
#define Q35_LEGACY_WRITE_RAM 2
void q35_legacy_ranges(const struct device *dev, uint8_t out[Q35_LEGACY_RANGES]);

// Where the PCIEXBAR register's halves put the window, and its length; 0: it is closed.
uint64_t q35_ecam(uint32_t low, uint32_t high, uint64_t *len);
#define Q35_PCIEXBAR 0x60
#define Q35_PAM0 0x90

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
