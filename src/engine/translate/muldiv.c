// Multiplication, division and the sign extensions that go with them. Source: Intel SDM volume 2.
// The host's own instructions compute; what would make one fault (#DE) is found before it runs.
#include "engine/translate/integer_impl.h"

struct wide { // rdx:rax, or ah:al in byte form
    uint64_t low, high;
};

// One-operand forms. RAX is both the flags' way and an operand, hence the moves, which change no
// flags.
#define WIDE(insn, suffix, modifier)                                        \
    asm volatile(FLAGS_IN "mov %[low], %%rax\n\t" insn suffix " %" modifier \
                          "[b]\n\tmov %%rax, %[low]" FLAGS_OUT              \
                 : "+&a"(ax), [low] "+r"(v.low), "+d"(v.high)               \
                 : [b] "r"(b)                                               \
                 : "cc")

#define COMPUTE(name, insn)                                                             \
    static struct wide name(unsigned size, struct wide v, uint64_t b, uint64_t *rflags) \
    {                                                                                   \
        uint64_t ax = flags_pack(*rflags);                                              \
        switch (size) {                                                                 \
        case 1: WIDE(insn, "b", "b"); break;                                            \
        case 2: WIDE(insn, "w", "w"); break;                                            \
        case 4: WIDE(insn, "l", "k"); break;                                            \
        default: WIDE(insn, "q", "q"); break;                                           \
        }                                                                               \
        *rflags = flags_unpack(*rflags, ax);                                            \
        return v;                                                                       \
    }

COMPUTE(do_mul, "mul")
COMPUTE(do_imul, "imul")
COMPUTE(do_div, "div")
COMPUTE(do_idiv, "idiv")

typedef struct wide wide_fn(unsigned size, struct wide v, uint64_t b, uint64_t *rflags);

// Runs fn on rdx:rax and commits. The host registers hold what the guest's do, so what a size
// leaves alone stays, and 4-byte results come zero-extended.
static void run_wide(struct tcpu *c, unsigned size, uint64_t b, wide_fn *fn)
{
    struct wide v = {c->s.gpr[RAX], c->s.gpr[RDX]};
    v = fn(size, v, b, &c->s.rflags);
    c->s.gpr[RAX] = v.low;
    c->s.gpr[RDX] = v.high;
}

void op_mul(struct tcpu *c, const struct insn *insn)
{
    run_wide(c, insn->operand[0].size, operand_read(c, insn, 0), do_mul);
}

#define IMUL(suffix, modifier)                                                          \
    asm volatile(FLAGS_IN "imul" suffix " %" modifier "[b], %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+r"(a)                                               \
                 : [b] "r"(b)                                                           \
                 : "cc")

static uint64_t imul_truncating(unsigned size, uint64_t a, uint64_t b, uint64_t *rflags)
{
    uint64_t ax = flags_pack(*rflags);
    switch (size) {
    case 2: IMUL("w", "w"); break;
    case 4: IMUL("l", "k"); break;
    default: IMUL("q", "q"); break;
    }
    *rflags = flags_unpack(*rflags, ax);
    return a;
}

void op_imul(struct tcpu *c, const struct insn *insn)
{
    bool one = insn->map == MAP_ONE && (insn->opcode & 0xfe) == 0xf6;
    if (one) {
        run_wide(c, insn->operand[0].size, operand_read(c, insn, 0), do_imul);
        return;
    }
    bool three = insn->map == MAP_ONE; // 69, 6b: destination, source, immediate
    uint64_t a = operand_read(c, insn, three ? 2 : 0);
    uint64_t b = operand_read(c, insn, 1);
    uint64_t product = imul_truncating(insn->operand[0].size, a, b, &c->s.rflags);
    operand_write(c, insn, 0, product);
}

// The dividend as one number: ax, dx:ax, edx:eax or rdx:rax.
static unsigned __int128 dividend(const struct tcpu *c, unsigned size)
{
    if (size == 1)
        return c->s.gpr[RAX] & 0xffff;
    uint64_t mask = size_mask(size);
    return (unsigned __int128)(c->s.gpr[RDX] & mask) << (8 * size) | (c->s.gpr[RAX] & mask);
}

void op_div(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t divisor = operand_read(c, insn, 0);
    // The quotient fits exactly when the dividend's upper half is below the divisor.
    if ((uint64_t)(dividend(c, size) >> (8 * size)) >= divisor)
        cpu_raise(c, VEC_DE, 0);
    run_wide(c, size, divisor, do_div);
}

// True when the signed quotient is representable in size bytes. Works on magnitudes: the most
// negative quotient has one more than the most positive.
static bool signed_quotient_fits(unsigned __int128 value, uint64_t divisor, unsigned size)
{
    unsigned bits = 8 * size;
    bool negative = value >> (2 * bits - 1) & 1;
    unsigned __int128 magnitude = negative ? -value : value;
    if (bits < 64)
        magnitude &= ((unsigned __int128)1 << (2 * bits)) - 1;
    bool divisor_negative = divisor >> (bits - 1) & 1;
    uint64_t by = (divisor_negative ? -divisor : divisor) & size_mask(size);
    if (by == 0 || (uint64_t)(magnitude >> bits) >= by)
        return false; // the magnitude does not even fit unsigned
    uint64_t most = (uint64_t)1 << (bits - 1);
    uint64_t half = (uint64_t)(magnitude >> (bits - 1)); // is magnitude / 2^(bits-1) < by ?
    bool below = half < by && (magnitude >> (bits - 1)) >> 64 == 0;
    if (below)
        return true;
    if (negative == divisor_negative)
        return false;
    return magnitude - (unsigned __int128)by * most < by; // exactly -2^(bits-1)
}

void op_idiv(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t divisor = operand_read(c, insn, 0);
    if (!signed_quotient_fits(dividend(c, size), divisor, size))
        cpu_raise(c, VEC_DE, 0);
    run_wide(c, size, divisor, do_idiv);
}

void op_cbw(struct tcpu *c, const struct insn *insn) // CBW, CWDE, CDQE
{
    unsigned size = insn->opsize;
    uint64_t value = sign_extend(gpr_read(c, RAX, size / 2, false), size / 2);
    gpr_write(c, RAX, size, false, value & size_mask(size));
}

void op_cwd(struct tcpu *c, const struct insn *insn) // CWD, CDQ, CQO
{
    unsigned size = insn->opsize;
    bool negative = c->s.gpr[RAX] >> (8 * size - 1) & 1;
    gpr_write(c, RDX, size, false, negative ? size_mask(size) : 0);
}
