// Whole files in memory. They are read, not mapped: a file that shrinks while a VM is made must not
// kill the process. open(2), read(2), poll(2).
#include "host/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"

#define STEP (64 * KIB) // growth where the size is unknown: pipes
#define HUGE_PAGE (2 * MIB)

static size_t first_size(int fd, size_t max)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 0)
        return STEP;
    // One byte more, so that the end is seen without growing.
    return (uint64_t)st.st_size < max ? (size_t)st.st_size + 1 : max + 1;
}

// Kernels are some MiB: without thousands of page faults where the host has huge pages.
static uint8_t *room(size_t size)
{
    if (size < HUGE_PAGE)
        return malloc(size);
    size = align_up(size, HUGE_PAGE);
    uint8_t *data = aligned_alloc(HUGE_PAGE, size);
    if (data)
        madvise(data, size, MADV_HUGEPAGE);
    return data;
}

err_t host_file_read_fd(int fd, const char *name, size_t max, struct host_file *out,
                        struct error *e)
{
    size_t cap = first_size(fd, max);
    *out = (struct host_file){.data = room(cap)};
    err_t err = OK;
    while (out->data) {
        ssize_t n = read(fd, out->data + out->len, cap - out->len);
        if (n == 0)
            return OK;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err =
                error_set(e, err_from_errno(errno), "cannot read '%s': %s", name, strerror(errno));
            break;
        }
        out->len += (size_t)n;
        if (out->len > max) {
            err =
                error_set(e, ERR_INVALID, "'%s' is larger than %zu MiB", name, (size_t)(max / MIB));
            break;
        }
        if (out->len == cap) {
            cap += cap;
            uint8_t *larger = realloc(out->data, cap);
            if (!larger)
                break;
            out->data = larger;
        }
    }
    host_file_release(out);
    return err ? err : error_set(e, ERR_NO_MEMORY, "no memory to read '%s'", name);
}

err_t host_file_read(const char *path, size_t max, struct host_file *out, struct error *e)
{
    *out = (struct host_file){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return error_set(e, err_from_errno(errno), "cannot read '%s': %s", path, strerror(errno));
    err_t err = host_file_read_fd(fd, path, max, out, e);
    close(fd);
    return err;
}

void host_file_release(struct host_file *file)
{
    free(file->data);
    *file = (struct host_file){0};
}

err_t host_write_all(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n >= 0) {
            p += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd ready = {.fd = fd, .events = POLLOUT};
            poll(&ready, 1, -1);
        } else if (errno != EINTR) {
            return ERR_IO;
        }
    }
    return OK;
}
