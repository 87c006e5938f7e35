// Files of translations: whatever is in them, nothing beyond them is read, and a block that is said
// to be whole has all its parts within. Checksums are left out: they would let nothing through.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

#include "engine/translate/jit_file.h"
#include "standalone.h"

#define FILE_BYTES (1 * MIB)

static void within(const struct stored *b, uint32_t at, uint64_t len)
{
    if (at + len > b->bytes)
        abort();
}

// What copying a block relies on.
static void look_at(const struct stored *b)
{
    const struct stored_parts p = stored_parts_of(b);
    const struct stored_span *span = stored_part(b, p.spans);
    const struct stored_link *link = stored_part(b, p.links);
    const struct stored_move *move = stored_part(b, p.moves);
    const uint16_t *note = stored_part(b, p.notes);
    within(b, p.source, b->source);
    within(b, p.code[0], b->hot);
    within(b, p.code[1], b->cold);
    for (unsigned i = 0; i < b->spans; i++)
        if (span[i].at + span[i].len > (int)PAGE_SIZE)
            abort();
    for (unsigned i = 0; i < b->moves; i++)
        if (move[i].at + 4u > b->source + (uint32_t)b->ahead ||
            (i && move[i].at < move[i - 1].at + 4))
            abort();
    for (unsigned i = 0; i < b->links; i++)
        within(b, p.code[0] + link[i].patch, 4);
    for (unsigned area = 0; area < 2; area++)
        for (unsigned kind = 0; kind < STORED_NOTES; kind++)
            for (unsigned i = 0; i < b->notes[area][kind]; i++)
                within(b, p.code[area] + *note++, kind == STORED_64 ? 8 : 4);
}

// A header with small numbers, so that blocks come about.
static void one_block(const uint8_t *data, size_t size)
{
    static union {
        struct stored b;
        uint8_t bytes[256 * KIB];
    } u;
    memset(&u, 0, sizeof u);
    memcpy(u.bytes + offsetof(struct stored, mode), data,
           min_u64(size, sizeof u / 2 - offsetof(struct stored, mode)));
    struct stored *b = &u.b;
    uint16_t *small[] = {&b->source, &b->spans, &b->ahead, &b->moves,
                         &b->hot,    &b->cold,  &b->sites, &b->links};
    for (size_t i = 0; i < ARRAY_LEN(small); i++)
        *small[i] &= 0xff;
    b->insns &= 7;
    for (unsigned i = 0; i < STORED_NOTES; i++)
        b->notes[0][i] &= 3, b->notes[1][i] &= 3;
    b->bytes = stored_parts_of(b).end;
    if (stored_is_whole(b, sizeof u))
        look_at(b);
}

static void count(struct stored *b, void *opaque)
{
    *(uint64_t *)opaque += b->bytes;
}

static void whole_file(const uint8_t *data, size_t size)
{
    static const uint64_t key[2] = {1, 2};
    struct jit_store *s = jit_store_new(FILE_BYTES);
    uint8_t *to = s ? jit_store_load(s, size, key) : NULL;
    uint64_t bytes = 0;
    if (to) {
        memcpy(to, data, size);
        if (jit_store_loaded(s) > size)
            abort();
        jit_store_each(s, true, count, &bytes);
        for (size_t i = 0; i + 4 <= size; i += 4) {
            struct jit_search search = {0};
            while (jit_store_next(s, 0, load_le32(data + i), &search))
                ;
        }
    }
    jit_store_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    one_block(data, size);
    whole_file(data, size);
    return 0;
}
