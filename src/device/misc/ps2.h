// The two PS/2 devices behind the keyboard controller: what bytes go in, what bytes come out. They
// know nothing of ports and interrupts; the controller (i8042.c) asks for their output.
#pragma once

#include "state/state.h"

#define PS2_QUEUE 64

struct ps2_queue {
    uint8_t byte[PS2_QUEUE];
    uint8_t head;
    uint8_t count;
};

struct ps2_keyboard {
    struct ps2_queue queue;
    uint8_t command;  // waits for its parameter; 0: none
    uint8_t scan_set; // 1 or 2
    uint8_t scanning; // reports keys
    uint8_t leds;
    uint8_t rate;
    uint8_t last; // byte sent, for "resend"
};

struct ps2_mouse {
    struct ps2_queue queue;
    uint8_t pad[2];
    int32_t dx; // movement not yet reported: right, up, wheel
    int32_t dy;
    int32_t dz;
    uint8_t buttons;  // now
    uint8_t sent;     // buttons as last reported
    uint8_t command;  // waits for its parameter; 0: none
    uint8_t id;       // 0: three buttons, 3: wheel, 4: wheel and five buttons
    uint8_t knock[2]; // the last two sample rates: the way to ask for another id
    uint8_t rate;
    uint8_t resolution;
    uint8_t scaling; // 2:1
    uint8_t remote;  // reports when asked
    uint8_t wrap;    // echoes what it is sent
    uint8_t reporting;
};

extern const struct state_desc ps2_keyboard_state;
extern const struct state_desc ps2_mouse_state;

// -1 when there is nothing. The keyboard remembers what it gave, for the host's "resend".
int ps2_keyboard_take(struct ps2_keyboard *k);
int ps2_mouse_take(struct ps2_mouse *m);

void ps2_keyboard_reset(struct ps2_keyboard *k);
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte); // from the host
// False: there is no room now.
bool ps2_keyboard_key(struct ps2_keyboard *k, unsigned key, bool down);
bool ps2_keyboard_possible(const struct ps2_keyboard *k); // state from outside

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte);
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int wheel, unsigned buttons);
bool ps2_mouse_possible(const struct ps2_mouse *m);

// What the controller's translation makes of a byte below 0x80 of scan set 2: its code in set 1.
uint8_t ps2_translate(uint8_t code);

// ps2_queue.c. A byte that does not fit is dropped.
extern const struct state_desc ps2_queue_state;
unsigned ps2_queue_room(const struct ps2_queue *q);
void ps2_queue_push(struct ps2_queue *q, uint8_t byte);
int ps2_queue_pop(struct ps2_queue *q);
bool ps2_queue_possible(const struct ps2_queue *q);
