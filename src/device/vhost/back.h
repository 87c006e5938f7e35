// A vhost-user back end: the packets of a front end's network card, through the virtqueues in
// memory that the front end shares. The owner says what becomes of them.
//
// The front end is hostile, and so is the guest behind it: its rings are walked by
// device/virtio/queue.h, which bounds everything, and its packets are for the owner to check.
#pragma once

#include "device/vhost/memory.h"
#include "device/virtio/net_ring.h"
#include "host/loop.h"
#include "net/net.h"
#include "net/vhost_user.h"

#define VHOST_PAIRS 4 // of rings; more than one where the front end takes VIRTIO_NET_F_MQ
#define VHOST_RINGS (2 * VHOST_PAIRS) // receive, transmit, as the guest calls them, and so on

struct vhost_back;

struct vhost_ring {
    struct vhost_back *back;
    struct virtq q;
    struct loop_fd kick;        // an eventfd; fd -1: none
    int call;                   // likewise
    uint64_t desc, used, avail; // the front end's addresses
    uint32_t size;
    bool started; // by its kick descriptor, or by a kick
    bool on;      // by SET_VRING_ENABLE
};

struct vhost_back_ops {
    void (*sent)(void *opaque); // the guest may have sent packets: vhost_back_pull()
    void (*room)(void *opaque); // it may have buffers again for vhost_back_give()
    void (*broken)(void *opaque, const char *why); // the guest broke a ring, which stays stopped
    // The front end hung up or (*why) broke the protocol. The owner may release the back end here.
    void (*gone)(void *opaque, const char *why);
};

struct vhost_back {
    struct loop *loop;
    const struct vhost_back_ops *ops;
    void *opaque;
    // Whoever shares memory or descriptors with us must not be able to stop us by that: memory that
    // cannot shrink, and no descriptors for kicks and calls but sockets'.
    bool careful;

    struct loop_fd client; // fd -1: there is none
    struct vhost_channel channel;
    int calls; // our own channel to the front end; -1: none
    struct device dev;
    struct vhost_memory memory;
    struct vhost_ring ring[VHOST_RINGS];
    uint64_t features;
    bool rings_on;  // without VHOST_F_PROTOCOL_FEATURES all rings are
    uint32_t taken; // parts that the guest already has of the packet that waits for buffers
    unsigned turn;  // the ring that packets are pulled from first
    struct virtq_chain chain;
    struct net_ring receive;
    uint8_t part[NET_PACKET_MAX];
};

// Once, with loop, ops, opaque and careful set.
void vhost_back_init(struct vhost_back *b);
// Takes a connected front end; the socket is then the back end's.
err_t vhost_back_open(struct vhost_back *b, int socket, struct error *e);
void vhost_back_close(struct vhost_back *b); // without a call of gone()

// Copies the guest's next packet, unchecked, as far as there is room; its length, 0 where it is
// none. -1: there are no more now, sent() will be called.
ssize_t vhost_back_pull(struct vhost_back *b, uint8_t *packet, size_t room);
// After pulling: the guest hears of buffers that are its own again.
void vhost_back_pulled(struct vhost_back *b);
// Gives the guest a checked packet, in such a way as it takes it: changes it, where it takes it as
// it is nothing but its count of buffers. False: there is no room now, or the ring does not run;
// room() will be called. What can never fit is dropped.
bool vhost_back_give(struct vhost_back *b, uint8_t *packet, size_t len);

// Whether packets pass.
bool vhost_back_runs(const struct vhost_back *b);

// --- within

// What the front end asks; an answer's payload goes back into the message, and *answer is set.
err_t vhost_obey(struct vhost_back *b, struct vhost_message *m, bool *answer, struct error *e);

// rings.c
bool vhost_start_ring(struct vhost_back *b, unsigned ring); // false: it is not usable
void vhost_stop_ring(struct vhost_back *b, unsigned ring);
void vhost_kicked(struct vhost_back *b, unsigned ring);
