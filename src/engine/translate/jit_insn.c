// Instructions that run on the host as they are: the same opcode with the registers and the memory
// operand that translated code uses (emit_insn()). Guest registers without a host register pass
// through the temporaries; RCX takes its own number where the instruction names CL, or AH..BH
// forbid REX.
#include "engine/translate/jit_trans.h"

struct plan {
    uint8_t map[16];   // guest register -> host register
    uint8_t flags[16]; // of those named: enum operand_flags, all operands together
    uint8_t size[16];  // of those named: smallest operand
    uint16_t named;    // bit mask of guest registers
    uint16_t moved;    // those of them that have no host register
    bool rcx_itself;   // RCX must be in host RCX
    bool high;
    const struct operand *mem;
};

static bool is_named(const struct plan *p, unsigned r)
{
    return p->named >> r & 1;
}

static void name_register(struct plan *p, const struct trans *t, const struct operand *op)
{
    unsigned r = op->reg & 15u;
    if (!is_named(p, r)) {
        p->flags[r] = 0;
        p->size[r] = UINT8_MAX;
        p->named |= (uint16_t)(1u << r);
        if (host_reg(t, r) == NO_HOST)
            p->moved |= (uint16_t)(1u << r);
    }
    if (op->size < p->size[r])
        p->size[r] = (uint8_t)op->size;
    p->flags[r] |= op->flags;
    p->high |= (op->flags & OPERAND_HIGH) != 0;
    p->rcx_itself |= r == RCX && op->field == FIELD_NONE;
}

static void make_plan(const struct trans *t, const struct insn *in, struct plan *p)
{
    __builtin_memcpy(p->map, t->host, sizeof p->map);
    p->named = p->moved = 0;
    p->rcx_itself = p->high = false;
    p->mem = NULL;
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *op = &in->operand[i];
        if (op->kind == OPND_MEM)
            p->mem = op;
        else if (op->kind == OPND_GPR)
            name_register(p, t, op);
    }
    p->rcx_itself |= p->high && is_named(p, RCX);
}

// Takes the lowest register out of a bit mask.
static unsigned next_register(unsigned *mask)
{
    unsigned r = (unsigned)__builtin_ctz(*mask);
    *mask &= *mask - 1;
    return r;
}

// Gives temporaries to the registers that have none, T2 to the one that is there already. taken:
// bit mask of temporaries in use.
static bool assign_temporaries(struct plan *p, unsigned taken, unsigned kept)
{
    static const uint8_t temporaries[] = {T2, T1, T0};
    if (p->rcx_itself) {
        if (taken & 1u << T0)
            return false;
        p->map[RCX] = T0;
        taken |= 1u << T0;
    }
    if (kept != NO_HOST && is_named(p, kept)) {
        p->map[kept] = T2;
        taken |= 1u << T2;
    }
    for (unsigned left = p->moved; left;) {
        unsigned r = next_register(&left), i = 0;
        if (p->map[r] != NO_HOST)
            continue;
        while (i < ARRAY_LEN(temporaries) && taken & 1u << temporaries[i])
            i++;
        if (i == ARRAY_LEN(temporaries))
            return false;
        p->map[r] = temporaries[i];
        taken |= 1u << temporaries[i];
    }
    return true;
}

// A register that is only partly written keeps the rest, so it has to be loaded too.
static bool needs_load(const struct plan *p, unsigned r)
{
    return p->flags[r] & OPERAND_READ || p->size[r] < 4;
}

static void load_moved(struct trans *t, const struct plan *p)
{
    if (p->rcx_itself && needs_load(p, RCX))
        emit_mov_rr(t->e, 8, T0, host_reg(t, RCX));
    for (unsigned left = p->moved; left;) {
        unsigned r = next_register(&left);
        if (needs_load(p, r) && r != t->kept_before)
            emit_load(t->e, 8, p->map[r], gpr_slot(t, r));
    }
}

static void store_moved(struct trans *t, const struct plan *p)
{
    if (p->rcx_itself && is_named(p, RCX) && p->flags[RCX] & OPERAND_WRITE)
        emit_mov_rr(t->e, 8, host_reg(t, RCX), T0);
    for (unsigned left = p->moved; left;) {
        unsigned r = next_register(&left);
        if (p->flags[r] & OPERAND_WRITE)
            emit_store(t->e, 8, gpr_slot(t, r), p->map[r]);
    }
}

// The next instruction may find in T2 what this one had there. It does not begin after anything
// that can go through C, which would lose that.
static void keep(struct trans *t, const struct plan *p)
{
    for (unsigned left = p->moved; left;) {
        unsigned r = next_register(&left);
        if (p->map[r] == T2)
            t->kept = (uint8_t)r;
    }
}

static bool check_memory(struct trans *t, struct plan *p, struct emit_mem *out, unsigned *taken)
{
    struct address a;
    if (!trans_address(t, t->in, &a) || !p->mem->size)
        return false;
    enum access access = p->mem->flags & OPERAND_WRITE ? ACCESS_WRITE : ACCESS_READ;
    *out = trans_check(t, &a, p->mem->size, access);
    *taken |= 1u << T1;
    if (p->high) { // no REX: the address must be in the one temporary that needs none
        emit_lea(t->e, 8, T0, *out);
        *out = emit_at(T0, 0);
        *taken |= 1u << T0;
    }
    return true;
}

bool trans_is_vector(const struct insn *in)
{
    return insn_form(in)->flags & (FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512);
}

// MOV between a register without a host register and a pinned one, whole: the slot is the operand.
static bool trans_slot_move(struct trans *t)
{
    const struct insn *in = t->in;
    if (in->op != OP_MOV || in->opsize != 8 || in->operand[0].kind != OPND_GPR ||
        in->operand[1].kind != OPND_GPR || (in->opcode != 0x89 && in->opcode != 0x8b))
        return false;
    unsigned dst = in->operand[0].reg, src = in->operand[1].reg;
    if (host_reg(t, dst) == NO_HOST && host_reg(t, src) != NO_HOST)
        emit_store(t->e, 8, gpr_slot(t, dst), host_reg(t, src));
    else if (host_reg(t, dst) != NO_HOST && src == t->kept_before)
        emit_mov_rr(t->e, 8, host_reg(t, dst), T2), t->kept = (uint8_t)src;
    else if (host_reg(t, dst) != NO_HOST && host_reg(t, src) == NO_HOST)
        emit_load(t->e, 8, host_reg(t, dst), gpr_slot(t, src));
    else
        return false;
    return true;
}

// MOV of AH..BH to memory, through a temporary: the general way has no place for both CH and an
// address.
static bool trans_store_high(struct trans *t)
{
    const struct insn *in = t->in;
    struct address a;
    if (in->op != OP_MOV || in->opcode != 0x88 || in->operand[0].kind != OPND_MEM ||
        !(in->operand[1].flags & OPERAND_HIGH) || !t->jit->bmi2 || !trans_address(t, in, &a))
        return false;
    struct emit_mem mem = trans_check(t, &a, 1, ACCESS_WRITE);
    emit_rorx(t->e, 8, T2, host_reg(t, in->operand[1].reg & 15u), 8);
    emit_store(t->e, 1, mem, T2);
    return true;
}

// BT and friends of a quadword in memory with the bit's number in a register.
static bool trans_bit_string(struct trans *t)
{
    const struct insn *in = t->in;
    struct address a;
    bool read = in->op == OP_BT;
    if ((!read && in->op != OP_BTS && in->op != OP_BTR && in->op != OP_BTC) || in->map != MAP_0F ||
        in->opcode == 0xba || in->operand[0].kind != OPND_MEM || in->opsize != 8 ||
        (read && in->prefix & PREFIX_LOCK) || !t->jit->bmi2 || !trans_address(t, in, &a) ||
        a.width != 8)
        return false;
    a.string = true;
    a.bit = in->operand[1].reg;
    struct emit_mem mem = trans_check(t, &a, 8, read ? ACCESS_READ : ACCESS_WRITE);
    unsigned bit = host_reg(t, a.bit);
    if (bit == NO_HOST)
        emit_load(t->e, 8, bit = T0, gpr_slot(t, a.bit));
    if (read) {
        emit_load(t->e, 8, T2, mem);
        emit_op_rr(t->e, 8, 0, MAP_0F, in->opcode, bit, T2);
        return true;
    }
    emit_mov_ri(t->e, T2, 58); // the bit's number in its quadword
    emit_shlx(t->e, 8, T0, bit, T2);
    emit_shrx(t->e, 8, T0, T0, T2);
    if (in->prefix & PREFIX_LOCK)
        emit_u8(t->e, 0xf0);
    emit_op_rm(t->e, 8, 0, MAP_0F, in->opcode, T0, mem);
    return true;
}

bool trans_native(struct trans *t)
{
    const struct insn *in = t->in;
    if (trans_bit_string(t))
        return true;
    if (!trans_allowed(t, in))
        return false;
    if (trans_slot_move(t) || trans_store_high(t))
        return true;
    struct plan p;
    make_plan(t, in, &p);
    struct emit_operands operands = {.gpr = p.map,
                                     .imm_note = trans_imm_moves(t, in) ? NOTE_LINEAR_S32 : 0};
    unsigned taken = t->reserved;
    if (trans_is_vector(in))
        trans_fpu(t);
    if (p.mem && !check_memory(t, &p, &operands.mem, &taken))
        return false;
    if (!assign_temporaries(&p, taken, t->kept_before))
        return false;
    load_moved(t, &p);
    if (!emit_insn(t->e, in, &operands))
        return false;
    store_moved(t, &p);
    if (!p.mem && !trans_is_vector(in) && in->op != OP_DIV && in->op != OP_IDIV)
        keep(t, &p);
    return true;
}

bool trans_lea(struct trans *t)
{
    const struct insn *in = t->in;
    struct address a;
    if (in->op != OP_LEA)
        return false;
    struct insn plain = *in;
    plain.seg = SEG_DS; // LEA ignores it
    if (!trans_address(t, &plain, &a))
        return false;
    unsigned dst = in->operand[0].reg, host = host_reg(t, dst);
    if (in->opsize >= 4 && host != NO_HOST && !a.constant && host_reg(t, a.base & 15) != NO_HOST &&
        (a.index == REG_NONE || host_reg(t, a.index) != NO_HOST)) {
        unsigned base = a.base == REG_NONE ? REG_NONE : host_reg(t, a.base);
        unsigned index = a.index == REG_NONE ? REG_NONE : host_reg(t, a.index);
        struct emit_mem sum = emit_indexed(base, index, a.scale, a.disp);
        sum.note = a.moves ? NOTE_LINEAR_S32 : 0;
        emit_lea(t->e, a.width < in->opsize ? a.width : in->opsize, host, sum);
        return true;
    }
    trans_offset(t, t->e, &a);
    if (in->opsize == 2 && host == NO_HOST) {
        emit_store(t->e, 2, gpr_slot(t, dst), T1);
        return true;
    }
    if (in->opsize == 4)
        emit_mov_rr(t->e, 4, T1, T1);
    if (host == NO_HOST)
        emit_store(t->e, 8, gpr_slot(t, dst), T1);
    else
        emit_mov_rr(t->e, in->opsize, host, T1);
    return true;
}
