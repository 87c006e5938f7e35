// Inside the pc board: the parts that other files of it need.
#pragma once

#include "block/block.h"
#include "device/pci/pci.h"
#include "display/display.h"
#include "host/file.h"
#include "machine/board/firmware.h"
#include "machine/vm_impl.h"

// What a network card's callbacks get.
struct board_nic {
    struct vm *vm;
    const struct nic_model *model;
    struct device *dev; // NULL: there is no such card
    unsigned number;
    struct host_file rom;
    struct vm_nic_counters counters; // the device's lock guards them
};

struct board {
    struct pci_bus pci;
    struct device *host; // bridge
    struct device *fw_cfg;
    struct firmware firmware;
    char boot_order[1024];   // OpenFirmware device paths, a line each
    unsigned boot_order_len; // without the final zero
    struct device *pm;
    struct device *com1;
    struct device *console; // NULL: none
    struct device *balloon;
    struct device *vsock; // NULL: none
    struct device *i8042;
    struct device *vga; // NULL: none
    void *vram;
    struct host_file video_bios;
    struct display display;
    struct block *disk[VM_DISKS_MAX];
    struct board_nic nic[VM_NICS_MAX];
    struct device *hotplug;
    uint32_t hotplug_slots; // whose cards come and go
    uint32_t leaving;       // slots whose cards were asked to go
    unsigned next_slot;     // for pluggable PCI devices
    int kernel_fd;          // -1: none; read again at every reset
    int initrd_fd;
};

// Adds a PCI device in the next free slot, its INTA# wired as the slot says.
err_t board_plug(struct vm *vm, const struct device_type *type, const char *id, const void *config,
                 struct device **out, struct error *e);

// display.c: the VGA, and the display of the VM.
err_t board_add_display(struct vm *vm, struct error *e);
void board_free_display(struct vm *vm);

// The same in this place.
err_t board_plug_at(struct vm *vm, const struct device_type *type, const char *id,
                    const void *config, unsigned slot, unsigned function, struct device **out,
                    struct error *e);

// disks.c: the images, and the drives in them.
err_t board_open_disks(struct vm *vm, struct error *e);
err_t board_add_disks(struct vm *vm, struct error *e);

// nics.c
err_t board_add_nics(struct vm *vm, struct error *e);
void board_free_nics(struct vm *vm); // what is left once their devices are gone

// hotplug.c. Once everything else is plugged in.
err_t board_add_hotplug(struct vm *vm, struct error *e);

// virtio.c: console and entropy on PCI.
err_t board_add_virtio(struct vm *vm, struct error *e);

// The next device that firmware tries to boot from, by its OpenFirmware path. While the board is
// built.
void board_add_boot_device(struct vm *vm, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

struct acpi_config;
struct smbios_config;
void board_describe(struct vm *vm, struct acpi_config *acpi);
void board_describe_smbios(const struct vm *vm, struct smbios_config *smbios);

// The kernel and initrd files as they are now; empty where there is none. The caller releases them.
err_t board_read_kernel(struct vm *vm, struct host_file *kernel, struct host_file *initrd,
                        struct error *e);
