// Single bits, bit scans, counts, CRC32. Source: Intel SDM volume 2.
#include "engine/translate/integer_impl.h"

// --- BT and its kin ------------------------------------------------------------------------------

#define BITOP(insn, suffix, modifier)                                                 \
    asm volatile(FLAGS_IN insn suffix " %" modifier "[b], %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+r"(a)                                             \
                 : [b] "r"(m->with)                                                   \
                 : "cc")

MODIFY_WORDS(do_bt, "bt", BITOP)
MODIFY_WORDS(do_bts, "bts", BITOP)
MODIFY_WORDS(do_btr, "btr", BITOP)
MODIFY_WORDS(do_btc, "btc", BITOP)

// A bit number in a register reaches beyond the operand: memory is a string of bits in both
// directions.
static gva_t bit_string_linear(struct tcpu *c, const struct insn *insn, uint64_t bit,
                               enum access access)
{
    unsigned size = insn->operand[0].size;
    uint64_t offset = insn_offset(c, insn);
    if (insn->operand[1].kind == OPND_GPR) {
        int64_t signed_bit = (int64_t)sign_extend(bit, size);
        int64_t units = signed_bit >> (size == 2 ? 4 : size == 4 ? 5 : 6);
        offset += (uint64_t)units * size;
    }
    return seg_linear(c, insn->seg, offset & size_mask(insn->addrsize), size, access);
}

static void bit_modify(struct tcpu *c, const struct insn *insn, modify_fn *fn)
{
    struct modify m = modify_init(c, insn, fn, operand_read(c, insn, 1));
    if (insn->operand[0].kind == OPND_MEM) {
        gva_t at = bit_string_linear(c, insn, m.with, ACCESS_WRITE);
        m.with &= insn->operand[0].size * 8 - 1;
        mem_modify(c, at, insn->operand[0].size, &m);
        c->s.rflags = m.flags;
    } else {
        operand_modify(c, insn, 0, &m);
    }
}

void op_bt(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->operand[0].size;
    struct modify m = modify_init(c, insn, do_bt, operand_read(c, insn, 1));
    uint64_t a = insn->operand[0].kind == OPND_MEM
                     ? mem_read(c, bit_string_linear(c, insn, m.with, ACCESS_READ), size)
                     : operand_read(c, insn, 0);
    do_bt(&m, size, a);
    c->s.rflags = m.flags;
}

void op_bts(struct tcpu *c, const struct insn *insn)
{
    bit_modify(c, insn, do_bts);
}

void op_btr(struct tcpu *c, const struct insn *insn)
{
    bit_modify(c, insn, do_btr);
}

void op_btc(struct tcpu *c, const struct insn *insn)
{
    bit_modify(c, insn, do_btc);
}

// --- scans and counts ----------------------------------------------------------------------------

// The destination is the host register as a whole, so that what is left of it (BSF of zero) is
// exact.
#define SCAN(insn, suffix, modifier)                                                  \
    asm volatile(FLAGS_IN insn suffix " %" modifier "[b], %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+r"(a)                                             \
                 : [b] "r"(b)                                                         \
                 : "cc")

#define SCANNER(name, mnemonic)                                              \
    static void name(struct tcpu *c, const struct insn *insn)                \
    {                                                                        \
        uint64_t b = operand_read(c, insn, 1), ax = flags_pack(c->s.rflags); \
        uint64_t a = c->s.gpr[insn->operand[0].reg & 15];                    \
        switch (insn->operand[0].size) {                                     \
        case 2: SCAN(mnemonic, "w", "w"); break;                             \
        case 4: SCAN(mnemonic, "l", "k"); break;                             \
        default: SCAN(mnemonic, "q", "q"); break;                            \
        }                                                                    \
        c->s.gpr[insn->operand[0].reg & 15] = a;                             \
        c->s.rflags = flags_unpack(c->s.rflags, ax);                         \
    }

SCANNER(scan_bsf, "bsf")
SCANNER(scan_bsr, "bsr")
SCANNER(scan_tzcnt, "tzcnt")
SCANNER(scan_lzcnt, "lzcnt")
SCANNER(scan_popcnt, "popcnt")

void op_bsf(struct tcpu *c, const struct insn *insn)
{
    scan_bsf(c, insn);
}

void op_bsr(struct tcpu *c, const struct insn *insn)
{
    scan_bsr(c, insn);
}

// On CPUs without them these encodings are BSF and BSR with an ignored prefix.
void op_tzcnt(struct tcpu *c, const struct insn *insn)
{
    if (feature_has(&c->features, FEATURE_BMI1))
        scan_tzcnt(c, insn);
    else
        scan_bsf(c, insn);
}

void op_lzcnt(struct tcpu *c, const struct insn *insn)
{
    if (feature_has(&c->features, FEATURE_ABM))
        scan_lzcnt(c, insn);
    else
        scan_bsr(c, insn);
}

void op_popcnt(struct tcpu *c, const struct insn *insn)
{
    scan_popcnt(c, insn);
}

void op_crc32(struct tcpu *c, const struct insn *insn)
{
    uint64_t crc = (uint32_t)c->s.gpr[insn->operand[0].reg & 15], data = operand_read(c, insn, 1);
    switch (insn->operand[1].size) {
    case 1: asm("crc32b %b[data], %k[crc]" : [crc] "+r"(crc) : [data] "q"(data)); break;
    case 2: asm("crc32w %w[data], %k[crc]" : [crc] "+r"(crc) : [data] "r"(data)); break;
    case 4: asm("crc32l %k[data], %k[crc]" : [crc] "+r"(crc) : [data] "r"(data)); break;
    default: asm("crc32q %[data], %[crc]" : [crc] "+r"(crc) : [data] "r"(data)); break;
    }
    c->s.gpr[insn->operand[0].reg & 15] = (uint32_t)crc;
}
