// Data movement between registers and memory that needs no atomicity, and single-byte oddities.
// Source: Intel SDM volume 2.
#include "engine/translate/integer_impl.h"

void op_mov(struct tcpu *c,
            const struct insn *insn) // MOV, MOVZX (operand_read zero-extends), MOVNTI
{
    operand_write(c, insn, 0, operand_read(c, insn, 1));
}

void op_movsx(struct tcpu *c, const struct insn *insn) // MOVSX, MOVSXD
{
    uint64_t value = sign_extend(operand_read(c, insn, 1), insn->operand[1].size);
    operand_write(c, insn, 0, value & size_mask(insn->operand[0].size));
}

void op_lea(struct tcpu *c, const struct insn *insn)
{
    operand_write(c, insn, 0, insn_offset(c, insn));
}

// The result of BSWAP on 16 bits is undefined; processors clear the register.
void op_bswap(struct tcpu *c, const struct insn *insn)
{
    uint64_t value =
        __builtin_bswap64(operand_read(c, insn, 0)) >> (64 - 8 * insn->operand[0].size);
    operand_write(c, insn, 0, insn->operand[0].size == 2 ? 0 : value);
}

void op_movbe(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->operand[0].size;
    operand_write(c, insn, 0, __builtin_bswap64(operand_read(c, insn, 1)) >> (64 - 8 * size));
}

// The source is read, and the upper half of a 32-bit destination cleared, whatever the condition.
void op_cmov(struct tcpu *c, const struct insn *insn)
{
    uint64_t value = operand_read(c, insn, 1);
    if (!condition_holds(c->s.rflags, insn_condition(insn)))
        value = operand_read(c, insn, 0);
    operand_write(c, insn, 0, value);
}

void op_setcc(struct tcpu *c, const struct insn *insn)
{
    operand_write(c, insn, 0, condition_holds(c->s.rflags, insn_condition(insn)));
}

void op_xlat(struct tcpu *c, const struct insn *insn)
{
    uint64_t offset = (c->s.gpr[RBX] + (c->s.gpr[RAX] & 0xff)) & size_mask(insn->addrsize);
    gva_t at = seg_linear(c, insn->seg, offset, 1, ACCESS_READ);
    gpr_write(c, RAX, 1, false, mem_read(c, at, 1));
}

void op_salc(struct tcpu *c, const struct insn *insn)
{
    gpr_write(c, RAX, 1, false, c->s.rflags & FLAG_CF ? 0xff : 0);
}

#define LAHF_FLAGS (FLAGS_ARITH & 0xff)

void op_lahf(struct tcpu *c, const struct insn *insn)
{
    gpr_write(c, RAX, 1, true, (c->s.rflags & LAHF_FLAGS) | FLAG_FIXED);
}

void op_sahf(struct tcpu *c, const struct insn *insn)
{
    c->s.rflags = (c->s.rflags & ~LAHF_FLAGS) | (gpr_read(c, RAX, 1, true) & LAHF_FLAGS);
}

void op_nop(struct tcpu *c,
            const struct insn *insn) // NOP, ENDBR, PREFETCH: hints that never fault
{
}

// CLFLUSH, CLFLUSHOPT, CLWB: fault as a byte read does; the host's caches are coherent without
// them.
void op_touch(struct tcpu *c, const struct insn *insn)
{
    mem_probe_read(c, insn_linear(c, insn, 1, ACCESS_READ), 1);
}

void op_fence(struct tcpu *c, const struct insn *insn) // MFENCE, LFENCE, SFENCE
{
    asm volatile("mfence" : : : "memory");
}
