// One running virtual network: the bridge, its ports' sockets, the way out, and who asks about
// them.
#pragma once

#include "control/server.h"
#include "host/loop.h"
#include "net/forward.h"
#include "switch/capture.h"
#include "switch/egress.h"
#include "switch/host.h"
#include "switch/link.h"
#include "switch/uplink.h"

#define FORWARDS_MAX 256

struct switch_forward {
    bool used;
    struct forward forward;
    struct port *port;
};

struct vswitch {
    struct network network;
    struct site site;
    struct loop *loop;
    struct loop_fd signals;
    struct loop_timer idle;   // the end, when nobody has been plugged in
    struct loop_timer advert; // of the router
    struct server *server;
    struct uplink *uplink; // NULL: a private network
    uint64_t seed;         // of hash tables that guests can fill
    uint64_t started;      // host time
    int control_fd;        // until there is a server
    struct switch_forward forward[FORWARDS_MAX];
    struct capture capture[CAPTURES_MAX];
    unsigned captures; // in use
    struct link_buffers buffers;
    uint8_t scratch[CAPTURE_SCRATCH];
    struct bridge bridge;
    struct host host;
};

// --- switch.c: its parts, put together

// Everything but the sandbox. network, control_fd and loop are there already.
err_t switch_start(struct vswitch *sw, struct error *e);
void switch_release(struct vswitch *sw); // accepts a half-made one

// --- ports.c

struct switch_plug {
    struct bridge_port_options port;
    uint64_t limit_in, limit_out;
    unsigned priority;
    bool rings; // the VM's end is for a vhost-user front end
    const char *policy;
    const char *forwards; // "tcp:127.0.0.1:8080:80,...", or ""
};

// Nothing is left behind on an error. *peer: the VM's end.
err_t switch_plug(struct vswitch *sw, const struct switch_plug *plug, struct port **out, int *peer,
                  struct error *e);
void switch_unplug(struct vswitch *sw, struct port *port);

err_t switch_forward(struct vswitch *sw, struct port *port, const struct forward *forward,
                     struct error *e);
// ERR_NOT_FOUND: there is no such forward.
err_t switch_unforward(struct vswitch *sw, const struct forward *forward, struct error *e);

// --- requests.c

extern const struct request switch_requests[]; // their context is a struct vswitch
