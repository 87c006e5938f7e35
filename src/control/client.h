// The control socket's asking side, for command-line verbs and tests.
#pragma once

#include <jansson.h>

#include "control/registry.h"

struct client; // a connection to one VM or network

// Waits for answers up to timeout_ms each.
err_t client_connect(enum registry_kind kind, const char *name, int timeout_ms, struct client **out,
                     struct error *e);
// The same over a connection that is there already; it is taken over, also on an error.
err_t client_new(int fd, const char *name, int timeout_ms, struct client **out, struct error *e);
void client_free(struct client *client); // accepts NULL

// One request; args is taken over (NULL: none). *result is a new object. What the VM refuses comes
// back as its words. fd (may be NULL) gets a descriptor that came along, or -1. Events that arrive
// meanwhile are dropped.
err_t client_ask(struct client *client, const char *request, json_t *args, json_t **result, int *fd,
                 struct error *e);

// fd goes with the next request, and stays the caller's.
void client_give(struct client *client, int fd);

// The client's socket, readable when an event may have come.
int client_fd(const struct client *client);

// The next event after the request "events", a new object; NULL in *event: the VM has ended.
// timeout_ms -1 waits for ever; ERR_BUSY: nothing came in time.
err_t client_next_event(struct client *client, int timeout_ms, json_t **event, struct error *e);
