// What the pc board tells its firmware through fw_cfg: the RAM, ACPI and SMBIOS tables, what to
// boot from, and a kernel where the definition names one.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "device/misc/fw_cfg.h"
#include "device/pci/q35.h"
#include "firmware/rom_tables.h"
#include "firmware/smbios.h"
#include "machine/board/pc_impl.h"

#define MMIO64_GRAIN (1 * GIB)
#define MMIO64_LEAST (32 * GIB)
#define SETUP_SECTS 0x1f1 // in a bzImage; boot protocol: Linux Documentation/arch/x86/boot.rst
#define HDRS 0x202
#define SETUP_SECTS_OLD 4

// --- ACPI ----------------------------------------------------------------------------------------

// Where firmware has opened the configuration window; where direct boot does, if it has put it
// where the tables cannot describe it.
static gpa_t ecam_of(struct vm *vm)
{
    struct pci_bus *bus = &vm->board->pci;
    unsigned host = PCI_DEVFN(PC_SLOT_HOST, 0);
    uint64_t len, at = q35_ecam(pci_bus_read(bus, host, Q35_PCIEXBAR, 4),
                                pci_bus_read(bus, host, Q35_PCIEXBAR + 4, 4), &len);
    bool good = len == PC_ECAM_SIZE && at > PC_MMIO32 && at < PC_MMIO32_END - PC_ECAM_SIZE;
    return good ? at : PC_ECAM;
}

// The BARs that lie above 4 GiB, in whole GiB, with room for others behind them.
static void describe_mmio64(struct vm *vm, struct acpi_config *acpi)
{
    uint64_t from, to;
    if (!pci_high_bars(&vm->board->pci, &from, &to) || to > 1ull << 52)
        return;
    acpi->mmio64 = align_down(from, MMIO64_GRAIN);
    acpi->mmio64_len = max_u64(align_up(to, MMIO64_GRAIN) - acpi->mmio64, MMIO64_LEAST);
}

void board_describe(struct vm *vm, struct acpi_config *acpi)
{
    *acpi = (struct acpi_config){.cpus = vm->vcpus,
                                 .com1 = true,
                                 .i8042 = true,
                                 .hpet = true,
                                 .panic = true,
                                 .fw_cfg = true,
                                 .hotplug_slots = vm->board->hotplug_slots,
                                 .vga = vm->board->vga != NULL,
                                 .ecam = ecam_of(vm),
                                 .mmio64 = PC_MMIO64,
                                 .mmio64_len = PC_MMIO64_SIZE};
    describe_mmio64(vm, acpi);
}

void board_describe_smbios(const struct vm *vm, struct smbios_config *smbios)
{
    *smbios = (struct smbios_config){.product = vm->config->name,
                                     .ram_bytes = vm->ram_bytes,
                                     .cpus = vm->vcpus,
                                     .cpu_mhz = (uint32_t)(vm->clock.tsc_khz / 1000)};
}

// Firmware reads the tables after it has placed everything: they are made anew then.
static void refresh_tables(void *opaque, uint8_t *data, uint32_t len)
{
    struct vm *vm = opaque;
    struct acpi_config acpi;
    struct rom_tables tables;
    board_describe(vm, &acpi);
    if (rom_tables_build(&acpi, &tables, NULL) == OK && tables.tables.len == len)
        memcpy(data, tables.tables.data, len);
    rom_tables_release(&tables);
}

// --- files ---------------------------------------------------------------------------------------

static err_t add_file(struct vm *vm, const char *name, const void *data, size_t len,
                      struct error *e)
{
    err_t err = fw_cfg_add_file(vm->board->fw_cfg, name, data, (uint32_t)len);
    return err ? error_set(e, err, "fw_cfg has no room for '%s'", name) : OK;
}

static err_t add_acpi(struct vm *vm, struct error *e)
{
    struct acpi_config acpi;
    struct rom_tables tables;
    board_describe(vm, &acpi);
    err_t err = rom_tables_build(&acpi, &tables, e);
    if (!err)
        err = add_file(vm, ROM_TABLES_FILE, tables.tables.data, tables.tables.len, e);
    if (!err)
        err = add_file(vm, ROM_RSDP_FILE, tables.rsdp, sizeof tables.rsdp, e);
    if (!err)
        err = add_file(vm, ROM_LOADER_FILE, tables.loader.data, tables.loader.len, e);
    if (!err)
        err = fw_cfg_keep_fresh(vm->board->fw_cfg, ROM_TABLES_FILE, refresh_tables, vm);
    rom_tables_release(&tables);
    return err;
}

static err_t add_smbios(struct vm *vm, struct error *e)
{
    struct smbios_config config;
    struct buffer table = BUFFER_EMPTY;
    uint8_t entry[SMBIOS_ENTRY_BYTES];
    board_describe_smbios(vm, &config);
    err_t err = smbios_build(&config, 0, &table, entry, e);
    if (!err)
        err = add_file(vm, "etc/smbios/smbios-tables", table.data, table.len, e);
    if (!err)
        err = add_file(vm, "etc/smbios/smbios-anchor", entry, sizeof entry, e);
    buffer_release(&table);
    return err;
}

static err_t add_memory(struct vm *vm, struct error *e)
{
    struct buffer map = BUFFER_EMPTY;
    rom_e820(vm->ram_bytes, &map);
    err_t err = map.failed ? error_set(e, ERR_NO_MEMORY, "no memory for the memory map")
                           : add_file(vm, ROM_E820_FILE, map.data, map.len, e);
    buffer_release(&map);
    return err;
}

static err_t add_number(struct vm *vm, const char *name, uint64_t value, unsigned size,
                        struct error *e)
{
    uint8_t bytes[8];
    store_le64(bytes, value);
    return add_file(vm, name, bytes, size, e);
}

// Without a display the BIOS shows its screen on COM1.
static err_t add_settings(struct vm *vm, struct error *e)
{
    struct board *board = vm->board;
    err_t err = OK;
    if (board->boot_order_len)
        err = add_file(vm, "bootorder", board->boot_order, board->boot_order_len + 1, e);
    if (!err)
        err = add_number(vm, "etc/show-boot-menu", 0, 2, e);
    if (!err && !board->vga)
        err = add_number(vm, "etc/sercon-port", PC_PORT_COM1, 2, e);
    return err;
}

void board_add_boot_device(struct vm *vm, const char *fmt, ...)
{
    struct board *board = vm->board;
    char *at = board->boot_order + board->boot_order_len;
    size_t room = sizeof board->boot_order - board->boot_order_len;
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(at, room, fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len + 2 > room) { // not this one any more
        *at = '\0';
        return;
    }
    at[len] = '\n';
    at[len + 1] = '\0';
    board->boot_order_len += (unsigned)len + 1;
}

// --- a kernel ------------------------------------------------------------------------------------

static err_t add_item(struct vm *vm, uint16_t selector, const void *data, size_t len,
                      struct error *e)
{
    err_t err = fw_cfg_add_item(vm->board->fw_cfg, selector, data, (uint32_t)len);
    return err ? error_set(e, err, "no memory for the kernel in fw_cfg") : OK;
}

static err_t add_sized(struct vm *vm, uint16_t size_selector, uint16_t selector, const void *data,
                       size_t len, struct error *e)
{
    uint8_t size[4];
    store_le32(size, (uint32_t)len);
    err_t err = add_item(vm, size_selector, size, sizeof size, e);
    return err ? err : add_item(vm, selector, data, len, e);
}

// The real-mode part of a bzImage; nothing of another file.
static size_t setup_len(const struct host_file *kernel)
{
    if (kernel->len < HDRS + 4 || memcmp(kernel->data + HDRS, "HdrS", 4))
        return 0;
    unsigned sects = kernel->data[SETUP_SECTS] ? kernel->data[SETUP_SECTS] : SETUP_SECTS_OLD;
    return min_u64((sects + 1) * 512, kernel->len);
}

static err_t add_kernel(struct vm *vm, const struct host_file *kernel,
                        const struct host_file *initrd, struct error *e)
{
    const char *cmdline = vm->config->append ? vm->config->append : "";
    size_t setup = setup_len(kernel);
    err_t err = add_sized(vm, FW_CFG_SETUP_SIZE, FW_CFG_SETUP_DATA, kernel->data, setup, e);
    if (!err)
        err = add_sized(vm, FW_CFG_KERNEL_SIZE, FW_CFG_KERNEL_DATA, kernel->data + setup,
                        kernel->len - setup, e);
    if (!err)
        err = add_sized(vm, FW_CFG_CMDLINE_SIZE, FW_CFG_CMDLINE_DATA, cmdline, strlen(cmdline) + 1,
                        e);
    if (!err && initrd->len)
        err = add_sized(vm, FW_CFG_INITRD_SIZE, FW_CFG_INITRD_DATA, initrd->data, initrd->len, e);
    return err;
}

err_t firmware_fill_fw_cfg(struct vm *vm, struct error *e)
{
    struct host_file kernel = {0}, initrd = {0};
    if (vm->board->firmware.kind == FIRMWARE_NONE)
        return OK;
    err_t err = add_memory(vm, e);
    if (!err)
        err = add_acpi(vm, e);
    if (!err)
        err = add_smbios(vm, e);
    if (!err)
        err = add_settings(vm, e);
    if (!err)
        err = board_read_kernel(vm, &kernel, &initrd, e);
    if (!err && kernel.len)
        err = add_kernel(vm, &kernel, &initrd, e);
    host_file_release(&kernel);
    host_file_release(&initrd);
    return err;
}
