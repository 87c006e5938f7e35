// Virtqueues, the device's side: the only place that walks rings in guest memory.
//
// Split and packed layout, indirect descriptors, event index. A chain's descriptors are copied once
// and its buffers are mapped as bounded ranges of RAM, so what the guest changes afterwards changes
// data only. A ring that breaks the rules makes virtq_pop() report VIRTQ_BROKEN with a reason;
// nothing that a ring contains makes it loop, allocate or touch anything outside RAM.
//
// Specification: VIRTIO 1.2, 2.7 (split), 2.8 (packed). Not offered: in-order use, notification
// data.
#pragma once

#include <sys/uio.h>

#include "device/device.h"

#define VIRTQ_SIZE_MAX 256 // entries; also the longest chain

// Feature bits that change the rings' format.
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_RING_PACKED 34

struct virtq {
    struct device *dev; // whose RAM the rings are in
    uint64_t desc;      // guest-physical addresses of the three areas
    uint64_t driver;
    uint64_t device;
    uint16_t size; // entries; the guest may lower it before it enables the queue
    uint16_t size_max;
    uint16_t avail;       // split: the next available index; packed: the next slot to look at
    uint16_t used;        // split: the next used index; packed: the next slot to fill
    uint16_t unsignalled; // entries used since the guest was last considered for an interrupt
    uint8_t avail_wrap;   // packed ring wrap counters
    uint8_t used_wrap;
    uint8_t enabled;
    uint8_t packed; // the negotiated format, set when the queue is enabled
    uint8_t indirect;
    uint8_t event_idx;
};

extern const struct state_desc virtq_state;

// One request: readable buffers first, then writable ones.
struct virtq_chain {
    uint16_t head;     // names the chain to the guest
    uint16_t slots;    // ring slots it takes (packed)
    uint16_t readable; // buffers
    uint16_t writable;
    uint64_t readable_bytes;
    uint64_t writable_bytes;
    struct iovec iov[VIRTQ_SIZE_MAX];
    gpa_t gpa[VIRTQ_SIZE_MAX]; // of the buffers
};

enum virtq_result { VIRTQ_EMPTY, VIRTQ_GOT, VIRTQ_BROKEN };

void virtq_init(struct virtq *q, struct device *dev, uint16_t size_max);
void virtq_reset(struct virtq *q);
// Takes the features and checks the addresses. False when the guest's set-up is unusable.
bool virtq_enable(struct virtq *q, uint64_t features);
// Treats a loaded queue as hostile.
err_t virtq_loaded(struct virtq *q, uint64_t features, struct error *e);

// Takes the next request. When the ring is empty, asks to be notified of the next one. *why (may be
// NULL) says what is wrong with a broken ring.
enum virtq_result virtq_pop(struct virtq *q, struct virtq_chain *chain, const char **why);
// Puts the request that was popped last back: the next pop finds it again.
void virtq_unpop(struct virtq *q, const struct virtq_chain *chain);
// Returns a request to the guest with the number of bytes written into its writable buffers, from
// the first one on.
bool virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);
// Several requests at once, which the guest sees all together or not yet. Buffers must have been
// written with virtq_fill().
struct virtq_used {
    uint16_t head; // of the chain
    uint16_t slots;
    uint32_t written; // bytes
    bool writable;    // it has writable buffers
};
struct virtq_used virtq_fill(struct virtq *q, const struct virtq_chain *chain, const void *data,
                             size_t len);
// Two neighbouring bytes of a chain's writable buffers, to be overwritten after virtq_fill().
struct virtq_spot {
    uint8_t *host[2];
    gpa_t gpa[2];
};
struct virtq_spot virtq_spot(const struct virtq_chain *chain, uint64_t at); // both are in the chain
void virtq_patch(struct virtq *q, const struct virtq_spot *spot, uint16_t value);
bool virtq_push_set(struct virtq *q, const struct virtq_used *set, unsigned n);
// After pushing: whether the guest wants an interrupt.
bool virtq_wants_interrupt(struct virtq *q);

// Copies between a chain's buffers and flat memory; return the bytes copied. skip is relative to
// the first readable or the first writable byte.
size_t virtq_read(const struct virtq_chain *chain, uint64_t skip, void *data, size_t len);
size_t virtq_write(const struct virtq_chain *chain, uint64_t skip, const void *data, size_t len);
