// Inside the pc board: the parts that other files of it need.
#pragma once

#include "block/block.h"
#include "device/pci/pci.h"
#include "display/display.h"
#include "machine/vm_impl.h"

struct board {
    struct pci_bus pci;
    struct device *pm;
    struct device *com1;
    struct device *console; // NULL: none
    struct device *i8042;
    struct device *vga; // NULL: none
    void *vram;
    struct display display;
    struct block *disk[VM_DISKS_MAX];
    unsigned next_slot; // for pluggable PCI devices
    int kernel_fd;      // -1: none; read again at every reset
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

err_t board_add_disks(struct vm *vm, struct error *e); // disks.c

// virtio.c: console and entropy on PCI.
err_t board_add_virtio(struct vm *vm, struct error *e);
