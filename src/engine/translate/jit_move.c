// Fields of instructions that move with the code: 32-bit immediates and displacements of code in
// the top 2 GiB, where kernels lie, that are addresses near their own page. A kernel that lies
// elsewhere at the next boot (KASLR) has been moved as a whole, so such a field minus its page's
// address is the same; and where an operand relative to RIP is a constant (per-CPU data of Linux),
// the sum is. In the store (jit_copy.c) these fields are kept so, and the emitters note what they
// make of them.
//
// What only looks like such an address does not match at the next boot, and is translated anew.
#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/jit_trans.h"

#define FROM 0xffffffff80000000ull
#define MARGIN 0x10000ull       // so that sums with small numbers do not wrap
#define NEAR (128 * MIB)        // a kernel is smaller
#define CONSTANTS_TO (16 * MIB) // of addresses in per-CPU data

bool trans_page_moves(const struct trans *t)
{
    return t->code64 && t->jit->page[t->page].at >= FROM;
}

static bool is_near(uint64_t page, uint64_t value)
{
    return value - page + NEAR < 2 * NEAR && value >= FROM + MARGIN && value < 0 - MARGIN;
}

bool trans_imm_moves(const struct trans *t, const struct insn *in)
{
    return t->moving && in->imm_bytes == 4 && in->opsize == 8 && in->operand[0].kind != OPND_REL &&
           is_near(t->jit->page[t->page].at, in->imm);
}

bool trans_disp_moves(const struct trans *t, const struct insn *in)
{
    return t->moving && in->disp_bytes == 4 && in->addrsize == 8 && in->base != REG_RIP &&
           is_near(t->jit->page[t->page].at, (uint64_t)in->disp);
}

bool trans_disp_stays(const struct trans *t, const struct insn *in, uint64_t next)
{
    return t->moving && in->base == REG_RIP && in->addrsize == 8 && in->disp > 0 &&
           next + (uint64_t)in->disp < CONSTANTS_TO;
}

unsigned trans_moving_fields(const struct trans *t, const struct insn *in, uint64_t next,
                             struct stored_move out[2])
{
    unsigned n = 0, imm = in->len - in->imm_bytes;
    if (!t->moving || in->form == UINT16_MAX)
        return 0;
    if (trans_disp_moves(t, in))
        out[n++] = (struct stored_move){.at = (uint16_t)(imm - 4), .kind = STORED_MOVES};
    else if (trans_disp_stays(t, in, next))
        out[n++] = (struct stored_move){.at = (uint16_t)(imm - 4), .kind = STORED_STAYS};
    if (trans_imm_moves(t, in))
        out[n++] = (struct stored_move){.at = (uint16_t)imm, .kind = STORED_MOVES};
    return n;
}

uint32_t trans_unmoved(gva_t page, unsigned kind, const uint8_t *field)
{
    return load_le32(field) + (uint32_t)(kind == STORED_STAYS ? page : 0 - page);
}

bool trans_same_field(const struct trans *t, unsigned kind, const uint8_t *there,
                      const uint8_t *kept)
{
    gva_t page = t->jit->page[t->page].at;
    uint64_t value = (uint64_t)(int32_t)load_le32(there);
    return t->moving && trans_unmoved(page, kind, there) == load_le32(kept) &&
           (kind == STORED_STAYS ? (int64_t)value > 0 : is_near(page, value));
}

// Instructions follow each other from the block's start. What is beyond its end does not count, so
// that fields there need not be known.
uint64_t trans_first_bytes(const struct trans *t, const uint8_t *code, unsigned len)
{
    uint8_t start[8 + INSN_MAX] = {0};
    unsigned have = len < sizeof start ? len : (unsigned)sizeof start, at = 0;
    struct insn in;
    if (!t->moving)
        return load_sized(code, len < 8 ? len : 8);
    copy_bytes(start, code, have);
    while (at < 8 && insn_decode(start + at, have - at, 8, &in) == INSN_OK) {
        struct stored_move field[2];
        unsigned n = trans_moving_fields(t, &in, t->b->rip + at + in.len, field);
        while (n--) {
            uint8_t *there = start + at + field[n].at;
            store_le32(there, trans_unmoved(t->jit->page[t->page].at, field[n].kind, there));
        }
        at += in.len;
        if (trans_ends_block(&in))
            break;
    }
    return load_sized(start, at && at < 8 ? at : 8);
}
