// Names of keys, and which keys a person in front of a US keyboard would press.
#pragma once

#include "base/error.h"

#define KEYS_MAX 4096 // events in a list

struct key_event {
    uint16_t code; // as display_ops.key takes it
    bool down;
};

struct key_list {
    struct key_event event[KEYS_MAX];
    uint32_t count;
};

// Appends a combination: names joined by '-', pressed in this order and released in the reverse
// one: "ctrl-alt-delete", "f2", "shift-b". A printable character stands for its key (with shift
// where it needs it). ERR_INVALID with the name that nobody knows.
err_t keys_add_chord(struct key_list *list, const char *chord, struct error *e);
// Appends what types the text: ASCII with newlines (enter) and tabs.
err_t keys_add_text(struct key_list *list, const char *text, struct error *e);

// The key of a printable ASCII character, and whether shift is held; 0: there is none.
uint16_t key_of_char(unsigned c, bool *shift);

#define KEY_SHIFT 0x2a
#define KEY_CTRL 0x1d
#define KEY_ALT 0x38
