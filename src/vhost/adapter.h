// Between a port of a virtual network and a vhost-user front end, such as QEMU: packets of the port
// (docs/formats/network-port.md) to and from the virtqueues of a network card in the front end's
// memory.
#pragma once

#include "device/virtio/net_ring.h"
#include "host/loop.h"
#include "net/net.h"
#include "vhost/memory.h"

#define VHOST_FDS_MAX VHOST_REGIONS_MAX
#define VHOST_PAYLOAD_MAX 4096
#define VHOST_RINGS 2 // receive, transmit

struct vhost_ring {
    struct virtq q;
    struct loop_fd kick;        // an eventfd; fd -1: none
    int call;                   // likewise
    uint64_t desc, used, avail; // the front end's addresses
    uint32_t size;
    bool started; // by its kick descriptor
    bool on;      // by SET_VRING_ENABLE
};

struct vhost {
    struct loop *loop;
    struct loop_fd listener, client, port; // client: fd -1 while there is none
    struct device dev;                     // the virtqueues'
    struct vhost_memory memory;
    struct vhost_ring ring[VHOST_RINGS];
    uint64_t features;
    bool rings_on; // without VHOST_USER_F_PROTOCOL_FEATURES all rings are
    bool full;     // the port takes no packets now
    bool held;     // packet waits for a buffer of the guest
    size_t len;    // of packet
    struct virtq_chain chain;
    struct net_ring receive;
    uint8_t packet[NET_PACKET_MAX + 1];
    uint8_t out[NET_PACKET_MAX + 1];
    uint8_t part[NET_PACKET_MAX];
    bool short_of_buffers;
    void (*ended)(void *opaque, const char *why); // the port is gone, or the front end broke rules
    void *opaque;
};

// Packets of the port, a listening socket for front ends: one at a time, and another one after it.
err_t vhost_start(struct vhost *v, struct error *e);
void vhost_stop(struct vhost *v);

// --- within the adapter

struct vhost_message {
    uint32_t request, flags, size;
    uint8_t payload[VHOST_PAYLOAD_MAX];
    int fd[VHOST_FDS_MAX];
    unsigned fds;
};

// protocol.c: what the front end asks; an answer's payload goes back into the message, and *answer
// is set. A descriptor that is kept is replaced by -1.
err_t vhost_obey(struct vhost *v, struct vhost_message *message, bool *answer, struct error *e);

// rings.c
void vhost_kicked(struct vhost *v, unsigned ring);
void vhost_stop_ring(struct vhost *v, unsigned ring);
bool vhost_start_ring(struct vhost *v, unsigned ring); // false: it is not usable
void vhost_transmit(struct vhost *v);
void vhost_receive(struct vhost *v);
