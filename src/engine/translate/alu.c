// Two-operand and one-operand arithmetic and logic, and the flag instructions. Source: Intel SDM
// volume 2. Results and flags are the host's own (integer_impl.h).
#include "engine/translate/integer_impl.h"

#define ONE(insn, suffix, modifier)                                 \
    asm volatile(FLAGS_IN insn suffix " %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+q"(a)                           \
                 :                                                  \
                 : "cc")
#define TWO(insn, suffix, modifier)                                                   \
    asm volatile(FLAGS_IN insn suffix " %" modifier "[b], %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+q"(a)                                             \
                 : [b] "q"(m->with)                                                   \
                 : "cc")

// Defines a modify_fn that runs the host instruction in the operand's size.
#define COMPUTE(name, shape, insn)                                    \
    static uint64_t name(struct modify *m, unsigned size, uint64_t a) \
    {                                                                 \
        uint64_t ax = flags_pack(m->flags);                           \
        switch (size) {                                               \
        case 1: shape(insn, "b", "b"); break;                         \
        case 2: shape(insn, "w", "w"); break;                         \
        case 4: shape(insn, "l", "k"); break;                         \
        default: shape(insn, "q", "q"); break;                        \
        }                                                             \
        m->flags = flags_unpack(m->flags, ax);                        \
        return a;                                                     \
    }

COMPUTE(do_add, TWO, "add")
COMPUTE(do_or, TWO, "or")
COMPUTE(do_adc, TWO, "adc")
COMPUTE(do_sbb, TWO, "sbb")
COMPUTE(do_and, TWO, "and")
COMPUTE(do_sub, TWO, "sub")
COMPUTE(do_xor, TWO, "xor")
COMPUTE(do_cmp, TWO, "cmp")
COMPUTE(do_test, TWO, "test")
COMPUTE(do_inc, ONE, "inc")
COMPUTE(do_dec, ONE, "dec")
COMPUTE(do_neg, ONE, "neg")
COMPUTE(do_not, ONE, "not")

static void modify_with_second(struct tcpu *c, const struct insn *insn, modify_fn *fn)
{
    struct modify m = modify_init(c, insn, fn, operand_read(c, insn, 1));
    operand_modify(c, insn, 0, &m);
}

static void modify_alone(struct tcpu *c, const struct insn *insn, modify_fn *fn)
{
    struct modify m = modify_init(c, insn, fn, 0);
    operand_modify(c, insn, 0, &m);
}

static void compare_with_second(struct tcpu *c, const struct insn *insn, modify_fn *fn)
{
    uint64_t a = operand_read(c, insn, 0);
    struct modify m = modify_init(c, insn, fn, operand_read(c, insn, 1));
    fn(&m, insn->operand[0].size, a);
    c->s.rflags = m.flags;
}

#define HANDLER(name, shape, fn)                       \
    void name(struct tcpu *c, const struct insn *insn) \
    {                                                  \
        shape(c, insn, fn);                            \
    }

HANDLER(op_add, modify_with_second, do_add)
HANDLER(op_or, modify_with_second, do_or)
HANDLER(op_adc, modify_with_second, do_adc)
HANDLER(op_sbb, modify_with_second, do_sbb)
HANDLER(op_and, modify_with_second, do_and)
HANDLER(op_sub, modify_with_second, do_sub)
HANDLER(op_xor, modify_with_second, do_xor)
HANDLER(op_cmp, compare_with_second, do_cmp)
HANDLER(op_test, compare_with_second, do_test)
HANDLER(op_inc, modify_alone, do_inc)
HANDLER(op_dec, modify_alone, do_dec)
HANDLER(op_neg, modify_alone, do_neg)
HANDLER(op_not, modify_alone, do_not)

void op_clc(struct tcpu *c, const struct insn *insn)
{
    c->s.rflags &= ~FLAG_CF;
}

void op_stc(struct tcpu *c, const struct insn *insn)
{
    c->s.rflags |= FLAG_CF;
}

void op_cmc(struct tcpu *c, const struct insn *insn)
{
    c->s.rflags ^= FLAG_CF;
}

void op_cld(struct tcpu *c, const struct insn *insn)
{
    c->s.rflags &= ~FLAG_DF;
}

void op_std(struct tcpu *c, const struct insn *insn)
{
    c->s.rflags |= FLAG_DF;
}
