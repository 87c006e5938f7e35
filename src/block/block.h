// Asynchronous disks: what a storage device model sees of a disk image.
//
// Threads: submit() and at_once() from the device's callbacks; completions come on the block back
// end's thread (or on the submitting stack never), through a callback that takes the device's lock
// itself by way of block_env. A back end never calls back inside submit(), flush or close.
#pragma once

#include <sys/uio.h>

#include "base/error.h"

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

struct block_request {
    enum block_op op;
    uint64_t offset;         // bytes
    uint64_t len;            // bytes; for read and write the iov hold them, from skip on
    const struct iovec *iov; // valid until done()
    unsigned iovs;
    uint64_t skip; // bytes of the iov that are somebody else's, before this request's
    // Called once, on another stack than submit's. result is OK or ERR_IO, ERR_NO_MEMORY (no
    // space).
    void (*done)(struct block_request *request, err_t result);
    void *opaque; // the submitter's
    // The back end's, while in flight.
    struct block_request *next;
    err_t result;
    bool answered; // result holds; there is no I/O to do
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

// What a range of a disk is, for tools.
struct block_extent {
    uint64_t len;   // bytes that are alike
    bool data;      // else it reads as zeros
    bool allocated; // some image of the chain says so, rather than none
    bool compressed;
    bool placed; // host is where it lies in its image's file
    uint64_t host;
    unsigned depth; // which image: 0 this one, 1 its backing file ...
};

struct block_type {
    const char *name; // "raw", "qcow2"
    void (*submit)(struct block *block, struct block_request *request);
    // Answers a request on the caller's stack where nothing has to be waited for (what the host
    // has or takes in memory): true, with its result; done() is not called. NULL: never.
    bool (*at_once)(struct block *block, const struct block_request *request, err_t *result);
    void (*drain)(struct block *block); // waits until nothing is in flight
    void (*close)(struct block *block); // after drain; accepts NULL
    // The extent at offset, at most len bytes; may block, and nothing is in flight. NULL: all data.
    err_t (*map)(struct block *block, uint64_t offset, uint64_t len, struct block_extent *out,
                 struct error *e);
};

struct block {
    const struct block_type *type;
    struct block_limits limits;
    char name[64];  // for messages
    const char *io; // how the host is asked: "io_uring", "threads"
};

struct block_options {
    const char *format; // "raw" or "qcow2"; NULL: guessed from the image's content
    bool read_only;
    bool direct;    // O_DIRECT
    bool threads;   // no io_uring
    bool snapshot;  // writes go to a temporary file that vanishes with the disk
    bool transient; // nobody needs it after a crash of the host: flushes reach its cache only
    // For tools.
    bool no_backing; // do not open what is below
    bool repair;     // to be repaired: an image in need of it is not refused
    bool unlocked;   // read_only, and whoever may write meanwhile: for a look at what is in use
};

// Opens an image of any format, with everything below it (backing files). Locks the files (one
// writer or many readers, advisory) so that two VMs cannot write one image: ERR_BUSY. I/O threads
// are started here.
//
// An image that was only guessed to be raw stays raw: its guest's writes that would make the first
// sector look like another format's fail, because the next guess would believe them, and with them
// the names of backing files. Giving the format lifts that.
err_t block_open(const char *path, const struct block_options *options, struct block **out,
                 struct error *e);

// The format of which these first bytes of a file are the mark; NULL for none known, which is raw.
const char *block_guess(const uint8_t *head, size_t len);
#define BLOCK_GUESS_BYTES 512

static inline bool block_at_once(struct block *block, const struct block_request *request,
                                 err_t *result)
{
    return block->type->at_once && block->type->at_once(block, request, result);
}

static inline void block_close(struct block *block) // waits for what is in flight; accepts NULL
{
    if (block)
        block->type->close(block);
}
