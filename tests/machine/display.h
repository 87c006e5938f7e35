// The VGA for test guests: modes by registers, linear modes by the Bochs interface.
#pragma once

#include "pci.h"
#include "vga_modes.h"

#define TEXT 0xb8000u

static inline void vga_out(uint16_t port, uint8_t value)
{
    outb(port, value);
}

static inline uint8_t vga_in(uint16_t port)
{
    return inb(port);
}

static inline void set_colour(u8 index, u8 r, u8 g, u8 b)
{
    outb(0x3c8, index);
    outb(0x3c9, r);
    outb(0x3c9, g);
    outb(0x3c9, b);
}

static inline void dispi(u16 index, u16 value)
{
    outw(0x1ce, index);
    outw(0x1cf, value);
}

static inline u16 dispi_read(u16 index)
{
    outw(0x1ce, index);
    return inw(0x1cf);
}

// 80x25 with a black background, white text, and glyphs that are solid but for the blank's.
static inline void text_mode(void)
{
    dispi(4, 0);
    vga_set_mode(&mode_03h, vga_out, vga_in);
    for (unsigned i = 0; i < 256; i++)
        set_colour((u8)i, i & 4 ? 42 : 0, i & 2 ? 42 : 0, i & 1 ? 42 : 0);
    set_colour(0x3f, 63, 63, 63);
    outw(0x3c4, 0x0402), outw(0x3c4, 0x0604), outw(0x3ce, 0x0005), outw(0x3ce, 0x0406);
    for (unsigned i = 0; i < 256 * 32; i++)
        *(volatile u8 *)(0xa0000 + (word)i) = i / 32 && i / 32 != ' ' ? 0xff : 0;
    outw(0x3c4, 0x0302), outw(0x3c4, 0x0204), outw(0x3ce, 0x1005), outw(0x3ce, 0x0e06);
    for (unsigned i = 0; i < 80 * 25; i++)
        *(volatile u16 *)(TEXT + 2 * (word)i) = 0x0720;
}

static inline void linear_mode(u16 width, u16 height, u16 bpp)
{
    dispi(4, 0);
    dispi(1, width), dispi(2, height), dispi(3, bpp);
    dispi(4, 0x41);
    inb(0x3da);
    outb(0x3c0, 0x20);
}

// The VGA's place on the bus; 256: there is none.
static inline unsigned find_vga(void)
{
    for (unsigned devfn = 0; devfn < 256; devfn += 8)
        if (pci_read(devfn, 0) == 0x11111234)
            return devfn;
    return 256;
}
