// What is between a port and its VM: a SOCK_SEQPACKET socket, one packet of net/net.h a message, or
// the rings of a vhost-user front end (device/vhost/back.h). Reads in turns, of which each port has
// as much as its shares and its priority say, so that a busy switch is divided by them; sends
// without ever waiting; keeps the port's bandwidth limits.
#pragma once

#include "device/vhost/back.h"
#include "host/loop.h"
#include "switch/bridge.h"
#include "switch/outq.h"

#define LINK_BATCH 16
#define LINK_PRIORITY_MAX 7
#define LINK_SHARES 100 // a port's that nobody gave any
#define LINK_SHARES_MAX 1000

// Where packets are read into; one for all links.
struct link_buffers {
    uint8_t packet[LINK_BATCH][BRIDGE_HEADROOM + NET_PACKET_MAX + 7];
    uint8_t out[NET_PACKET_MAX]; // to be made such as its receiver takes it
};

struct link {
    struct loop *loop;
    struct bridge *bridge;
    struct port *port;
    struct link_buffers *buffers;
    struct loop_fd fd;        // the socket; fd -1: there are rings
    struct vhost_back *rings; // NULL: there is a socket
    bool more;                // the rings may have more packets than one turn took
    bool blocked;             // they had no room for the last one: vhost_back_ops.room() follows
    struct loop_timer timer;  // when limits let go on
    struct outq out;
    struct throttle throttle;     // BLOCK_READ: to the VM; BLOCK_WRITE: from it
    uint64_t limit_in, limit_out; // bits a second; 0: none
    uint64_t bound_in, bound_out; // likewise, what its VM's pools leave it
    unsigned priority;
    unsigned shares;
    int64_t credit;                                // what is left of its turn
    void (*gone)(void *opaque, struct link *link); // the VM closed its end: free it now
    void *opaque;
};

// Makes the pair of sockets; *peer is the VM's end: of packets, or for a vhost-user front end. The
// struct stays in place.
err_t link_open(struct link *link, bool rings, int *peer, struct error *e);
void link_close(struct link *link);

void link_send(struct link *link, const uint8_t *packet, size_t len);
// Bits a second, 0: no limit. Takes effect at once.
void link_limit(struct link *link, uint64_t in, uint64_t out);
void link_bound(struct link *link, uint64_t in, uint64_t out);
