// The table that tools/make-glyphs makes.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct glyph {
    uint32_t hash;
    uint8_t height;
    uint8_t code; // in code page 437
};

extern const struct glyph glyph_table[]; // sorted by hash
extern const size_t glyph_count;
