// The table loader's script. Source: the interface's published description (QEMU
// docs/specs/acpi_* and hw/acpi/bios-linker-loader, SeaBIOS fw/romfile_loader, OVMF
// AcpiPlatformDxe): commands of 128 bytes, little-endian, file names of 56 bytes.
#include "firmware/rom_tables.h"

#include <string.h>

#include "base/bytes.h"
#include "device/platform.h"

#define COMMAND_BYTES 128
#define NAME_BYTES 56

enum command { CMD_ALLOCATE = 1, CMD_ADD_POINTER = 2, CMD_ADD_CHECKSUM = 3 };
enum zone { ZONE_HIGH = 1, ZONE_FSEG = 2 };

static void put_name(uint8_t *at, const char *name)
{
    memcpy(at, name, strlen(name));
}

static uint8_t *command(struct buffer *out, enum command what, uint8_t scratch[COMMAND_BYTES])
{
    uint8_t *c = buffer_extend(out, COMMAND_BYTES);
    if (!c)
        c = scratch; // the buffer says that it failed
    store_le32(c, what);
    return c + 4;
}

static void allocate(struct buffer *out, const char *file, uint32_t align, enum zone zone)
{
    uint8_t scratch[COMMAND_BYTES], *c = command(out, CMD_ALLOCATE, scratch);
    put_name(c, file);
    store_le32(c + NAME_BYTES, align);
    c[NAME_BYTES + 4] = (uint8_t)zone;
}

// The field in `file` holds an offset into `target`, to which target's address is added.
static void add_pointer(struct buffer *out, const char *file, const char *target, uint32_t at,
                        uint32_t size)
{
    uint8_t scratch[COMMAND_BYTES], *c = command(out, CMD_ADD_POINTER, scratch);
    put_name(c, file);
    put_name(c + NAME_BYTES, target);
    store_le32(c + 2 * NAME_BYTES, at);
    c[2 * NAME_BYTES + 4] = (uint8_t)size;
}

static void add_checksum(struct buffer *out, const char *file, uint32_t at, uint32_t start,
                         uint32_t len)
{
    uint8_t scratch[COMMAND_BYTES], *c = command(out, CMD_ADD_CHECKSUM, scratch);
    put_name(c, file);
    store_le32(c + NAME_BYTES, at);
    store_le32(c + NAME_BYTES + 4, start);
    store_le32(c + NAME_BYTES + 8, len);
}

static void make_rsdp(const struct acpi_tables *acpi, struct rom_tables *out)
{
    struct buffer *loader = &out->loader;
    uint8_t *rsdp = out->rsdp;
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "BERTH ", 6);
    rsdp[15] = 2;
    store_le32(rsdp + 16, acpi->rsdt);
    store_le32(rsdp + 20, ACPI_RSDP_BYTES);
    store_le64(rsdp + 24, acpi->xsdt);
    add_pointer(loader, ROM_RSDP_FILE, ROM_TABLES_FILE, 16, 4);
    add_pointer(loader, ROM_RSDP_FILE, ROM_TABLES_FILE, 24, 8);
    add_checksum(loader, ROM_RSDP_FILE, 8, 0, 20);
    add_checksum(loader, ROM_RSDP_FILE, 32, 0, ACPI_RSDP_BYTES);
}

static void make_script(const struct acpi_tables *acpi, struct rom_tables *out)
{
    struct buffer *loader = &out->loader;
    allocate(loader, ROM_RSDP_FILE, 16, ZONE_FSEG);
    allocate(loader, ROM_TABLES_FILE, 64, ZONE_HIGH);
    for (unsigned i = 0; i < acpi->links; i++) {
        const struct acpi_link *link = &acpi->link[i];
        store_le(out->tables.data + link->at, link->size, link->target);
        add_pointer(loader, ROM_TABLES_FILE, ROM_TABLES_FILE, link->at, link->size);
    }
    for (unsigned i = 0; i < acpi->sums; i++)
        add_checksum(loader, ROM_TABLES_FILE, acpi->sum[i].at, acpi->sum[i].start,
                     acpi->sum[i].len);
    make_rsdp(acpi, out);
}

err_t rom_tables_build(const struct acpi_config *config, struct rom_tables *out, struct error *e)
{
    struct acpi_tables acpi;
    *out = (struct rom_tables){0};
    err_t err = acpi_build(config, &acpi, e);
    out->tables = acpi.blob;
    if (err)
        return err;
    make_script(&acpi, out);
    if (out->loader.failed)
        return error_set(e, ERR_NO_MEMORY, "no memory for ACPI tables");
    return OK;
}

void rom_tables_release(struct rom_tables *tables)
{
    buffer_release(&tables->tables);
    buffer_release(&tables->loader);
}

static void e820_entry(struct buffer *out, gpa_t at, uint64_t len)
{
    uint8_t entry[20];
    store_le64(entry, at);
    store_le64(entry + 8, len);
    store_le32(entry + 16, E820_RAM);
    buffer_append(out, entry, sizeof entry);
}

void rom_e820(uint64_t ram_bytes, struct buffer *out)
{
    gpa_t low = e820_low_ram_end(ram_bytes);
    e820_entry(out, 0, low);
    if (ram_bytes > low)
        e820_entry(out, PC_HIGH_RAM, ram_bytes - low);
}
