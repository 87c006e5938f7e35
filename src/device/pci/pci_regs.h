// Registers and bits of PCI configuration space that models and tests name.
// Source: PCI Local Bus Specification 3.0, chapter 6; MSI and MSI-X in section 6.8.
#pragma once

enum {
    PCI_VENDOR = 0x00,
    PCI_DEVICE = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09, // three bytes: programming interface, subclass, base class
    PCI_CACHE_LINE = 0x0c,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM = 0x2e,
    PCI_ROM = 0x30,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,

    PCI_ROM_ENABLE = 0x1,

    PCI_COMMAND_IO = 0x001,
    PCI_COMMAND_MEMORY = 0x002,
    PCI_COMMAND_MASTER = 0x004,
    PCI_COMMAND_PARITY = 0x040,
    PCI_COMMAND_SERR = 0x100,
    PCI_COMMAND_INTX_DISABLE = 0x400,

    PCI_STATUS_INTX = 0x0008,
    PCI_STATUS_CAPABILITIES = 0x0010,
    PCI_STATUS_CLEARABLE = 0xf900, // error bits: writing one clears

    PCI_HEADER_MULTIFUNCTION = 0x80,

    PCI_CAP_MSI = 0x05,
    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_MSIX = 0x11,

    // Offsets inside the 64-bit MSI capability with per-vector masking.
    PCI_MSI_CONTROL = 2,
    PCI_MSI_ADDRESS = 4,
    PCI_MSI_DATA = 12,
    PCI_MSI_MASK = 16,
    PCI_MSI_PENDING = 20,
    PCI_MSI_LEN = 24,
    PCI_MSI_ENABLE = 0x0001,

    // Offsets inside the MSI-X capability.
    PCI_MSIX_CONTROL = 2,
    PCI_MSIX_TABLE = 4,
    PCI_MSIX_PBA = 8,
    PCI_MSIX_LEN = 12,
    PCI_MSIX_FUNCTION_MASK = 0x4000,
    PCI_MSIX_ENABLE = 0x8000,
    PCI_MSIX_VECTOR_MASKED = 0x1, // in a table entry's control word
};
