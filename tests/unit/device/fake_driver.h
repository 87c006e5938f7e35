// The guest's side of a virtio device under test: finds the capabilities, negotiates, sets queues
// up and moves buffers, in either ring format. One chain is in flight per queue at a time unless a
// test says otherwise.
#pragma once

#include "fake_guest.h"

#define FAKE_BAR 0x8000000000ull
#define FAKE_MSIX 0xd0000000ull
#define FAKE_QUEUES 10
#define FAKE_QUEUE_SIZE 16

struct fake_queue {
    gpa_t desc, avail, used; // packed: ring, driver events, device events
    gpa_t indirect;          // a table
    uint16_t size;
    uint16_t next; // split: avail index; packed: slot
    uint16_t seen; // split: used index; packed: slot
    bool next_wrap, seen_wrap;
};

struct fake_buffer {
    gpa_t at;
    uint32_t len;
    bool write;
};

struct fake_driver {
    struct fake_guest *g;
    struct device *dev;
    uint64_t features;
    struct fake_queue q[FAKE_QUEUES];
};

// Enables the function with MSI-X (vector i + 1 for queue i, 0 for the configuration) or INTx,
// accepts the features among those offered, and reaches DRIVER_OK with `queues` queues.
void fake_driver_start(struct fake_driver *d, struct fake_guest *g, struct device *dev,
                       uint64_t features, unsigned queues, bool msix);
// Only as far as the enabled function.
void fake_driver_enable(struct fake_driver *d, struct fake_guest *g, struct device *dev, bool msix);
uint64_t fake_common(struct fake_driver *d, unsigned offset, unsigned size);
void fake_set_common(struct fake_driver *d, unsigned offset, unsigned size, uint64_t value);
uint64_t fake_offered(struct fake_driver *d);
void fake_setup_queue(struct fake_driver *d, unsigned queue, uint16_t size);

// Makes a chain available (direct or in an indirect table) and, with kick, notifies.
void fake_put(struct fake_driver *d, unsigned queue, const struct fake_buffer *buffers, unsigned n,
              bool indirect);
void fake_kick(struct fake_driver *d, unsigned queue);
// True when the device has used a chain; its written length.
bool fake_get(struct fake_driver *d, unsigned queue, uint32_t *written);
