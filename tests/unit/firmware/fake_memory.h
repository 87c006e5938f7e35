// Guest RAM for tests: one sparse mapping of all of low RAM; writes to the VGA window are refused,
// as on the board.
#pragma once

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "device/platform.h"
#include "firmware/e820.h"
#include "firmware/guest_memory.h"

struct fake_memory {
    struct guest_memory memory;
    uint8_t *ram;
    uint64_t low;
};

static inline err_t fake_write(void *opaque, gpa_t at, const void *data, size_t len)
{
    struct fake_memory *m = opaque;
    if (!range_within(at, len, m->low) || ranges_overlap(at, len, 0xa0000, 0x20000)) {
        return ERR_INVALID;
    }
    memcpy(m->ram + at, data, len);
    return OK;
}

static inline void fake_init(struct fake_memory *m, uint64_t ram_bytes)
{
    m->low = e820_low_ram_end(ram_bytes);
    m->ram = mmap(NULL, m->low, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                  -1, 0);
    if (m->ram == MAP_FAILED) {
        abort();
    }
    m->memory = (struct guest_memory){fake_write, m, ram_bytes};
}

static inline void fake_release(struct fake_memory *m)
{
    munmap(m->ram, m->low);
}
