// Threads: named, with every signal blocked, on a stack of a known size.
#pragma once

#include <pthread.h>

#include "base/error.h"

struct host_thread {
    pthread_t id;
    bool started;
    char name[16];
    void (*run)(void *opaque);
    void *opaque;
};

#define HOST_THREAD_STACK (1 * MIB)

// The struct stays in place until the join. name: at most 15 bytes, shown by ps and top.
err_t host_thread_start(struct host_thread *thread, const char *name, void (*run)(void *opaque),
                        void *opaque, struct error *e);
void host_thread_join(struct host_thread *thread); // does nothing when it was never started

// What a thread does, and so which system calls it needs once it is set up.
enum host_thread_class {
    HOST_THREAD_MAIN,    // the main loop
    HOST_THREAD_VCPU,    // runs guest code
    HOST_THREAD_DISPLAY, // serves viewers of the screen
    HOST_THREAD_BLOCK,   // reads and writes open disk images
    HOST_THREAD_SWITCH,  // a virtual network's only thread
    HOST_THREAD_NAT,     // the same, of one with a way out
};

// Said by a thread about itself when its preparations are done and before it touches what a guest
// controls: from here on it may use only what its class needs. Does nothing unless the program
// chose a guard (unit tests do not).
void host_thread_confine(enum host_thread_class thread_class);

// Sets what host_thread_confine() calls; once, before a second thread exists. Like the log's sink
// this is the process's and not an object's: confinement is a property of the process.
void host_thread_guard(void (*guard)(enum host_thread_class thread_class));
