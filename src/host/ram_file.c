// Guest RAM as a file. memfd_create(2), fcntl(2) F_ADD_SEALS, madvise(2) MADV_COLLAPSE and
// MADV_REMOVE; Linux Documentation/admin-guide/mm/transhuge.rst. Anonymous memory gets large pages
// by its first touch. That of files does not unless the host's shmem_enabled says so, which it
// hardly ever does; MADV_COLLAPSE makes them all the same. Not modelled: hugetlbfs, swapping out.
#include "host/ram_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "host/memory.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // since Linux 6.1; others refuse it
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u // since Linux 6.3
#endif

// What a guest has in its memory is no program of the host's, which some hosts insist on.
static int make_file(uint64_t bytes)
{
    int fd = memfd_create("berth-ram", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("berth-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && (ftruncate(fd, (off_t)bytes) < 0 ||
                    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

static err_t map_spare(struct ram_file *ram, struct error *e)
{
    void *at =
        mmap(NULL, RAM_FILE_SPARE, PROT_READ | PROT_WRITE, MAP_SHARED, ram->fd, (off_t)ram->bytes);
    if (at == MAP_FAILED)
        return error_set(e, ERR_NO_MEMORY, "no memory behind the guest's: %s", strerror(errno));
    madvise(at, RAM_FILE_SPARE, MADV_DONTDUMP);
    ram->spare = at;
    return OK;
}

err_t ram_file_init(struct ram_file *ram, uint64_t bytes, struct error *e)
{
    void *at = NULL;
    err_t err = OK;
    *ram = (struct ram_file){.bytes = bytes, .fd = make_file(bytes + RAM_FILE_SPARE)};
    ram->due = calloc(bytes / RAM_FILE_LARGE + 1, 1);
    if (ram->fd < 0)
        err = error_set(e, ERR_UNSUPPORTED, "no file for the guest's memory: %s", strerror(errno));
    else if (!ram->due)
        err = error_set(e, ERR_NO_MEMORY, "no memory for a list of large pages");
    else
        err = host_ram_new(bytes, ram->fd, &at, e);
    ram->at = at;
    if (!err)
        err = map_spare(ram, e);
    if (err)
        ram_file_release(ram);
    return err;
}

void ram_file_release(struct ram_file *ram)
{
    host_ram_free(ram->at, ram->bytes);
    if (ram->spare)
        munmap(ram->spare, RAM_FILE_SPARE);
    if (ram->bytes && ram->fd >= 0)
        close(ram->fd);
    free(ram->due);
    *ram = (struct ram_file){.fd = -1};
}

static void set_due(struct ram_file *ram, uint64_t offset, uint64_t len)
{
    uint64_t end = (offset + len) / RAM_FILE_LARGE;
    for (uint64_t i = align_up(offset, RAM_FILE_LARGE) / RAM_FILE_LARGE; i < end; i++)
        __atomic_store_n(&ram->due[i], 1, __ATOMIC_RELAXED);
}

void ram_file_want_large(struct ram_file *ram, uint64_t offset, uint64_t len)
{
    set_due(ram, offset, len);
    madvise(ram->at + offset, len, MADV_HUGEPAGE); // where that is enough, the rest costs nothing
}

// Collapsing needs a page that is there.
void ram_file_back(struct ram_file *ram, uint64_t page)
{
    if (!__atomic_exchange_n(&ram->due[page], 0, __ATOMIC_RELAXED))
        return;
    uint8_t *at = ram->at + page * RAM_FILE_LARGE;
    (void)__atomic_fetch_or(at, 0, __ATOMIC_RELAXED);
    madvise(at, RAM_FILE_LARGE, MADV_COLLAPSE);
}

void ram_file_discard(struct ram_file *ram, uint64_t offset, uint64_t len)
{
    (void)!madvise(ram->at + offset, len, MADV_REMOVE);
    set_due(ram, offset, len);
}
