// Near jumps, calls and returns. A conditional branch forward is a way out in the middle of a
// block; everything else here ends it.
#include "engine/translate/jit_trans.h"

static unsigned width(const struct trans *t)
{
    return t->code64 ? 8 : 4;
}

// The target of a relative branch; false when the branch would fault.
static bool relative_target(const struct trans *t, uint64_t *target)
{
    *target = t->next + t->in->imm;
    if (!t->code64)
        *target = (uint32_t)*target;
    return !t->code64 || (uint64_t)((int64_t)(*target << 16) >> 16) == *target;
}

static bool trans_jcc(struct trans *t)
{
    uint64_t target;
    if (!relative_target(t, &target))
        return false;
    trans_jump_if(t, (enum condition)insn_condition(t->in), target);
    return true;
}

// Jumps to the target when T0 is zero or, inverted, when it is not.
static void jump_on_t0(struct trans *t, bool when_zero, uint64_t target)
{
    uint8_t *zero = emit_jrcxz(t->e);
    if (when_zero) {
        uint8_t *past = emit_jmp(t->e);
        emit_land_short(t->e, zero);
        trans_jump(t, target);
        emit_land(t->e, past);
    } else {
        trans_jump(t, target);
        emit_land_short(t->e, zero);
    }
}

static bool trans_jcxz(struct trans *t)
{
    uint64_t target;
    if (t->in->addrsize == 2 || !relative_target(t, &target))
        return false;
    emit_mov_rr(t->e, t->in->addrsize, T0, host_reg(t, RCX));
    jump_on_t0(t, true, target);
    return true;
}

static bool trans_loop(struct trans *t)
{
    uint64_t target;
    if (t->in->addrsize == 2 || !relative_target(t, &target))
        return false;
    unsigned rcx = host_reg(t, RCX);
    emit_lea(t->e, t->in->addrsize, rcx, emit_at(rcx, -1));
    emit_mov_rr(t->e, 8, T0, rcx);
    jump_on_t0(t, false, target);
    return true;
}

// The target operand of an indirect branch into T1.
static bool load_target(struct trans *t)
{
    const struct operand *op = &t->in->operand[0];
    if (op->kind == OPND_GPR && host_reg(t, op->reg) == NO_HOST) {
        emit_load(t->e, width(t), T1, gpr_slot(t, op->reg));
    } else if (op->kind == OPND_GPR) {
        emit_mov_rr(t->e, width(t), T1, host_reg(t, op->reg));
    } else {
        struct address a;
        if (op->kind != OPND_MEM || !trans_address(t, t->in, &a))
            return false;
        struct emit_mem mem = trans_check(t, &a, width(t), ACCESS_READ);
        emit_load(t->e, width(t), T1, mem);
    }
    return true;
}

static bool trans_jmp(struct trans *t)
{
    uint64_t target;
    if (t->in->operand[0].kind == OPND_REL) {
        if (!relative_target(t, &target))
            return false;
        trans_jump(t, target);
    } else {
        if (!load_target(t))
            return false;
        trans_indirect(t, 0, false);
    }
    t->ended = true;
    return true;
}

static bool trans_call(struct trans *t)
{
    uint64_t target;
    if (t->in->operand[0].kind == OPND_REL) {
        if (!relative_target(t, &target))
            return false;
        trans_push_next(t);
        trans_call_to(t, target);
    } else {
        if (!load_target(t))
            return false;
        emit_store(t->e, 8, GS(hot.spill), T1); // pushing may go through C
        trans_push_next(t);
        emit_load(t->e, 8, T1, GS(hot.spill));
        trans_indirect(t, -(int)width(t), true);
    }
    t->ended = true;
    return true;
}

static bool trans_ret(struct trans *t)
{
    struct address a = trans_stack_address(t, 0);
    unsigned extra = t->in->operand[0].kind == OPND_IMM ? (uint16_t)t->in->imm : 0;
    if (extra > 4096)
        return false;
    struct emit_mem mem = trans_check(t, &a, width(t), ACCESS_READ);
    emit_load(t->e, width(t), T1, mem);
    unsigned rsp = host_reg(t, RSP);
    emit_lea(t->e, width(t), rsp, emit_at(rsp, (int32_t)(width(t) + extra)));
    trans_return(t, (int)(width(t) + extra));
    t->ended = true;
    return true;
}

bool trans_branch(struct trans *t)
{
    const struct insn *in = t->in;
    if (in->opsize != width(t) || in->prefix & PREFIX_LOCK)
        return false;
    switch (in->op) {
    case OP_JCC: return trans_jcc(t);
    case OP_JCXZ: return trans_jcxz(t);
    case OP_LOOP: return trans_loop(t);
    case OP_JMP_NEAR: return trans_jmp(t);
    case OP_CALL_NEAR: return trans_call(t);
    case OP_RET_NEAR: return trans_ret(t);
    default: return false;
    }
}
