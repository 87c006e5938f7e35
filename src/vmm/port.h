// The VM's end of a port of a virtual network: packets between a network card and a socket, whose
// every message is one packet (net/net.h; SOCK_SEQPACKET), or which is a vhost-user back end's
// (SOCK_STREAM) with memory that both share; or a tap interface's file (net/tap.h).
// docs/formats/network-port.md.
#pragma once

#include <pthread.h>

#include "host/loop.h"
#include "machine/vm.h"
#include "net/vhost_front.h"

struct port {
    struct loop *loop;
    struct vm *vm;
    unsigned nic;
    struct loop_fd fd;        // fd.fd -1: no socket with packets is plugged
    struct vhost_front front; // likewise, its socket.fd
    struct loop_work work;
    pthread_mutex_t lock; // what other threads send by, and what follows
    bool rings;           // the front end sends; else the socket
    bool tap;             // fd is no socket
    bool full;            // a send found no room: waits for the network to take more
    bool resumed;         // the guest has buffers again
    // The loop's own.
    bool held;  // packet waits for a buffer of the guest
    size_t len; // of packet
    void (*changed)(void *opaque, struct port *port, bool up); // the link
    void *opaque;
    uint64_t received, sent, lost; // packets; lost: came from the network and were not right
    uint8_t packet[NET_PACKET_MAX + 1];
    uint8_t part[NET_PACKET_MAX]; // of one sent that a tap interface cannot take whole
};

// Zero-initialised but for vm, nic, changed and opaque. Loop thread only, where nothing else is
// said.
void port_init(struct port *port, struct loop *loop);
// Takes the socket over, in place of the one before; -1: unplugs.
err_t port_plug(struct port *port, int fd, struct error *e);
void port_release(struct port *port);
bool port_plugged(const struct port *port);

// For vm_hooks: any thread, with the network card's lock held.
bool port_send(struct port *port, uint8_t *packet, size_t len);
void port_resume(struct port *port);
