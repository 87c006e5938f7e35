// The control socket's serving side: clients on a stream socket, one JSON object a line each way
// (docs/formats/control.md). Everything is bounded: clients, lines, what waits to be read, time.
//
// Loop thread only.
#pragma once

#include "control/request.h"
#include "host/loop.h"

struct server; // opaque

struct server_options {
    struct loop *loop;
    int listen_fd;               // a listening stream socket; the server owns it
    const struct request *table; // of what can be asked
    void *context;               // the handlers'
    unsigned clients_max;        // 0: 16
};

// On an error listen_fd stays the caller's. Peers must be this process's user, or root.
err_t server_new(const struct server_options *options, struct server **out, struct error *e);

// Gives clients up to flush_ms to take what is on its way to them. Accepts NULL.
void server_free(struct server *server, int flush_ms);

// An event, a whole line with its newline, to each client that asked for events. One that does not
// read them is dropped.
void server_tell(struct server *server, const char *line, size_t len);
