// Source: X11's keysymdef.h; RFC 6143 section 7.5.4. Caps Lock stays with the viewer, which sends
// letters in the case that it wants. Not modelled: characters outside ASCII, other layouts in the
// guest.
#include "display/keysym.h"

#include "display/display.h"

#define EXT DISPLAY_KEY_EXTENDED
#define ALT_GR (EXT | 0x38)
#define RIGHT_SHIFT 0x36

static const struct {
    uint16_t keysym, code;
} special[] = {
    {0xff08, 0x0e},       {0xff09, 0x0f},       {0xff0d, 0x1c},       {0xff1b, 0x01},
    {0xff13, 0x45},       {0xff14, 0x46},       {0xff15, 0x54},       {0xff50, EXT | 0x47},
    {0xff51, EXT | 0x4b}, {0xff52, EXT | 0x48}, {0xff53, EXT | 0x4d}, {0xff54, EXT | 0x50},
    {0xff55, EXT | 0x49}, {0xff56, EXT | 0x51}, {0xff57, EXT | 0x4f}, {0xff61, EXT | 0x37},
    {0xff63, EXT | 0x52}, {0xff67, EXT | 0x5d}, {0xff7f, 0x45},       {0xff8d, EXT | 0x1c},
    {0xff95, 0x47},       {0xff96, 0x4b},       {0xff97, 0x48},       {0xff98, 0x4d},
    {0xff99, 0x50},       {0xff9a, 0x49},       {0xff9b, 0x51},       {0xff9c, 0x4f},
    {0xff9d, 0x4c},       {0xff9e, 0x52},       {0xff9f, 0x53},       {0xffaa, 0x37},
    {0xffab, 0x4e},       {0xffad, 0x4a},       {0xffae, 0x53},       {0xffaf, EXT | 0x35},
    {0xffb0, 0x52},       {0xffb1, 0x4f},       {0xffb2, 0x50},       {0xffb3, 0x51},
    {0xffb4, 0x4b},       {0xffb5, 0x4c},       {0xffb6, 0x4d},       {0xffb7, 0x47},
    {0xffb8, 0x48},       {0xffb9, 0x49},       {0xffbe, 0x3b},       {0xffbf, 0x3c},
    {0xffc0, 0x3d},       {0xffc1, 0x3e},       {0xffc2, 0x3f},       {0xffc3, 0x40},
    {0xffc4, 0x41},       {0xffc5, 0x42},       {0xffc6, 0x43},       {0xffc7, 0x44},
    {0xffc8, 0x57},       {0xffc9, 0x58},       {0xffe1, KEY_SHIFT},  {0xffe2, RIGHT_SHIFT},
    {0xffe3, KEY_CTRL},   {0xffe4, EXT | 0x1d}, {0xffe7, EXT | 0x5b}, {0xffe8, EXT | 0x5c},
    {0xffe9, KEY_ALT},    {0xffea, ALT_GR},     {0xffeb, EXT | 0x5b}, {0xffec, EXT | 0x5c},
    {0xffff, EXT | 0x53}, {0xfe03, ALT_GR},     {0xfe20, 0x0f}, // Shift+Tab
};

static uint16_t code_of(uint32_t keysym, bool *printable, bool *shift)
{
    *shift = false;
    *printable = keysym >= ' ' && keysym <= '~';
    if (*printable)
        return key_of_char(keysym, shift);
    for (unsigned i = 0; i < ARRAY_LEN(special); i++)
        if (special[i].keysym == keysym)
            return special[i].code;
    return 0;
}

static bool held(const struct keysym_state *s, uint16_t code)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->down[i].code == code)
            return true;
    return false;
}

static unsigned put(struct key_event *out, unsigned n, uint16_t code, bool down)
{
    out[n] = (struct key_event){code, down};
    return n + 1;
}

// A printable character in between what makes it one on a US keyboard.
static unsigned press_character(const struct keysym_state *s, uint16_t code, bool shift,
                                struct key_event *out)
{
    bool left = held(s, KEY_SHIFT), right = held(s, RIGHT_SHIFT), alt_gr = held(s, ALT_GR);
    bool add = shift && !left && !right;
    unsigned n = 0;
    if (alt_gr)
        n = put(out, n, ALT_GR, false);
    if (add)
        n = put(out, n, KEY_SHIFT, true);
    if (!shift && left)
        n = put(out, n, KEY_SHIFT, false);
    if (!shift && right)
        n = put(out, n, RIGHT_SHIFT, false);
    n = put(out, n, code, true);
    if (add)
        n = put(out, n, KEY_SHIFT, false);
    if (!shift && left)
        n = put(out, n, KEY_SHIFT, true);
    if (!shift && right)
        n = put(out, n, RIGHT_SHIFT, true);
    if (alt_gr)
        n = put(out, n, ALT_GR, true);
    return n;
}

static unsigned key_up(struct keysym_state *s, uint32_t keysym, struct key_event *out)
{
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->down[i].keysym != keysym)
            continue;
        uint16_t code = s->down[i].code;
        s->down[i] = s->down[--s->count];
        return held(s, code) ? 0 : put(out, 0, code, false);
    }
    return 0;
}

unsigned keysym_events(struct keysym_state *s, uint32_t keysym, bool down, struct key_event *out)
{
    bool printable, shift, repeats = false;
    if (!down)
        return key_up(s, keysym, out);
    uint16_t code = code_of(keysym, &printable, &shift);
    for (uint32_t i = 0; i < s->count; i++)
        repeats |= s->down[i].keysym == keysym;
    if (!code || (!repeats && s->count == KEYSYM_DOWN_MAX))
        return 0;
    unsigned n = printable ? press_character(s, code, shift, out) : put(out, 0, code, true);
    if (!repeats) {
        s->down[s->count].keysym = keysym;
        s->down[s->count++].code = code;
    }
    return n;
}

unsigned keysym_release_all(struct keysym_state *s, struct key_event *out)
{
    unsigned n = 0;
    while (s->count)
        n = put(out, n, s->down[--s->count].code, false);
    return n;
}
