// The VGA from inside: what is written can be read, in the window and in the frame buffer, wherever
// the frame buffer's BAR is put.
#include "display.h"

static unsigned vga;
static u64 lfb;

static u64 bar0(void)
{
    return pci_read(vga, 0x10) & ~15u;
}

static void the_vga_is_there(void)
{
    vga = find_vga();
    CHECK(vga != 256);
    CHECK_EQ(pci_read(vga, 8) >> 16, 0x0300);
    CHECK_EQ(dispi_read(0) & 0xfff0, 0xb0c0);
    pci_write16(vga, 4, 3);
    lfb = bar0();
    CHECK(lfb != 0);
}

static void text_keeps_characters_and_attributes(void)
{
    text_mode();
    volatile u16 *text = (volatile u16 *)(word)TEXT;
    for (unsigned i = 0; i < 80 * 25; i++)
        text[i] = (u16)(i * 7);
    for (unsigned i = 0; i < 80 * 25; i++)
        if (text[i] != (u16)(i * 7)) {
            CHECK_EQ(text[i], (u16)(i * 7));
            return;
        }
}

static void planes_are_written_together_and_read_one_by_one(void)
{
    vga_set_mode(&mode_12h, vga_out, vga_in);
    volatile u8 *window = (volatile u8 *)(word)0xa0000;
    outw(0x3c4, 0x0f02);
    window[5] = 0;
    outw(0x3c4, 0x0502);
    window[5] = 0xa5;
    for (unsigned plane = 0; plane < 4; plane++) {
        outw(0x3ce, (u16)(plane << 8 | 4));
        CHECK_EQ(window[5], plane & 1 ? 0 : 0xa5);
    }
}

static bool holds(u64 at, unsigned words, u32 seed)
{
    for (unsigned i = 0; i < words; i++)
        if (read32(at + 4 * (u64)i) != i * 2654435761u + seed)
            return false;
    return true;
}

static void fill(u64 at, unsigned words, u32 seed)
{
    for (unsigned i = 0; i < words; i++)
        write32(at + 4 * (u64)i, i * 2654435761u + seed);
}

static void a_linear_mode_is_memory(void)
{
    linear_mode(1024, 768, 32);
    CHECK_EQ(read32(lfb), 0); // setting it has cleared it
    u64 begin = rdtsc();
    fill(lfb, 1024 * 768, 1);
    u64 ticks = rdtsc() - begin;
    CHECK(holds(lfb, 1024 * 768, 1));
    print("# a frame of 1024x768 took %lu us\n", (unsigned long)(ticks * 1000 / tsc_per_ms()));
}

static void the_window_shows_its_banks(void)
{
    dispi(5, 2);
    outw(0x3ce, 0x0506);
    CHECK_EQ(*(volatile u32 *)(word)0xa0010, read32(lfb + 0x20010));
    *(volatile u32 *)(word)0xa0010 = 0x12345678;
    CHECK_EQ(read32(lfb + 0x20010), 0x12345678);
}

static void the_frame_buffer_follows_its_bar(void)
{
    u64 other = 0xd8000000; // nothing else is there
    dispi(4, 0);
    linear_mode(1024, 768, 32);
    for (unsigned round = 0; round < 20; round++) {
        u64 to = round & 1 ? lfb : other, from = round & 1 ? other : lfb;
        fill(from, 5000, round);
        pci_write16(vga, 4, 0);
        pci_write(vga, 0x10, (u32)to);
        pci_write16(vga, 4, 3);
        CHECK(holds(to, 5000, round)); // at once
        CHECK(!holds(from, 5000, round));
    }
}

static void ram_wins_where_the_bar_is_put_over_it(void)
{
    u64 page = (u64)(word)page_alloc();
    write32(page, 0xfeedface);
    pci_write16(vga, 4, 0);
    pci_write(vga, 0x10, (u32)(page & ~0xffffffull));
    pci_write16(vga, 4, 3);
    CHECK_EQ(read32(page), 0xfeedface);
    pci_write16(vga, 4, 0);
    pci_write(vga, 0x10, (u32)lfb);
    pci_write16(vga, 4, 3);
    fill(lfb, 10, 77);
    CHECK(holds(lfb, 10, 77));
}

static u64 scrolling(void)
{
    volatile u16 *text = (volatile u16 *)(word)TEXT;
    u64 begin = rdtsc();
    for (unsigned i = 0; i < 80 * 24; i++)
        text[i] = text[i + 80];
    return rdtsc() - begin;
}

static u64 port_reads(void)
{
    u64 begin = rdtsc();
    for (unsigned i = 0; i < 80 * 24; i++)
        inb(0x3cc);
    return rdtsc() - begin;
}

// A character that is moved is two accesses, which may cost little more than two to a port.
static void text_is_not_too_slow(void)
{
    text_mode();
    u64 text = ~0ull, port = 0;
    for (unsigned try = 0; try < 50 && text > 10 * port; try++) { // the host may be busy
        port = port_reads();
        text = scrolling();
    }
    print("# scrolling a screen of text took %lu us, as many reads of a port %lu\n",
          (unsigned long)(text * 1000 / tsc_per_ms()), (unsigned long)(port * 1000 / tsc_per_ms()));
    CHECK(text <= 10 * port);
}

TESTS(TEST(the_vga_is_there), TEST(text_keeps_characters_and_attributes),
      TEST(planes_are_written_together_and_read_one_by_one), TEST(a_linear_mode_is_memory),
      TEST(the_window_shows_its_banks), TEST(the_frame_buffer_follows_its_bar),
      TEST(ram_wins_where_the_bar_is_put_over_it), TEST(text_is_not_too_slow));
