// What lies between a display device of the machine and the front ends that show it: pictures and
// text out, keys and mouse movements in.
//
// A front end owns its picture and asks the device to draw into it whenever it wants to. So no
// front end ever looks into guest memory, pixel formats and palettes are the device's business
// alone, and any number of front ends can look at once.
#pragma once

#include "base/error.h"

#define DISPLAY_WIDTH_MAX 2560
#define DISPLAY_HEIGHT_MAX 2048
#define DISPLAY_COLUMNS_MAX 256
#define DISPLAY_ROWS_MAX 128

struct display_rect {
    uint32_t x, y, width, height;
};

// Pixels are 0x00RRGGBB, row after row without gaps.
struct picture {
    uint32_t *pixels; // owned, room for the largest picture; untouched memory costs nothing
    uint32_t width, height;
    bool live; // drawn again and again: unchanged parts may be left as they are. One per display
};

err_t picture_init(struct picture *p, bool live, struct error *e);
void picture_release(struct picture *p);

// What drawing changed: told as rectangles, from top to bottom.
struct damage {
    void (*changed)(void *opaque, const struct display_rect *rect); // NULL: nobody wants to know
    void *opaque;
    struct display_rect run; // rows that changed and lie together
};

// Sets the size; true when it is another one than before (all rows count as changed then, which is
// for the caller to say). width and height are at most the limits above.
bool picture_resize(struct picture *p, uint32_t width, uint32_t height);
// Replaces row y (width pixels; y grows from call to call).
void picture_put_row(struct picture *p, uint32_t y, const uint32_t *row, struct damage *damage);
void damage_end(struct damage *damage); // tells the last rectangle

// A screen of characters. The low byte of a cell is the character (code page 437 unless the guest
// has loaded other glyphs), the high byte its VGA attribute.
struct display_text {
    uint16_t columns, rows;
    uint16_t cursor_column, cursor_row;
    bool cursor;                                           // shown
    uint16_t cell[DISPLAY_COLUMNS_MAX * DISPLAY_ROWS_MAX]; // row after row
};

#define DISPLAY_KEY_EXTENDED 0x100 // or-ed to scan codes with a prefix of 0xe0

enum display_button { DISPLAY_LEFT = 1, DISPLAY_RIGHT = 2, DISPLAY_MIDDLE = 4 };

// One display. Any thread may call these at any time.
struct display_ops {
    // Draws what is shown now, sizing the picture first. True: the size changed.
    bool (*draw)(void *opaque, struct picture *p, struct damage *damage);
    // The characters shown; ERR_UNSUPPORTED in a graphics mode, with the next step in the words.
    err_t (*text)(void *opaque, struct display_text *out, struct error *e);
    // A key goes down or up: its scan code in set 1, DISPLAY_KEY_EXTENDED for those with a prefix.
    // False: the keyboard's buffer is full (or nobody listens): try again later.
    bool (*key)(void *opaque, unsigned key, bool down);
    // Relative movement, right, down and wheel towards the user positive; all buttons that are
    // down.
    void (*mouse)(void *opaque, int dx, int dy, int wheel, unsigned buttons);
};

struct display {
    const struct display_ops *ops;
    void *opaque;
};
