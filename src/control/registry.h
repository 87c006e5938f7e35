// The running VMs, networks and the manager of one user, by name. Each has a directory in
// $XDG_RUNTIME_DIR/berth/vm, net or manager (where that variable names no directory of the user's:
// in /tmp/berth-UID) with its control socket. A directory whose lock nobody holds is what a killed
// program left, and is cleared away.
#pragma once

#include "base/error.h"

#define REGISTRY_NAME_MAX 63

enum registry_kind { REGISTRY_VM, REGISTRY_NETWORK, REGISTRY_MANAGER, REGISTRY_KINDS };

#define REGISTRY_BERTHD "berthd" // the name of the one manager that a user has

// A name that this process holds, and every process that inherits the lock.
struct registry_claim {
    enum registry_kind kind;
    int all, dir, lock; // descriptors; lock -1: nothing is held
    char name[REGISTRY_NAME_MAX + 1];
};

#define REGISTRY_NO_CLAIM ((struct registry_claim){REGISTRY_VM, -1, -1, -1, ""})

// ERR_BUSY: one of this name runs. ERR_INVALID: not a name. Names: vm_name_valid().
err_t registry_claim(enum registry_kind kind, const char *name, struct registry_claim *out,
                     struct error *e);
// A socket that listens under the claimed name: for requests, or for those who attach to a VM's
// shared console (raw bytes, each way).
#define REGISTRY_CONTROL "control.sock"
#define REGISTRY_CONSOLE "console.sock"
#define REGISTRY_HTTP "http.sock" // of the manager
err_t registry_listen(const struct registry_claim *claim, const char *socket, int *fd,
                      struct error *e);
// The path of a file in the directory, which goes with it. name: one of these.
#define REGISTRY_SEED "seed.img"
#define REGISTRY_INITRD "initrd"
#define REGISTRY_LOG "log" // what a process says that has no terminal
err_t registry_file(const struct registry_claim *claim, const char *name, char *path, size_t size,
                    struct error *e);
void registry_release(struct registry_claim *claim); // gives the name back
// Lets go of it here; it stays with the process that has inherited the lock.
void registry_hand_over(struct registry_claim *claim);

// A connection to the one of this name. ERR_NOT_FOUND: none runs.
err_t registry_connect(enum registry_kind kind, const char *name, int *fd, struct error *e);
// To its console. ERR_NOT_FOUND also when it shares none.
err_t registry_attach(const char *name, int *fd, struct error *e);

// Calls found() for each running one, in the order of their names.
err_t registry_each(enum registry_kind kind, void (*found)(void *opaque, const char *name),
                    void *opaque, struct error *e);
