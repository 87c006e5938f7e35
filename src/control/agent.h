// The guest's agent, from the host: connections to it over the VM's control socket. What it says is
// not trusted (control/agent_wire.h).
#pragma once

#include <jansson.h>

#include "control/agent_wire.h"
#include "control/client.h"

#define AGENT_PATIENCE_MS 10000 // for an answer

// Finds a running VM by what a person calls it.
typedef err_t (*agent_vm_fn)(const char *vm, int timeout_ms, struct client **out, struct error *e);

// How long to wait where nobody said: for an agent that was put into a guest as long as it may take
// to start, for others not at all.
#define AGENT_WAIT_DEFAULT (-1)
#define AGENT_WAIT_MS 120000

// Connects to the agent of a running VM and hears its greeting. Where the agent is not ready, waits
// for it, for wait_ms at most. ERR_UNSUPPORTED: there is none, with words on how to get one. *out:
// agent_close().
err_t agent_open(agent_vm_fn find, const char *vm, int wait_ms, struct agent_link **out,
                 struct error *e);
void agent_close(struct agent_link *link); // accepts NULL

// The start of a request, to add its arguments to.
struct agent_fields *agent_request_new(const char *request);
// Sends it, and frees it. The agent's answer comes with agent_expect().
err_t agent_ask(struct agent_link *link, struct agent_fields *request, struct error *e);

// All of that at once, for requests whose answer is one AGENT_OK: its fields as an object of texts,
// those of one name that may be repeated as a list.
err_t agent_simple(agent_vm_fn find, const char *vm, int wait_ms, struct agent_fields *request,
                   json_t **result, struct error *e);
