// PUSH, POP, PUSHF, POPF, LEAVE. The stack pointer changes after the access; segments are flat
// here.
#include "engine/translate/jit_trans.h"

static int32_t width(const struct trans *t)
{
    return t->code64 ? 8 : 4;
}

static void move_rsp(struct trans *t, int32_t bytes)
{
    unsigned rsp = host_reg(t, RSP);
    emit_lea(t->e, (unsigned)width(t), rsp, emit_at(rsp, bytes));
}

static struct emit_mem check_push(struct trans *t)
{
    struct address a = trans_stack_address(t, -width(t));
    return trans_check(t, &a, (unsigned)width(t), ACCESS_WRITE);
}

void trans_push_reg(struct trans *t, unsigned host)
{
    struct emit_mem mem = check_push(t);
    emit_store(t->e, (unsigned)width(t), mem, host);
    move_rsp(t, -width(t));
}

static bool fits_store(const struct trans *t, uint64_t value)
{
    return !t->code64 || (int64_t)value == (int32_t)value;
}

static void push_imm(struct trans *t)
{
    uint64_t value = t->in->imm;
    struct emit_mem mem = check_push(t);
    if (fits_store(t, value)) {
        emit_store_i(t->e, (unsigned)width(t), mem, (int32_t)value);
        if (trans_imm_moves(t, t->in))
            emit_note(t->e, NOTE_LINEAR_S32, 4);
    } else {
        emit_mov_ri(t->e, T2, value);
        emit_store(t->e, 8, mem, T2);
    }
    move_rsp(t, -width(t));
}

void trans_push_next(struct trans *t)
{
    struct emit_mem mem = check_push(t);
    if (fits_store(t, t->next)) {
        emit_store_i(t->e, (unsigned)width(t), mem, (int32_t)t->next);
        emit_note(t->e, t->code64 ? NOTE_LINEAR_S32 : NOTE_LINEAR_U32, 4);
    } else {
        trans_load_linear(t->e, T2, t->next);
        emit_store(t->e, 8, mem, T2);
    }
    move_rsp(t, -width(t));
}

static void push_slot(struct trans *t, struct emit_mem slot)
{
    struct emit_mem mem = check_push(t);
    emit_load(t->e, 8, T2, slot);
    emit_store(t->e, (unsigned)width(t), mem, T2);
    move_rsp(t, -width(t));
}

static bool push_memory(struct trans *t)
{
    struct address a;
    if (!trans_address(t, t->in, &a))
        return false;
    struct emit_mem mem = trans_check(t, &a, (unsigned)width(t), ACCESS_READ);
    emit_load(t->e, (unsigned)width(t), T2, mem);
    emit_store(t->e, 8, GS(hot.spill), T2); // the second check may go through C
    push_slot(t, GS(hot.spill));
    return true;
}

static bool trans_push(struct trans *t)
{
    const struct operand *op = &t->in->operand[0];
    if (op->kind == OPND_IMM)
        push_imm(t);
    else if (op->kind == OPND_MEM)
        return push_memory(t);
    else if (op->kind != OPND_GPR)
        return false;
    else if (host_reg(t, op->reg) == NO_HOST)
        push_slot(t, gpr_slot(t, op->reg));
    else
        trans_push_reg(t, host_reg(t, op->reg));
    return true;
}

static bool trans_pop(struct trans *t)
{
    const struct operand *op = &t->in->operand[0];
    unsigned size = (unsigned)width(t);
    if (op->kind != OPND_GPR)
        return false;
    struct address a = trans_stack_address(t, 0);
    struct emit_mem mem = trans_check(t, &a, size, ACCESS_READ);
    unsigned host = host_reg(t, op->reg);
    emit_load(t->e, size, host == NO_HOST ? T2 : host, mem);
    if (host == NO_HOST)
        emit_store(t->e, 8, gpr_slot(t, op->reg), T2);
    if (op->reg != RSP)
        move_rsp(t, width(t));
    return true;
}

// The host's arithmetic flags and the guest's others. In the host's low 16 bits of RFLAGS nothing
// else is set than bit 1 and IF.
static void trans_pushf(struct trans *t)
{
    struct emit_mem mem = check_push(t);
    emit_u8(t->e, 0x9c); // pushf
    emit_pop(t->e, T2);
    emit_movzx(t->e, T2, T2, 2);
    emit_load(t->e, 4, T0, GS(s.rflags));
    emit_lea(t->e, 4, T2, emit_indexed(T0, T2, 1, -(int32_t)(FLAG_IF | FLAG_FIXED)));
    emit_store(t->e, (unsigned)width(t), mem, T2);
    move_rsp(t, -width(t));
}

// Arithmetic flags from T2 into the host's: 127 + OF overflows exactly when OF is one.
static void load_flags(struct emit *e)
{
    emit_mov_rr(e, 8, T1, RAX);
    emit_mov_rr(e, 4, RAX, T2);
    emit_mov_rr(e, 4, T0, T2);
    emit_shift_ri(e, SHIFT_SHR, 4, T0, 11);
    emit_alu_ri(e, ALU_AND, 4, T0, 1);
    emit_bytes(e, "\x88\xc4", 2); // mov ah, al
    emit_alu_ri(e, ALU_ADD, 1, T0, 127);
    emit_u8(e, 0x9e); // sahf
    emit_mov_rr(e, 8, RAX, T1);
}

// Where only arithmetic flags, DF and IF change, as kernels do it to bring IF back. All else that
// POPF may change here is the interpreter's, and so is setting IF with an interrupt waiting.
static void trans_popf(struct trans *t)
{
    struct emit *e = t->e;
    bool may_mask = t->c->mode & (MODE_CPL0 | MODE_IOPL_OK);
    uint32_t kept = FLAG_TF | FLAG_NT | FLAG_AC | FLAG_ID;
    kept |= t->c->mode & MODE_CPL0 ? FLAG_IOPL : 0;
    struct address a = trans_stack_address(t, 0);
    struct emit_mem mem = trans_check(t, &a, (unsigned)width(t), ACCESS_READ);
    const void *step = trans_stub(t, GATE_STEP, trans_site(t, ACCESS_READ, 0));
    emit_load(e, 4, T2, mem);
    emit_mov_rr(e, 4, T0, T2);
    emit_alu_rm(e, ALU_XOR, 4, T0, GS(s.rflags));
    emit_test_ri(e, 4, T0, (int32_t)kept);
    emit_jcc_to(e, COND_NE, step);
    if (may_mask) {
        emit_test_ri(e, 4, T2, FLAG_IF);
        uint8_t *masked = emit_jcc(e, COND_E);
        emit_alu_mi(e, ALU_CMP, 4, GS(intr_level), 0);
        emit_jcc_to(e, COND_NE, step);
        emit_land(e, masked);
    }
    emit_alu_ri(e, ALU_AND, 4, T0, (int32_t)(FLAG_DF | (may_mask ? FLAG_IF : 0)));
    emit_alu_mr(e, ALU_XOR, 4, GS(s.rflags), T0);
    move_rsp(t, width(t));
    load_flags(e);
}

static void trans_leave(struct trans *t)
{
    unsigned size = (unsigned)width(t);
    struct address a = trans_stack_address(t, 0);
    a.base = RBP;
    struct emit_mem mem = trans_check(t, &a, size, ACCESS_READ);
    emit_load(t->e, size, T2, mem);
    emit_lea(t->e, size, host_reg(t, RSP), emit_at(RBP, width(t)));
    emit_mov_rr(t->e, 8, RBP, T2);
}

bool trans_stack(struct trans *t)
{
    const struct insn *in = t->in;
    if (in->opsize != width(t) || in->prefix & PREFIX_LOCK)
        return false;
    switch (in->op) {
    case OP_PUSH: return trans_push(t);
    case OP_POP: return trans_pop(t);
    case OP_PUSHF: trans_pushf(t); return true;
    case OP_POPF: trans_popf(t); return true;
    case OP_LEAVE: trans_leave(t); return true;
    default: return false;
    }
}
