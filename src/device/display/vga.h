// A VGA with the Bochs display interface ("DISPI"), as a PCI function: what SeaBIOS' and OVMF's
// drivers, Linux' bochs-drm and every old program know. Docs: docs/display.md.
#pragma once

#include "device/device.h"
#include "display/display.h"

#define VGA_VRAM_BYTES (16 * MIB)
#define VGA_VRAM_MAX (64 * MIB)

struct vga_config {
    void *vram;          // page-aligned, zeroed; stays the caller's, longer than the device
    const uint8_t *rom;  // its BIOS, for firmware to run; NULL: none. Stays the caller's
    uint32_t rom_bytes;  // at most PCI_ROM_MAX
    uint32_t vram_bytes; // a power of two, 1 MiB to VGA_VRAM_MAX
};

extern const struct device_type vga_type;

// With the device's lock held; see struct display_ops.
bool vga_draw(struct device *dev, struct picture *p, struct damage *damage);
err_t vga_text(struct device *dev, struct display_text *out, struct error *e);
