// The manager's connection to one running VM's control socket (docs/formats/control.md), on the
// manager's loop: it never waits for a VM, whose process may be its guest's by now. Lines, what
// waits to be sent, questions and the time for an answer are bounded; a VM that breaks a bound
// loses its connection, and nobody else notices.
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "host/loop.h"

struct link; // opaque

struct link_user {
    void (*event)(void *opaque, json_t *event); // borrowed
    void (*lost)(void *opaque);                 // not for link_free(); the link is to be freed
    void *opaque;
};

// fd, a connected socket, is taken over, also on an error.
err_t link_new(struct loop *loop, int fd, const struct link_user *user, struct link **out,
               struct error *e);
void link_free(struct link *link); // questions get ERR_IO; accepts NULL

// Asks; done() gets the result (its own) or, with NULL, the error. Never on this stack. args is
// taken over (NULL: none).
err_t link_ask(struct link *link, const char *request, json_t *args,
               void (*done)(void *opaque, json_t *result, const struct error *e), void *opaque,
               struct error *e);
