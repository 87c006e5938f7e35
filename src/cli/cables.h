// The cables of one running VM's network cards: plugged in before it starts, and again when a
// network's switch has gone away and come back.
#pragma once

#include "control/client.h"
#include "machine/config.h"

struct cables {
    struct vm_config *config;
    int fd[VM_NICS_MAX];             // sockets for berth-vmm to inherit; -1: none
    struct client *client;           // of the VM's control socket, for events; NULL: not watched
    bool due;                        // some card may be without its network
    uint64_t replugged[VM_NICS_MAX]; // when, by host_now(); 0: never
};

void cables_init(struct cables *cables, struct vm_config *config);

// A cable for each card; the network is started where it does not run. Tells the person the
// addresses, and the definition each network's MTU where it says none. On an error nothing is
// left.
err_t cables_plug(struct cables *cables, struct error *e);
void cables_close_here(struct cables *cables); // after berth-vmm has inherited them

// From when the VM's process runs.
void cables_watch(struct cables *cables);
int cables_fd(const struct cables *cables); // to be polled for input; -1: nothing is watched
// How long to wait for input at most, in ms; -1: for ever.
int cables_wait(const struct cables *cables);
void cables_work(struct cables *cables, bool input); // input came, or the wait is over
void cables_release(struct cables *cables);
