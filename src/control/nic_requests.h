// Requests about the VM's network cards.
#pragma once

#include "control/control.h"

extern const struct request_field plug_fields[], unplug_fields[], nic_add_fields[],
    nic_remove_fields[];
err_t request_plug(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t request_unplug(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t request_nic_add(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t request_nic_remove(void *context, const json_t *args, struct reply *reply, struct error *e);

// [{"network":, "mac":, "up":, "model":}], for the request info; null: that one was removed.
json_t *nics_describe(const struct control *c);
