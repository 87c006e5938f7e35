#include "machine/memory.h"

#include <string.h>

#include "base/checked.h"
#include "host/memory.h"

err_t memory_add(struct memory *memory, gpa_t at, uint64_t len, void *host)
{
    if (memory->regions == MEMORY_REGIONS)
        return ERR_NO_MEMORY;
    memory->region[memory->regions++] = (struct memory_region){at, len, host};
    return OK;
}

static uint8_t *find(const struct memory *memory, gpa_t at, uint64_t len)
{
    for (unsigned i = 0; i < memory->regions; i++) {
        const struct memory_region *r = &memory->region[i];
        if (at >= r->at && range_within(at - r->at, len, r->len))
            return r->host + (at - r->at);
    }
    return NULL;
}

static void touch(const struct memory *memory, const uint8_t *host, uint64_t len)
{
    if (memory->file)
        ram_file_touch(memory->file, host, len);
}

void *memory_map(const struct memory *memory, gpa_t at, uint64_t len)
{
    uint8_t *host = find(memory, at, len);
    if (host)
        touch(memory, host, len);
    return host;
}

void memory_discard(const struct memory *memory, gpa_t at, uint64_t len)
{
    uint8_t *host = find(memory, at, len);
    if (!host)
        return;
    if (memory->file)
        ram_file_discard(memory->file, (uint64_t)(host - memory->file->at), len);
    else
        host_ram_discard(host, len);
    memory_changed(memory, at, len);
}

void memory_changed(const struct memory *memory, gpa_t at, uint64_t len)
{
    if (memory->engine_vm && len)
        memory->engine->written(memory->engine_vm, at, len);
}

// Calls piece() for each part of the range that lies in one region; checks the whole range first.
static err_t each_piece(const struct memory *memory, gpa_t at, size_t len,
                        void (*piece)(const struct memory *m, gpa_t at, uint8_t *host,
                                      size_t offset, size_t len, void *data),
                        void *data)
{
    for (int pass = 0; pass < 2; pass++) {
        size_t done = 0;
        while (done < len) {
            uint64_t from;
            const struct memory_region *r = NULL;
            if (!checked_add(at, done, &from))
                return ERR_INVALID;
            for (unsigned i = 0; i < memory->regions && !r; i++)
                if (from >= memory->region[i].at &&
                    from - memory->region[i].at < memory->region[i].len)
                    r = &memory->region[i];
            if (!r)
                return ERR_INVALID;
            size_t part = (size_t)min_u64(len - done, r->len - (from - r->at));
            if (pass)
                piece(memory, from, r->host + (from - r->at), done, part, data);
            done += part;
        }
    }
    return OK;
}

static void read_piece(const struct memory *m, gpa_t at, uint8_t *host, size_t offset, size_t len,
                       void *data)
{
    memcpy((uint8_t *)data + offset, host, len);
}

static void write_piece(const struct memory *m, gpa_t at, uint8_t *host, size_t offset, size_t len,
                        void *data)
{
    touch(m, host, len);
    memcpy(host, (uint8_t *)data + offset, len);
    memory_changed(m, at, len);
}

err_t memory_read(const struct memory *memory, gpa_t at, void *data, size_t len)
{
    return each_piece(memory, at, len, read_piece, data);
}

err_t memory_write(const struct memory *memory, gpa_t at, const void *data, size_t len)
{
    return each_piece(memory, at, len, write_piece, (void *)(uintptr_t)data);
}
