// Requests about a VM's disks, for the table of requests.c.
#pragma once

#include "control/control.h"

extern const struct request_field limit_fields[];
// Changes a disk's limits, those that are given, and answers with what holds from now on.
err_t limit_request(void *context, const json_t *args, struct reply *reply, struct error *e);
