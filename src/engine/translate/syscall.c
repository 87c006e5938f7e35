// SYSCALL, SYSRET, SYSENTER, SYSEXIT. Vendors differ: AMD has SYSCALL in legacy and compatibility
// mode and no SYSENTER in long mode, Intel the reverse; Intel's SYSRET refuses a non-canonical
// target in ring 0. Sources: Intel SDM vol. 2, AMD APM vol. 3.
#include "engine/translate/direct.h"
#include "engine/translate/system_impl.h"

#define FLAT_CODE64 0xa09b // P, S, accessed readable code, L, G
#define FLAT_CODE32 0xc09b
#define FLAT_DATA 0xc093

static bool code64(const struct tcpu *c)
{
    return (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
}

static void flat_load(struct tcpu *c, unsigned seg, uint64_t selector, unsigned attr,
                      unsigned level)
{
    c->s.seg[seg] = (struct cpu_segment){.limit = 0xffffffff,
                                         .selector = (uint16_t)((selector & ~3ull) | level),
                                         .attr = (uint16_t)(attr | level << 5)};
}

// Between 64-bit code segments nothing of the mode changes but what hangs on the level.
static void level_changed(struct tcpu *c, unsigned level)
{
    uint32_t mode = c->mode & ~(uint32_t)(MODE_USER | MODE_CPL0 | MODE_IOPL_OK);
    bool io = level <= bits_get(c->s.rflags, 13, 12);
    direct_level(c, level == 3);
    c->user = level == 3;
    c->mode = mode | (level ? MODE_USER : MODE_CPL0) | (io ? MODE_IOPL_OK : 0);
}

// long_code: from and to 64-bit code.
static void finish(struct tcpu *c, unsigned level, bool long_code)
{
    if (!(c->s.rflags & FLAG_TF))
        c->no_step = 1;
    if (long_code && !(c->mode & (MODE_STEP | MODE_ALIGN)) && !(c->s.rflags & (FLAG_TF | FLAG_AC)))
        level_changed(c, level);
    else
        tcpu_update_mode(c);
    tcpu_if_changed(c);
}

void sys_syscall(struct tcpu *c, const struct insn *insn)
{
    bool lma = c->mode & MODE_LONG;
    if (!(c->s.efer & EFER_SCE) || !(c->mode & MODE_PROTECTED) || (!c->vendor_amd && !code64(c)))
        cpu_raise(c, VEC_UD, 0);
    c->s.gpr[RCX] = c->s.rip;
    if (lma) {
        c->s.gpr[R11] = c->s.rflags & ~FLAG_RF;
        c->s.rip = code64(c) ? c->s.lstar : c->s.cstar;
        c->s.rflags = (c->s.rflags & ~(c->s.sfmask | FLAG_RF)) | FLAG_FIXED;
    } else {
        c->s.rip = (uint32_t)c->s.star;
        c->s.rflags &= ~(FLAG_VM | FLAG_IF | FLAG_RF);
    }
    uint64_t selector = c->s.star >> 32 & 0xfffc;
    flat_load(c, SEG_CS, selector, lma ? FLAT_CODE64 : FLAT_CODE32, 0);
    flat_load(c, SEG_SS, selector + 8, FLAT_DATA, 0);
    finish(c, 0, lma && code64(c));
}

void sys_sysret(struct tcpu *c, const struct insn *insn)
{
    bool lma = c->mode & MODE_LONG, wide = lma && insn->opsize == 8;
    if (!(c->s.efer & EFER_SCE) || (!c->vendor_amd && !code64(c)))
        cpu_raise(c, VEC_UD, 0);
    if (!(c->mode & MODE_PROTECTED) || cpl(c) != 0 ||
        (wide && !c->vendor_amd && !is_canonical(c->s.gpr[RCX])))
        cpu_raise(c, VEC_GP, 0);
    uint64_t selector = c->s.star >> 48;
    c->s.rip = wide ? c->s.gpr[RCX] : (uint32_t)c->s.gpr[RCX];
    if (lma)
        c->s.rflags = (c->s.gpr[R11] & 0x3c7fd7) | FLAG_FIXED;
    else
        c->s.rflags |= FLAG_IF;
    flat_load(c, SEG_CS, wide ? selector + 16 : selector, wide ? FLAT_CODE64 : FLAT_CODE32, 3);
    flat_load(c, SEG_SS, selector + 8, FLAT_DATA, 3);
    finish(c, 3, wide);
}

void sys_sysenter(struct tcpu *c, const struct insn *insn)
{
    bool lma = c->mode & MODE_LONG;
    if (lma && c->vendor_amd)
        cpu_raise(c, VEC_UD, 0);
    if (!(c->mode & MODE_PROTECTED) || !(c->s.sysenter_cs & 0xfffc))
        cpu_raise(c, VEC_GP, 0);
    c->s.rflags &= ~(FLAG_VM | FLAG_IF | FLAG_RF);
    c->s.gpr[RSP] = lma ? c->s.sysenter_esp : (uint32_t)c->s.sysenter_esp;
    c->s.rip = lma ? c->s.sysenter_eip : (uint32_t)c->s.sysenter_eip;
    flat_load(c, SEG_CS, c->s.sysenter_cs, lma ? FLAT_CODE64 : FLAT_CODE32, 0);
    flat_load(c, SEG_SS, (c->s.sysenter_cs & ~3ull) + 8, FLAT_DATA, 0);
    finish(c, 0, false);
}

void sys_sysexit(struct tcpu *c, const struct insn *insn)
{
    bool lma = c->mode & MODE_LONG, wide = lma && insn->opsize == 8;
    if (lma && c->vendor_amd)
        cpu_raise(c, VEC_UD, 0);
    if (!(c->mode & MODE_PROTECTED) || cpl(c) != 0 || !(c->s.sysenter_cs & 0xfffc) ||
        (wide && (!is_canonical(c->s.gpr[RCX]) || !is_canonical(c->s.gpr[RDX]))))
        cpu_raise(c, VEC_GP, 0);
    uint64_t selector = (c->s.sysenter_cs & ~3ull) + (wide ? 32 : 16);
    c->s.gpr[RSP] = wide ? c->s.gpr[RCX] : (uint32_t)c->s.gpr[RCX];
    c->s.rip = wide ? c->s.gpr[RDX] : (uint32_t)c->s.gpr[RDX];
    flat_load(c, SEG_CS, selector, wide ? FLAT_CODE64 : FLAT_CODE32, 3);
    flat_load(c, SEG_SS, selector + 8, FLAT_DATA, 3);
    finish(c, 3, false);
}
