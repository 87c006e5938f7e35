// Shifts and rotates. Source: Intel SDM volume 2. The host masks the count and leaves or changes
// the flags by it just as the guest's CPU would.
#include "engine/translate/integer_impl.h"

#define SHIFT(insn, suffix, modifier)                                     \
    asm volatile(FLAGS_IN insn suffix " %%cl, %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+q"(a)                                 \
                 : "c"(m->with)                                           \
                 : "cc")
#define DOUBLE(insn, suffix, modifier)                                                      \
    asm volatile(FLAGS_IN insn suffix " %%cl, %" modifier "[b], %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+r"(a)                                                   \
                 : [b] "r"(m->accumulator), "c"(m->with)                                    \
                 : "cc")

#define COMPUTE(name, insn)                                           \
    static uint64_t name(struct modify *m, unsigned size, uint64_t a) \
    {                                                                 \
        uint64_t ax = flags_pack(m->flags);                           \
        switch (size) {                                               \
        case 1: SHIFT(insn, "b", "b"); break;                         \
        case 2: SHIFT(insn, "w", "w"); break;                         \
        case 4: SHIFT(insn, "l", "k"); break;                         \
        default: SHIFT(insn, "q", "q"); break;                        \
        }                                                             \
        m->flags = flags_unpack(m->flags, ax);                        \
        return a;                                                     \
    }

COMPUTE(do_rol, "rol")
COMPUTE(do_ror, "ror")
COMPUTE(do_rcl, "rcl")
COMPUTE(do_rcr, "rcr")
COMPUTE(do_shl, "shl")
COMPUTE(do_shr, "shr")
COMPUTE(do_sar, "sar")
MODIFY_WORDS(do_shld, "shld", DOUBLE)
MODIFY_WORDS(do_shrd, "shrd", DOUBLE)

static void shift(struct tcpu *c, const struct insn *insn, modify_fn *fn)
{
    struct modify m = modify_init(c, insn, fn, operand_read(c, insn, 1) & 0xff);
    operand_modify(c, insn, 0, &m);
}

// Operands: destination, register that supplies the bits, count.
static void shift_double(struct tcpu *c, const struct insn *insn, modify_fn *fn)
{
    struct modify m = modify_init(c, insn, fn, operand_read(c, insn, 2) & 0xff);
    m.accumulator = operand_read(c, insn, 1);
    operand_modify(c, insn, 0, &m);
}

#define HANDLER(name, shape, fn)                       \
    void name(struct tcpu *c, const struct insn *insn) \
    {                                                  \
        shape(c, insn, fn);                            \
    }

HANDLER(op_rol, shift, do_rol)
HANDLER(op_ror, shift, do_ror)
HANDLER(op_rcl, shift, do_rcl)
HANDLER(op_rcr, shift, do_rcr)
HANDLER(op_shl, shift, do_shl)
HANDLER(op_shr, shift, do_shr)
HANDLER(op_sar, shift, do_sar)
HANDLER(op_shld, shift_double, do_shld)
HANDLER(op_shrd, shift_double, do_shrd)
