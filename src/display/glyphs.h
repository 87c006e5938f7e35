// Reads text off a picture: consoles that draw their characters on a frame buffer.
#pragma once

#include "display/display.h"

// Text in a font that glyph_table.c knows, in cells of 8 pixels in width that may begin anywhere.
// Cells with what is no known character get TEXT_UNKNOWN, those with more than two colours a blank.
// False: the picture shows no such text.
bool glyphs_read(const struct picture *p, struct display_text *out);

#define TEXT_UNKNOWN 0xfe
