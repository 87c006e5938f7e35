// Keys by name and by character. Codes are scan code set 1 of the IBM enhanced keyboard, US layout.
#include "display/keys.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "display/display.h"

#define EXT DISPLAY_KEY_EXTENDED
#define NAME_MAX_LEN 16 // longer than any

// Berth's names, and those that QEMU's sendkey and (after KEY_) Linux' input layer have for the
// same keys; without underscores.
static const struct {
    const char *name;
    uint16_t code;
} names[] = {
    {"esc", 0x01},
    {"escape", 0x01},
    {"minus", 0x0c},
    {"equal", 0x0d},
    {"backspace", 0x0e},
    {"tab", 0x0f},
    {"bracketleft", 0x1a},
    {"leftbrace", 0x1a},
    {"bracketright", 0x1b},
    {"rightbrace", 0x1b},
    {"enter", 0x1c},
    {"return", 0x1c},
    {"ret", 0x1c},
    {"ctrl", KEY_CTRL},
    {"control", KEY_CTRL},
    {"leftctrl", KEY_CTRL},
    {"semicolon", 0x27},
    {"apostrophe", 0x28},
    {"grave", 0x29},
    {"graveaccent", 0x29},
    {"shift", KEY_SHIFT},
    {"leftshift", KEY_SHIFT},
    {"backslash", 0x2b},
    {"comma", 0x33},
    {"dot", 0x34},
    {"slash", 0x35},
    {"rshift", 0x36},
    {"shiftr", 0x36},
    {"rightshift", 0x36},
    {"kptimes", 0x37},
    {"kpmultiply", 0x37},
    {"kpasterisk", 0x37},
    {"asterisk", 0x37},
    {"alt", KEY_ALT},
    {"leftalt", KEY_ALT},
    {"space", 0x39},
    {"spc", 0x39},
    {"capslock", 0x3a},
    {"f1", 0x3b},
    {"f2", 0x3c},
    {"f3", 0x3d},
    {"f4", 0x3e},
    {"f5", 0x3f},
    {"f6", 0x40},
    {"f7", 0x41},
    {"f8", 0x42},
    {"f9", 0x43},
    {"f10", 0x44},
    {"numlock", 0x45},
    {"scrolllock", 0x46},
    {"kp7", 0x47},
    {"kp8", 0x48},
    {"kp9", 0x49},
    {"kpminus", 0x4a},
    {"kpsubtract", 0x4a},
    {"kp4", 0x4b},
    {"kp5", 0x4c},
    {"kp6", 0x4d},
    {"kpplus", 0x4e},
    {"kpadd", 0x4e},
    {"plus", 0x4e},
    {"kp1", 0x4f},
    {"kp2", 0x50},
    {"kp3", 0x51},
    {"kp0", 0x52},
    {"kpdot", 0x53},
    {"kpdecimal", 0x53},
    {"sysrq", 0x54},
    {"less", 0x56},
    {"102nd", 0x56},
    {"f11", 0x57},
    {"f12", 0x58},
    {"kpenter", EXT | 0x1c},
    {"rctrl", EXT | 0x1d},
    {"ctrlr", EXT | 0x1d},
    {"rightctrl", EXT | 0x1d},
    {"kpdivide", EXT | 0x35},
    {"kpslash", EXT | 0x35},
    {"print", EXT | 0x37},
    {"ralt", EXT | 0x38},
    {"altr", EXT | 0x38},
    {"rightalt", EXT | 0x38},
    {"altgr", EXT | 0x38},
    {"home", EXT | 0x47},
    {"up", EXT | 0x48},
    {"pageup", EXT | 0x49},
    {"pgup", EXT | 0x49},
    {"left", EXT | 0x4b},
    {"right", EXT | 0x4d},
    {"end", EXT | 0x4f},
    {"down", EXT | 0x50},
    {"pagedown", EXT | 0x51},
    {"pgdn", EXT | 0x51},
    {"insert", EXT | 0x52},
    {"ins", EXT | 0x52},
    {"delete", EXT | 0x53},
    {"del", EXT | 0x53},
    {"super", EXT | 0x5b},
    {"meta", EXT | 0x5b},
    {"win", EXT | 0x5b},
    {"metal", EXT | 0x5b},
    {"leftmeta", EXT | 0x5b},
    {"rsuper", EXT | 0x5c},
    {"metar", EXT | 0x5c},
    {"rightmeta", EXT | 0x5c},
    {"menu", EXT | 0x5d},
    {"compose", EXT | 0x5d},
};

// Characters by scan code, without and with shift; a space where there is no key.
static const char plain[] = "  1234567890-=  qwertyuiop[]  asdfghjkl;'` \\zxcvbnm,./   ";
static const char shifted[] = "  !@#$%^&*()_+  QWERTYUIOP{}  ASDFGHJKL:\"~ |ZXCVBNM<>?   ";

uint16_t key_of_char(unsigned c, bool *shift)
{
    *shift = false;
    if (c == ' ')
        return 0x39;
    if (c == '\n' || c == '\r')
        return 0x1c;
    if (c == '\t')
        return 0x0f;
    if (c <= ' ' || c > '~')
        return 0;
    const char *at = strchr(plain, (int)c);
    if (at)
        return (uint16_t)(at - plain);
    *shift = true;
    at = strchr(shifted, (int)c);
    return at ? (uint16_t)(at - shifted) : 0;
}

static err_t add(struct key_list *list, uint16_t code, bool down, struct error *e)
{
    if (list->count == KEYS_MAX)
        return error_set(e, ERR_INVALID, "too many keys at once; send at most %d", KEYS_MAX / 4);
    list->event[list->count++] = (struct key_event){code, down};
    return OK;
}

static uint16_t find(const char *name, size_t len, bool *shift)
{
    char plain_name[NAME_MAX_LEN + 1];
    size_t n = 0;
    *shift = false;
    if (len == 1)
        return key_of_char((unsigned char)name[0], shift);
    if (len > 4 && !strncasecmp(name, "KEY_", 4)) {
        name += 4;
        len -= 4;
    }
    if (len == 1)
        return key_of_char((unsigned char)tolower(name[0]), shift);
    for (size_t i = 0; i < len; i++)
        if (name[i] != '_' && n < NAME_MAX_LEN)
            plain_name[n++] = name[i];
    plain_name[n] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcasecmp(names[i].name, plain_name))
            return names[i].code;
    return 0;
}

// A '-' that is not between two names is the key itself.
static size_t name_len(const char *at)
{
    size_t len = strcspn(at, "-");
    return len ? len : 1;
}

err_t keys_add_chord(struct key_list *list, const char *chord, struct error *e)
{
    uint16_t held[8];
    unsigned count = 0;
    err_t err = OK;
    for (const char *at = chord; !err && *at;) {
        bool shift;
        size_t len = name_len(at);
        uint16_t code = find(at, len, &shift);
        if (!code)
            return error_set(e, ERR_INVALID,
                             "there is no key '%.*s'; names are for example ctrl, alt, delete, f1, "
                             "enter, a",
                             (int)(len < 40 ? len : 40), at);
        if (count + 2 > ARRAY_LEN(held))
            return error_set(e, ERR_INVALID, "'%.40s': more than 7 keys at once", chord);
        if (shift && !err)
            err = add(list, held[count++] = KEY_SHIFT, true, e);
        if (!err)
            err = add(list, held[count++] = code, true, e);
        at += len;
        at += at[0] == '-' && at[1];
    }
    if (!count)
        return error_set(e, ERR_INVALID, "an empty name is no key");
    while (!err && count)
        err = add(list, held[--count], false, e);
    return err;
}

err_t keys_add_text(struct key_list *list, const char *text, struct error *e)
{
    err_t err = OK;
    for (; !err && *text; text++) {
        bool shift;
        uint16_t code = key_of_char((unsigned char)*text, &shift);
        if (!code)
            return error_set(e, ERR_INVALID,
                             "the US keyboard has no key for the character %#x; only ASCII can be "
                             "typed",
                             (unsigned char)*text);
        if (shift)
            err = add(list, KEY_SHIFT, true, e);
        if (!err)
            err = add(list, code, true, e);
        if (!err)
            err = add(list, code, false, e);
        if (!err && shift)
            err = add(list, KEY_SHIFT, false, e);
    }
    return err;
}
