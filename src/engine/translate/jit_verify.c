// Blocks that compare their own bytes: those of pages that are open (unrest.h), where anybody may
// write at any time without a word.
//
// Such a block begins with a comparison of guest memory with what it was made from, which every way
// in passes: a processor that stores to code sees it changed once it gets there by a branch, and so
// does another once it has serialised itself. Within the block nothing can change unnoticed: each
// store of its own is compared with where its bytes are, and one that might change them, like
// everything else that the interpreter does, ends the run of the block. It is short, is no loop,
// has nothing to do with bytes beyond its own, and is its vCPU's alone.
//
// Flags survive the comparison, because what the bytes have become may need them.
#include "base/bytes.h"
#include "engine/translate/jit_trans.h"
#include "engine/translate/unrest.h"
#include "host/clock.h"

#define LOOK_EVERY BIT(20) // ticks of the TSC: at the pages that are open

bool jit_is_open(const struct tcpu *c, uint32_t page, uint32_t tail)
{
    const struct jit_page *p = c->jit->page;
    return unrest_is_open(c->vm, p[page].gpa) || (tail && unrest_is_open(c->vm, p[tail].gpa));
}

void jit_note_open(struct jit *jit, uint32_t page)
{
    struct jit_page *p = &jit->page[page];
    if (p->open)
        return;
    p->open = true;
    p->next_open = jit->open_pages;
    jit->open_pages = page;
}

// Takes the page's blocks that need not verify themselves any more, and those that are gone, from
// its list. False: none is left that does.
static bool close_page(struct tcpu *c, uint32_t index)
{
    struct jit *jit = c->jit;
    uint32_t *next = &jit->page[index].blocks;
    bool left = false;
    while (*next) {
        struct jit_block *b = &jit->block[*next];
        if (b->verifies && !b->dropped && !jit_is_open(c, index, b->tail))
            jit_drop(c, b);
        left |= b->verifies && !b->dropped;
        if (b->dropped)
            *next = b->next_in_page;
        else
            next = &b->next_in_page;
    }
    return left;
}

void jit_close_pages(struct tcpu *c)
{
    struct jit *jit = c->jit;
    uint32_t *next = &jit->open_pages;
    uint64_t now = host_tsc();
    if (now - jit->open_seen < LOOK_EVERY)
        return;
    jit->open_seen = now;
    while (*next) {
        struct jit_page *p = &jit->page[*next];
        if (jit_is_open(c, *next, 0) || close_page(c, *next)) {
            next = &p->next_open;
            continue;
        }
        p->open = false;
        *next = p->next_open;
    }
}

const void *jit_gate_changed(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit_block *b = &c->jit->block[id];
    c->s.rip = c->insn_rip = b->rip;
    c->counter[COUNTER_CHANGED]++;
    jit_drop_changed(c, b);
    return jit_continue(c);
}

// --- comparing -----------------------------------------------------------------------------------

// The flags into AX, and back into their place.
static void save_flags(struct emit *e)
{
    emit_u8(e, 0x9f); // lahf
    emit_setcc_r(e, COND_O, RAX);
}

static void load_flags(struct emit *e)
{
    emit_alu_ri(e, ALU_ADD, 1, RAX, 127); // overflows if OF was set
    emit_u8(e, 0x9e);                     // sahf
}

static void compare_piece(struct emit *e, struct emit_mem mem, const uint8_t *code, unsigned size)
{
    if (size == 8) {
        emit_mov_ri(e, T0, load_le64(code));
        emit_alu_rm(e, ALU_CMP, 8, T0, mem);
        return;
    }
    emit_alu_mi(e, ALU_CMP, size, mem,
                size == 4   ? (int32_t)load_le32(code)
                : size == 2 ? (int16_t)load_le16(code)
                            : (int8_t)code[0]);
}

// In pieces, the last of which may overlap the one before.
static void compare(struct emit *e, const uint8_t *host, const uint8_t *code, unsigned len,
                    const void *changed)
{
    unsigned size = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
    emit_mov_ri(e, T1, (uint64_t)(uintptr_t)host);
    for (unsigned at = 0; at < len; at += size) {
        unsigned from = at + size > len ? len - size : at;
        compare_piece(e, emit_at(T1, (int32_t)from), code + from, size);
        emit_jcc_to(e, COND_NE, changed);
    }
}

static const void *changed_stub(struct trans *t)
{
    const void *at = emit_exec(t->cold);
    load_flags(t->cold);
    emit_mov_rr(t->cold, 8, RAX, T2);
    trans_load_id(t->cold, NOTE_BLOCK, t->block);
    emit_jmp_to(t->cold, t->jit->gate[GATE_CHANGED]);
    return at;
}

// live: what follows needs the flags.
static void verify(struct trans *t, const uint8_t *host, const uint8_t *code, unsigned len,
                   bool live)
{
    const void *changed = changed_stub(t);
    emit_mov_rr(t->e, 8, T2, RAX);
    save_flags(t->e);
    compare(t->e, host, code, len, changed);
    if (live)
        load_flags(t->e);
    emit_mov_rr(t->e, 8, RAX, T2);
}

void trans_verify(struct trans *t)
{
    const struct jit_block *b = t->b;
    const uint8_t *host = t->jit->page[t->page].host + (b->rip & PAGE_MASK);
    verify(t, host, t->source.code, trans_head_bytes(b), b->tail || t->live[0]);
}

void trans_verify_tail(struct trans *t)
{
    const struct jit_block *b = t->b;
    unsigned head = trans_head_bytes(b);
    verify(t, t->jit->page[b->tail].host, t->source.code + head, b->bytes - head, t->live[0]);
}

// --- stores --------------------------------------------------------------------------------------

// To the stub if a store to the host operand touches these bytes.
static void spare(struct trans *t, struct emit_mem to, unsigned size, const uint8_t *host,
                  unsigned len, const void *stub)
{
    struct emit *e = t->e;
    if (t->flags_live)
        emit_u8(e, 0x9c); // pushf
    emit_lea(e, 8, T2, to);
    emit_mov_ri(e, T0, (uint64_t)(uintptr_t)host - (size - 1));
    emit_alu_rr(e, ALU_SUB, 8, T2, T0);
    emit_alu_ri(e, ALU_CMP, 8, T2, (int32_t)(len + size - 1));
    if (!t->flags_live) {
        emit_jcc_to(e, COND_B, stub);
        return;
    }
    uint8_t *in = emit_jcc(e, COND_B);
    emit_u8(e, 0x9d); // popf
    uint8_t *out = emit_jmp(e);
    emit_land(e, in);
    emit_u8(e, 0x9d);
    emit_jmp_to(e, stub);
    emit_land(e, out);
}

void trans_spare_block(struct trans *t, struct emit_mem to, unsigned size)
{
    const struct jit_page *page = t->jit->page;
    const struct jit_block *b = t->b;
    unsigned head = trans_head_bytes(b);
    const void *stub = trans_stub(t, GATE_STEP, trans_site(t, ACCESS_READ, 0));
    t->kept_before = NO_HOST; // T2 is needed
    spare(t, to, size, page[t->page].host + (b->rip & PAGE_MASK), head, stub);
    if (head < b->bytes)
        spare(t, to, size, page[b->tail].host, b->bytes - head, stub);
}
