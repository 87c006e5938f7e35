// Executable memory without any mapping that is both writable and executable: the same memory,
// mapped twice at a fixed distance. Code is written through the first view and run through the
// second.
#pragma once

#include "base/bits.h"
#include "base/error.h"

#define CODEBUF_CHUNK ((size_t)2 * MIB) // the host's large page

struct codebuf {
    uint8_t *write; // read and write
    uint8_t *exec;  // read and execute, the same bytes
    size_t len;
};

// len is rounded up to pages; host memory is taken only for what is written. ERR_NO_MEMORY,
// ERR_DENIED: no memory, or the host forbids executable mappings.
err_t codebuf_init(struct codebuf *b, size_t len, struct error *e);
void codebuf_release(struct codebuf *b); // accepts a zeroed or half-made one

// Asks the host to hold a chunk (number, from the start) in one large page. Code that is run here
// and there is slowed by instruction TLB misses more than by anything else. Nothing happens where
// the host cannot.
void codebuf_back(struct codebuf *b, size_t chunk);

// Distance from a byte's writable address to the address at which it runs.
static inline ptrdiff_t codebuf_to_exec(const struct codebuf *b)
{
    return b->exec - b->write;
}

// Zeroed address space for an array; memory is taken as it is used. NULL when there is none.
void *codebuf_reserve(size_t bytes);
void codebuf_unreserve(void *p, size_t bytes); // accepts NULL
