// PUSH, POP and the instructions that build and take down stack frames. Source: Intel SDM volume 2.
// PUSHF and POPF are the system part's.
#include "engine/translate/integer_impl.h"

// Also PUSH of a segment register, which writes the whole slot, zero-extended.
void op_push(struct tcpu *c, const struct insn *insn)
{
    stack_push(c, insn->opsize, operand_read(c, insn, 0));
}

// RSP as it will be once size bytes are popped.
static uint64_t popped_rsp(struct tcpu *c, unsigned size)
{
    uint64_t before = c->s.gpr[RSP];
    stack_add(c, size);
    uint64_t after = c->s.gpr[RSP];
    c->s.gpr[RSP] = before;
    return after;
}

// The width of the stack that was popped from counts, not that of a new SS.
void op_pop_sreg(struct tcpu *c, const struct insn *insn)
{
    unsigned seg = insn->operand[0].reg;
    uint16_t selector = (uint16_t)stack_peek(c, insn->opsize, 0);
    uint64_t rsp = popped_rsp(c, insn->opsize);
    seg_load(c, seg, selector);
    c->s.gpr[RSP] = rsp;
    if (seg == SEG_SS)
        c->s.interrupt_shadow = 2;
}

// A memory destination based on RSP is addressed with the incremented RSP, which stays only if the
// write succeeds.
static void pop_memory(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->opsize;
    uint64_t value = stack_peek(c, size, 0);
    uint64_t before = c->s.gpr[RSP], after = popped_rsp(c, size);
    c->s.gpr[RSP] = after;
    uint64_t offset = insn_offset(c, insn);
    c->s.gpr[RSP] = before;
    mem_write(c, seg_linear(c, insn->seg, offset, size, ACCESS_WRITE), size, value);
    c->s.gpr[RSP] = after;
}

void op_pop(struct tcpu *c, const struct insn *insn)
{
    if (insn->operand[0].kind == OPND_MEM)
        pop_memory(c, insn);
    else
        operand_write(c, insn, 0, stack_pop(c, insn->opsize));
}

static gva_t slot_linear(struct tcpu *c, uint64_t offset, unsigned size, enum access access)
{
    return seg_linear(c, SEG_SS, offset & stack_mask(c), size, access);
}

// All eight stores are checked before the first is made; the pushed RSP is the one before.
void op_pusha(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->opsize;
    uint64_t rsp = c->s.gpr[RSP];
    for (unsigned i = 1; i <= 8; i++)
        mem_probe_write(c, slot_linear(c, rsp - i * size, size, ACCESS_WRITE), size);
    for (unsigned reg = RAX; reg <= RDI; reg++)
        stack_push(c, size, reg == RSP ? rsp : c->s.gpr[reg]);
}

void op_popa(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->opsize;
    uint64_t value[8];
    for (unsigned i = 0; i < 8; i++)
        value[i] = stack_peek(c, size, i * size);
    for (unsigned i = 0; i < 8; i++)
        if (RDI - i != RSP)
            gpr_write(c, RDI - i, size, false, value[i]);
    stack_add(c, 8 * size);
}

// Registers change only at the end: the frame is built through a copy of RSP. Below the saved RBP
// go the pointers of the enclosing frames, then that of the new one. The new top of stack must be
// writable.
void op_enter(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->opsize, level = (unsigned)insn->imm2 & 31;
    uint64_t rsp = c->s.gpr[RSP] - size, frame = rsp;
    mem_write(c, slot_linear(c, rsp, size, ACCESS_WRITE), size, gpr_read(c, RBP, size, false));
    for (unsigned i = 1; i < level; i++) {
        uint64_t from = c->s.gpr[RBP] - i * size;
        uint64_t pointer = mem_read(c, slot_linear(c, from, size, ACCESS_READ), size);
        rsp -= size;
        mem_write(c, slot_linear(c, rsp, size, ACCESS_WRITE), size, pointer);
    }
    if (level) {
        rsp -= size;
        mem_write(c, slot_linear(c, rsp, size, ACCESS_WRITE), size, frame & size_mask(size));
    }
    rsp -= insn->imm & 0xffff;
    mem_probe_write(c, slot_linear(c, rsp, size, ACCESS_WRITE), size);
    stack_add(c, (int64_t)(rsp - c->s.gpr[RSP]));
    gpr_write(c, RBP, size, false, frame & size_mask(size));
}

void op_leave(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->opsize;
    uint64_t frame = c->s.gpr[RBP];
    uint64_t rbp = mem_read(c, slot_linear(c, frame, size, ACCESS_READ), size);
    stack_add(c, (int64_t)(frame + size - c->s.gpr[RSP]));
    gpr_write(c, RBP, size, false, rbp);
}
