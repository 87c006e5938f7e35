// Host memory: how much there is, and the blocks that become guest RAM.
#pragma once

#include "base/error.h"

struct host_memory {
    uint64_t total;     // bytes of the machine, or of the control group where that is less
    uint64_t available; // bytes that can be had without swapping
};

void host_memory_read(struct host_memory *out);

// Guest RAM: zeroed, page-aligned (2 MiB where bytes allow), backed on first touch, left out of
// core dumps and surrounded by inaccessible pages. ERR_NO_MEMORY when the host has not that much,
// with the largest sensible "-m" in the text. bytes is a multiple of the page size.
err_t host_ram_new(uint64_t bytes, void **out, struct error *e);
void host_ram_want_huge(void *at, uint64_t bytes); // of it: back this part with huge pages
void host_ram_free(void *ram, uint64_t bytes);     // accepts NULL
