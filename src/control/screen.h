// A screen of characters as the request "screen" answers it (docs/formats/control.md).
#pragma once

#include <jansson.h>

#include "display/display.h"

// Sets columns, rows, cursor and lines.
void screen_to_json(const struct display_text *text, json_t *out);
