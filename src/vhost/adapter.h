// Between a port of a virtual network and a vhost-user front end, such as QEMU: packets of the port
// (docs/formats/network-port.md) to and from the front end's virtqueues (device/vhost/back.h).
#pragma once

#include "device/vhost/back.h"

struct adapter {
    struct loop *loop;
    struct loop_fd listener, port; // for front ends; a SOCK_SEQPACKET socket
    struct loop_timer again;       // more packets of the guest wait than one turn takes
    struct vhost_back back;
    size_t out_len; // of out, which the port has not taken yet; 0: none
    size_t len;     // of packet, which waits for a buffer of the guest; 0: none
    uint8_t packet[NET_PACKET_MAX + 1];
    uint8_t out[NET_PACKET_MAX + 1];
    void (*ended)(void *opaque, const char *why); // the port is gone, or the front end broke rules
    void *opaque;
};

// Packets of the port, a listening socket for front ends: one at a time, and another one after it.
err_t adapter_start(struct adapter *a, struct error *e);
void adapter_stop(struct adapter *a);
