// YAML 1.1 as data: what JSON can say, read and written with libyaml.
#pragma once

#include <jansson.h>

#include "base/error.h"

// Each document of the text as a value of a new array. Plain scalars that look like numbers, true,
// false, yes, no or null are that; all others are text. ERR_INVALID names the line.
err_t yaml_read(const char *text, size_t len, json_t **documents, struct error *e);
// One document with --- before it, allocated with malloc().
err_t yaml_write(const json_t *value, char **text, struct error *e);
