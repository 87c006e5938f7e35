// RDRAND and RDSEED: the host's random numbers, which need not be virtualized. Source: Intel SDM
// volume
// 2. Where the host has run dry, so has the guest (CF clear, destination zero).
#include "engine/translate/integer_impl.h"

#define RANDOM(name, mnemonic)                                                          \
    void name(struct tcpu *c, const struct insn *insn)                                  \
    {                                                                                   \
        uint64_t value;                                                                 \
        bool valid;                                                                     \
        asm volatile(mnemonic " %[value]\n\tsetc %[valid]"                              \
                     : [value] "=r"(value), [valid] "=qm"(valid)                        \
                     :                                                                  \
                     : "cc");                                                           \
        operand_write(c, insn, 0, valid ? value &size_mask(insn->operand[0].size) : 0); \
        c->s.rflags = (c->s.rflags & ~FLAGS_ARITH) | (valid ? FLAG_CF : 0);             \
    }

RANDOM(op_rdrand, "rdrand")
RANDOM(op_rdseed, "rdseed")
