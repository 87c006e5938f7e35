// Model-specific registers that the CPU itself keeps, the time-stamp counter, and CPUID. Others are
// asked of the machine by upcall; what nobody knows is #GP(0). Sources: Intel SDM vol. 4, vol. 3
// chapters 11 and 17; AMD APM vol. 2 appendix A. Not modelled: performance counters, machine-check
// banks, effects of memory types.
#include "engine/translate/system_impl.h"
#include "engine/translate/tlb2.h"

#define MSR_P5_MC_ADDR 0
#define MSR_P5_MC_TYPE 1
#define MSR_AMD_SYSCFG 0xc0010010
#define MSR_AMD_HWCR 0xc0010015
#define MSR_AMD_NB_CFG 0xc001001f
#define MSR_AMD_DE_CFG 0xc0011029
// RDCL, L1D flush on VM entry, SSB, MDS, page size change, TAA, SBDR, FBSDP, PSDP, BHI, GDS, RFDS,
// ITS: none of them, or nothing that a guest could do about it.
#define ARCH_CAPABILITIES                                                                          \
    (BIT(0) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) | \
     BIT(26) | BIT(27) | BIT(62))

static _Noreturn void gp(struct tcpu *c)
{
    cpu_raise(c, VEC_GP, 0);
}

static bool code64(const struct tcpu *c)
{
    return (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
}

static void need_cpl0(struct tcpu *c)
{
    if ((c->mode & MODE_PROTECTED) && cpl(c) != 0)
        gp(c);
}

uint64_t guest_tsc(const struct tcpu *c)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return ((uint64_t)hi << 32 | lo) + c->tsc_offset;
}

// --- registers that are plain members ------------------------------------------------------------

enum msr_rule { RULE_ANY, RULE_CANONICAL, RULE_32BIT, RULE_PAT };

struct msr_row {
    uint32_t msr;
    uint16_t offset; // in cpu_state
    uint8_t rule;
    uint8_t pad;
    uint16_t feature;
};

#define ROW(m, member, r, f)                                            \
    {                                                                   \
        m, offsetof(struct cpu_state, member), RULE_##r, 0, FEATURE_##f \
    }

static const struct msr_row plain[] = {
    ROW(MSR_SYSENTER_CS, sysenter_cs, ANY, SEP),
    ROW(MSR_SYSENTER_ESP, sysenter_esp, CANONICAL, SEP),
    ROW(MSR_SYSENTER_EIP, sysenter_eip, CANONICAL, SEP),
    ROW(MSR_PAT, pat, PAT, PAT),
    ROW(MSR_STAR, star, ANY, SYSCALL),
    ROW(MSR_LSTAR, lstar, CANONICAL, LM),
    ROW(MSR_CSTAR, cstar, CANONICAL, LM),
    ROW(MSR_SFMASK, sfmask, 32BIT, LM),
    ROW(MSR_FS_BASE, seg[SEG_FS].base, CANONICAL, LM),
    ROW(MSR_GS_BASE, seg[SEG_GS].base, CANONICAL, LM),
    ROW(MSR_KERNEL_GS_BASE, kernel_gs_base, CANONICAL, LM),
    ROW(MSR_TSC_AUX, tsc_aux, 32BIT, RDTSCP),
    ROW(MSR_MCG_STATUS, mcg_status, ANY, MCA),
};

static const struct msr_row *plain_row(const struct tcpu *c, uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_LEN(plain); i++) {
        if (plain[i].msr == msr)
            return feature_has(&c->features, plain[i].feature) ? &plain[i] : NULL;
    }
    return NULL;
}

static uint64_t *row_member(struct tcpu *c, const struct msr_row *row)
{
    return (uint64_t *)(void *)((char *)&c->s + row->offset);
}

static bool memory_type_valid(unsigned type, bool pat)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (pat && type == 7);
}

static bool rule_allows(unsigned rule, uint64_t value)
{
    if (rule == RULE_CANONICAL)
        return is_canonical(value);
    if (rule == RULE_32BIT)
        return !(value >> 32);
    for (unsigned i = 0; rule == RULE_PAT && i < 8; i++) {
        if (!memory_type_valid(value >> (8 * i) & 0xff, true))
            return false;
    }
    return true;
}

// --- MTRRs: kept, checked, without effect --------------------------------------------------------

#define MTRR_CAP (CPU_MTRR_VARIABLE | BIT(8) | BIT(10)) // fixed ranges, write combining

static uint64_t *mtrr_member(struct tcpu *c, uint32_t msr)
{
    if (msr == MSR_MTRR_DEF_TYPE)
        return &c->s.mtrr_def_type;
    if (msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_MTRR_PHYSBASE0 + 2 * CPU_MTRR_VARIABLE) {
        unsigned n = (msr - MSR_MTRR_PHYSBASE0) / 2;
        return msr & 1 ? &c->s.mtrr_mask[n] : &c->s.mtrr_base[n];
    }
    if (msr == MSR_MTRR_FIX64K)
        return &c->s.mtrr_fixed[0];
    if (msr == MSR_MTRR_FIX16K_0 || msr == MSR_MTRR_FIX16K_1)
        return &c->s.mtrr_fixed[1 + msr - MSR_MTRR_FIX16K_0];
    if (msr >= MSR_MTRR_FIX4K_0 && msr < MSR_MTRR_FIX4K_0 + 8)
        return &c->s.mtrr_fixed[3 + msr - MSR_MTRR_FIX4K_0];
    return NULL;
}

static bool mtrr_allows(const struct tcpu *c, uint32_t msr, uint64_t value)
{
    if (msr == MSR_MTRR_DEF_TYPE)
        return !(value & ~0xcffull) && memory_type_valid(value & 0xff, false);
    if (msr < MSR_MTRR_FIX64K) {
        if (value & ~(c->phys_mask | PAGE_MASK))
            return false;
        return msr & 1 ? !(value & 0x7ff)
                       : !(value & 0xf00) && memory_type_valid(value & 0xff, false);
    }
    for (unsigned i = 0; i < 8; i++) {
        if (!memory_type_valid(value >> (8 * i) & 0xff, false))
            return false;
    }
    return true;
}

// --- the rest ------------------------------------------------------------------------------------

static bool ask_read(struct tcpu *c, uint32_t msr, uint64_t *value)
{
    fpu_to_memory(c);
    tvm_leave(c);
    err_t err = c->vm->up->msr_read(c->vm->opaque, c->index, msr, value);
    tvm_enter(c);
    return err == OK;
}

static bool ask_write(struct tcpu *c, uint32_t msr, uint64_t value)
{
    fpu_to_memory(c);
    tvm_leave(c);
    err_t err = c->vm->up->msr_write(c->vm->opaque, c->index, msr, value);
    tvm_enter(c);
    return err == OK;
}

// AMD's own registers that system software reads without asking CPUID. False: not one of them.
static bool amd_read(const struct tcpu *c, uint32_t msr, uint64_t *value)
{
    if (!c->vendor_amd)
        return false;
    switch (msr) {
    case MSR_AMD_SYSCFG:
    case MSR_AMD_NB_CFG: *value = 0; return true;
    case MSR_AMD_HWCR: *value = BIT(24); return true;  // the TSC runs at P0's frequency
    case MSR_AMD_DE_CFG: *value = BIT(1); return true; // LFENCE serializes
    default: return false;
    }
}

uint64_t msr_get(struct tcpu *c, uint32_t msr)
{
    const struct msr_row *row = plain_row(c, msr);
    const uint64_t *mtrr = feature_has(&c->features, FEATURE_MTRR) ? mtrr_member(c, msr) : NULL;
    uint64_t value;
    if (row)
        return *row_member(c, row);
    if (mtrr)
        return *mtrr;
    switch (msr) {
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_MCG_CAP: return 0;
    case MSR_TSC: return guest_tsc(c);
    case MSR_EFER: return c->s.efer;
    case MSR_UCODE_REV: return c->vendor_amd ? 0 : BIT(32);
    case MSR_MTRR_CAP:
        if (feature_has(&c->features, FEATURE_MTRR))
            return MTRR_CAP;
        break;
    case MSR_TSC_ADJUST:
        if (feature_has(&c->features, FEATURE_TSC_ADJUST))
            return c->s.tsc_adjust;
        break;
    case MSR_ARCH_CAPABILITIES:
        if (feature_has(&c->features, FEATURE_ARCH_CAPABILITIES))
            return ARCH_CAPABILITIES;
        break;
    case MSR_MISC_ENABLE:
        if (!c->vendor_amd)
            return c->s.misc_enable;
        break;
    }
    if (amd_read(c, msr, &value) || ask_read(c, msr, &value))
        return value;
    gp(c);
}

static void set_efer(struct tcpu *c, uint64_t value)
{
    uint64_t known = EFER_LMA, old = c->s.efer;
    known |= feature_has(&c->features, FEATURE_SYSCALL) ? EFER_SCE : 0;
    known |= feature_has(&c->features, FEATURE_LM) ? EFER_LME : 0;
    known |= feature_has(&c->features, FEATURE_NX) ? EFER_NXE : 0;
    known |= feature_has(&c->features, FEATURE_FXSR_OPT) ? EFER_FFXSR : 0;
    known |= feature_has(&c->features, FEATURE_AUTOIBRS) ? EFER_AUTOIBRS : 0;
    if ((value & ~known) || (((value ^ old) & EFER_LME) && (c->s.cr0 & CR0_PG)))
        gp(c);
    c->s.efer = (value & ~EFER_LMA) | (old & EFER_LMA);
    if ((value ^ old) & EFER_NXE)
        tlb_flush_all(c);
    tcpu_update_mode(c);
}

static void say_adjusted(const struct tcpu *c)
{
    if (c->vm->up->tsc_adjusted)
        c->vm->up->tsc_adjusted(c->vm->opaque, c->index, c->s.tsc_adjust);
}

// The guest's TSC moves by this much, and TSC_ADJUST with it.
static void move_tsc(struct tcpu *c, uint64_t by)
{
    c->tsc_offset += by;
    c->s.tsc_adjust += by;
    fpu_to_memory(c);
    tvm_leave(c);
    say_adjusted(c);
    tvm_enter(c);
}

void tsc_base(struct tcpu *c, uint64_t offset)
{
    c->tsc_offset = offset + c->s.tsc_adjust;
    say_adjusted(c);
}

void msr_set(struct tcpu *c, uint32_t msr, uint64_t value)
{
    const struct msr_row *row = plain_row(c, msr);
    uint64_t *mtrr = feature_has(&c->features, FEATURE_MTRR) ? mtrr_member(c, msr) : NULL;
    if (row || mtrr) {
        if (row ? !rule_allows(row->rule, value) : !mtrr_allows(c, msr, value))
            gp(c);
        *(row ? row_member(c, row) : mtrr) = value;
        return;
    }
    uint64_t ignored;
    switch (msr) {
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_UCODE_REV: return;
    case MSR_TSC: move_tsc(c, value - guest_tsc(c)); return;
    case MSR_EFER: set_efer(c, value); return;
    case MSR_TSC_ADJUST:
        if (!feature_has(&c->features, FEATURE_TSC_ADJUST))
            break;
        move_tsc(c, value - c->s.tsc_adjust);
        return;
    case MSR_MISC_ENABLE:
        if (c->vendor_amd)
            break;
        c->s.misc_enable = value;
        return;
    }
    if (!amd_read(c, msr, &ignored) && !ask_write(c, msr, value))
        gp(c);
}

// --- instructions --------------------------------------------------------------------------------

void sys_rdmsr(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    uint64_t value = msr_get(c, (uint32_t)c->s.gpr[RCX]);
    c->s.gpr[RAX] = (uint32_t)value;
    c->s.gpr[RDX] = value >> 32;
}

void sys_wrmsr(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    msr_set(c, (uint32_t)c->s.gpr[RCX], (uint32_t)c->s.gpr[RAX] | c->s.gpr[RDX] << 32);
}

void sys_rdtsc(struct tcpu *c, const struct insn *insn)
{
    if ((c->s.cr4 & CR4_TSD) && (c->mode & MODE_PROTECTED) && cpl(c) != 0)
        gp(c);
    uint64_t tsc = guest_tsc(c);
    c->s.gpr[RAX] = (uint32_t)tsc;
    c->s.gpr[RDX] = tsc >> 32;
}

void sys_rdtscp(struct tcpu *c, const struct insn *insn)
{
    sys_rdtsc(c, insn);
    c->s.gpr[RCX] = (uint32_t)c->s.tsc_aux;
}

void sys_rdpid(struct tcpu *c, const struct insn *insn)
{
    operand_write(c, insn, 0, c->s.tsc_aux);
}

void sys_rdpmc(struct tcpu *c, const struct insn *insn)
{
    gp(c); // no counters: none can be named
}

void sys_cpuid(struct tcpu *c, const struct insn *insn)
{
    uint32_t regs[4];
    fpu_to_memory(c);
    cpuid_query(&c->vm->cpuid, c->index, (uint32_t)c->s.gpr[RAX], (uint32_t)c->s.gpr[RCX], c->s.cr4,
                c->s.xcr0, regs);
    c->s.gpr[RAX] = regs[0];
    c->s.gpr[RBX] = regs[1];
    c->s.gpr[RCX] = regs[2];
    c->s.gpr[RDX] = regs[3];
}

void sys_swapgs(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    uint64_t base = c->s.seg[SEG_GS].base;
    c->s.seg[SEG_GS].base = c->s.kernel_gs_base;
    c->s.kernel_gs_base = base;
}

void sys_fsgsbase(struct tcpu *c, const struct insn *insn)
{
    if (!(c->s.cr4 & CR4_FSGSBASE) || !code64(c))
        cpu_raise(c, VEC_UD, 0);
    bool fs = insn->op == OP_RDFSBASE || insn->op == OP_WRFSBASE;
    uint64_t *base = &c->s.seg[fs ? SEG_FS : SEG_GS].base;
    if (insn->op == OP_RDFSBASE || insn->op == OP_RDGSBASE) {
        operand_write(c, insn, 0, *base);
        return;
    }
    uint64_t value = operand_read(c, insn, 0);
    if (!is_canonical(value))
        gp(c);
    *base = value;
}

// Shown only where the model asks for it: a hint that is not taken, as processors may.
void sys_monitor(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    if ((uint32_t)c->s.gpr[RCX])
        gp(c);
}

void sys_mwait(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    if ((uint32_t)c->s.gpr[RCX] > 1)
        gp(c);
}
