// Guest RAM that is a file without a name, so that other processes may be given pages of it. The
// host gives large pages to such memory only where it is asked to, which ram_file_touch() does.
//
// Threads: made and prepared by one; then touched and discarded by any.
#pragma once

#include "base/bits.h"
#include "base/error.h"

struct ram_file {
    uint8_t *at; // of its byte 0
    uint64_t bytes;
    int fd; // of the file, which never changes its size
    int pad;
    uint8_t *spare; // RAM_FILE_SPARE bytes of the file behind those of the guest
    uint8_t *due;   // [any] one byte for each large page: it is to be had when it is next touched
};

#define RAM_FILE_LARGE (2 * MIB)
#define RAM_FILE_SPARE (32 * MIB) // memory that is taken as it is touched

// Like host_ram_new(). ERR_UNSUPPORTED where the host has no such files.
err_t ram_file_init(struct ram_file *ram, uint64_t bytes, struct error *e);
void ram_file_release(struct ram_file *ram); // accepts one that is all zeros

// The large pages that lie wholly in this range are due.
void ram_file_want_large(struct ram_file *ram, uint64_t offset, uint64_t len);
// Pages of the range go back to the host; large ones are due again.
void ram_file_discard(struct ram_file *ram, uint64_t offset, uint64_t len);

void ram_file_back(struct ram_file *ram, uint64_t page); // the large page is due

// Somebody is about to use [at, at + len), which may lie elsewhere.
static inline void ram_file_touch(struct ram_file *ram, const void *at, uint64_t len)
{
    uint64_t offset = (uintptr_t)at - (uintptr_t)ram->at;
    if (offset >= ram->bytes || !len)
        return;
    uint64_t last = (min_u64(offset + len, ram->bytes) - 1) / RAM_FILE_LARGE;
    for (uint64_t i = offset / RAM_FILE_LARGE; i <= last; i++)
        if (__atomic_load_n(&ram->due[i], __ATOMIC_RELAXED))
            ram_file_back(ram, i);
}
