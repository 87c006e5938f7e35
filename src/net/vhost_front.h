// A vhost-user front end: gives a network card's packets to a back end (a switch of ours, DPDK,
// ...) through a window of memory (window.h). The back end is not trusted.
//
// It is negotiated anew with each back end, so one that comes back may have other abilities:
// packets are made such as it takes them. The rings hold nothing of the VM's state: what is in them
// when a back end goes away, or the VM is moved, are packets on a wire.
//
// Specification: "Vhost-user Protocol". One pair of rings: the copying is one thread's, and several
// queues of the guest share it. Used where offered: REPLY_ACK; kicks and calls as messages
// (INBAND_NOTIFICATIONS), with which neither side can be made to wait by the other. Otherwise by
// eventfd. Not used: logs of written pages, in-flight descriptors, configuration.
#pragma once

#include "host/loop.h"
#include "net/vhost_user.h"
#include "net/window.h"

struct vhost_front_ops {
    void (*started)(void *opaque);               // packets pass from now on
    void (*received)(void *opaque);              // there may be packets: vhost_front_receive()
    void (*room)(void *opaque);                  // there may be room for vhost_front_send()
    void (*gone)(void *opaque, const char *why); // no more use; may be closed here
};

enum vhost_front_step { VHOST_FEATURES, VHOST_PROTOCOL, VHOST_MEMORY, VHOST_RINGS_ON, VHOST_RUNS };

struct vhost_front {
    struct loop *loop;
    const struct vhost_front_ops *ops;
    void *opaque;

    struct loop_fd socket; // fd -1: closed
    struct vhost_channel channel;
    struct loop_fd calls; // the back end's channel to us, or an eventfd for both rings
    struct vhost_channel call;
    int kick[WINDOW_RINGS];      // eventfds; -1: by messages
    uint64_t features, protocol; // that both have
    enum vhost_front_step step;
    unsigned takes; // enum net_takes
    struct window window;
    uint8_t part[NET_PACKET_MAX];
};

// With loop, ops and opaque set. Loop's thread, where nothing else is said.
void vhost_front_init(struct vhost_front *f);
// The socket is then the front end's. started() or gone() follows.
err_t vhost_front_open(struct vhost_front *f, int socket, struct error *e);
void vhost_front_close(struct vhost_front *f); // without a call of gone()

// Any thread, one at a time, only between started() and close(). A checked packet, changed by
// this. False: there is no room now, room() will be called.
bool vhost_front_send(struct vhost_front *f, uint8_t *packet, size_t len);

// The next packet, unchecked; packet has NET_PACKET_MAX bytes. 0: there is none now.
size_t vhost_front_receive(struct vhost_front *f, uint8_t *packet);
void vhost_front_received(struct vhost_front *f); // after receiving some
