// What people, viewers and guests give the display: names of keys, keysyms and addresses, pictures
// to read text off, and a VGA whose registers and memory say anything. Nothing may crash; keys that
// go down come up again; drawing stays within its limits.
//
// The first byte chooses which of them the others are for.
#include <stdlib.h>
#include <string.h>

#include "../unit/device/fake_env.h"
#include "device/display/vga.h"
#include "device/pci/pci.h"
#include "display/glyphs.h"
#include "display/keys.h"
#include "display/keysym.h"
#include "display/text.h"
#include "display/vnc.h"
#include "input.h"
#include "standalone.h"

#define VRAM (1 * MIB)
#define LFB 0xd0000000u
#define MMIO 0xd8000000u

// --- keys ----------------------------------------------------------------------------------------

static void all_keys_are_up(const struct key_list *list)
{
    int down[2 * DISPLAY_KEY_EXTENDED] = {0};
    require(list->count <= KEYS_MAX);
    for (uint32_t i = 0; i < list->count; i++) {
        require(list->event[i].code < ARRAY_LEN(down));
        down[list->event[i].code] += list->event[i].down ? 1 : -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(down); i++)
        require(down[i] == 0);
}

static void words(struct input *in)
{
    static const char *const pieces[] = {
        "ctrl", "-", "KEY_", "a", "_", "f1", "unix:", ":5900", ",password-file=", "[::1]"};
    static struct key_list list;
    char text[300] = "";
    struct error e;
    struct vnc_address address;
    for (unsigned n = 0; n < 12 && input_left(in); n++) {
        char byte[2] = {(char)take(in, 1)};
        unsigned piece = (uint8_t)byte[0] % 32;
        strcat(text, piece < ARRAY_LEN(pieces) ? pieces[piece] : byte);
    }
    list.count = 0;
    if (keys_add_chord(&list, text, &e) == OK)
        all_keys_are_up(&list);
    list.count = 0;
    if (keys_add_text(&list, text, &e) == OK)
        all_keys_are_up(&list);
    (void)!vnc_parse(text, &address, &e);
}

static void keysyms(struct input *in)
{
    struct keysym_state state = {0};
    struct key_event out[KEYSYM_DOWN_MAX];
    while (input_left(in)) {
        uint32_t how = take(in, 1), keysym = take(in, 1) | (how & 2 ? 0xff00 : 0);
        require(keysym_events(&state, keysym, how & 1, out) <= KEYSYM_EVENTS_MAX);
        require(state.count <= KEYSYM_DOWN_MAX);
    }
    require(keysym_release_all(&state, out) <= KEYSYM_DOWN_MAX && !state.count);
}

// --- pictures ------------------------------------------------------------------------------------

static void print(const struct display_text *text)
{
    char line[TEXT_ROW_BYTES];
    require(text->columns <= DISPLAY_COLUMNS_MAX && text->rows <= DISPLAY_ROWS_MAX);
    require(!text->cursor ||
            (text->cursor_column < text->columns && text->cursor_row < text->rows));
    for (unsigned row = 0; row < text->rows; row++)
        require(text_row_utf8(text, row, line) < TEXT_ROW_BYTES);
}

static void pictures(struct input *in, struct picture *p)
{
    static struct display_text text;
    picture_resize(p, 1 + take(in, 1), 1 + take(in, 1) % 64);
    for (size_t i = 0; i < (size_t)p->width * p->height; i++)
        p->pixels[i] = input_left(in) && i % 3 == 0 ? take(in, 1) % 3 : 0;
    if (glyphs_read(p, &text))
        print(&text);
}

// --- a guest -------------------------------------------------------------------------------------

static void look(struct device *vga, struct picture *p)
{
    static struct display_text text;
    struct damage nobody = {0};
    struct error e;
    vga_draw(vga, p, &nobody);
    require(p->width && p->width <= DISPLAY_WIDTH_MAX && p->height &&
            p->height <= DISPLAY_HEIGHT_MAX);
    if (vga_text(vga, &text, &e) == OK)
        print(&text);
}

static void act(struct fake_env *env, struct input *in)
{
    uint32_t how = take(in, 1), at = take(in, 2), value = take(in, 2);
    switch (how % 6) {
    case 0: fake_out(env, (uint16_t)(0x3b0 + at % 0x30), 1, value); break;
    case 1: fake_out(env, (uint16_t)(0x3c0 + at % 16 / 2 * 2), 2, value); break;
    case 2:
        fake_out(env, 0x1ce, 2, at % 12);
        fake_out(env, 0x1cf, 2, value);
        break;
    case 3: fake_mmio_write(env, 0xa0000 + (at << 1), 1 << how / 6 % 2, value); break;
    case 4: fake_mmio_write(env, MMIO + at % 4096, 1, value); break;
    default:
        (void)fake_in(env, (uint16_t)(0x3b0 + at % 0x30), 1);
        (void)fake_mmio_read(env, 0xa0000 + (at << 1), 1);
        (void)fake_mmio_read(env, MMIO + (at & 4092), 4);
    }
}

static void guest(struct input *in, struct picture *p)
{
    static _Alignas(4096) uint8_t vram[VRAM];
    const struct vga_config config = {.vram = vram, .vram_bytes = VRAM};
    struct fake_env *env = fake_env_new();
    struct device *vga = fake_add(env, &vga_type, &config);
    struct pci_function *f = pci_function_of(vga);
    pci_config_write(f, PCI_BAR0, 4, LFB);
    pci_config_write(f, PCI_BAR0 + 8, 4, MMIO);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    for (unsigned n = 0; input_left(in); n++) {
        act(env, in);
        if (n % 64 == 63)
            look(vga, p);
    }
    fake_out(env, 0x3c0, 1, 0x20); // if the screen was dark
    look(vga, p);
    vga = fake_reload(vga, &config);
    look(vga, p);
    fake_env_free(env);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct picture picture;
    struct error e;
    require(picture_init(&picture, false, &e) == OK);
    switch (take(&in, 1) % 4) {
    case 0: words(&in); break;
    case 1: keysyms(&in); break;
    case 2: pictures(&in, &picture); break;
    default: guest(&in, &picture);
    }
    picture_release(&picture);
    return 0;
}
