// Screens of characters as text.
#pragma once

#include "display/display.h"

#define TEXT_ROW_BYTES (DISPLAY_COLUMNS_MAX * 3 + 1)

// One row in UTF-8 without blanks at its end. Returns its length.
size_t text_row_utf8(const struct display_text *text, unsigned row, char out[TEXT_ROW_BYTES]);
