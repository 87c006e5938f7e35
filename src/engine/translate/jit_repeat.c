// Fixed code for repeated MOVS and STOS: translated 64-bit code calls it with the site in T0, and
// it returns with the instruction done. It does what lies in one page of source and destination
// that the inline TLB knows, forwards; all else, and a count of zero, it hands on to GATE_STRING.
// The arithmetic flags stay as they are, so that it need not be known whether they live.
#include "engine/translate/jit_impl.h"

// What is kept in hot.repeat meanwhile.
enum kept { KEPT_SITE, KEPT_REGISTER, KEPT_DEST, KEPT_SOURCE };

struct repeat {
    struct emit *e;
    unsigned user;
    unsigned size;
    unsigned spare; // a guest register that the instruction does not need, kept in memory
};

static struct emit_mem kept(enum kept what)
{
    return emit_gs(offsetof(struct tcpu, hot.repeat) + what * sizeof(uint64_t));
}

static struct emit_mem tlb_at_t0(unsigned user, size_t array)
{
    size_t at = offsetof(struct tcpu, tlb) + user * sizeof(struct tlb) + array;
    return (struct emit_mem){
        .base = REG_NONE, .index = T0, .scale = 8, .gs = true, .disp = (int32_t)at};
}

// Adds to T1 how many pages above zero a value is: T1 stays zero if none is too large.
static void add_pages(const struct repeat *r, unsigned value)
{
    emit_shrx(r->e, 8, T0, value, r->spare);
    emit_lea(r->e, 8, T1, emit_indexed(T1, T0, 1, 0));
}

// Looks up the page of the address, and whether all elements end in it.
static void check(const struct repeat *r, unsigned address, size_t tag, enum kept addend)
{
    struct emit *e = r->e;
    emit_rorx(e, 4, T0, address, PAGE_SHIFT);
    emit_movzx(e, T0, T0, TLB_BITS / 8);
    emit_load(e, 8, T2, tlb_at_t0(r->user, tag));
    emit_op_rr(e, 8, 0, MAP_ONE, 0xf7, 2, T2); // not: -tag - 1
    emit_lea(e, 8, T2, emit_indexed(address, T2, 1, 1));
    emit_load(e, 8, T0, tlb_at_t0(r->user, offsetof(struct tlb, addend)));
    emit_store(e, 8, kept(addend), T0);
    add_pages(r, T2);
    emit_lea(e, 8, T2, emit_indexed(T2, R11, r->size, -1));
    add_pages(r, T2);
}

// Zero in T0 if DF is clear.
static void check_direction(const struct repeat *r)
{
    emit_load(r->e, 4, T0, emit_gs(offsetof(struct tcpu, s.rflags)));
    emit_rorx(r->e, 4, T0, T0, 11); // DF, bit 10, comes to the top
    emit_mov_ri(r->e, r->spare, 31);
    emit_shrx(r->e, 4, T0, T0, r->spare);
}

static void unless_zero(struct emit *e, const void *target)
{
    uint8_t *zero = emit_jrcxz(e);
    emit_jmp_to(e, target);
    emit_land_short(e, zero);
}

static void to_host(struct emit *e, unsigned reg, unsigned addend, enum kept where)
{
    emit_load(e, 8, addend, kept(where));
    emit_lea(e, 8, reg, emit_indexed(reg, addend, 1, 0));
}

static void to_guest(struct emit *e, unsigned reg, unsigned addend)
{
    emit_op_rr(e, 8, 0, MAP_ONE, 0xf7, 2, addend); // not
    emit_lea(e, 8, reg, emit_indexed(reg, addend, 1, 1));
}

static void run(const struct repeat *r, bool movs)
{
    struct emit *e = r->e;
    to_host(e, RDI, T1, KEPT_DEST);
    if (movs)
        to_host(e, RSI, T2, KEPT_SOURCE);
    emit_mov_rr(e, 8, RCX, R11);
    emit_u8(e, 0xf3);
    if (r->size == 8)
        emit_u8(e, 0x48);
    emit_u8(e, (movs ? 0xa4 : 0xaa) | (r->size > 1));
    to_guest(e, RDI, T1);
    if (movs)
        to_guest(e, RSI, T2);
    emit_load(e, 8, r->spare, kept(KEPT_REGISTER));
    emit_mov_ri(e, R11, 0);
    emit_ret(e);
}

// The way to GATE_STRING, without a return.
static const void *emit_refusal(const struct jit *jit, const struct repeat *r)
{
    const void *at = emit_exec(r->e);
    emit_load(r->e, 8, r->spare, kept(KEPT_REGISTER));
    emit_load(r->e, 4, T0, kept(KEPT_SITE));
    emit_lea(r->e, 8, RSP, emit_at(RSP, 8));
    emit_jmp_to(r->e, jit->gate[GATE_STRING]);
    return at;
}

static const void *emit_repeat(const struct jit *jit, const struct repeat *r, bool movs)
{
    struct emit *e = r->e;
    const void *refusal = emit_refusal(jit, r), *start = emit_exec(e);
    emit_store(e, 4, kept(KEPT_SITE), T0);
    emit_store(e, 8, kept(KEPT_REGISTER), r->spare);
    check_direction(r);
    unless_zero(e, refusal);
    emit_mov_ri(e, r->spare, PAGE_SHIFT);
    emit_lea(e, 8, T2, emit_at(R11, -1));
    emit_shrx(e, 8, T1, T2, r->spare);
    check(r, RDI, offsetof(struct tlb, write), KEPT_DEST);
    if (movs)
        check(r, RSI, offsetof(struct tlb, read), KEPT_SOURCE);
    emit_mov_rr(e, 8, T0, T1);
    unless_zero(e, refusal);
    run(r, movs);
    return start;
}

void jit_emit_repeats(struct jit *jit)
{
    for (unsigned user = 0; user < 2; user++)
        for (unsigned size = 1; size <= 8; size *= 2) {
            struct repeat r = {.e = &jit->hot, .user = user, .size = size};
            if (size == 2)
                continue;
            r.spare = RSI;
            jit->repeat[user][SITE_STOS][size / 4] = emit_repeat(jit, &r, false);
            r.spare = RAX;
            jit->repeat[user][SITE_MOVS][size / 4] = emit_repeat(jit, &r, true);
        }
}
