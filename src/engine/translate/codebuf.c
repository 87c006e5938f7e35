// Executable memory by dual mapping (see codebuf.h): shared memory without a file, whose first
// mapping is made again elsewhere by mremap(2). No descriptor leads to it, and to perf it is memory
// that perfmap.h may name. Not modelled on any processor; the host keeps instruction fetch coherent
// with stores to the other view, as x86 does for physical addresses.
#include "engine/translate/codebuf.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // since Linux 6.1; others refuse it
#endif

static err_t fail(struct codebuf *b, struct error *e)
{
    int host_errno = errno;
    codebuf_release(b);
    return error_set(e, err_from_errno(host_errno), "executable memory for translated code: %s",
                     strerror(host_errno));
}

// Address space at a multiple of CODEBUF_CHUNK, without which the host has no large pages for it.
static uint8_t *reserve(size_t len)
{
    size_t room = len < CODEBUF_CHUNK ? len : len + CODEBUF_CHUNK;
    uint8_t *all = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    uint8_t *at = room == len ? all : (uint8_t *)align_up((uintptr_t)all, CODEBUF_CHUNK);
    if (at > all)
        munmap(all, (size_t)(at - all));
    if (at + len < all + room)
        munmap(at + len, (size_t)(all + room - (at + len)));
    return at;
}

err_t codebuf_init(struct codebuf *b, size_t len, struct error *e)
{
    *b = (struct codebuf){.len = align_up(len, PAGE_SIZE)};
    b->write = reserve(b->len);
    b->exec = reserve(b->len);
    if (!b->write || !b->exec ||
        mmap(b->write, b->len, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED ||
        mremap(b->write, 0, b->len, MREMAP_MAYMOVE | MREMAP_FIXED, b->exec) == MAP_FAILED ||
        mprotect(b->exec, b->len, PROT_READ | PROT_EXEC) < 0)
        return fail(b, e);
    return OK;
}

void codebuf_back(struct codebuf *b, size_t chunk)
{
    size_t at = chunk * CODEBUF_CHUNK;
    if (at + CODEBUF_CHUNK > b->len)
        return;
    *(volatile uint8_t *)(b->write + at) = b->write[at]; // an empty chunk is not collapsed
    madvise(b->write + at, CODEBUF_CHUNK, MADV_COLLAPSE);
    madvise(b->exec + at, CODEBUF_CHUNK, MADV_COLLAPSE);
}

void codebuf_release(struct codebuf *b)
{
    if (b->write)
        munmap(b->write, b->len);
    if (b->exec)
        munmap(b->exec, b->len);
    *b = (struct codebuf){0};
}

void *codebuf_reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void codebuf_unreserve(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes);
}
