// What the verbs that ask the guest's agent share.
#pragma once

#include "base/buffer.h"
#include "control/agent.h"

err_t agent_parse_wait(const char *text, int *ms, struct error *e);

// Adds what the agent of a VM says about its guest to the VM's description, as the member "guest",
// if it is there; a guest that does not answer is told as its "error".
void agent_describe(json_t *vm);
void agent_show(const json_t *vm); // the same in words
