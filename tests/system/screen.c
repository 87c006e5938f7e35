// A guest with a screen, for tests of what a person sees and types: it shows text, tells on its
// serial port every byte of the keyboard ("k1e") and of the mouse ("m08"), and does what keys say:
//   g a linear mode with a pattern   t text again   m the mouse reports   q the end
#include "../machine/display.h"

#define STATUS 0x64
#define DATA 0x60
#define WIDTH 800
#define HEIGHT 600

static void show_text(void)
{
    static const char words[] = "Berth shows text \xc9\xcd\xbb";
    text_mode();
    for (unsigned i = 0; i < sizeof words - 1; i++)
        *(volatile u16 *)(word)(TEXT + 2 * (80 + i)) = (u16)(0x1f00 | (u8)words[i]);
    outw(0x3d4, 0x200a); // no cursor
}

static void show_pattern(void)
{
    unsigned vga = find_vga();
    pci_write16(vga, 4, 3);
    u64 lfb = pci_read(vga, 0x10) & ~15u;
    linear_mode(WIDTH, HEIGHT, 32);
    for (unsigned y = 0; y < HEIGHT; y++)
        for (unsigned x = 0; x < WIDTH; x++)
            write32(lfb + 4 * (y * WIDTH + x), (x & 0xff) << 16 | (y & 0xff) << 8 | 0x55);
}

static void wait_for_input_buffer(void)
{
    while (inb(STATUS) & 2)
        pause();
}

static void tell_mouse(u8 byte)
{
    wait_for_input_buffer();
    outb(STATUS, 0xd4);
    wait_for_input_buffer();
    outb(DATA, byte);
}

static void obey(u8 scan_code)
{
    switch (scan_code) {
    case 0x22: show_pattern(); break;   // g
    case 0x14: show_text(); break;      // t
    case 0x32: tell_mouse(0xf4); break; // m: report
    case 0x10: machine_exit(0); break;  // q
    default: break;
    }
}

static void a_person_uses_it(void)
{
    show_text();
    print("# ready\n");
    for (;;) {
        u8 status = inb(STATUS);
        if (!(status & 1)) {
            pause();
            continue;
        }
        u8 byte = inb(DATA);
        print("%c%x%x\n", status & 0x20 ? 'm' : 'k', byte >> 4, byte & 15);
        if (!(status & 0x20))
            obey(byte);
    }
}

TESTS(TEST(a_person_uses_it));
