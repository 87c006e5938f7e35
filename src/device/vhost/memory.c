// Memory of a vhost-user front end. mmap(2), memfd_create(2). A front end that makes its file
// smaller later kills the process that reads it; who has others to serve takes sealed files only.
#include "device/vhost/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/checked.h"

// Huge pages may be missing when they are first touched.
static err_t check_sealed(const struct vhost_region *r, int fd, struct error *e)
{
    struct statfs fs;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
        return error_set(e, ERR_INVALID, "the memory is no memfd that is sealed");
    if (r->size > VHOST_SEALED_MAX || r->offset > VHOST_SEALED_MAX)
        return error_set(e, ERR_INVALID, "a memory region is larger than a card's window");
    return OK;
}

static err_t check(const struct vhost_memory *memory, const struct vhost_region *r, int fd,
                   struct error *e)
{
    struct stat st;
    uint64_t end, ignored;
    if (memory->regions == VHOST_REGIONS_MAX)
        return error_set(e, ERR_INVALID, "there are more than %d memory regions",
                         VHOST_REGIONS_MAX);
    if (!r->size || !checked_add(r->guest, r->size, &ignored) ||
        !checked_add(r->user, r->size, &ignored) || !checked_add(r->offset, r->size, &end))
        return error_set(e, ERR_INVALID, "a memory region has an impossible size");
    if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < end)
        return error_set(e, ERR_INVALID, "a memory region is larger than its file");
    for (unsigned i = 0; i < memory->regions; i++) {
        if (ranges_overlap(r->guest, r->size, memory->region[i].guest, memory->region[i].size))
            return error_set(e, ERR_INVALID, "memory regions overlap");
    }
    return OK;
}

err_t vhost_memory_add(struct vhost_memory *memory, const struct vhost_region *region, int fd,
                       bool sealed, struct error *e)
{
    struct vhost_region r = *region;
    err_t err = sealed ? check_sealed(&r, fd, e) : OK;
    if (!err)
        err = check(memory, &r, fd, e);
    if (err)
        return err;
    r.mapped = r.offset + r.size;
    r.mapping = mmap(NULL, r.mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (r.mapping == MAP_FAILED)
        return error_set(e, err_from_errno(errno), "cannot map the memory: %s", strerror(errno));
    r.host = (uint8_t *)r.mapping + r.offset;
    memory->region[memory->regions++] = r;
    return OK;
}

void vhost_memory_release(struct vhost_memory *memory)
{
    for (unsigned i = 0; i < memory->regions; i++)
        munmap(memory->region[i].mapping, memory->region[i].mapped);
    memory->regions = 0;
}

void *vhost_memory_at(const struct vhost_memory *memory, uint64_t guest, uint64_t len)
{
    for (unsigned i = 0; i < memory->regions; i++) {
        const struct vhost_region *r = &memory->region[i];
        if (guest >= r->guest && guest - r->guest < r->size && len <= r->size - (guest - r->guest))
            return r->host + (guest - r->guest);
    }
    return NULL;
}

bool vhost_memory_guest(const struct vhost_memory *memory, uint64_t user, uint64_t *guest)
{
    for (unsigned i = 0; i < memory->regions; i++) {
        const struct vhost_region *r = &memory->region[i];
        if (user >= r->user && user - r->user < r->size) {
            *guest = r->guest + (user - r->user);
            return true;
        }
    }
    return false;
}

// --- for virtqueues

static void *map(struct device *dev, gpa_t at, size_t len)
{
    return vhost_memory_at(dev->owner, at, len);
}

static err_t read_memory(struct device *dev, gpa_t at, void *data, size_t len)
{
    const void *host = map(dev, at, len);
    if (!host)
        return ERR_INVALID;
    memcpy(data, host, len);
    return OK;
}

static err_t write_memory(struct device *dev, gpa_t at, const void *data, size_t len)
{
    void *host = map(dev, at, len);
    if (!host)
        return ERR_INVALID;
    memcpy(host, data, len);
    return OK;
}

// No log of written pages is offered.
static void done(struct device *dev, gpa_t at, size_t len)
{
}

const struct device_env vhost_memory_env = {
    .dma_read = read_memory, .dma_write = write_memory, .dma_map = map, .dma_done = done};
