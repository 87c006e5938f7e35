// What can be asked of one running VM, and what its requests need to know.
#pragma once

#include "control/events.h"
#include "control/request.h"
#include "machine/vm.h"

// Everything belongs to the program that runs the VM.
struct control {
    struct vm *vm;
    const struct vm_config *config;
    const struct events *events;
    struct typist *typist; // of the VM's display; unused when it has none
    uint64_t started;      // host_now() when the guest first ran
    int pid;
    void (*stop)(void *opaque, const char *reason); // ends the VM at once
    // Connects network card nic to the network of that name, by the socket fd, which is taken over;
    // -1: to none, network NULL.
    err_t (*plug)(void *opaque, unsigned nic, int fd, const char *network, struct error *e);
    bool (*link_up)(void *opaque, unsigned nic);
    // Leads the stream socket fd, which is taken over unless there is an error, to a port of the
    // guest, or lets it wait for the guest at a port of the host (vmm/vsock.h).
    err_t (*vsock_open)(void *opaque, int fd, bool accept, uint32_t port, bool tell,
                        struct error *e);
    bool (*agent_ready)(void *opaque); // the guest's agent is there
    // Asks the guest to shut down: by its agent and by the power button, whichever it heeds. False:
    // it has neither.
    bool (*ask_down)(void *opaque);
    // A new network card at this place of the definition, as card says (vm_nic_put()), connected
    // like plug() does; and one that is to go. *heard: the guest listens to such changes.
    err_t (*nic_add)(void *opaque, unsigned nic, const json_t *card, int fd, const char *network,
                     bool *heard, struct error *e);
    err_t (*nic_remove)(void *opaque, unsigned nic, bool *heard, struct error *e);
    void *opaque;
};

// The table for server_new(); its context is a struct control. A family of requests is a file with
// its handlers, and lines in the table of requests.c.
extern const struct request vm_requests[];
