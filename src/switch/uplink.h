// The way out: libslirp, a TCP/IP stack in this process that turns the network's connections into
// sockets of the host's. It needs no privilege. Frames go in and out without any work left to be
// done to them.
#pragma once

#include "host/loop.h"
#include "net/forward.h"
#include "switch/site.h"

struct uplink; // opaque

struct uplink_options {
    struct loop *loop;
    const struct site *site;
    void (*receive)(void *opaque, const uint8_t *frame, size_t len); // to the network
    void (*received)(void *opaque);                                  // for now no more come
    void *opaque;
};

err_t uplink_new(const struct uplink_options *options, struct uplink **out, struct error *e);
void uplink_free(struct uplink *uplink); // accepts NULL

// From the network. May call receive().
void uplink_send(struct uplink *uplink, const uint8_t *frame, size_t len);

// guest: IPv4, host byte order. ERR_BUSY: somebody has the host's port; ERR_DENIED: not for this
// user.
err_t uplink_forward(struct uplink *uplink, const struct forward *forward, uint32_t guest,
                     const uint8_t guest6[16], struct error *e);
void uplink_unforward(struct uplink *uplink, const struct forward *forward);

unsigned uplink_sockets(const struct uplink *uplink); // being watched
