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
// with the largest sensible "-m" in the text. bytes is a multiple of the page size. from: private
// memory; only the host's reserved huge pages, which are there or not (bytes is a multiple of
// theirs); or the descriptor of a file of this length (ram_file.h), which stays the caller's.
enum { HOST_RAM_PRIVATE = -1, HOST_RAM_HUGE = -2 };
err_t host_ram_new(uint64_t bytes, int from, void **out, struct error *e);
// Of private memory: back this part with huge pages.
void host_ram_want_huge(void *at, uint64_t bytes);
// The host may merge pages of it with equal ones of any process that allows it, too. False: it has
// no such service, or does not run it (fix gets the next thing to try).
bool host_ram_merge(void *at, uint64_t bytes, char fix[120]);
// Gives pages of private memory back to the host; they read as zeros when they are next touched.
// Any thread.
void host_ram_discard(void *at, uint64_t bytes);
void host_ram_free(void *ram, uint64_t bytes); // accepts NULL

// Zeroed memory for what is large and mostly never touched, or NULL. It gets small pages only:
// where the host uses huge ones for everything, the first byte would cost 2 MiB as soon as the
// kernel has put other memory beside it.
void *host_sparse_new(size_t bytes);
void host_sparse_free(void *at, size_t bytes); // accepts NULL
