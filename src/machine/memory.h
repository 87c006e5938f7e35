// Guest RAM: where it lies, and copying from and to it on behalf of devices and loaders. DMA
// reaches RAM only; the engine hears of every change so that translations of changed code are
// dropped.
#pragma once

#include "engine/engine.h"
#include "host/ram_file.h"

#define MEMORY_REGIONS 4

struct memory_region {
    gpa_t at;
    uint64_t len;
    uint8_t *host;
};

struct memory {
    struct memory_region region[MEMORY_REGIONS];
    unsigned regions;
    const struct engine *engine;
    struct engine_vm *engine_vm; // told of changes; NULL before the engine exists
    struct ram_file *file;       // that all regions lie in; NULL: they are private memory
};

// Adds a range of RAM; host stays the caller's. Ranges are disjoint.
err_t memory_add(struct memory *memory, gpa_t at, uint64_t len, void *host);

// ERR_INVALID if any byte is outside RAM; then nothing was copied. A range may span two regions.
err_t memory_read(const struct memory *memory, gpa_t at, void *data, size_t len);
err_t memory_write(const struct memory *memory, gpa_t at, const void *data, size_t len);

// Host address of [at, at + len) when all of it lies in one region, else NULL.
void *memory_map(const struct memory *memory, gpa_t at, uint64_t len);
// Gives a range back to the host, whose bytes are zeros from now on. One that is not all in one
// region is left alone.
void memory_discard(const struct memory *memory, gpa_t at, uint64_t len);
// Bytes in a mapped range were changed.
void memory_changed(const struct memory *memory, gpa_t at, uint64_t len);
