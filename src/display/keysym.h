// X keysyms, as VNC viewers send keys, to what a person would press on a US keyboard.
#pragma once

#include "display/keys.h"

#define KEYSYM_DOWN_MAX 32 // keys held at a time

// What the viewer holds down, and what the guest believes to be held down.
struct keysym_state {
    struct {
        uint32_t keysym;
        uint16_t code;
    } down[KEYSYM_DOWN_MAX];
    uint32_t count;
};

#define KEYSYM_EVENTS_MAX 8

// Appends the events of one key to out (room for KEYSYM_EVENTS_MAX); returns how many. A character
// that the viewer's keyboard makes with other modifiers than a US one gets those around it.
unsigned keysym_events(struct keysym_state *s, uint32_t keysym, bool down, struct key_event *out);
// Everything goes up: the viewer has gone. out has room for KEYSYM_DOWN_MAX.
unsigned keysym_release_all(struct keysym_state *s, struct key_event *out);
