// The memory map of the pc board, as firmware reports it (ACPI 6.4 section 15).
#pragma once

#include "base/types.h"

enum e820_type {
    E820_RAM = 1,
    E820_RESERVED = 2,
    E820_ACPI = 3, // ACPI tables: RAM once the guest has read them
};

struct e820_entry {
    gpa_t at;
    uint64_t len;
    uint32_t type; // enum e820_type
    uint32_t pad;
};

#define E820_MAX 12

// Sorted by address, without overlaps; what is not listed is a hole.
struct e820_map {
    struct e820_entry entry[E820_MAX];
    unsigned count;
};

// The map for direct boot. ram_bytes: page-aligned, BOOT_RAM_MIN..PC_LOW_RAM_MAX + PC_RAM_MAX.
void e820_build(uint64_t ram_bytes, struct e820_map *out);

// First address after the RAM below 4 GiB; the ACPI area is the last BOOT_ACPI_SIZE of it.
gpa_t e820_low_ram_end(uint64_t ram_bytes);

// True when all len bytes at `at` are RAM that a kernel may be loaded to.
bool e820_is_ram(const struct e820_map *map, gpa_t at, uint64_t len);
