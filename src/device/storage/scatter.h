// The data buffers of one storage command: ranges of guest RAM, checked and mapped once, in the
// order in which the data goes through them. Adjacent ranges become one.
#pragma once

#include <sys/uio.h>

#include "device/device.h"

#define SCATTER_MAX 512 // ranges

struct scatter {
    uint64_t bytes;
    unsigned count;
    struct iovec iov[SCATTER_MAX];
    gpa_t gpa[SCATTER_MAX];
};

static inline void scatter_clear(struct scatter *s)
{
    s->bytes = 0;
    s->count = 0;
}

// False when the range is not all RAM or there are too many.
bool scatter_add(struct scatter *s, struct device *dev, gpa_t at, uint64_t len);
// Copy between the buffers and flat memory, from the buffers' byte `skip` on; return what was
// copied.
size_t scatter_read(const struct scatter *s, uint64_t skip, void *data, size_t len);
size_t scatter_write(const struct scatter *s, uint64_t skip, const void *data, size_t len);
// Tells the machine that the first bytes were filled; before the guest is told.
void scatter_filled(const struct scatter *s, struct device *dev, uint64_t bytes);
