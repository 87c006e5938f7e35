// Direct boot's tables in guest memory: ACPI at the end of low RAM with its root pointer in the
// BIOS area, SMBIOS in the BIOS area.

#include "firmware/tables.h"

#include <inttypes.h>

#include "device/platform.h"
#include "firmware/layout.h"

static err_t write_acpi(const struct acpi_tables *tables, gpa_t at,
                        const uint8_t rsdp[ACPI_RSDP_BYTES], const struct guest_memory *memory)
{
    err_t err = memory->write(memory->opaque, at, tables->blob.data, tables->blob.len);
    return err == OK ? memory->write(memory->opaque, BOOT_RSDP, rsdp, ACPI_RSDP_BYTES) : err;
}

static err_t install_acpi(const struct acpi_config *config, const struct guest_memory *memory,
                          struct error *e)
{
    struct acpi_tables tables;
    uint8_t rsdp[ACPI_RSDP_BYTES];
    gpa_t at = e820_low_ram_end(memory->ram_bytes) - BOOT_ACPI_SIZE;
    err_t err = acpi_build(config, &tables, e);
    if (err == OK && tables.blob.len > BOOT_ACPI_SIZE) {
        err = error_set(e, ERR_INVALID, "the ACPI tables for %u processors are too large",
                        config->cpus);
    }
    if (err == OK) {
        acpi_place(&tables, at, rsdp);
        if (write_acpi(&tables, at, rsdp, memory) != OK) {
            err = error_set(e, ERR_INVALID, "the ACPI tables cannot be written at %#" PRIx64, at);
        }
    }
    acpi_release(&tables);
    return err;
}

static err_t install_smbios(const struct smbios_config *config, const struct guest_memory *memory,
                            struct error *e)
{
    struct buffer table = BUFFER_EMPTY;
    uint8_t entry[SMBIOS_ENTRY_BYTES];
    err_t err = smbios_build(config, BOOT_SMBIOS, &table, entry, e);
    if (err == OK &&
        (memory->write(memory->opaque, BOOT_SMBIOS, table.data, table.len) != OK ||
         memory->write(memory->opaque, BOOT_SMBIOS_ENTRY, entry, sizeof entry) != OK)) {
        err = error_set(e, ERR_INVALID, "the SMBIOS tables cannot be written at %#llx", BOOT_BIOS);
    }
    buffer_release(&table);
    return err;
}

err_t tables_install(const struct acpi_config *acpi, const struct smbios_config *smbios,
                     const struct guest_memory *memory, gpa_t *rsdp, struct error *e)
{
    if (memory->ram_bytes < BOOT_RAM_MIN || memory->ram_bytes > PC_LOW_RAM_MAX + PC_RAM_MAX) {
        return error_set(e, ERR_INVALID, "%llu MiB of memory do not fit this machine",
                         memory->ram_bytes / MIB);
    }
    err_t err = install_acpi(acpi, memory, e);
    if (err == OK) {
        err = install_smbios(smbios, memory, e);
    }
    *rsdp = BOOT_RSDP;
    return err;
}
