// Decimal adjustment, gone from 64-bit code and therefore computed here. Source: Intel SDM
// volume 2. Flags that it leaves undefined are as AMD processors compute them: S, Z, P from the
// result, O cleared.
#include "engine/translate/integer_impl.h"

static uint64_t result_flags(uint8_t al)
{
    uint64_t flags = 0;
    if (al == 0)
        flags |= FLAG_ZF;
    if (al & 0x80)
        flags |= FLAG_SF;
    if (!__builtin_parity(al))
        flags |= FLAG_PF;
    return flags;
}

static void set_flags(struct tcpu *c, uint64_t flags)
{
    c->s.rflags = (c->s.rflags & ~FLAGS_ARITH) | flags;
}

static bool low_digit_overflows(const struct tcpu *c)
{
    return (c->s.gpr[RAX] & 15) > 9 || c->s.rflags & FLAG_AF;
}

// AAA and AAS: `by` is added to AX, which carries into or borrows from AH.
static void adjust_unpacked(struct tcpu *c, int by)
{
    uint64_t ax = c->s.gpr[RAX] & 0xffff;
    bool adjust = low_digit_overflows(c);
    if (adjust)
        ax = (uint64_t)((int64_t)ax + by);
    gpr_write(c, RAX, 2, false, ax & 0xff0f);
    set_flags(c, result_flags(ax & 15) | (adjust ? FLAG_AF | FLAG_CF : 0));
}

void op_aaa(struct tcpu *c, const struct insn *insn)
{
    adjust_unpacked(c, 0x106);
}

void op_aas(struct tcpu *c, const struct insn *insn)
{
    adjust_unpacked(c, -0x106);
}

void op_aam(struct tcpu *c, const struct insn *insn)
{
    unsigned base = insn->imm & 0xff, al = c->s.gpr[RAX] & 0xff;
    if (base == 0)
        cpu_raise(c, VEC_DE, 0);
    gpr_write(c, RAX, 2, false, (al / base) << 8 | al % base);
    set_flags(c, result_flags((uint8_t)(al % base)));
}

void op_aad(struct tcpu *c, const struct insn *insn)
{
    uint64_t ax = c->s.gpr[RAX];
    uint8_t al = (uint8_t)(ax + (ax >> 8 & 0xff) * (insn->imm & 0xff));
    gpr_write(c, RAX, 2, false, al);
    set_flags(c, result_flags(al));
}

// DAA and DAS: sign is +1 or -1.
static void adjust_packed(struct tcpu *c, int sign)
{
    uint8_t before = (uint8_t)c->s.gpr[RAX], al = before;
    bool low = low_digit_overflows(c), high = before > 0x99 || c->s.rflags & FLAG_CF;
    bool borrow = low && sign < 0 && before < 6; // DAS: the low digit's borrow is a carry too
    if (low)
        al = (uint8_t)(al + sign * 6);
    if (high)
        al = (uint8_t)(al + sign * 0x60);
    gpr_write(c, RAX, 1, false, al);
    set_flags(c, result_flags(al) | (low ? FLAG_AF : 0) | (high || borrow ? FLAG_CF : 0));
}

void op_daa(struct tcpu *c, const struct insn *insn)
{
    adjust_packed(c, 1);
}

void op_das(struct tcpu *c, const struct insn *insn)
{
    adjust_packed(c, -1);
}
