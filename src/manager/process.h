// Processes that outlive the manager: each VM's supervisor (berth run) leads a session of its own,
// so that neither the manager's end nor its terminal's reaches it. A lock on a file in the VM's
// folder, which the supervisor inherits, says that it runs; the file holds its process id.
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "host/loop.h"

struct process {
    struct loop *loop;
    struct loop_fd watch; // a pidfd; -1: there is no process
    pid_t pid;
    void (*ended)(void *opaque); // it is gone, and may be started anew
    void *opaque;
};

#define PROCESS_LOCK "lock"
#define PROCESS_SAID "said" // what it said on standard error

void process_init(struct process *p, struct loop *loop, void (*ended)(void *opaque), void *opaque);

// Starts argv in folder, with nothing to read. *out gets what it says on standard output. The lock
// becomes its descriptor 3. ERR_BUSY: one runs there.
err_t process_start(struct process *p, const char *path, char *const *argv, const char *folder,
                    int *out, struct error *e);
// Finds the one that an earlier manager started. ERR_NOT_FOUND: none runs.
err_t process_adopt(struct process *p, const char *folder, struct error *e);

bool process_runs(const struct process *p);
// pid is a child of it now: for numbers that come from who is not trusted.
bool process_has_child(const struct process *p, pid_t pid);
void process_signal(const struct process *p, int signal);
void process_release(struct process *p); // it runs on
