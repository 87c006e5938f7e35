// What a VM's process may still do, should a guest ever take it over. Layers, each of them enough
// on its own against most of what an escaped guest would try:
//   - seccomp: an allow-list of system calls for each class of thread; anything else kills the
//   process
//   - Landlock, where the kernel has it: no file can be opened any more
//   - namespaces of its own, with an empty root (isolate.h), where the host lets it have them
//   - no_new_privs, no capabilities, no core dumps, no descriptors but the VM's own, and a limit to
//   what it may still grow by
#pragma once

#include "base/error.h"
#include "host/thread.h"

struct sandbox_layer {
    const char *name;
    bool usable;
    char detail[120]; // version, or why it is not usable
    char fix[160];    // what would make it so; empty: nothing that is known
};

enum sandbox_layers {
    SANDBOX_SECCOMP,
    SANDBOX_LANDLOCK,
    SANDBOX_NO_NEW_PRIVS,
    SANDBOX_NAMESPACES,
    SANDBOX_CORE, // hyper-threads of a core are not shared with other processes
    SANDBOX_LAYERS
};

// What this host offers, for `berth info`.
void sandbox_probe(struct sandbox_layer layers[SANDBOX_LAYERS]);

// First step of the process, before any thread and before any file that somebody else named is
// opened: closes descriptors other than 0, 1, 2 and those in keep (-1 is none), forbids new
// privileges and core dumps, and allows from now on only what preparing a VM needs (no programs, no
// sockets, no other processes).
err_t sandbox_enter(const int *keep, size_t keeps, struct error *e);

// The same, but for the system calls: for a program of one thread that confines itself before it
// touches anything that a guest controls, and for which this is the step before.
err_t sandbox_shed(const int *keep, size_t keeps, struct error *e);

// Of the whole process, once it has opened all its files: the root becomes empty (root is of
// isolate_prepare(), closed here), and memory and descriptors may grow only by what a running VM
// needs.
err_t sandbox_seal(int root, struct error *e);

// For the calling thread: only what running a VM needs of its class. There is no way back. Aborts
// the process when the kernel refuses, since guest code must not run unconfined. The signature is
// that of host_thread_guard().
void sandbox_confine(enum host_thread_class thread_class);
