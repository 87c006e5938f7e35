// Targets of near branches, conditions, and the permission of port accesses.
// Sources: Intel SDM vol. 2 Jcc, CALL; vol. 1 section 19.5 (I/O permission bitmap).
#include "engine/translate/system_impl.h"

bool condition_holds(uint64_t rflags, unsigned condition)
{
    bool cf = rflags & FLAG_CF, zf = rflags & FLAG_ZF, sf = rflags & FLAG_SF, of = rflags & FLAG_OF;
    bool holds = false;
    switch (condition >> 1 & 7) {
    case 0: holds = of; break;
    case 1: holds = cf; break;
    case 2: holds = zf; break;
    case 3: holds = cf || zf; break;
    case 4: holds = sf; break;
    case 5: holds = rflags & FLAG_PF; break;
    case 6: holds = sf != of; break;
    case 7: holds = zf || sf != of; break;
    }
    return holds != (condition & 1);
}

void jump_near(struct tcpu *c, uint64_t target, unsigned opsize)
{
    if ((c->mode & MODE_CODE_SIZE) == MODE_CODE64) {
        if (!is_canonical(target))
            cpu_raise(c, VEC_GP, 0);
    } else {
        target &= opsize == 2 ? 0xffff : 0xffffffff;
        if (target > c->s.seg[SEG_CS].limit)
            cpu_raise(c, VEC_GP, 0);
    }
    c->s.rip = target;
}

void io_check(struct tcpu *c, uint16_t port, unsigned size)
{
    if (!(c->mode & MODE_PROTECTED) ||
        (!(c->mode & MODE_V86) && cpl(c) <= bits_get(c->s.rflags, 13, 12)))
        return;
    const struct cpu_segment *tr = &c->s.tr;
    if ((tr->attr & SEGA_TYPE) < SYS_TSS || tr->limit < 103)
        cpu_raise(c, VEC_GP, 0);
    unsigned map = (unsigned)mem_read_system(c, tr->base + 102, 2), at = map + port / 8;
    if (at + 1 > tr->limit) // the bitmap is read two bytes at a time
        cpu_raise(c, VEC_GP, 0);
    uint64_t bits = mem_read_system(c, tr->base + at, 2) >> (port % 8);
    if (bits & (BIT(size) - 1))
        cpu_raise(c, VEC_GP, 0);
}
