// Executable memory by dual mapping (see codebuf.h). The memory file is unnamed and its descriptor
// is closed at once, so that nothing can map it a third time. Not modelled on any processor; the
// host keeps instruction fetch coherent with stores to the other view, as x86 does for physical
// addresses.
#include "engine/translate/codebuf.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // since Linux 6.1; others refuse it
#endif

static err_t fail(struct codebuf *b, int fd, struct error *e)
{
    int host_errno = errno;
    if (fd >= 0)
        close(fd);
    codebuf_release(b);
    return error_set(e, err_from_errno(host_errno), "executable memory for translated code: %s",
                     strerror(host_errno));
}

// Maps the file at a multiple of CODEBUF_CHUNK, without which the host has no large pages for it.
static uint8_t *map_view(int fd, size_t len, int prot)
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
    if (mmap(at, len, prot, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
        return at;
    munmap(at, len);
    return NULL;
}

err_t codebuf_init(struct codebuf *b, size_t len, struct error *e)
{
    *b = (struct codebuf){.len = align_up(len, PAGE_SIZE)};
    int fd = memfd_create("berth-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)b->len) < 0)
        return fail(b, fd, e);
    b->write = map_view(fd, b->len, PROT_READ | PROT_WRITE);
    b->exec = map_view(fd, b->len, PROT_READ | PROT_EXEC);
    if (!b->write || !b->exec)
        return fail(b, fd, e);
    close(fd);
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
