// Copies the content of one disk to another, as tools need it: what reads as zeros is not copied
// where the target has zeros already, and several threads read, pack and write at once.
#pragma once

#include "block/block.h"

struct qcow2;

struct block_copy {
    struct block *from, *to; // from may be the smaller
    struct qcow2 *packed;    // not NULL: to, whose clusters get compressed; it is new and empty
    bool target_is_zero;     // a new image: zeros need not be written
    unsigned depth;          // only what images up to this depth have; UINT_MAX: all
    // Called by one thread at a time, with bytes; false ends the copy (ERR_BUSY).
    bool (*progress)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};

err_t block_copy(const struct block_copy *copy, struct error *e);

// Lets a qcow2 image stand on another backing file without a change of its content: copies into it
// what differs between the old one (which it has open) and the new. to: NULL for none.
err_t block_rebase(struct block *image, struct block *to,
                   bool (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque,
                   struct error *e);
