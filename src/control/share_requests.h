// Requests about what a VM takes of the host's CPUs and memory, for the table of requests.c.
#pragma once

#include "control/control.h"

extern const struct request_field cpu_fields[], memory_fields[];
// Each changes what is given and answers with what holds from now on.
err_t cpu_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t memory_request(void *context, const json_t *args, struct reply *reply, struct error *e);
