// Limits on what a disk's guest may take of the host: bandwidth and operations a second, with
// bursts, of reads, writes and both together. A layer over any open disk; limits change while it
// runs.
//
// Each limit is a bucket that fills at its rate up to its burst. A request goes through when all
// buckets it counts in hold something, and may leave them in debt: a large one is never stuck, and
// the average is the rate.
#pragma once

#include "base/types.h"
#include "block/block.h"

enum throttle_kind {
    THROTTLE_BPS, // bytes a second, reads and writes together
    THROTTLE_BPS_READ,
    THROTTLE_BPS_WRITE,
    THROTTLE_IOPS, // operations a second
    THROTTLE_IOPS_READ,
    THROTTLE_IOPS_WRITE,
    THROTTLE_OWN, // so many are the disk's own; then what limits of others leave it:
    THROTTLE_BPS_BOUND = THROTTLE_OWN,
    THROTTLE_IOPS_BOUND,
    THROTTLE_KINDS,
};

#define THROTTLE_RATE_MAX (1ull << 40)

struct throttle_limit {
    uint64_t rate;  // a second; 0: no limit. At most THROTTLE_RATE_MAX
    uint64_t burst; // what may come at once after a pause; 0: a tenth of a second's
};

struct throttle_limits {
    struct throttle_limit of[THROTTLE_KINDS];
};

extern const char *const throttle_names[THROTTLE_KINDS]; // "bps", "bps-read", ...

// --- The buckets, in anybody's time

struct throttle_bucket {
    double level; // bytes or operations that may go through now; negative: debt
    ns_t when;    // level is of this time
};

struct throttle {
    struct throttle_limits limits;
    struct throttle_bucket bucket[THROTTLE_KINDS];
};

// Full buckets.
void throttle_init(struct throttle *t, const struct throttle_limits *limits, ns_t now);
// Buckets keep their debt, so that setting limits again and again gives nothing away.
void throttle_set(struct throttle *t, const struct throttle_limits *limits, ns_t now);
// How long a request has to wait from now on: 0 when it can go.
ns_t throttle_wait(const struct throttle *t, enum block_op op, ns_t now);
// Takes a request's share.
void throttle_take(struct throttle *t, enum block_op op, uint64_t len, ns_t now);

// --- The layer, which also counts

struct block_counters {
    uint64_t reads, read_bytes, writes, written_bytes;
    uint64_t flushes, discards; // discards and writes of zeros
    uint64_t at_once;           // of these, those that no thread had to be woken for
    uint64_t delayed;           // requests that a limit made wait
};

// Takes `below` over, also on failure. draining ignores the limits, so that a VM can stop.
err_t block_throttle_new(struct block *below, const struct throttle_limits *limits,
                         struct block **out, struct error *e);
// Of a block that block_throttle_new() made. Any thread; what waits follows the new limits at once.
void block_throttle_set(struct block *block, const struct throttle_limits *limits);
void block_throttle_get(struct block *block, struct throttle_limits *limits);
void block_throttle_counters(struct block *block, struct block_counters *out);
