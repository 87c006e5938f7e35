// Requests about the VM's network cards.
#pragma once

#include "control/control.h"

extern const struct request_field plug_fields[], unplug_fields[];
err_t request_plug(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t request_unplug(void *context, const json_t *args, struct reply *reply, struct error *e);

// [{"network":, "mac":, "up":}], for the request info.
json_t *nics_describe(const struct control *c);
