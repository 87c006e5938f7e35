// The VGA: registers as a guest sees them, and pictures against ones worked out by hand.
#include "device/display/vga.h"

#include <stdlib.h>

#include "../../machine/vga_modes.h"
#include "base/bits.h"
#include "base/bytes.h"
#include "device/pci/pci.h"
#include "fake_env.h"
#include "test.h"

#define VRAM (2 * MIB)
#define LFB 0xd0000000ull
#define MMIO 0xd8000000ull
#define BLACK 0
#define WHITE 0xffffff

static _Alignas(4096) uint8_t vram[VRAM];
static struct fake_env *env;
static struct device *vga;
static struct picture picture;
static const struct vga_config config = {.vram = vram, .vram_bytes = VRAM};

// --- the guest ---

static void out(uint16_t port, uint8_t value)
{
    fake_out(env, port, 1, value);
}

static uint8_t in(uint16_t port)
{
    return (uint8_t)fake_in(env, port, 1);
}

static void gfx(uint8_t index, uint8_t value)
{
    fake_out(env, 0x3ce, 2, (uint64_t)(index | value << 8)); // as guests do: both at once
}

static void seq(uint8_t index, uint8_t value)
{
    fake_out(env, 0x3c4, 2, (uint64_t)(index | value << 8));
}

static void crtc(uint8_t index, uint8_t value)
{
    fake_out(env, 0x3d4, 2, (uint64_t)(index | value << 8));
}

static void dispi(uint16_t index, uint16_t value)
{
    fake_out(env, 0x1ce, 2, index);
    fake_out(env, 0x1cf, 2, value);
}

static uint16_t dispi_read(uint16_t index)
{
    fake_out(env, 0x1ce, 2, index);
    return (uint16_t)fake_in(env, 0x1cf, 2);
}

static void poke(gpa_t at, uint8_t value)
{
    fake_mmio_write(env, at, 1, value);
}

static uint8_t peek(gpa_t at)
{
    return (uint8_t)fake_mmio_read(env, at, 1);
}

static void colour(uint8_t index, uint8_t r, uint8_t g, uint8_t b)
{
    out(0x3c8, index);
    out(0x3c9, r), out(0x3c9, g), out(0x3c9, b);
}

static void set_dispi(uint16_t width, uint16_t height, uint16_t bpp)
{
    dispi(4, 0);
    dispi(1, width), dispi(2, height), dispi(3, bpp);
    dispi(4, 0x41);
    out(0x3c0, 0x20);
}

// --- the fixture ---

static void begin(void)
{
    struct error e = {0};
    memset(vram, 0, sizeof vram);
    env = fake_env_new();
    vga = fake_add(env, &vga_type, &config);
    struct pci_function *f = pci_function_of(vga);
    pci_config_write(f, PCI_BAR0, 4, (uint32_t)LFB);
    pci_config_write(f, PCI_BAR0 + 8, 4, (uint32_t)MMIO);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    CHECK(picture_init(&picture, false, &e) == OK);
}

static void begin_mode(const struct vga_mode *mode)
{
    begin();
    vga_set_mode(mode, out, in);
    colour(0, 0, 0, 0);
    colour(7, 42, 42, 42);
    colour(0x3f, 63, 63, 63);
    colour(4, 63, 0, 0);
}

static void end(void)
{
    picture_release(&picture);
    fake_env_free(env);
}

static struct display_rect changes[64];
static unsigned changed;

static void note_change(void *opaque, const struct display_rect *rect)
{
    if (changed < ARRAY_LEN(changes))
        changes[changed++] = *rect;
}

static bool draw(void)
{
    struct damage damage = {.changed = note_change};
    changed = 0;
    return vga_draw(vga, &picture, &damage);
}

static uint32_t pixel(unsigned x, unsigned y)
{
    return picture.pixels[y * picture.width + x];
}

// Glyph of a character: rows from bytes, the rest empty. As a BIOS loads it, through plane 2.
static void load_glyph(uint8_t code, unsigned rows, const uint8_t *bytes)
{
    seq(2, 4), seq(4, 6), gfx(5, 0), gfx(6, 4);
    for (unsigned i = 0; i < rows; i++)
        poke(0xa0000 + code * 32u + i, bytes[i]);
    seq(2, 3), seq(4, 2), gfx(5, 0x10), gfx(6, 0x0e);
}

// --- text ---

static void text_is_drawn_from_characters_attributes_and_the_font_in_plane_2(void)
{
    begin_mode(&mode_03h);
    load_glyph('A', 2, (const uint8_t[]){0x81, 0x40});
    crtc(0x0a, 0x20);                                        // no cursor
    fake_mmio_write(env, 0xb8000 + 2 * 81, 2, 0x4f00 | 'A'); // row 1, column 1: white on red
    CHECK(draw());
    CHECK_EQ(picture.width, 720);
    CHECK_EQ(picture.height, 400);
    CHECK_EQ(pixel(9, 16), WHITE);
    CHECK_EQ(pixel(10, 16), 0xff0000);
    CHECK_EQ(pixel(16, 16), WHITE);
    CHECK_EQ(pixel(17, 16), 0xff0000); // the ninth dot is background
    CHECK_EQ(pixel(10, 17), WHITE);
    CHECK_EQ(pixel(9, 17), 0xff0000);
    CHECK_EQ(pixel(9, 18), 0xff0000);
    CHECK_EQ(pixel(18, 16), BLACK);
    CHECK_EQ(pixel(8, 16), BLACK);
    end();
}

static void line_drawing_characters_reach_into_the_ninth_dot(void)
{
    begin_mode(&mode_03h);
    load_glyph(0xc4, 1, (const uint8_t[]){0xff});
    load_glyph(0xe0, 1, (const uint8_t[]){0xff});
    crtc(0x0a, 0x20);
    fake_mmio_write(env, 0xb8000, 4, 0x0fe00fc4);
    draw();
    CHECK_EQ(pixel(8, 0), WHITE);
    CHECK_EQ(pixel(17, 0), BLACK);
    end();
}

static void the_cursor_is_a_block_of_its_lines_and_blinks(void)
{
    begin_mode(&mode_03h);
    crtc(0x0e, 0), crtc(0x0f, 2); // column 2
    poke(0xb8000 + 5, 0x0f);
    draw();
    CHECK_EQ(pixel(18, 13), WHITE);
    CHECK_EQ(pixel(26, 14), WHITE);
    CHECK_EQ(pixel(18, 12), BLACK);
    CHECK_EQ(pixel(18, 15), BLACK);
    CHECK_EQ(pixel(27, 13), BLACK);
    fake_advance(env, 300 * NS_PER_MS);
    draw();
    CHECK_EQ(pixel(18, 13), BLACK);
    end();
}

static void characters_blink_only_while_blinking_is_enabled(void)
{
    begin_mode(&mode_03h);
    load_glyph('A', 1, (const uint8_t[]){0xff});
    crtc(0x0a, 0x20);
    fake_mmio_write(env, 0xb8000, 2, 0xcf00 | 'A');
    draw();
    CHECK_EQ(pixel(0, 0), WHITE);
    fake_advance(env, 600 * NS_PER_MS);
    draw();
    CHECK_EQ(pixel(0, 0), 0xff0000);
    in(0x3da), out(0x3c0, 0x30), out(0x3c0, 0x04); // bit 7 is intense background
    colour(0x3c, 63, 21, 21);
    draw();
    CHECK_EQ(pixel(0, 0), WHITE);
    CHECK_EQ(pixel(0, 1), 0xff5555);
    end();
}

static void text_cells_can_be_read_from_where_the_screen_starts(void)
{
    static struct display_text t;
    struct error e = {0};
    begin_mode(&mode_03h);
    fake_mmio_write(env, 0xb8000 + 2 * 80, 4, 0x0769 << 16 | 0x0748); // "Hi" in memory's second row
    crtc(0x0c, 0), crtc(0x0d, 80);                                    // which is shown first
    crtc(0x0e, 0), crtc(0x0f, 82);
    CHECK(vga_text(vga, &t, &e) == OK);
    CHECK_EQ(t.columns, 80);
    CHECK_EQ(t.rows, 25);
    CHECK_EQ(t.cell[0], 0x0748);
    CHECK_EQ(t.cell[1], 0x0769);
    CHECK(t.cursor);
    CHECK_EQ(t.cursor_row, 0);
    CHECK_EQ(t.cursor_column, 2);
    end();
}

static void eighty_by_fifty_has_eight_lines_a_character(void)
{
    static struct display_text t;
    struct error e = {0};
    begin_mode(&mode_03h);
    crtc(0x09, 0x47);
    CHECK(vga_text(vga, &t, &e) == OK);
    CHECK_EQ(t.rows, 50);
    end();
}

static void forty_columns_are_text_of_half_the_width(void)
{
    static struct display_text t;
    struct error e = {0};
    begin_mode(&mode_03h);
    crtc(0x11, 0x0e), crtc(0x01, 0x27), crtc(0x13, 0x14), seq(1, 8);
    CHECK(vga_text(vga, &t, &e) == OK);
    CHECK_EQ(t.columns, 40);
    draw();
    CHECK_EQ(picture.width, 360);
    end();
}

static void a_split_screen_starts_again_at_address_0(void)
{
    begin_mode(&mode_03h);
    load_glyph('A', 1, (const uint8_t[]){0xff});
    crtc(0x0a, 0x20);
    fake_mmio_write(env, 0xb8000, 2, 0x0f00 | 'A');
    crtc(0x0d, 80);                                     // the screen starts in the second row
    crtc(0x18, 15), crtc(0x07, 0x0f), crtc(0x09, 0x0f); // and is split after its first
    draw();
    CHECK_EQ(pixel(0, 0), BLACK);
    CHECK_EQ(pixel(0, 16), WHITE);
    end();
}

static void panning_moves_the_picture_to_the_left(void)
{
    begin_mode(&mode_03h);
    load_glyph('A', 1, (const uint8_t[]){0x10});
    crtc(0x0a, 0x20);
    fake_mmio_write(env, 0xb8000 + 160 - 2, 4, (0x0f00ull | 'A') << 16 | 0x0f00 | 'A');
    in(0x3da), out(0x3c0, 0x33), out(0x3c0, 2); // three of nine dots
    draw();
    CHECK_EQ(pixel(720 - 9 + 3 - 3, 0), WHITE);
    CHECK_EQ(pixel(720 - 9 + 3, 0), BLACK);
    end();
}

// --- planes ---

static void mode_12h_draws_a_bit_of_each_plane(void)
{
    begin_mode(&mode_12h);
    seq(2, 4); // plane 2: red
    poke(0xa0000 + 80, 0x81);
    seq(2, 0xb);
    poke(0xa0000 + 80, 0x01);
    draw();
    CHECK_EQ(picture.width, 640);
    CHECK_EQ(picture.height, 480);
    CHECK_EQ(pixel(0, 1), 0xff0000);
    CHECK_EQ(pixel(1, 1), BLACK);
    CHECK_EQ(pixel(7, 1), WHITE);
    CHECK_EQ(pixel(0, 0), BLACK);
    end();
}

static uint32_t planes(uint32_t offset)
{
    return load_le32(vram + 4 * offset);
}

static void write_mode_0_rotates_sets_combines_and_masks(void)
{
    begin_mode(&mode_12h);
    poke(0xa0000, 0x3c); // all planes
    CHECK_EQ(planes(0), 0x3c3c3c3c);
    CHECK_EQ(peek(0xa0000), 0x3c); // fills the latches
    gfx(3, 0x18 | 4);              // xor, rotated by four
    gfx(8, 0xf0);
    gfx(1, 8), gfx(0, 8); // plane 3 gets ones in any case
    poke(0xa0001, 0x0f);
    CHECK_EQ(planes(1), 0xcccccccc); // 0xf0 ^ 0x3c = 0xcc; low half from the latch: 0xc
    end();
}

static void write_mode_1_copies_the_latches(void)
{
    begin_mode(&mode_12h);
    store_le32(vram, 0x12345678);
    peek(0xa0000);
    gfx(5, 1);
    seq(2, 5);
    poke(0xa0007, 0xff);
    CHECK_EQ(planes(7), 0x00340078);
    end();
}

static void write_mode_2_spreads_a_colour(void)
{
    begin_mode(&mode_12h);
    gfx(5, 2), gfx(8, 0x0f);
    store_le32(vram, 0xa0a0a0a0);
    peek(0xa0000);
    poke(0xa0000, 0x5);
    CHECK_EQ(planes(0), 0xa0afa0af);
    end();
}

static void write_mode_3_masks_with_the_processors_byte(void)
{
    begin_mode(&mode_12h);
    gfx(5, 3), gfx(0, 1), gfx(8, 0x3f);
    store_le32(vram, 0xffffff00);
    peek(0xa0000);
    poke(0xa0000, 0xf0);
    CHECK_EQ(planes(0), 0xcfcfcf30);
    end();
}

static void read_mode_1_finds_a_colour_in_the_planes_that_matter(void)
{
    begin_mode(&mode_12h);
    store_le32(vram, 0xff0000f0);
    gfx(5, 8), gfx(2, 1), gfx(7, 0x7); // colour 1, plane 3 does not matter
    CHECK_EQ(peek(0xa0000), 0xf0);
    gfx(7, 0xf);
    CHECK_EQ(peek(0xa0000), 0);
    end();
}

static void odd_and_even_addresses_are_planes_1_and_0(void)
{
    begin_mode(&mode_03h);
    fake_mmio_write(env, 0xb8006, 2, 0x1234);
    CHECK_EQ(fake_mmio_read(env, 0xb8006, 2), 0x1234);
    CHECK_EQ(planes(6), 0x1234);
    CHECK_EQ(peek(0xa0006), 0xff); // the memory map does not reach it
    end();
}

static void mode_13h_is_a_byte_a_pixel(void)
{
    begin_mode(&mode_13h);
    poke(0xa0000 + 320 + 5, 4);
    CHECK_EQ(peek(0xa0000 + 320 + 5), 4);
    draw();
    CHECK_EQ(picture.width, 320);
    CHECK_EQ(picture.height, 200);
    CHECK_EQ(pixel(5, 1), 0xff0000);
    CHECK_EQ(pixel(4, 1), BLACK);
    CHECK_EQ(pixel(5, 0), BLACK);
    end();
}

static void unchained_256_colours_choose_planes_by_the_map_mask(void)
{
    begin_mode(&mode_13h);
    seq(4, 6), crtc(0x14, 0), crtc(0x17, 0xe3);
    seq(2, 2);
    poke(0xa0000 + 80, 4); // row 1, pixel 1
    draw();
    CHECK_EQ(pixel(1, 1), 0xff0000);
    CHECK_EQ(pixel(0, 1), BLACK);
    end();
}

static void cga_rows_alternate_between_two_parts_of_memory(void)
{
    begin_mode(&mode_04h);
    colour(0x13, 0, 63, 0), colour(0x17, 63, 63, 63);
    poke(0xb8000, 0x40);          // row 0: colour 1
    poke(0xb8000 + 0x2000, 0x03); // row 1: pixel 3 of colour 3
    poke(0xb8000 + 80, 0x40);     // row 2
    draw();
    CHECK_EQ(picture.width, 320);
    CHECK_EQ(picture.height, 200);
    CHECK_EQ(pixel(0, 0), 0x00ff00);
    CHECK_EQ(pixel(1, 0), BLACK);
    CHECK_EQ(pixel(3, 1), WHITE);
    CHECK_EQ(pixel(0, 2), 0x00ff00);
    end();
}

// --- registers ---

static void registers_0_to_7_of_the_crtc_can_be_protected(void)
{
    begin_mode(&mode_03h);
    crtc(0x01, 0x4f), crtc(0x11, 0x8e);
    crtc(0x01, 0x11), crtc(0x07, 0x10);
    out(0x3d4, 0x01);
    CHECK_EQ(in(0x3d5), 0x4f);
    out(0x3d4, 0x07);
    CHECK_EQ(in(0x3d5), 0x1f); // only the line compare's bit
    end();
}

static void monochrome_moves_the_crtc_to_3b4(void)
{
    begin_mode(&mode_03h);
    out(0x3c2, 0x66);
    CHECK_EQ(in(0x3d5), 0xff);
    out(0x3b4, 0x13);
    CHECK_EQ(in(0x3b5), 0x28);
    out(0x3c2, 0x67);
    CHECK_EQ(in(0x3b5), 0xff);
    end();
}

static void the_dac_counts_through_its_colours(void)
{
    begin();
    colour(200, 1, 2, 0xff);
    out(0x3c9, 4);
    out(0x3c7, 200);
    CHECK_EQ(in(0x3c7), 3);
    CHECK_EQ(in(0x3c9), 1);
    CHECK_EQ(in(0x3c9), 2);
    CHECK_EQ(in(0x3c9), 0x3f); // six bits
    CHECK_EQ(in(0x3c9), 4);
    end();
}

static void the_retrace_comes_once_a_frame(void)
{
    begin();
    unsigned rises = 0;
    bool was = false;
    for (unsigned i = 0; i < 10000; i++) { // one second
        bool now = in(0x3da) & 8;
        rises += now && !was;
        was = now;
        fake_advance(env, 100000);
    }
    CHECK(rises >= 59 && rises <= 61);
    end();
}

static void a_dark_screen_is_black_and_says_so(void)
{
    static struct display_text t;
    struct error e = {0};
    begin_mode(&mode_13h);
    memset(vram, 4, 4096);
    in(0x3da), out(0x3c0, 0);
    draw();
    CHECK_EQ(pixel(0, 0), BLACK);
    CHECK(vga_text(vga, &t, &e) == ERR_UNSUPPORTED && strstr(e.text, "dark"));
    out(0x3c0, 0), out(0x3c0, 0x20);
    CHECK(vga_text(vga, &t, &e) == ERR_UNSUPPORTED && strstr(e.text, "screenshot"));
    end();
}

// --- linear modes ---

static void linear_modes_of_every_depth(void)
{
    static const struct {
        uint16_t bpp;
        uint32_t value, want;
    } cases[] = {{8, 4, 0xff0000},       {15, 0x7c1f, 0xff00ff},   {16, 0x07e0, 0x00ff00},
                 {16, 0x8410, 0x848284}, {24, 0x123456, 0x123456}, {32, 0xff123456, 0x123456}};
    begin();
    colour(4, 63, 0, 0);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        unsigned bytes = (cases[i].bpp + 7u) / 8;
        set_dispi(640, 480, cases[i].bpp);
        for (unsigned k = 0; k < bytes; k++)
            poke(LFB + (640 * 2 + 3) * bytes + k, (uint8_t)(cases[i].value >> (8 * k)));
        draw();
        CHECK_EQ(picture.width, 640);
        CHECK_EQ(picture.height, 480);
        CHECK_EQ(pixel(3, 2), cases[i].want);
        CHECK_EQ(pixel(2, 2), BLACK);
        CHECK_EQ(pixel(4, 2), BLACK);
    }
    end();
}

static void a_linear_mode_can_scroll_in_a_wider_and_higher_picture(void)
{
    begin();
    set_dispi(320, 200, 32);
    dispi(6, 400);
    CHECK_EQ(dispi_read(7), VRAM / 1600);
    dispi(8, 10), dispi(9, 20);
    fake_mmio_write(env, LFB + 400 * 4 * 25 + 17 * 4, 4, 0xabcdef);
    draw();
    CHECK_EQ(pixel(7, 5), 0xabcdef);
    dispi(9, 0xffff); // far beyond VRAM
    draw();
    CHECK_EQ(pixel(7, 5), BLACK);
    end();
}

static void four_bits_a_pixel_are_planes_with_banks(void)
{
    begin();
    vga_set_mode(&mode_12h, out, in);
    colour(0x3f, 63, 63, 63);
    set_dispi(1024, 768, 4);
    dispi(5, 1); // bank 1: row 512 on
    poke(0xa0000 + 128 * 3, 0x01);
    draw();
    CHECK_EQ(picture.width, 1024);
    CHECK_EQ(pixel(7, 515), WHITE);
    CHECK_EQ(pixel(6, 515), BLACK);
    end();
}

static void the_window_shows_a_bank_of_a_linear_mode(void)
{
    begin();
    set_dispi(640, 480, 32);
    gfx(6, 5);
    dispi(5, 3);
    poke(0xa0010, 0x77);
    CHECK_EQ(vram[3 * 65536 + 0x10], 0x77);
    CHECK_EQ(peek(0xa0010), 0x77);
    end();
}

static void the_interface_says_what_it_can(void)
{
    begin();
    CHECK_EQ(dispi_read(0), 0xb0c5);
    dispi(0, 0xb0c0);
    CHECK_EQ(dispi_read(0), 0xb0c0);
    dispi(0, 0x1234);
    CHECK_EQ(dispi_read(0), 0xb0c0);
    dispi(4, 2);
    CHECK_EQ(dispi_read(1), 2560);
    CHECK_EQ(dispi_read(2), 1600);
    CHECK_EQ(dispi_read(3), 32);
    dispi(4, 0);
    CHECK_EQ(dispi_read(10), VRAM / 65536);
    dispi(1, 9999), dispi(3, 31);
    CHECK_EQ(dispi_read(1), 2560);
    CHECK_EQ(dispi_read(3), 8);
    CHECK_EQ(dispi_read(99), 0);
    end();
}

static void setting_a_mode_clears_the_screen_unless_told_not_to(void)
{
    begin();
    vram[100] = 1;
    dispi(1, 640), dispi(2, 480), dispi(3, 32);
    dispi(4, 0xc1);
    CHECK_EQ(vram[100], 1);
    dispi(4, 0);
    dispi(4, 0x41);
    CHECK_EQ(vram[100], 0);
    end();
}

static void the_second_bar_holds_edid_and_registers(void)
{
    uint8_t sum = 0;
    begin();
    for (unsigned i = 0; i < 128; i++)
        sum = (uint8_t)(sum + peek(MMIO + i));
    CHECK_EQ(sum, 0);
    CHECK_EQ(fake_mmio_read(env, MMIO, 4), 0xffffff00);
    fake_mmio_write(env, MMIO + 0x502, 2, 800); // DISPI width
    CHECK_EQ(dispi_read(1), 800);
    CHECK_EQ(fake_mmio_read(env, MMIO + 0x502, 2), 800);
    fake_mmio_write(env, MMIO + 0x408, 1, 5); // 0x3c8
    CHECK_EQ(in(0x3c8), 5);
    CHECK_EQ(fake_mmio_read(env, MMIO + 0x600, 4), 8);
    CHECK_EQ(fake_mmio_read(env, MMIO + 0x604, 4), 0x1e1e1e1e);
    end();
}

// --- pictures and state ---

// What a BIOS looks for before it runs the ROM.
static void firmware_can_switch_decoding_on_and_find_the_rom(void)
{
    static const uint8_t rom[512] = {0x55, 0xaa, 1};
    const struct vga_config with_rom = {
        .vram = vram, .vram_bytes = VRAM, .rom = rom, .rom_bytes = sizeof rom};
    struct fake_env *other = fake_env_new();
    struct pci_function *f = pci_function_of(fake_add(other, &vga_type, &with_rom));
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    CHECK_EQ(pci_config_read(f, PCI_COMMAND, 2), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    pci_config_write(f, PCI_ROM, 4, (uint32_t)MMIO | PCI_ROM_ENABLE);
    CHECK_EQ(fake_mmio_read(other, MMIO, 2), 0xaa55);
    fake_env_free(other);
}

static void drawing_tells_what_changed(void)
{
    begin();
    set_dispi(640, 480, 32);
    draw();
    draw();
    CHECK_EQ(changed, 0);
    fake_mmio_write(env, LFB + (640 * 10 + 20) * 4, 4, 1);
    fake_mmio_write(env, LFB + (640 * 11 + 24) * 4, 4, 1);
    fake_mmio_write(env, LFB + (640 * 200 + 1) * 4, 4, 1);
    draw();
    CHECK_EQ(changed, 2);
    CHECK_EQ(changes[0].x, 20);
    CHECK_EQ(changes[0].y, 10);
    CHECK_EQ(changes[0].width, 5);
    CHECK_EQ(changes[0].height, 2);
    CHECK_EQ(changes[1].y, 200);
    end();
}

static void state_survives_a_move(void)
{
    begin_mode(&mode_13h);
    poke(0xa0000, 4);
    dispi(1, 800);
    vga = fake_reload(vga, &config);
    CHECK_EQ(dispi_read(1), 800);
    CHECK_EQ(fake_mmio_read(env, MMIO + 0x502, 2), 800);
    draw();
    CHECK_EQ(picture.width, 320);
    CHECK_EQ(pixel(0, 0), 0xff0000);
    end();
}

TEST_MAIN(TEST(text_is_drawn_from_characters_attributes_and_the_font_in_plane_2),
          TEST(line_drawing_characters_reach_into_the_ninth_dot),
          TEST(the_cursor_is_a_block_of_its_lines_and_blinks),
          TEST(characters_blink_only_while_blinking_is_enabled),
          TEST(text_cells_can_be_read_from_where_the_screen_starts),
          TEST(eighty_by_fifty_has_eight_lines_a_character),
          TEST(forty_columns_are_text_of_half_the_width),
          TEST(a_split_screen_starts_again_at_address_0),
          TEST(panning_moves_the_picture_to_the_left), TEST(mode_12h_draws_a_bit_of_each_plane),
          TEST(write_mode_0_rotates_sets_combines_and_masks), TEST(write_mode_1_copies_the_latches),
          TEST(write_mode_2_spreads_a_colour), TEST(write_mode_3_masks_with_the_processors_byte),
          TEST(read_mode_1_finds_a_colour_in_the_planes_that_matter),
          TEST(odd_and_even_addresses_are_planes_1_and_0), TEST(mode_13h_is_a_byte_a_pixel),
          TEST(unchained_256_colours_choose_planes_by_the_map_mask),
          TEST(cga_rows_alternate_between_two_parts_of_memory),
          TEST(registers_0_to_7_of_the_crtc_can_be_protected),
          TEST(monochrome_moves_the_crtc_to_3b4), TEST(the_dac_counts_through_its_colours),
          TEST(the_retrace_comes_once_a_frame), TEST(a_dark_screen_is_black_and_says_so),
          TEST(linear_modes_of_every_depth),
          TEST(a_linear_mode_can_scroll_in_a_wider_and_higher_picture),
          TEST(four_bits_a_pixel_are_planes_with_banks),
          TEST(the_window_shows_a_bank_of_a_linear_mode), TEST(the_interface_says_what_it_can),
          TEST(setting_a_mode_clears_the_screen_unless_told_not_to),
          TEST(the_second_bar_holds_edid_and_registers),
          TEST(firmware_can_switch_decoding_on_and_find_the_rom), TEST(drawing_tells_what_changed),
          TEST(state_survives_a_move))
