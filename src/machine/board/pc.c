// The pc board: a Q35-style PC. What is on it, at which addresses and wired to which interrupts,
// reads from top to bottom in board_new(). Addresses: device/platform.h.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/irq/ioapic.h"
#include "device/irq/lapic.h"
#include "device/irq/pic.h"
#include "device/misc/debug_exit.h"
#include "device/misc/fw_cfg.h"
#include "device/misc/i8042.h"
#include "device/misc/panic.h"
#include "device/misc/reset.h"
#include "device/pci/q35.h"
#include "device/serial/uart.h"
#include "device/timer/hpet.h"
#include "device/timer/pit.h"
#include "device/timer/pm.h"
#include "device/timer/rtc.h"
#include "firmware/loader.h"
#include "firmware/tables.h"
#include "host/file.h"
#include "machine/board/pc_impl.h"

#define KERNEL_MAX (1 * GIB)

// --- callbacks from the chips --------------------------------------------------------------------

static void pic_output(void *opaque, bool level)
{
    struct vm *vm = opaque;
    irq_extint(&vm->irq, level);
}

static bool ioapic_deliver(void *opaque, const struct apic_message *m)
{
    struct vm *vm = opaque;
    return irq_deliver(&vm->irq, m);
}

static void ioapic_awaits(void *opaque, unsigned pin, const struct apic_message *m)
{
    struct vm *vm = opaque;
    irq_await(&vm->irq, pin, m);
}

static uint64_t lapic_tsc_now(void *opaque, unsigned index)
{
    struct vm *vm = opaque;
    return clock_tsc(&vm->clock) + vm->vcpu[index].tsc_adjust;
}

static size_t serial_write(void *opaque, const uint8_t *data, size_t len)
{
    struct vm *vm = opaque;
    return vm->hooks.serial_out ? vm->hooks.serial_out(vm->hooks.opaque, data, len) : len;
}

static void serial_resume(void *opaque)
{
    struct vm *vm = opaque;
    if (vm->hooks.serial_room)
        vm->hooks.serial_room(vm->hooks.opaque);
}

static void route_pirq(void *opaque, unsigned pirq, int irq)
{
    struct vm *vm = opaque;
    irq_route_pirq(&vm->irq, pirq, irq < 0 ? 0 : (unsigned)irq);
}

// PAM registers: carried out when the vCPUs go on. A paused machine looks when it is resumed.
static void legacy_changed(void *opaque)
{
    struct vm *vm = opaque;
    if (vm->clock.running)
        vm_remap(vm);
}

static const struct pci_bus_ops bus_ops = {.lock = device_lock, .unlock = device_unlock};

// --- the parts -----------------------------------------------------------------------------------

static err_t add_interrupt_chips(struct vm *vm, struct error *e)
{
    struct apic_router *router = &vm->irq.router;
    struct pic_config pic = {.output = pic_output, .opaque = vm};
    struct ioapic_config ioapic = {.base = PC_IOAPIC,
                                   .id = PC_IOAPIC_ID,
                                   .deliver = ioapic_deliver,
                                   .opaque = vm,
                                   .awaits = ioapic_awaits};
    err_t err = devices_add_irq_chip(vm, &pic_type, "pic", &pic, &router->pic, e);
    if (!err)
        err = devices_add_irq_chip(vm, &ioapic_type, "ioapic", &ioapic, &router->ioapic, e);
    for (unsigned i = 0; !err && i < vm->vcpus; i++) {
        char id[16];
        snprintf(id, sizeof id, "lapic%u", i);
        struct lapic_config lapic = {.router = router,
                                     .index = i,
                                     .apic_id = i,
                                     .bsp = i == 0,
                                     .bus_khz = PC_APIC_BUS_KHZ,
                                     .tsc_khz = vm->clock.tsc_khz,
                                     .tsc_now = lapic_tsc_now,
                                     .opaque = vm};
        err = devices_add_irq_chip(vm, &lapic_type, id, &lapic, &vm->vcpu[i].lapic, e);
        router->lapic[i] = vm->vcpu[i].lapic;
        router->lapics = i + 1;
        if (!err && vm->irq.kept != ENGINE_CHIPS_NONE)
            devices_keep_timers(vm->vcpu[i].lapic);
    }
    return err;
}

static err_t add_timers(struct vm *vm, struct error *e)
{
    uint64_t low = min_u64(vm->ram_bytes, PC_LOW_RAM_MAX);
    struct rtc_config rtc = {.ram_below_4g = low,
                             .ram_above_4g = vm->ram_bytes - low,
                             .boot_order = {2},
                             .cpus = (uint8_t)vm->vcpus};
    struct hpet_config hpet = {.base = PC_HPET};
    uint8_t hpet_wires[27];
    for (uint8_t i = 0; i < PC_GSIS; i++)
        hpet_wires[i] = i;
    hpet_wires[HPET_LINE_IRQ0] = WIRE_LEGACY(IRQ_LEGACY_HPET0);
    hpet_wires[HPET_LINE_IRQ8] = WIRE_LEGACY(IRQ_LEGACY_HPET8);
    hpet_wires[HPET_LINE_LEGACY] = WIRE_LEGACY(IRQ_LEGACY_ON);
    err_t err = devices_add(vm, &pit_type, "pit", NULL, (uint8_t[]){WIRE_LEGACY(IRQ_LEGACY_PIT)},
                            &vm->pit, e);
    if (!err && vm->irq.kept == ENGINE_CHIPS_ALL)
        devices_keep_timers(vm->pit);
    if (!err)
        err = devices_add(vm, &rtc_type, "rtc", &rtc, (uint8_t[]){WIRE_LEGACY(IRQ_LEGACY_RTC)},
                          NULL, e);
    if (!err)
        err = devices_add(vm, &hpet_type, "hpet", &hpet, hpet_wires, NULL, e);
    if (!err)
        err = devices_add(vm, &pm_type, "pm", NULL, (uint8_t[]){PC_IRQ_SCI}, &vm->board->pm, e);
    return err;
}

static err_t add_serial(struct vm *vm, struct error *e)
{
    struct uart_config com1 = {
        .port = PC_PORT_COM1, .write = serial_write, .resume = serial_resume, .opaque = vm};
    return devices_add(vm, &uart_type, "com1", &com1, (uint8_t[]){PC_IRQ_COM1}, &vm->board->com1,
                       e);
}

static err_t add_small_devices(struct vm *vm, struct error *e)
{
    struct fw_cfg_config fw_cfg = {.cpus = (uint16_t)vm->vcpus, .ram_bytes = vm->ram_bytes};
    uint8_t i8042_wires[] = {PC_IRQ_KEYBOARD, PC_IRQ_MOUSE};
    err_t err = devices_add(vm, &i8042_type, "i8042", NULL, i8042_wires, &vm->board->i8042, e);
    if (!err)
        err = devices_add(vm, &fast_a20_type, "port92", NULL, NULL, NULL, e);
    if (!err)
        err = devices_add(vm, &reset_control_type, "reset", NULL, NULL, NULL, e);
    if (!err)
        err = devices_add(vm, &fw_cfg_type, "fw-cfg", &fw_cfg, NULL, &vm->board->fw_cfg, e);
    if (!err)
        err = devices_add(vm, &panic_type, "panic", NULL, NULL, NULL, e);
    if (!err && vm->config->exit_device)
        err = devices_add(vm, &debug_exit_type, "debug-exit", NULL, NULL, NULL, e);
    return err;
}

err_t board_plug_at(struct vm *vm, const struct device_type *type, const char *id,
                    const void *config, unsigned slot, unsigned function, struct device **out,
                    struct error *e)
{
    struct device *dev = NULL;
    err_t err =
        devices_add(vm, type, id, config, (uint8_t[]){PC_GSI_PIRQ + PC_PIRQ(slot, 0)}, &dev, e);
    if (!err)
        err = pci_bus_plug(&vm->board->pci, pci_function_of(dev), PCI_DEVFN(slot, function), e);
    if (out)
        *out = dev;
    return err;
}

err_t board_plug(struct vm *vm, const struct device_type *type, const char *id, const void *config,
                 struct device **out, struct error *e)
{
    struct board *board = vm->board;
    while (board->next_slot < PC_SLOT_LPC && board->pci.functions[PCI_DEVFN(board->next_slot, 0)])
        board->next_slot++;
    if (board->next_slot == PC_SLOT_LPC)
        return error_set(e, ERR_NO_MEMORY, "%s: no free PCI slot", id);
    return board_plug_at(vm, type, id, config, board->next_slot++, 0, out, e);
}

static err_t add_chipset(struct vm *vm, struct error *e)
{
    pci_bus_init(&vm->board->pci, &bus_ops);
    struct q35_host_config host = {
        .bus = &vm->board->pci, .legacy_changed = legacy_changed, .opaque = vm};
    struct ich9_lpc_config lpc = {.route = route_pirq, .opaque = vm};
    err_t err = devices_add(vm, &q35_host_type, "host-bridge", &host, (uint8_t[]){WIRE_NONE},
                            &vm->board->host, e);
    if (!err)
        err = board_plug_at(vm, &ich9_lpc_type, "lpc", &lpc, PC_SLOT_LPC, 0, NULL, e);
    return err;
}

// --- files that are read again at every reset ----------------------------------------------------

static err_t open_file(const char *what, const char *path, const char *hint, int *fd,
                       struct error *e)
{
    *fd = -1;
    if (!path || !path[0])
        return OK;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return error_set(e, err_from_errno(errno), "cannot read %s '%s': %s; %s", what, path,
                         strerror(errno), hint);
    return OK;
}

static err_t read_again(int fd, const char *name, struct host_file *out, struct error *e)
{
    *out = (struct host_file){0};
    if (fd < 0)
        return OK;
    if (lseek(fd, 0, SEEK_SET) < 0)
        return error_set(e, ERR_IO, "cannot read '%s' again: %s", name, strerror(errno));
    return host_file_read_fd(fd, name, KERNEL_MAX, out, e);
}

// --- life ----------------------------------------------------------------------------------------

err_t board_new(struct vm *vm, struct error *e)
{
    struct board *board = calloc(1, sizeof *board);
    if (!board)
        return error_set(e, ERR_NO_MEMORY, "no memory for the board");
    vm->board = board;
    board->kernel_fd = board->initrd_fd = board->firmware.vars_fd = -1;
    board->next_slot = PC_SLOT_HOST + 1;
    err_t err = board_open_disks(vm, e);
    if (!err)
        err = firmware_open(vm, e);
    if (!err)
        err = open_file("kernel", vm->config->kernel,
                        "--kernel takes a bzImage, a vmlinux or a multiboot file",
                        &board->kernel_fd, e);
    if (!err)
        err = open_file("initrd", vm->config->initrd, "--initrd takes an initramfs file",
                        &board->initrd_fd, e);
    if (!err)
        err = add_interrupt_chips(vm, e);
    if (!err)
        err = add_timers(vm, e);
    if (!err)
        err = add_serial(vm, e);
    if (!err)
        err = add_small_devices(vm, e);
    if (!err)
        err = add_chipset(vm, e);
    if (!err)
        err = board_add_disks(vm, e);
    if (!err)
        err = board_add_virtio(vm, e);
    if (!err)
        err = board_add_nics(vm, e);
    if (!err)
        err = board_add_display(vm, e);
    if (!err)
        err = board_add_hotplug(vm, e);
    if (!err)
        err = firmware_add_devices(vm, e);
    if (!err)
        err = firmware_fill_fw_cfg(vm, e);
    return err;
}

void board_free(struct vm *vm)
{
    struct board *board = vm->board;
    if (!board)
        return;
    firmware_close(vm);
    if (board->kernel_fd >= 0)
        close(board->kernel_fd);
    if (board->initrd_fd >= 0)
        close(board->initrd_fd);
    board_free_display(vm);
    board_free_nics(vm);
    free(board);
    vm->board = NULL;
}

static err_t write_ram(void *opaque, gpa_t at, const void *data, size_t len)
{
    struct vm *vm = opaque;
    return memory_write(&vm->memory, at, data, len);
}

static err_t install_tables(struct vm *vm, const struct guest_memory *memory, gpa_t *rsdp,
                            struct error *e)
{
    struct acpi_config acpi;
    struct smbios_config smbios;
    board_describe(vm, &acpi);
    board_describe_smbios(vm, &smbios);
    return tables_install(&acpi, &smbios, memory, rsdp, e);
}

static err_t load(struct vm *vm, const struct host_file *kernel, const struct host_file *initrd,
                  struct cpu_state *bsp, struct error *e)
{
    struct guest_memory memory = {.write = write_ram, .opaque = vm, .ram_bytes = vm->ram_bytes};
    struct boot_request request = {.kernel = kernel->data,
                                   .kernel_len = kernel->len,
                                   .initrd = initrd->data,
                                   .initrd_len = initrd->len,
                                   .name = vm->config->kernel,
                                   .cmdline = vm->config->append};
    struct boot_result result;
    err_t err = install_tables(vm, &memory, &request.rsdp, e);
    return err ? err : loader_load(&request, &memory, bsp, &result, e);
}

err_t board_read_kernel(struct vm *vm, struct host_file *kernel, struct host_file *initrd,
                        struct error *e)
{
    err_t err = read_again(vm->board->kernel_fd, vm->config->kernel, kernel, e);
    return err ? err : read_again(vm->board->initrd_fd, vm->config->initrd, initrd, e);
}

static err_t boot_kernel(struct vm *vm, struct cpu_state *bsp, struct error *e)
{
    if (vm->board->kernel_fd < 0)
        return error_set(e, ERR_INVALID,
                         "nothing to boot; give a disk image, or a kernel with --kernel FILE");
    struct host_file kernel = {0}, initrd = {0};
    err_t err = pci_assign_resources(&vm->board->pci, e);
    if (!err)
        err = board_read_kernel(vm, &kernel, &initrd, e);
    if (!err)
        err = load(vm, &kernel, &initrd, bsp, e);
    host_file_release(&kernel);
    host_file_release(&initrd);
    return err;
}

// Firmware starts from the CPU's own reset state.
err_t board_boot(struct vm *vm, struct cpu_state *bsp, struct error *e)
{
    err_t err = board_has_firmware(vm) ? OK : boot_kernel(vm, bsp, e);
    irq_lock(&vm->irq);
    lapic_virtual_wire(vm->vcpu[0].lapic);
    irq_unlock(&vm->irq);
    return err;
}

err_t board_remap(struct vm *vm, struct error *e)
{
    return legacy_apply(vm, e);
}

bool board_has_firmware(const struct vm *vm)
{
    return vm->board->firmware.kind != FIRMWARE_NONE;
}

bool board_power_button(struct vm *vm)
{
    device_lock(vm->board->pm);
    bool heard = pm_power_button(vm->board->pm);
    device_unlock(vm->board->pm);
    return heard;
}

struct device *board_serial(struct vm *vm)
{
    return vm->board->com1;
}

struct device *board_balloon(struct vm *vm)
{
    return vm->board->balloon;
}

struct device *board_vsock(struct vm *vm)
{
    return vm->board->vsock;
}

struct device *board_console(struct vm *vm)
{
    return vm->board->console;
}
