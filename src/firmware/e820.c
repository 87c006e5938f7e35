// The pc board's memory map: RAM below the 32-bit I/O window and from 4 GiB up, and the ranges that
// guests must leave alone. Option-ROM space is a hole: direct boot has no option ROMs.

#include "firmware/e820.h"

#include "base/checked.h"
#include "device/platform.h"
#include "firmware/layout.h"

static void add(struct e820_map *map, gpa_t from, gpa_t to, enum e820_type type)
{
    map->entry[map->count++] = (struct e820_entry){.at = from, .len = to - from, .type = type};
}

gpa_t e820_low_ram_end(uint64_t ram_bytes)
{
    return ram_bytes < PC_LOW_RAM_MAX ? ram_bytes : PC_LOW_RAM_MAX;
}

void e820_build(uint64_t ram_bytes, struct e820_map *out)
{
    gpa_t low = e820_low_ram_end(ram_bytes);
    *out = (struct e820_map){0};
    add(out, 0, BOOT_EBDA, E820_RAM);
    add(out, BOOT_EBDA, BOOT_LOW_END, E820_RESERVED);
    add(out, BOOT_BIOS, BOOT_BIOS_END, E820_RESERVED);
    add(out, BOOT_BIOS_END, low - BOOT_ACPI_SIZE, E820_RAM);
    add(out, low - BOOT_ACPI_SIZE, low, E820_ACPI);
    add(out, PC_ECAM, PC_ECAM + PC_ECAM_SIZE, E820_RESERVED);
    add(out, PC_IOAPIC, PC_IOAPIC + PAGE_SIZE, E820_RESERVED);
    add(out, PC_LAPIC, PC_LAPIC + PAGE_SIZE, E820_RESERVED);
    if (ram_bytes > PC_LOW_RAM_MAX) {
        add(out, PC_HIGH_RAM, PC_HIGH_RAM + (ram_bytes - PC_LOW_RAM_MAX), E820_RAM);
    }
}

bool e820_is_ram(const struct e820_map *map, gpa_t at, uint64_t len)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct e820_entry *entry = &map->entry[i];
        if (entry->type == E820_RAM && at >= entry->at &&
            range_within(at - entry->at, len, entry->len)) {
            return true;
        }
    }
    return false;
}
