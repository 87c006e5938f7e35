// Keys by name and by keysym, screens as UTF-8, PNG files, VNC addresses.
#include <png.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "display/glyphs.h"
#include "display/keys.h"
#include "display/keysym.h"
#include "display/png.h"
#include "display/text.h"
#include "display/vnc.h"
#include "test.h"

static struct key_list list;
static struct error e;

static bool events_are(const struct key_event *event, unsigned count, const char *want)
{
    char got[512] = "";
    for (unsigned i = 0; i < count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%x%c", i ? " " : "", event[i].code,
                 event[i].down ? '+' : '-');
    if (strcmp(got, want))
        printf("# got %s\n", got);
    return !strcmp(got, want);
}

static bool chord(const char *name, const char *want)
{
    list.count = 0;
    return keys_add_chord(&list, name, &e) == OK && events_are(list.event, list.count, want);
}

static void chords_press_in_order_and_release_in_reverse(void)
{
    CHECK(chord("ctrl-alt-delete", "1d+ 38+ 153+ 153- 38- 1d-"));
    CHECK(chord("f12", "58+ 58-"));
    CHECK(chord("Enter", "1c+ 1c-"));
    CHECK(chord("A", "2a+ 1e+ 1e- 2a-"));
    CHECK(chord("ctrl--", "1d+ c+ c- 1d-"));
    CHECK(chord("-", "c+ c-"));
    CHECK(chord("?", "2a+ 35+ 35- 2a-"));
}

static void keys_have_the_names_of_qemu_and_of_linux_too(void)
{
    CHECK(chord("KEY_LEFTCTRL-KEY_A", "1d+ 1e+ 1e- 1d-"));
    CHECK(chord("meta_l-kp_enter", "15b+ 11c+ 11c- 15b-"));
    CHECK(chord("bracket_left", "1a+ 1a-"));
    CHECK(chord("grave_accent", "29+ 29-"));
}

static void unknown_keys_are_refused_by_name(void)
{
    list.count = 0;
    CHECK(keys_add_chord(&list, "ctrl-foo", &e) == ERR_INVALID && strstr(e.text, "'foo'"));
    CHECK(keys_add_chord(&list, "", &e) == ERR_INVALID);
    CHECK(keys_add_chord(&list, "a-a-a-a-a-a-a-a-a", &e) == ERR_INVALID);
    CHECK(keys_add_text(&list, "gr\xc3\xbc\xc3\x9f", &e) == ERR_INVALID && strstr(e.text, "0xc3"));
}

static void every_printable_character_has_a_key(void)
{
    bool shift;
    for (unsigned c = ' '; c <= '~'; c++)
        CHECK(key_of_char(c, &shift) != 0);
    CHECK_EQ(key_of_char('1', &shift), 2);
    CHECK(!shift);
    CHECK_EQ(key_of_char('|', &shift), 0x2b);
    CHECK(shift);
    CHECK_EQ(key_of_char('m', &shift), 0x32);
    CHECK_EQ(key_of_char(0x80, &shift), 0);
}

static bool keysym(struct keysym_state *s, uint32_t sym, bool down, const char *want)
{
    struct key_event out[KEYSYM_EVENTS_MAX];
    return events_are(out, keysym_events(s, sym, down, out), want);
}

static void keysyms_follow_the_modifiers_of_a_us_keyboard(void)
{
    struct keysym_state s = {0};
    CHECK(keysym(&s, 'a', true, "1e+"));
    CHECK(keysym(&s, 'a', true, "1e+")); // repeats
    CHECK(keysym(&s, 'a', false, "1e-"));
    CHECK(keysym(&s, 'A', true, "2a+ 1e+ 2a-"));
    CHECK(keysym(&s, 'A', false, "1e-"));
    CHECK(keysym(&s, 0xffe1, true, "2a+"));
    CHECK(keysym(&s, 'A', true, "1e+"));
    CHECK(keysym(&s, '7', true, "2a- 8+ 2a+"));
    CHECK(keysym(&s, 0xffe1, false, "2a-"));
    CHECK(keysym(&s, 0x20ac, true, "")); // no key has a euro sign
    CHECK(keysym(&s, 'z', false, ""));   // was never down
}

static void a_gone_viewer_lets_all_keys_go(void)
{
    struct keysym_state s = {0};
    struct key_event out[KEYSYM_DOWN_MAX];
    for (unsigned i = 0; i < 100; i++)
        (void)keysym_events(&s, 0xffbe + i % 12, true, out);
    (void)keysym_events(&s, 'x', true, out);
    CHECK_EQ(keysym_release_all(&s, out), 13);
    CHECK_EQ(keysym_release_all(&s, out), 0);
}

static void screens_become_utf8_without_blanks_at_the_end(void)
{
    static struct display_text t;
    char row[TEXT_ROW_BYTES];
    t.columns = 6;
    t.rows = 1;
    const uint8_t codes[] = {'A', 0xc9, 0x81, 0x01, ' ', 0};
    for (unsigned i = 0; i < 6; i++)
        t.cell[i] = (uint16_t)(0x700 | codes[i]);
    size_t len = text_row_utf8(&t, 0, row);
    CHECK_STR(row, "A╔ü☺");
    CHECK_EQ(len, strlen(row));
}

// Glyphs of the VGA's font, and one that no font has.
static const uint8_t glyph_a[16] = {0,    0,    0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe,
                                    0xc6, 0xc6, 0xc6, 0xc6, 0,    0,    0,    0};
static const uint8_t glyph_l[16] = {0,    0,    0xf0, 0x60, 0x60, 0x60, 0x60, 0x60,
                                    0x60, 0x62, 0x66, 0xfe, 0,    0,    0,    0};
static const uint8_t strange[16] = {0, 0, 0xaa, 0x55, 0xaa, 0x55};

static void put_glyph(struct picture *p, uint32_t x, uint32_t y, const uint8_t *glyph,
                      uint32_t front, uint32_t back)
{
    for (uint32_t i = 0; i < 16 * 8; i++)
        p->pixels[(y + i / 8) * p->width + x + i % 8] =
            glyph[i / 8] >> (7 - i % 8) & 1 ? front : back;
}

static void text_is_read_off_pictures_wherever_it_begins(void)
{
    static struct display_text t;
    char row[TEXT_ROW_BYTES];
    struct picture p;
    CHECK(picture_init(&p, false, &e) == OK);
    picture_resize(&p, 100, 60);
    memset(p.pixels, 0, 100 * 60 * 4);
    CHECK(!glyphs_read(&p, &t)); // nothing is there
    put_glyph(&p, 3, 21, glyph_a, 0xffffff, 0);
    put_glyph(&p, 19, 21, glyph_l, 0xff0000, 0);
    put_glyph(&p, 27, 21, glyph_a, 0, 0xaaaaaa); // inverse
    put_glyph(&p, 35, 37, strange, 0xffffff, 0);
    put_glyph(&p, 43, 37, glyph_l, 0xffffff, 0);
    for (uint32_t x = 43; x < 51; x++) // a cursor over it
        p.pixels[51 * 100 + x] = p.pixels[52 * 100 + x] = 0xffffff;
    CHECK(glyphs_read(&p, &t));
    CHECK(t.columns == 12 && t.rows == 3);
    text_row_utf8(&t, 1, row);
    CHECK_STR(row, "A LA");
    text_row_utf8(&t, 2, row);
    CHECK_STR(row, "    ■L");
    CHECK(t.cursor && t.cursor_column == 5 && t.cursor_row == 2);
    picture_release(&p);
}

static void png_files_hold_the_picture_or_do_not_appear(void)
{
    char folder[] = "/tmp/berth-png-XXXXXX", path[64];
    struct picture p;
    CHECK(mkdtemp(folder) && picture_init(&p, false, &e) == OK);
    picture_resize(&p, 3, 2);
    p.pixels[4] = 0x123456;
    snprintf(path, sizeof path, "%s/a.png", folder);
    CHECK(png_write(&p, path, &e) == OK);
    png_image image = {.version = PNG_IMAGE_VERSION};
    uint8_t rgb[18] = {0};
    CHECK(png_image_begin_read_from_file(&image, path));
    CHECK_EQ(image.width, 3);
    CHECK_EQ(image.height, 2);
    image.format = PNG_FORMAT_RGB;
    CHECK(png_image_finish_read(&image, NULL, rgb, 0, NULL));
    CHECK(rgb[12] == 0x12 && rgb[13] == 0x34 && rgb[14] == 0x56 && rgb[0] == 0);
    CHECK(unlink(path) == 0 && rmdir(folder) == 0); // nothing else is there
    CHECK(png_write(&p, "/nonexistent/a.png", &e) == ERR_NOT_FOUND);
    CHECK(strstr(e.text, "/nonexistent/a.png") != NULL);
    picture_release(&p);
}

static void vnc_addresses_are_understood(void)
{
    struct vnc_address a;
    CHECK(vnc_parse("unix:/run/x,y:1", &a, &e) == OK);
    CHECK_STR(a.path, "/run/x,y:1");
    CHECK(vnc_parse("[::1]:5901,password-file=/etc/x", &a, &e) == OK);
    CHECK_STR(a.host, "::1");
    CHECK_STR(a.port, "5901");
    CHECK_STR(a.password_file, "/etc/x");
    CHECK(vnc_parse("0.0.0.0:5900", &a, &e) == ERR_INVALID && strstr(e.text, "password"));
    CHECK(vnc_parse("unix:", &a, &e) == ERR_INVALID);
    CHECK(vnc_parse("host", &a, &e) == ERR_INVALID);
    CHECK(vnc_parse("host:12x,password-file=f", &a, &e) == ERR_INVALID);
    CHECK(vnc_parse("host:1,tls", &a, &e) == ERR_INVALID);
}

TEST_MAIN(TEST(chords_press_in_order_and_release_in_reverse),
          TEST(keys_have_the_names_of_qemu_and_of_linux_too),
          TEST(unknown_keys_are_refused_by_name), TEST(every_printable_character_has_a_key),
          TEST(keysyms_follow_the_modifiers_of_a_us_keyboard), TEST(a_gone_viewer_lets_all_keys_go),
          TEST(screens_become_utf8_without_blanks_at_the_end),
          TEST(text_is_read_off_pictures_wherever_it_begins),
          TEST(png_files_hold_the_picture_or_do_not_appear), TEST(vnc_addresses_are_understood))
