// TOML 1.0 as data: what JSON can say, read and written.
#pragma once

#include <jansson.h>

#include "base/error.h"

// The text as an object. ERR_INVALID names the line.
err_t toml_read(const char *text, size_t len, json_t **out, struct error *e);
// An object's members as lines, tables in it as inline tables; allocated with malloc(). What TOML
// has no word for (null) is left out.
err_t toml_write(const json_t *object, char **text, struct error *e);
