// A bus: which device answers at which addresses. One for ports, one for memory-mapped I/O.
//
// Look-ups take no lock: writers bump a generation around every change and readers retry. The table
// has a fixed size, so a guest that moves PCI BARs about allocates nothing.
#pragma once

#include <pthread.h>

#include "device/device.h"

#define BUS_RANGES 512

struct bus_range {
    uint64_t at;
    uint64_t len;
    struct device *dev;
    const struct io_ops *ops;
};

struct bus {
    pthread_mutex_t lock;               // serialises writers
    uint32_t generation;                // odd while a writer is at work [any]
    uint32_t count;                     // [any]
    struct bus_range range[BUS_RANGES]; // sorted by address, disjoint [any]
};

void bus_init(struct bus *bus);
void bus_release(struct bus *bus);

// ERR_EXISTS when the range overlaps another; ERR_NO_MEMORY when the table is full.
err_t bus_map(struct bus *bus, uint64_t at, uint64_t len, struct device *dev,
              const struct io_ops *ops);
// Removes the range that starts at `at` if it is dev's.
void bus_unmap(struct bus *bus, uint64_t at, struct device *dev);

// Takes and releases a device's lock around its callbacks.
struct bus_locks {
    void (*lock)(struct device *dev);
    void (*unlock)(struct device *dev);
};

// An access of size 1, 2, 4 or 8. It belongs to the owner of its first byte, is cut into the sizes
// that the owner takes, and where it runs over the end of a range it is cut into bytes. A range of
// one byte is a single register of any width. What nobody owns reads as ones and swallows writes.
uint64_t bus_read(struct bus *bus, const struct bus_locks *locks, uint64_t at, unsigned size);
void bus_write(struct bus *bus, const struct bus_locks *locks, uint64_t at, unsigned size,
               uint64_t value);
