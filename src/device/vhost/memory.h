// The front end's memory, as its own process shares it: a table of regions, each a mapped file.
#pragma once

#include "base/error.h"
#include "device/device.h"

#define VHOST_REGIONS_MAX 8
#define VHOST_SEALED_MAX (64 * MIB)

struct vhost_region {
    uint64_t guest; // guest-physical address
    uint64_t user;  // the front end's own address
    uint64_t size;
    uint64_t offset; // in the file
    uint8_t *host;   // what is at guest here
    void *mapping;
    uint64_t mapped; // bytes from the file's start
};

struct vhost_memory {
    struct vhost_region region[VHOST_REGIONS_MAX];
    unsigned regions;
};

// Adds a region; the descriptor stays the caller's. ERR_INVALID: it is empty, overlaps another, or
// the file is smaller. sealed: it must be such that whoever has it, too, can never take a page away
// under us: a memfd that cannot shrink, of ordinary pages, and no more of them than a card needs.
err_t vhost_memory_add(struct vhost_memory *memory, const struct vhost_region *region, int fd,
                       bool sealed, struct error *e);
void vhost_memory_release(struct vhost_memory *memory);

// len bytes at a guest-physical address; NULL unless all of them are in one region.
void *vhost_memory_at(const struct vhost_memory *memory, uint64_t guest, uint64_t len);
// The front end's address as a guest-physical one. False: it is in no region.
bool vhost_memory_guest(const struct vhost_memory *memory, uint64_t user, uint64_t *guest);

// What virtqueues reach the memory through. The device's owner is the struct vhost_memory.
extern const struct device_env vhost_memory_env;
