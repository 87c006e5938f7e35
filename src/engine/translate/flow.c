// Near control transfers. Source: Intel SDM volume 2. Far ones, and the checks of a target, are
// control.c's: a target that faults is found before RSP or RCX changes.
#include "engine/translate/integer_impl.h"

static uint64_t relative_target(const struct tcpu *c, const struct insn *insn)
{
    return c->s.rip + insn->imm;
}

static uint64_t branch_target(struct tcpu *c, const struct insn *insn)
{
    if (insn->operand[0].kind == OPND_REL)
        return relative_target(c, insn);
    return operand_read(c, insn, 0);
}

void op_jcc(struct tcpu *c, const struct insn *insn)
{
    if (condition_holds(c->s.rflags, insn_condition(insn)))
        jump_near(c, relative_target(c, insn), insn->opsize);
}

void op_jmp_near(struct tcpu *c, const struct insn *insn)
{
    jump_near(c, branch_target(c, insn), insn->opsize);
}

void op_call_near(struct tcpu *c, const struct insn *insn)
{
    uint64_t back = c->s.rip;
    jump_near(c, branch_target(c, insn), insn->opsize);
    stack_push(c, insn->opsize, back); // a fault puts rip back to insn_rip
}

void op_ret_near(struct tcpu *c, const struct insn *insn)
{
    jump_near(c, stack_peek(c, insn->opsize, 0), insn->opsize);
    uint64_t release = insn->operand[0].kind == OPND_IMM ? insn->imm & 0xffff : 0;
    stack_add(c, (int64_t)(insn->opsize + release));
}

static void loop_while(struct tcpu *c, const struct insn *insn, bool condition)
{
    uint64_t count = (c->s.gpr[RCX] - 1) & size_mask(insn->addrsize);
    if (count && condition)
        jump_near(c, relative_target(c, insn), insn->opsize);
    gpr_write(c, RCX, insn->addrsize, false, count);
}

void op_loop(struct tcpu *c, const struct insn *insn)
{
    loop_while(c, insn, true);
}

void op_loope(struct tcpu *c, const struct insn *insn)
{
    loop_while(c, insn, c->s.rflags & FLAG_ZF);
}

void op_loopne(struct tcpu *c, const struct insn *insn)
{
    loop_while(c, insn, !(c->s.rflags & FLAG_ZF));
}

void op_jcxz(struct tcpu *c, const struct insn *insn)
{
    if (!(c->s.gpr[RCX] & size_mask(insn->addrsize)))
        jump_near(c, relative_target(c, insn), insn->opsize);
}
