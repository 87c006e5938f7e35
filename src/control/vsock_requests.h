// The requests about connections to and from the guest over the virtio socket device.
#pragma once

#include "control/control.h"

extern const struct request_field vsock_fields[];
err_t request_vsock_connect(void *context, const json_t *args, struct reply *reply,
                            struct error *e);
err_t request_vsock_accept(void *context, const json_t *args, struct reply *reply, struct error *e);
