// Where direct boot (a kernel started without BIOS or UEFI) puts what it hands to the guest. All of
// it lies below 1 MiB or at the very end of low RAM, and is marked in the memory map (e820.h).
#pragma once

#include "base/types.h"

#define BOOT_RAM_MIN (4 * MIB) // less than this is refused

// Scratch that the kernel may reuse once it has read it: ordinary RAM in the memory map.
#define BOOT_PARAMS 0x10000ull      // Linux zero page, PVH start info or multiboot info: 4 KiB
#define BOOT_GDT 0x11000ull         // the descriptor table that the entry state uses
#define BOOT_PAGE_TABLES 0x12000ull // six pages: 4 GiB mapped one to one
#define BOOT_LISTS 0x18000ull       // memory maps and module lists, 32 KiB
#define BOOT_LISTS_SIZE 0x8000ull
#define BOOT_CMDLINE 0x20000ull // 64 KiB
#define BOOT_CMDLINE_SIZE 0x10000ull
#define BOOT_AREA_END 0x30000ull
#define BOOT_STACK \
    0x90000ull // initial stack pointer, for the entries that promise none but want one

// Kept for the guest's lifetime: reserved in the memory map.
#define BOOT_EBDA 0x9fc00ull // extended BIOS data area, up to 640 KiB
#define BOOT_LOW_END 0xa0000ull
#define BOOT_BIOS 0xf0000ull // searched by guests that are told nothing
#define BOOT_RSDP 0xf0000ull
#define BOOT_SMBIOS_ENTRY 0xf0040ull
#define BOOT_SMBIOS 0xf0100ull // structure table
#define BOOT_BIOS_END 0x100000ull
#define BOOT_ACPI_SIZE (128 * KIB) // the last bytes of low RAM
