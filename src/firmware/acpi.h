// ACPI tables for the pc board (ACPI 6.4). The tables are made as one relocatable blob with a list
// of the pointers and checksums in it, so that they can be placed directly (acpi_place) or handed
// to a BIOS that places them itself (fw_cfg's table loader, which takes the same lists).
#pragma once

#include "base/buffer.h"

#define ACPI_CPUS_MAX 1024
#define ACPI_LINKS_MAX 24
#define ACPI_SUMS_MAX 16
#define ACPI_RSDP_BYTES 36

struct acpi_config {
    unsigned cpus; // 1..ACPI_CPUS_MAX; local APIC ids are 0..cpus-1
    bool com1, com2;
    bool i8042;
    bool hpet;
    bool panic;             // panic device at PC_PORT_PANIC
    bool fw_cfg;            // at PC_PORT_FW_CFG
    uint32_t hotplug_slots; // PCI slots whose cards come and go (device/pci/hotplug.h); 0: none
    bool vga;               // ports and memory of a VGA adapter may be touched
    // The PCI host bridge's memory: the configuration window (256 MiB between PC_MMIO32 and
    // PC_MMIO32_END) and where BARs above 4 GiB may lie.
    gpa_t ecam;
    gpa_t mmio64;
    uint64_t mmio64_len;
};

struct acpi_link { // the blob holds at `at` the address (size bytes) of its own offset `target`
    uint32_t at;
    uint32_t size;
    uint32_t target;
};

struct acpi_sum { // the byte at `at` makes the sum of [start, start + len) zero
    uint32_t start;
    uint32_t len;
    uint32_t at;
};

struct acpi_tables {
    struct buffer blob; // page-aligned wherever it goes
    struct acpi_link link[ACPI_LINKS_MAX];
    struct acpi_sum sum[ACPI_SUMS_MAX];
    unsigned links, sums;
    uint32_t rsdt, xsdt; // offsets, for the RSDP
};

// Builds the tables. ERR_NO_MEMORY, ERR_INVALID. Release with acpi_release, after an error too.
err_t acpi_build(const struct acpi_config *config, struct acpi_tables *out, struct error *e);
void acpi_release(struct acpi_tables *tables);

// Fixes pointers and checksums for a blob that will lie at `at`, and writes the root pointer.
// Once per acpi_build.
void acpi_place(struct acpi_tables *tables, gpa_t at, uint8_t rsdp[ACPI_RSDP_BYTES]);
