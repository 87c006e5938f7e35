// Host memory. Sources: proc(5) meminfo; Linux Documentation/admin-guide/cgroup-v2.rst memory.max
// and memory.current; madvise(2). Not modelled: NUMA placement, hugetlbfs, cgroup v1 limits.
#include "host/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"

#define HUGE_PAGE (2 * MIB)

static void read_meminfo(struct host_memory *out)
{
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return;
    char line[128];
    uint64_t kib;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemTotal: %" SCNu64, &kib) == 1)
            out->total = kib * KIB;
        else if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            out->available = kib * KIB;
    }
    fclose(f);
}

// The first line of a control group's file as a number; UINT64_MAX for "max" or when it is not
// there.
static uint64_t cgroup_value(const char *group, const char *file)
{
    char path[600];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, file);
    FILE *f = fopen(path, "re");
    uint64_t value = UINT64_MAX;
    if (f) {
        if (fscanf(f, "%" SCNu64, &value) != 1)
            value = UINT64_MAX;
        fclose(f);
    }
    return value;
}

// Each group up to the root may set a limit of its own.
static void apply_cgroups(struct host_memory *out)
{
    char group[512] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "0::%511[^\n]", group) == 1)
            break;
    }
    fclose(f);
    for (;;) {
        uint64_t max = cgroup_value(group, "memory.max");
        uint64_t used = cgroup_value(group, "memory.current");
        if (max != UINT64_MAX && used != UINT64_MAX) {
            out->total = min_u64(out->total, max);
            out->available = min_u64(out->available, max > used ? max - used : 0);
        }
        char *slash = strrchr(group, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

void host_memory_read(struct host_memory *out)
{
    *out = (struct host_memory){0};
    read_meminfo(out);
    apply_cgroups(out);
}

// What to ask for instead: three quarters of what is free, in a round number.
static unsigned long long sensible_mib(uint64_t available)
{
    uint64_t mib = available / MIB * 3 / 4;
    return mib >= 256 ? mib / 128 * 128 : mib;
}

static bool put_there(void *ram, uint64_t bytes, int flags, int fd)
{
    return mmap(ram, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) != MAP_FAILED;
}

// The pages are taken from the host's pool here or not at all: a fault that finds it empty later
// would end the VM.
static err_t take_huge_pages(void *ram, uint64_t bytes, struct error *e)
{
    if (put_there(ram, bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1))
        return OK;
    return error_set(e, ERR_NO_MEMORY,
                     "the host has not %llu free huge pages for the guest's %llu MiB: %s; try "
                     "sysctl vm.nr_hugepages=N, or leave out --memory-huge",
                     bytes / HUGE_PAGE, bytes / MIB, strerror(errno));
}

err_t host_ram_new(uint64_t bytes, int from, void **out, struct error *e)
{
    struct host_memory memory;
    host_memory_read(&memory);
    if (from != HOST_RAM_HUGE && memory.available && bytes > memory.available)
        return error_set(e, ERR_NO_MEMORY,
                         "cannot give the guest %llu MiB: the host has %llu MiB "
                         "available; try -m %llu",
                         bytes / MIB, memory.available / MIB, sensible_mib(memory.available));

    // The reservation has room to align the RAM, with at least one page left over on each side.
    uint64_t reserve = bytes + 2 * HUGE_PAGE;
    uint8_t *area =
        mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        goto fail;
    uint8_t *ram = (uint8_t *)align_up((uintptr_t)area + PAGE_SIZE, HUGE_PAGE);
    uint8_t *end = area + reserve;
    munmap(area, (size_t)(ram - PAGE_SIZE - area));
    munmap(ram + bytes + PAGE_SIZE, (size_t)(end - (ram + bytes + PAGE_SIZE)));
    if (from >= 0 ? !put_there(ram, bytes, MAP_SHARED, from)
                  : mprotect(ram, bytes, PROT_READ | PROT_WRITE) < 0) {
        munmap(ram - PAGE_SIZE, bytes + 2 * PAGE_SIZE);
        goto fail;
    }
    err_t err = from == HOST_RAM_HUGE ? take_huge_pages(ram, bytes, e) : OK;
    if (err) {
        munmap(ram - PAGE_SIZE, bytes + 2 * PAGE_SIZE);
        return err;
    }
    madvise(ram, bytes, MADV_DONTDUMP);
    *out = ram;
    return OK;

fail:
    return error_set(e, ERR_NO_MEMORY,
                     "cannot give the guest %llu MiB: %s; "
                     "try a smaller -m, or raise ulimit -v",
                     bytes / MIB, strerror(errno));
}

// A wish: kernels without huge pages refuse it.
void host_ram_want_huge(void *at, uint64_t bytes)
{
    madvise(at, bytes, MADV_HUGEPAGE);
}

bool host_ram_merge(void *at, uint64_t bytes, char fix[120])
{
    int run = 0;
    FILE *f = fopen("/sys/kernel/mm/ksm/run", "re");
    if (f) {
        if (fscanf(f, "%d", &run) != 1)
            run = 0;
        fclose(f);
    }
    if (madvise(at, bytes, MADV_MERGEABLE) < 0)
        snprintf(fix, 120, "this kernel has no KSM (CONFIG_KSM)");
    else if (run != 1)
        snprintf(fix, 120, "nothing is merged before: echo 1 > /sys/kernel/mm/ksm/run");
    else
        return true;
    return false;
}

// Of huge pages only whole ones can be given back.
void host_ram_discard(void *at, uint64_t bytes)
{
    (void)!madvise(at, bytes, MADV_DONTNEED);
}

void host_ram_free(void *ram, uint64_t bytes)
{
    if (ram)
        munmap((uint8_t *)ram - PAGE_SIZE, bytes + 2 * PAGE_SIZE);
}

void *host_sparse_new(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, bytes, MADV_NOHUGEPAGE);
    return at;
}

void host_sparse_free(void *at, size_t bytes)
{
    if (at)
        munmap(at, bytes);
}
