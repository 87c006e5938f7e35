// Asynchronous disks: what a storage device model sees of a disk image.
//
// Threads: submit() from the device's callbacks; completions come on the block back end's thread
// (or on the submitting stack never), through a callback that takes the device's lock itself by way
// of block_env. A back end never calls back inside submit(), flush or close.
#pragma once

#include <sys/uio.h>

#include "base/error.h"

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

struct block_request {
    enum block_op op;
    uint64_t offset;         // bytes
    uint64_t len;            // bytes; the sum of iov for read and write
    const struct iovec *iov; // valid until done()
    unsigned iovs;
    // Called once, on another stack than submit's. result is OK or ERR_IO, ERR_NO_MEMORY (no
    // space).
    void (*done)(struct block_request *request, err_t result);
    void *opaque;               // the submitter's
    struct block_request *next; // the back end's, while in flight
};

struct block_limits {
    uint64_t size_bytes;
    uint32_t logical_block;  // bytes, 512 or 4096
    uint32_t physical_block; // bytes
    bool read_only;
    bool discard;
    bool write_zeroes;
};

struct block; // an open disk

struct block_type {
    const char *name; // "raw", "qcow2"
    void (*submit)(struct block *block, struct block_request *request);
    void (*drain)(struct block *block); // waits until nothing is in flight
    void (*close)(struct block *block); // after drain; accepts NULL
};

struct block {
    const struct block_type *type;
    struct block_limits limits;
    char name[64]; // for messages
};

struct block_options {
    bool read_only;
    bool direct; // O_DIRECT
};

// Opens a raw image: size from the file or device. Locks it (one writer or many readers, advisory)
// so that two VMs cannot write one image: ERR_BUSY. io threads are started here.
err_t block_open_raw(const char *path, const struct block_options *options, struct block **out,
                     struct error *e);
