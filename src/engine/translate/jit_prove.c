// With ENGINE_DEBUG_COPY_BLOCKS each block is translated a second time, elsewhere in the cache,
// with other numbers for its records and as if its page lay elsewhere. What the store would keep of
// it must be the same (fields of the guest's code that move with it are moved, too): else something
// in the code depends on the place without a note (enum note).
//
// Not proved: blocks whose addresses take other forms at the other place.
#include <stdio.h>

#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/interp_impl.h"
#include "engine/translate/jit_trans.h"

#define HOT_SHIFT 13
#define COLD_SHIFT 7
#define RECORD_SHIFT 3

static bool can_move(const struct trans *t)
{
    const struct jit *jit = t->jit;
    return jit->sites + RECORD_SHIFT + 64 < jit->max_sites &&
           jit->links + RECORD_SHIFT + 64 < jit->max_links;
}

static void move_page(struct trans *t, uint64_t distance)
{
    t->jit->page[t->page].at += distance;
    t->b->rip += distance;
}

struct moves {
    unsigned count;
    struct stored_move move[2 * JIT_INSNS + AHEAD_MOVES];
};

// The code as it would be so far away.
static void move_fields(struct trans *t, const struct moves *m, uint64_t distance)
{
    for (unsigned i = 0; i < m->count; i++) {
        unsigned at = m->move[i].at;
        uint8_t *field = at < t->b->bytes ? t->source.code + at : t->ahead_code + at - t->b->bytes;
        uint64_t by = m->move[i].kind == STORED_STAYS ? 0 - distance : distance;
        store_le32(field, load_le32(field) + (uint32_t)by);
    }
    for (unsigned i = 0; i < t->count; i++) {
        unsigned at = t->jit->mark[t->b->marks + i].guest;
        if (t->insn[i].form != UINT16_MAX)
            insn_decode(t->source.code + at, t->insn[i].len, t->code64 ? 8 : 4, &t->insn[i]);
    }
}

static void pad(struct emit *e, unsigned bytes)
{
    while (bytes--)
        emit_u8(e, 0xcc);
}

// The block at another place, as the store would keep it.
static bool translate_moved(struct trans *t, struct stored *out, uint32_t max)
{
    struct jit *jit = t->jit;
    struct moves m;
    m.count = t->moves;
    copy_bytes(m.move, t->move, m.count * sizeof m.move[0]);
    trans_undo(t);
    pad(&jit->hot, HOT_SHIFT);
    pad(&jit->cold, COLD_SHIFT);
    t->start.hot += HOT_SHIFT;
    t->start.cold += COLD_SHIFT;
    jit->sites += RECORD_SHIFT;
    t->start.sites += RECORD_SHIFT;
    jit->links += RECORD_SHIFT;
    t->start.links += RECORD_SHIFT;
    move_fields(t, &m, PAGE_SIZE);
    move_page(t, PAGE_SIZE);
    trans_emit(t);
    bool done = !jit->hot.overflow && !jit->cold.overflow && trans_store(t, out, max);
    move_fields(t, &m, 0 - PAGE_SIZE);
    move_page(t, 0 - PAGE_SIZE);
    t->start.hot -= HOT_SHIFT;
    t->start.cold -= COLD_SHIFT;
    t->start.sites -= RECORD_SHIFT;
    t->start.links -= RECORD_SHIFT;
    return done;
}

static bool same_forms(const struct stored *a, const struct stored *b)
{
    if (a->moves != b->moves)
        return false;
    for (unsigned area = 0; area < 2; area++)
        for (unsigned kind = STORED_U32; kind <= STORED_64; kind++)
            if (a->notes[area][kind] != b->notes[area][kind])
                return false;
    return true;
}

static bool same(const struct stored *a, const struct stored *b)
{
    if (a->bytes != b->bytes)
        return false;
    for (uint32_t i = 0; i < a->bytes; i++)
        if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i])
            return false;
    return true;
}

void trans_prove(struct trans *t)
{
    struct tcpu *c = t->c;
    uint64_t(*proof)[ARRAY_LEN(t->jit->proof[0])] = t->jit->proof;
    struct stored *one = (struct stored *)proof[0], *other = (struct stored *)proof[1];
    if (t->own || t->spans > SPANS_MAX || !can_move(t) || !trans_store(t, one, sizeof proof[0]) ||
        !translate_moved(t, other, sizeof proof[1]) || t->own || !same_forms(one, other) ||
        same(one, other))
        return;
    trans_undo(t);
    fpu_to_memory(c);
    snprintf(c->error, sizeof c->error,
             "copy-blocks: the block at %#llx comes out otherwise elsewhere",
             (unsigned long long)t->b->rip);
    cpu_exit(c, ENGINE_FAILED);
}
