// BMI1, BMI2 and ADX: general-register instructions in VEX encoding, and ADCX, ADOX. Source: Intel
// SDM volume 2. VEX has no meaning in real and virtual-8086 mode.
#include "engine/translate/integer_impl.h"

static void require_vex_mode(struct tcpu *c)
{
    if (!(c->mode & MODE_PROTECTED) || c->mode & MODE_V86)
        cpu_raise(c, VEC_UD, 0);
}

// Destination, source, source: AT&T order is the reverse of the operands.
#define THREE(insn, modifier)                                                                    \
    asm volatile(FLAGS_IN insn " %" modifier "[z], %" modifier "[y], %" modifier "[x]" FLAGS_OUT \
                 : "+&a"(ax), [x] "=&r"(x)                                                       \
                 : [y] "r"(y), [z] "r"(z)                                                        \
                 : "cc")
#define TWO(insn, modifier)                                                    \
    asm volatile(FLAGS_IN insn " %" modifier "[y], %" modifier "[x]" FLAGS_OUT \
                 : "+&a"(ax), [x] "+&r"(x)                                     \
                 : [y] "r"(y)                                                  \
                 : "cc")

#define HANDLER3(name, insn_name)                                               \
    void name(struct tcpu *c, const struct insn *insn)                          \
    {                                                                           \
        require_vex_mode(c);                                                    \
        uint64_t x, y = operand_read(c, insn, 1), z = operand_read(c, insn, 2); \
        uint64_t ax = flags_pack(c->s.rflags);                                  \
        if (insn->operand[0].size == 8)                                         \
            THREE(insn_name, "q");                                              \
        else                                                                    \
            THREE(insn_name, "k");                                              \
        operand_write(c, insn, 0, x);                                           \
        c->s.rflags = flags_unpack(c->s.rflags, ax);                            \
    }
#define HANDLER2(name, insn_name, vex)                                       \
    void name(struct tcpu *c, const struct insn *insn)                       \
    {                                                                        \
        if (vex)                                                             \
            require_vex_mode(c);                                             \
        uint64_t x = operand_read(c, insn, 0), y = operand_read(c, insn, 1); \
        uint64_t ax = flags_pack(c->s.rflags);                               \
        if (insn->operand[0].size == 8)                                      \
            TWO(insn_name, "q");                                             \
        else                                                                 \
            TWO(insn_name, "k");                                             \
        operand_write(c, insn, 0, x);                                        \
        c->s.rflags = flags_unpack(c->s.rflags, ax);                         \
    }

HANDLER3(op_andn, "andn")
HANDLER3(op_pdep, "pdep")
HANDLER3(op_pext, "pext")
HANDLER3(op_bextr, "bextr")
HANDLER3(op_bzhi, "bzhi")
HANDLER3(op_sarx, "sarx")
HANDLER3(op_shlx, "shlx")
HANDLER3(op_shrx, "shrx")
HANDLER2(op_blsi, "blsi", true)
HANDLER2(op_blsmsk, "blsmsk", true)
HANDLER2(op_blsr, "blsr", true)
HANDLER2(op_adcx, "adcx", false)
HANDLER2(op_adox, "adox", false)

// Operands: upper half, lower half, source; RDX is the other factor. Upper wins if both are one
// register.
void op_mulx(struct tcpu *c, const struct insn *insn)
{
    require_vex_mode(c);
    unsigned size = insn->operand[0].size;
    uint64_t source = operand_read(c, insn, 2);
    unsigned __int128 product =
        (unsigned __int128)gpr_read(c, RDX, size, false) * (source & size_mask(size));
    operand_write(c, insn, 1, (uint64_t)product);
    operand_write(c, insn, 0, (uint64_t)(product >> (8 * size)));
}

void op_rorx(struct tcpu *c, const struct insn *insn)
{
    require_vex_mode(c);
    unsigned bits = insn->operand[0].size * 8;
    uint64_t value = operand_read(c, insn, 1);
    unsigned count = (unsigned)operand_read(c, insn, 2) & (bits - 1);
    if (count)
        value = value >> count | value << (bits - count);
    operand_write(c, insn, 0, value & size_mask(insn->operand[0].size));
}
