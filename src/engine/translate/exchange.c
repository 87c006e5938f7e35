// XCHG, XADD and the compare-and-exchange family. Source: Intel SDM volume 2.
#include "engine/translate/integer_impl.h"

#include "base/bytes.h"

static uint64_t do_exchange(struct modify *m, unsigned size, uint64_t old)
{
    return m->with;
}

// Implicitly LOCKed with memory. Operands may come in either order.
void op_xchg(struct tcpu *c, const struct insn *insn)
{
    unsigned n = insn->operand[1].kind == OPND_MEM ? 1 : 0;
    struct modify m = modify_init(c, insn, do_exchange, operand_read(c, insn, 1 - n));
    m.locked = true;
    uint64_t old = operand_modify(c, insn, n, &m);
    operand_write(c, insn, 1 - n, old);
}

// a + b in the operand's size; sets the flags as ADD or SUB do.
#define ARITHMETIC(name, mnemonic)                                                \
    static uint64_t name(uint64_t a, uint64_t b, unsigned size, uint64_t *rflags) \
    {                                                                             \
        uint64_t ax = flags_pack(*rflags);                                        \
        switch (size) {                                                           \
        case 1: RUN(mnemonic, "b", "b"); break;                                   \
        case 2: RUN(mnemonic, "w", "w"); break;                                   \
        case 4: RUN(mnemonic, "l", "k"); break;                                   \
        default: RUN(mnemonic, "q", "q"); break;                                  \
        }                                                                         \
        *rflags = flags_unpack(*rflags, ax);                                      \
        return a;                                                                 \
    }
#define RUN(mnemonic, suffix, modifier)                                                   \
    asm volatile(FLAGS_IN mnemonic suffix " %" modifier "[b], %" modifier "[a]" FLAGS_OUT \
                 : "+&a"(ax), [a] "+q"(a)                                                 \
                 : [b] "q"(b)                                                             \
                 : "cc")

ARITHMETIC(add, "add")
ARITHMETIC(sub, "sub")

static uint64_t do_xadd(struct modify *m, unsigned size, uint64_t old)
{
    return add(old, m->with, size, &m->flags);
}

// The sum wins when both operands are one register: it is written last.
void op_xadd(struct tcpu *c, const struct insn *insn)
{
    const struct operand *to = &insn->operand[0];
    struct modify m = modify_init(c, insn, do_xadd, operand_read(c, insn, 1));
    if (to->kind == OPND_MEM) {
        operand_write(c, insn, 1, operand_modify(c, insn, 0, &m));
        return;
    }
    uint64_t old = operand_read(c, insn, 0);
    uint64_t sum = do_xadd(&m, to->size, old);
    operand_write(c, insn, 1, old);
    operand_write(c, insn, 0, sum & size_mask(to->size));
    c->s.rflags = m.flags;
}

static uint64_t do_cmpxchg(struct modify *m, unsigned size, uint64_t old)
{
    sub(m->accumulator, old, size, &m->flags);
    return m->flags & FLAG_ZF ? m->with : old;
}

// Of destination and accumulator exactly one is written (a 4-byte register write clears its upper
// half).
void op_cmpxchg(struct tcpu *c, const struct insn *insn)
{
    const struct operand *to = &insn->operand[0];
    struct modify m = modify_init(c, insn, do_cmpxchg, operand_read(c, insn, 1));
    m.accumulator = gpr_read(c, RAX, to->size, false);
    uint64_t old;
    if (to->kind == OPND_MEM) {
        old = operand_modify(c, insn, 0, &m);
    } else {
        old = operand_read(c, insn, 0);
        uint64_t new = do_cmpxchg(&m, to->size, old);
        if (m.flags & FLAG_ZF)
            operand_write(c, insn, 0, new);
        c->s.rflags = m.flags;
    }
    if (!(c->s.rflags & FLAG_ZF))
        gpr_write(c, RAX, to->size, false, old);
}

static uint64_t do_cmpxchg8b(struct modify *m, unsigned size, uint64_t old)
{
    bool same = old == m->accumulator;
    m->flags = same ? m->flags | FLAG_ZF : m->flags & ~FLAG_ZF;
    return same ? m->with : old;
}

void op_cmpxchg8b(struct tcpu *c, const struct insn *insn)
{
    uint64_t *gpr = c->s.gpr;
    struct modify m = modify_init(c, insn, do_cmpxchg8b, gpr[RCX] << 32 | (uint32_t)gpr[RBX]);
    m.accumulator = gpr[RDX] << 32 | (uint32_t)gpr[RAX];
    uint64_t old = mem_modify(c, insn_linear(c, insn, 8, ACCESS_WRITE), 8, &m);
    c->s.rflags = m.flags;
    if (m.flags & FLAG_ZF)
        return;
    gpr[RAX] = (uint32_t)old;
    gpr[RDX] = old >> 32;
}

struct pair {
    uint64_t low, high;
};

// One host LOCK CMPXCHG16B. Returns whether it stored; *old is what memory held.
static bool compare_exchange_pair(void *at, struct pair *old, struct pair new)
{
    bool same;
    asm volatile("lock cmpxchg16b %[mem]\n\tsete %[same]"
                 : [mem] "+m"(*(struct pair *)at), "+a"(old->low),
                   "+d"(old->high), [same] "=q"(same)
                 : "b"(new.low), "c"(new.high)
                 : "cc", "memory");
    return same;
}

// MMIO has no atomicity to give.
static bool compare_exchange_pair_slow(struct tcpu *c, gva_t at, struct pair *old, struct pair new)
{
    struct pair expected = *old;
    mem_probe_write(c, at, 16);
    *old = (struct pair){mem_read(c, at, 8), mem_read(c, at + 8, 8)};
    bool same = old->low == expected.low && old->high == expected.high;
    struct pair store = same ? new : *old;
    mem_write(c, at, 8, store.low);
    mem_write(c, at + 8, 8, store.high);
    return same;
}

void op_cmpxchg16b(struct tcpu *c, const struct insn *insn)
{
    uint64_t *gpr = c->s.gpr;
    gva_t at = insn_linear(c, insn, 16, ACCESS_WRITE);
    if (at & 15)
        cpu_raise(c, VEC_GP, 0);
    struct pair old = {gpr[RAX], gpr[RDX]}, new = {gpr[RBX], gpr[RCX]};
    void *host = mem_host_rmw(c, at, 16);
    bool same = host ? compare_exchange_pair(host, &old, new)
                     : compare_exchange_pair_slow(c, at, &old, new);
    c->s.rflags = same ? c->s.rflags | FLAG_ZF : c->s.rflags & ~FLAG_ZF;
    if (same)
        return;
    gpr[RAX] = old.low;
    gpr[RDX] = old.high;
}
