// Pictures as PNG files.
#pragma once

#include "display/display.h"

// Writes the picture to a file, which appears under its name only when it is whole.
err_t png_write(const struct picture *p, const char *path, struct error *e);
