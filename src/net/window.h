// The memory that a network card of ours shares with what it is plugged into, over vhost-user: two
// virtqueues, seen from the driver's side, and the buffers that packets wait in. Nothing else of
// the VM is in it, so that a back end sees packets and no guest's memory.
//
// The back end is not trusted: what it writes is read once and bounded, and what a ring must hold
// is kept here, not there. A ring that breaks the rules stays broken.
//
// Specification: VIRTIO 1.2, 2.7. Split rings, event indexes, merged receive buffers. Not used:
// packed rings, indirect descriptors, in-order use.
#pragma once

#include "base/error.h"
#include "net/net.h"

#define WINDOW_ENTRIES 128
#define WINDOW_BUFFER (8 * KIB)
#define WINDOW_BASE GIB // the address that the back end knows its first byte by

enum window_ring_name { WINDOW_RECEIVE, WINDOW_TRANSMIT, WINDOW_RINGS };

struct window_desc {
    uint64_t address;
    uint32_t len;
    uint16_t flags, next;
};

struct window_avail {
    uint16_t flags, index, ring[WINDOW_ENTRIES], used_event;
};

struct window_used {
    uint16_t flags, index;
    struct {
        uint32_t id, len;
    } ring[WINDOW_ENTRIES];
    uint16_t avail_event;
};

// One ring, as the back end sees it, in pages of its own.
struct window_shared {
    _Alignas(4096) struct window_desc desc[WINDOW_ENTRIES];
    _Alignas(4096) struct window_avail avail;
    _Alignas(4096) struct window_used used;
};

struct window_ring {
    struct window_shared *shared;
    uint8_t *buffers; // WINDOW_ENTRIES of WINDOW_BUFFER bytes
    bool event_index, broken;
    uint16_t avail, used;           // next indexes
    uint16_t told;                  // avail when the back end was last considered for a kick
    uint16_t count[WINDOW_ENTRIES]; // of the chain that begins at a descriptor; 0: none does
    uint16_t next[WINDOW_ENTRIES];  // in its chain
    uint16_t free[WINDOW_ENTRIES];  // descriptors that nobody uses: the last one is the next
    uint16_t frees;
};

struct window {
    int fd; // of its memory, which cannot shrink; -1: there is none
    uint8_t *at;
    bool mergeable;
    struct window_ring ring[WINDOW_RINGS];
};

err_t window_new(struct window *w, struct error *e);
void window_free(struct window *w); // accepts one that was never made

extern const size_t window_bytes;
uint64_t window_address(const struct window *w, const void *at); // as the back end knows it

// Begins with the virtio features that both sides have: empty rings, all receive buffers given.
void window_start(struct window *w, uint64_t features);

// Puts a packet into the ring. False: it has no room now; window_room() or a call tells when.
bool window_send(struct window *w, const uint8_t *packet, size_t len);
bool window_room(struct window *w); // for the longest packet; asks for a call where there is none

// The next packet; its length. 0: there is none now, and a call is asked for. packet has
// NET_PACKET_MAX bytes. A broken ring has none.
size_t window_receive(struct window *w, uint8_t *packet);

// Whether the back end is to be kicked for what was added since.
bool window_wants_kick(struct window *w, enum window_ring_name ring);
