// A virtio memory balloon: how a guest gives memory back that it was given at its start.
#pragma once

#include "device/device.h"

struct virtio_balloon_config {
    uint64_t pages; // of 4 KiB, that the guest has in all
    // The guest does without this range: the host may have its pages, and it reads as zeros when
    // the guest comes back to it. at and len are multiples of 4 KiB, but any part of it may be
    // outside RAM. Must not block or call back.
    void (*discard)(void *opaque, gpa_t at, uint64_t len);
    void *opaque;
};

extern const struct device_type virtio_balloon_type; // config: struct virtio_balloon_config

// What the guest says about its memory, by the specification's tags.
enum balloon_stat {
    BALLOON_SWAPPED_IN, // bytes
    BALLOON_SWAPPED_OUT,
    BALLOON_MAJOR_FAULTS, // since its start
    BALLOON_MINOR_FAULTS,
    BALLOON_FREE, // bytes
    BALLOON_TOTAL,
    BALLOON_AVAILABLE, // for new programs, without swapping
    BALLOON_CACHES,
    BALLOON_HUGE_ALLOCATED,
    BALLOON_HUGE_FAILED,
    BALLOON_STATS,
};
extern const char *const balloon_stat_names[BALLOON_STATS];

struct balloon_view {
    uint64_t target_pages;   // that the guest shall give up
    uint64_t inflated_pages; // that it has given up
    uint64_t reported_bytes; // free memory that it let go of since its start, all times together
    uint64_t stat[BALLOON_STATS];
    uint32_t stats; // bit for each that is known
    ns_t stats_at;  // virtual time of them
    bool driver;    // the guest's runs
    bool reports;   // it says which of its memory is free
};

// With the device's lock held, like all callbacks. Looking asks the guest for new statistics, which
// are there at the next look.
void virtio_balloon_look(struct device *dev, struct balloon_view *out);
void virtio_balloon_set_target(struct device *dev, uint64_t pages); // at most config.pages
