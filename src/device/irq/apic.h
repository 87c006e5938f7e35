// The interrupt message that IOAPIC, MSI and local APICs exchange, and how each of them encodes it.
// Sources: Intel SDM vol. 3 sections 11.6, 11.10 and 11.11; 82093AA datasheet section 3.2.4.
#pragma once

#include "base/types.h"

enum apic_delivery { // the three-bit field of ICR, redirection entries and MSI data
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_REMOTE_READ = 3, // reserved
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6, // in the ICR only
    APIC_EXTINT = 7,
};

enum apic_dest { // who a message is for; the ICR's shorthand field
    APIC_DEST_FIELD = 0,
    APIC_DEST_SELF = 1,
    APIC_DEST_ALL = 2,
    APIC_DEST_OTHERS = 3,
};

struct apic_message {
    uint32_t dest;     // APIC ID, or logical destination
    uint8_t logical;   // dest is logical
    uint8_t wide;      // dest has 32 bits (sent in x2APIC mode); else 8
    uint8_t shorthand; // enum apic_dest
    uint8_t delivery;  // enum apic_delivery
    uint8_t vector;
    uint8_t trigger; // 1: level
    uint8_t level;   // 1: assert; 0 only in "INIT level de-assert"
};

// The message that a write of data to address (0xfeexxxxx) stands for.
struct apic_message apic_message_from_msi(uint64_t address, uint32_t data);
// And back, for messages to up to 255 processors.
void apic_message_to_msi(const struct apic_message *m, uint64_t *address, uint32_t *data);
