// The running VMs of one user, by name. Each has a directory in $XDG_RUNTIME_DIR/berth/vm (where
// that variable names no directory of the user's: /tmp/berth-UID/vm) with its control socket. A
// directory whose lock nobody holds is what a killed program left, and is cleared away.
#pragma once

#include "base/error.h"

#define REGISTRY_NAME_MAX 63

// A name that this process holds.
struct registry_claim {
    int vms, dir, lock; // descriptors; lock -1: nothing is held
    char name[REGISTRY_NAME_MAX + 1];
};

#define REGISTRY_NO_CLAIM ((struct registry_claim){-1, -1, -1, ""})

// ERR_BUSY: a VM of this name runs. ERR_INVALID: no name for a VM. Names: vm_name_valid().
err_t registry_claim(const char *name, struct registry_claim *out, struct error *e);
// A socket that listens under the claimed name.
err_t registry_listen(const struct registry_claim *claim, int *fd, struct error *e);
// The path of a file in the VM's directory, which goes with it. name: one of these.
#define REGISTRY_SEED "seed.img"
err_t registry_file(const struct registry_claim *claim, const char *name, char *path, size_t size,
                    struct error *e);
void registry_release(struct registry_claim *claim); // gives the name back

// A connection to the VM of this name. ERR_NOT_FOUND: none runs.
err_t registry_connect(const char *name, int *fd, struct error *e);

// Calls found() for each running VM, in the order of their names.
err_t registry_each(void (*found)(void *opaque, const char *name), void *opaque, struct error *e);
