// Operands of decoded instructions: effective addresses, registers, memory, immediates.
// Source: Intel SDM volume 1, section 3.7. Vector registers are simd.c's, control registers
// system.c's.
#include "engine/translate/interp_impl.h"

// Register as it takes part in an address: whole; the sum is cut to the address size.
static uint64_t address_part(const struct tcpu *c, unsigned reg)
{
    if (reg == REG_NONE)
        return 0;
    return reg == REG_RIP ? c->s.rip : c->s.gpr[reg & 15];
}

uint64_t insn_offset(const struct tcpu *c, const struct insn *insn)
{
    uint64_t sum = address_part(c, insn->base) + (uint64_t)insn->disp;
    if (insn->index != REG_NONE)
        sum += address_part(c, insn->index) * insn->scale;
    return sum & size_mask(insn->addrsize);
}

gva_t insn_linear(struct tcpu *c, const struct insn *insn, unsigned size, enum access access)
{
    return seg_linear(c, insn->seg, insn_offset(c, insn), size, access);
}

static uint64_t memory_read(struct tcpu *c, const struct insn *insn, unsigned size)
{
    return mem_read(c, insn_linear(c, insn, size, ACCESS_READ), size);
}

uint64_t operand_read_other(struct tcpu *c, const struct insn *insn, unsigned n)
{
    const struct operand *op = &insn->operand[n];
    switch (op->kind) {
    case OPND_MEM: return memory_read(c, insn, op->size);
    case OPND_IMM:
    case OPND_REL: return insn->imm;
    case OPND_IMM2: return insn->imm2;
    case OPND_ONE: return 1;
    case OPND_SEG: return c->s.seg[op->reg].selector;
    default: return 0;
    }
}

void operand_write_memory(struct tcpu *c, const struct insn *insn, unsigned n, uint64_t value)
{
    const struct operand *op = &insn->operand[n];
    if (op->kind == OPND_MEM)
        mem_write(c, insn_linear(c, insn, op->size, ACCESS_WRITE), op->size,
                  value & size_mask(op->size));
}
