// Namespaces of its own for a process that a guest may one day take over: no other process, no
// network and no mounts of the host are in sight, and no user is but its own. They take no
// privileges, since the first of them is a user namespace. namespaces(7), user_namespaces(7).
#pragma once

#include <sys/types.h>

#include "base/error.h"

struct isolate_options {
    int (*run)(void *opaque); // in the child, which borrows our memory: it must exec or _exit
    void *opaque;
    bool same_pids; // no namespace of processes: a terminal's job control does not reach its init
};

// Starts a child. In a namespace of processes it is the first one, to which signals without
// handlers do nothing: so `run` leaves those blocked that shall wait. *refusal: 0, or errno of why
// the host lets it have no namespaces; it runs all the same. -1: there is no child; see errno.
pid_t isolate_start(const struct isolate_options *options, int *refusal);

// In the child's program, before any thread: an empty folder to become its root, a cookie by which
// hyper-threads of a core never run it beside others (where the kernel knows them). A descriptor
// that must be kept, or -1: there is none to be had.
int isolate_prepare(void);

// Of the whole process, when it has opened all its files: nothing is below / any more. Does nothing
// with -1. root stays open, which shows no more than / does: to close it would be to wait until the
// kernel has told all its CPUs.
err_t isolate_empty_root(int root, struct error *e);

// Of the calling thread: no capability is left but those of the set (1 << CAP_...). In a user
// namespace they concern nothing but that; without one, root has all of the host's.
void isolate_drop_capabilities(unsigned keep);

// The process's number as the host counts; getpid() counts in the process's own namespace. To be
// asked before the root is emptied.
pid_t isolate_host_pid(void);

// Whether they can be had here, tried in a child; and whether the kernel keeps hyper-threads apart.
// 0, or errno.
int isolate_probe(void);
int isolate_probe_core(void);
