// The requests about display and keyboard, for the table in requests.c.
#pragma once

#include "control/control.h"

extern const struct request_field keys_fields[];

err_t request_screen(void *context, const json_t *args, struct reply *reply, struct error *e);
// The answer comes with a descriptor: width * height pixels, 0x00RRGGBB in 32 bits, row after row.
err_t request_screenshot(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t request_keys(void *context, const json_t *args, struct reply *reply, struct error *e);
