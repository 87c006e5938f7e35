// How the guest's agent gets into a guest.
#pragma once

#include "control/registry.h"
#include "host/file.h"
#include "machine/config.h"

// A unit for systemd that starts the agent in that folder.
#define AGENT_UNIT(folder)                                                 \
    "[Unit]\n"                                                             \
    "Description=Berth's agent, for the host's berth exec, shell and cp\n" \
    "[Service]\n"                                                          \
    "ExecStart=" folder "/berth-agent\n"                                   \
    "KillMode=process\n"                                                   \
    "Restart=always\n"                                                     \
    "[Install]\n"                                                          \
    "WantedBy=multi-user.target\n"

// The program as it was built for guests.
err_t agent_read(struct host_file *out, struct error *e);

// Says in the definition that the guest has the agent. Where it starts with an initial RAM disk,
// puts it in there: a copy in the VM's runtime directory with a second archive behind the first,
// from which the kernel starts the agent, and that the real init. ERR_INVALID: it cannot be done.
err_t agent_put(struct vm_config *config, const struct registry_claim *claim, struct error *e);
