// Executable memory by dual mapping (see codebuf.h). The memory file is unnamed and its descriptor
// is closed at once, so that nothing can map it a third time. Not modelled on any processor; the
// host keeps instruction fetch coherent with stores to the other view, as x86 does for physical
// addresses.
#include "engine/translate/codebuf.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static err_t fail(struct codebuf *b, int fd, struct error *e)
{
    int host_errno = errno;
    if (fd >= 0)
        close(fd);
    codebuf_release(b);
    return error_set(e, err_from_errno(host_errno), "executable memory for translated code: %s",
                     strerror(host_errno));
}

err_t codebuf_init(struct codebuf *b, size_t len, struct error *e)
{
    *b = (struct codebuf){.len = align_up(len, PAGE_SIZE)};
    int fd = memfd_create("berth-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)b->len) < 0)
        return fail(b, fd, e);
    void *view = mmap(NULL, b->len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (view == MAP_FAILED)
        return fail(b, fd, e);
    b->write = view;
    view = mmap(NULL, b->len, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (view == MAP_FAILED)
        return fail(b, fd, e);
    b->exec = view;
    close(fd);
    return OK;
}

void codebuf_release(struct codebuf *b)
{
    if (b->write)
        munmap(b->write, b->len);
    if (b->exec)
        munmap(b->exec, b->len);
    *b = (struct codebuf){0};
}
