// The host's ends of connections over the virtio socket device: each is a stream socket that a
// client of the control socket has handed over (docs/formats/control.md). And the connection by
// which the guest's agent says that it is ready.
#pragma once

#include <pthread.h>

#include "host/loop.h"
#include "machine/vm.h"

#define VSOCK_ENDS_MAX 128 // sockets at a time

struct vsock_end; // opaque

struct vsock {
    struct vm *vm;
    struct loop *loop;
    struct loop_work work;
    void (*agent_changed)(void *opaque, bool ready); // on the loop's thread
    void *opaque;
    unsigned count;       // of ends
    bool agent_told;      // what agent_changed() said last
    pthread_mutex_t lock; // guards what follows, and parts of the ends
    struct vsock_end *ends;
    struct vsock_end *by_number[VSOCK_CONNECTIONS];
    bool left[VSOCK_CONNECTIONS]; // closed, and nobody's: to be released
    struct vsock_end *asking;     // its connection is being asked for
    int agent;                    // the agent's connection; -1: none
};

extern const struct vsock_host vsock_host; // its opaque is the struct run

// Loop thread only. vm is set once there is one; before that the guest does not run.
void vsock_init(struct vsock *vsock, struct loop *loop);
void vsock_release(struct vsock *vsock); // when no vCPU runs any more

// Tells the guest's agent to shut the guest down. False: there is none.
bool vsock_ask_down(struct vsock *vsock);

// Connects a socket to a port of the guest, or lets it wait for the guest to connect to a port of
// the host. tell: when the connection is there, "OK PORT\n" comes before all else, with the port of
// the guest's end. A refused connection is closed at once. The socket is taken over, unless there
// is an error.
err_t vsock_open(struct vsock *vsock, int fd, bool accept, uint32_t port, bool tell,
                 struct error *e);
