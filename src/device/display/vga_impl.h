// Inside the VGA: its registers, and what its parts need of each other.
#pragma once

#include "base/bits.h"
#include "device/display/vga.h"
#include "device/pci/pci.h"

// Indexes, all within their arrays.
enum {
    SEQ_CLOCKING = 1,
    SEQ_MAP_MASK = 2,
    SEQ_FONTS = 3,
    SEQ_MEMORY = 4,
    GFX_SET_RESET = 0,
    GFX_ENABLE_SET_RESET = 1,
    GFX_COMPARE = 2,
    GFX_ROTATE = 3,
    GFX_READ_PLANE = 4,
    GFX_MODE = 5,
    GFX_MISC = 6,
    GFX_CARE = 7,
    GFX_BIT_MASK = 8,
    CRTC_H_END = 0x01,
    CRTC_OVERFLOW = 0x07,
    CRTC_PRESET_ROW = 0x08,
    CRTC_MAX_SCAN = 0x09,
    CRTC_CURSOR_START = 0x0a,
    CRTC_CURSOR_END = 0x0b,
    CRTC_START_HIGH = 0x0c,
    CRTC_CURSOR_HIGH = 0x0e,
    CRTC_V_SYNC_END = 0x11,
    CRTC_V_END = 0x12,
    CRTC_OFFSET = 0x13,
    CRTC_UNDERLINE = 0x14,
    CRTC_MODE = 0x17,
    CRTC_LINE_COMPARE = 0x18,
    ATTR_MODE = 0x10,
    ATTR_PLANES = 0x12,
    ATTR_PAN = 0x13,
    ATTR_COLOUR_SELECT = 0x14,
    DISPI_ID = 0,
    DISPI_WIDTH,
    DISPI_HEIGHT,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_BANK,
    DISPI_VIRT_WIDTH,
    DISPI_VIRT_HEIGHT,
    DISPI_X,
    DISPI_Y,
    DISPI_VRAM_64K,
    DISPI_REGISTERS,
};

#define CLOCKING_8_DOTS BIT(0)
#define CLOCKING_SCREEN_OFF BIT(5)
#define MEMORY_SEQUENTIAL BIT(2) // not odd/even
#define MEMORY_CHAIN_4 BIT(3)
#define MODE_COMPARE BIT(3) // read mode 1
#define MODE_INTERLEAVED BIT(5)
#define MODE_256_COLOURS BIT(6)
#define MISC_GRAPHICS BIT(0)
#define MISC_COLOUR BIT(0) // of the miscellaneous output register: CRTC at 0x3d4
#define MAX_SCAN_DOUBLE BIT(7)
#define CURSOR_OFF BIT(5)
#define ATTR_BLINK BIT(3)
#define ATTR_LINE_GRAPHICS BIT(2)
#define ATTR_PAN_TOP_ONLY BIT(5)
#define ATTR_4_BIT_SELECT BIT(7)
#define ATTR_VIDEO_ON BIT(5) // of the attribute index
#define DISPI_ON BIT(0)
#define DISPI_CAPABILITIES BIT(1)
#define DISPI_8_BIT_DAC BIT(5)
#define DISPI_NO_CLEAR BIT(7)

#define VGA_PLANE_BYTES 0x10000u // of each plane, as the original VGA's registers reach

struct vga {
    struct pci_function pci;
    uint32_t *vram; // each word holds a byte of every plane, plane 0 lowest
    gpa_t mapped;   // where the guest reaches it directly
    uint64_t dirty[VGA_VRAM_MAX / PAGE_SIZE / 64]; // pages to draw again in the live picture
    uint32_t vram_bytes;
    uint32_t redraw; // registers changed: all of the live picture

    uint32_t latch;
    uint16_t dispi_index;
    uint16_t dispi[DISPI_REGISTERS];
    uint8_t seq[8];
    uint8_t gfx[16];
    uint8_t crtc[32];
    uint8_t attr[32];
    uint8_t dac[256 * 3];
    uint8_t seq_index;
    uint8_t gfx_index;
    uint8_t crtc_index;
    uint8_t attr_index; // with ATTR_VIDEO_ON
    uint8_t attr_data;  // the next write to 0x3c0 is data
    uint8_t misc;
    uint8_t feature;
    uint8_t pel_mask;
    uint8_t dac_write;
    uint8_t dac_read;
    uint8_t dac_part;  // 0..2: red, green, blue
    uint8_t dac_state; // what 0x3c7 reads: 3 while reading
    uint8_t pad[4];
};

static inline struct vga *vga_of(struct device *dev)
{
    return (struct vga *)dev;
}

static inline bool vga_linear(const struct vga *v) // a DISPI mode is shown
{
    return v->dispi[DISPI_ENABLE] & DISPI_ON;
}

static inline void vga_mark(struct vga *v, uint64_t offset) // of VRAM that the device has written
{
    v->dirty[offset / PAGE_SIZE / 64] |= BIT(offset / PAGE_SIZE % 64);
}

static inline uint32_t vga_words(const struct vga *v) // of VRAM: a power of two
{
    return v->vram_bytes / 4;
}

// vga_ports.c: the original registers. port is 0x3b0..0x3df.
uint8_t vga_port_read(struct vga *v, unsigned port);
void vga_port_write(struct vga *v, unsigned port, uint8_t value);
err_t vga_claim_ports(struct vga *v, struct error *e);

// vga_window.c: 0xa0000..0xbffff.
err_t vga_claim_window(struct vga *v, struct error *e);

// vga_dispi.c: the Bochs interface.
err_t vga_claim_dispi(struct vga *v, struct error *e);
bool vga_dispi_possible(const struct vga *v); // state from outside
uint32_t vga_pitch(const struct vga *v); // bytes from row to row; of one plane with 4 bits a pixel
extern const struct io_ops vga_mmio_ops; // BAR 2
#define VGA_MMIO_BYTES 4096
void vga_edid(uint8_t edid[128]); // vga_edid.c
