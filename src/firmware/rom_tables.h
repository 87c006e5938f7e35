// ACPI tables and memory map in the form in which firmware takes them from fw_cfg: it chooses the
// place of the tables itself and follows a script that fixes their pointers and checksums.
#pragma once

#include "firmware/acpi.h"
#include "firmware/e820.h"

#define ROM_TABLES_FILE "etc/acpi/tables"
#define ROM_RSDP_FILE "etc/acpi/rsdp"
#define ROM_LOADER_FILE "etc/table-loader"

struct rom_tables {
    struct buffer tables; // ROM_TABLES_FILE
    struct buffer loader; // ROM_LOADER_FILE
    uint8_t rsdp[ACPI_RSDP_BYTES];
};

// The sizes depend on which devices and how many processors there are, not on addresses. Release
// with rom_tables_release, after an error too.
err_t rom_tables_build(const struct acpi_config *config, struct rom_tables *out, struct error *e);
void rom_tables_release(struct rom_tables *tables);

// "etc/e820": the RAM. Firmware adds what it reserves itself.
#define ROM_E820_FILE "etc/e820"
void rom_e820(uint64_t ram_bytes, struct buffer *out);
