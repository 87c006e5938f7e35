// What a VM finds out about itself when it starts: a seed disk for cloud-init (NoCloud).
#pragma once

#include "control/registry.h"
#include "host/file.h"
#include "machine/config.h"

// Public keys as in authorized_keys; the text ends with a NUL. ERR_INVALID: something else is in
// the file, a private key perhaps.
err_t ssh_keys_read(const char *path, struct host_file *out, struct error *e);

// Makes the seed in the VM's runtime directory and adds it to the definition as a read-only disk.
// user_data and keys are paths; NULL: none. agent: the guest's agent is on it, and cloud-init
// installs it.
err_t seed_add(struct vm_config *config, const struct registry_claim *claim, const char *user_data,
               const char *keys, bool agent, struct error *e);
