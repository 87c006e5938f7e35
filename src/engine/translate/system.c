// The table of system and control instructions, BOUND, and the mode bits that translated code is
// keyed by. Sources: Intel SDM vol. 2 and vol. 3 chapter 2.
#include "engine/translate/direct.h"
#include "engine/translate/system_impl.h"

interp_fn *const interp_system[OP_COUNT] = {
    [OP_JMP_FAR] = sys_jmp_far,
    [OP_CALL_FAR] = sys_call_far,
    [OP_RET_FAR] = sys_ret_far,
    [OP_IRET] = sys_iret,
    [OP_INT] = sys_int,
    [OP_INT3] = sys_int3,
    [OP_INTO] = sys_into,
    [OP_INT1] = sys_int1,
    [OP_BOUND] = sys_bound,
    [OP_UD0] = sys_ud,
    [OP_UD1] = sys_ud,
    [OP_UD2] = sys_ud,
    [OP_VMCALL] = sys_hypercall,
    [OP_VMMCALL] = sys_hypercall,
    [OP_PAUSE] = sys_pause,
    [OP_CLAC] = sys_ud,
    [OP_STAC] = sys_ud,
    [OP_MOV_SREG] = sys_mov_sreg,
    [OP_LDS] = sys_lxs,
    [OP_LES] = sys_lxs,
    [OP_LSS] = sys_lxs,
    [OP_LFS] = sys_lxs,
    [OP_LGS] = sys_lxs,
    [OP_ARPL] = sys_arpl,
    [OP_SLDT] = sys_sldt,
    [OP_STR] = sys_str,
    [OP_LLDT] = sys_lldt,
    [OP_LTR] = sys_ltr,
    [OP_VERR] = sys_verr,
    [OP_VERW] = sys_verr,
    [OP_LAR] = sys_lar,
    [OP_LSL] = sys_lar,
    [OP_SGDT] = sys_sgdt,
    [OP_SIDT] = sys_sgdt,
    [OP_LGDT] = sys_lgdt,
    [OP_LIDT] = sys_lgdt,
    [OP_SMSW] = sys_smsw,
    [OP_LMSW] = sys_lmsw,
    [OP_CLTS] = sys_clts,
    [OP_MOV_CR] = sys_mov_cr,
    [OP_MOV_DR] = sys_mov_dr,
    [OP_INVLPG] = sys_invlpg,
    [OP_INVPCID] = sys_invpcid,
    [OP_INVD] = sys_cache,
    [OP_WBINVD] = sys_cache,
    [OP_XGETBV] = sys_xgetbv,
    [OP_XSETBV] = sys_xsetbv,
    [OP_HLT] = sys_hlt,
    [OP_CLI] = sys_cli,
    [OP_STI] = sys_sti,
    [OP_PUSHF] = sys_pushf,
    [OP_POPF] = sys_popf,
    [OP_RDMSR] = sys_rdmsr,
    [OP_WRMSR] = sys_wrmsr,
    [OP_RDTSC] = sys_rdtsc,
    [OP_RDTSCP] = sys_rdtscp,
    [OP_RDPMC] = sys_rdpmc,
    [OP_RDPID] = sys_rdpid,
    [OP_CPUID] = sys_cpuid,
    [OP_SWAPGS] = sys_swapgs,
    [OP_RDFSBASE] = sys_fsgsbase,
    [OP_RDGSBASE] = sys_fsgsbase,
    [OP_WRFSBASE] = sys_fsgsbase,
    [OP_WRGSBASE] = sys_fsgsbase,
    [OP_MONITOR] = sys_monitor,
    [OP_MWAIT] = sys_mwait,
    [OP_SYSCALL] = sys_syscall,
    [OP_SYSRET] = sys_sysret,
    [OP_SYSENTER] = sys_sysenter,
    [OP_SYSEXIT] = sys_sysexit,
    [OP_IN] = sys_in,
    [OP_OUT] = sys_out,
    [OP_INS] = sys_ins,
    [OP_OUTS] = sys_outs,
};

void sys_bound(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->opsize;
    gva_t at = insn_linear(c, insn, 2 * size, ACCESS_READ);
    int64_t low = (int64_t)sign_extend(mem_read(c, at, size), size);
    int64_t high = (int64_t)sign_extend(mem_read(c, at + size, size), size);
    int64_t index = (int64_t)sign_extend(operand_read(c, insn, 0), size);
    if (index < low || index > high)
        cpu_raise(c, VEC_BR, 0);
}

// --- the mode ------------------------------------------------------------------------------------

// No access through it fails.
static bool open_data(const struct cpu_segment *s)
{
    return s->limit == 0xffffffff &&
           (s->attr & (SEGA_P | SEGA_S | SEGA_CODE | SEGA_DOWN | SEGA_WRITABLE)) ==
               (SEGA_P | SEGA_S | SEGA_WRITABLE);
}

static bool flat_data(const struct cpu_segment *s)
{
    return s->base == 0 && open_data(s);
}

static bool flat_code(const struct cpu_segment *s)
{
    return s->base == 0 && s->limit == 0xffffffff && (s->attr & SEGA_P) &&
           (s->attr & SEGA_WRITABLE);
}

static uint32_t segment_mode(const struct cpu_state *s)
{
    uint32_t mode = 0;
    if ((s->efer & EFER_LMA) && (s->seg[SEG_CS].attr & SEGA_L))
        return MODE_CODE64 | MODE_FLAT;
    if (s->seg[SEG_CS].attr & SEGA_DB)
        mode |= MODE_CODE32;
    if (s->seg[SEG_SS].attr & SEGA_DB)
        mode |= MODE_STACK32;
    if (flat_code(&s->seg[SEG_CS]) && flat_data(&s->seg[SEG_SS]) && flat_data(&s->seg[SEG_DS]) &&
        flat_data(&s->seg[SEG_ES]))
        mode |= MODE_FLAT;
    return mode;
}

static uint32_t privilege_mode(const struct cpu_state *s, unsigned level)
{
    uint32_t mode = 0;
    if (level == 0)
        mode |= MODE_CPL0;
    if (level <= bits_get(s->rflags, 13, 12))
        mode |= MODE_IOPL_OK;
    if (level == 3)
        mode |= MODE_USER;
    if (level == 3 && (s->cr0 & CR0_AM) && (s->rflags & FLAG_AC))
        mode |= MODE_ALIGN;
    return mode;
}

static uint32_t vector_mode(const struct cpu_state *s)
{
    uint32_t mode = 0;
    uint64_t avx = XCR0_SSE | XCR0_AVX;
    if (s->cr0 & (CR0_TS | CR0_EM))
        mode |= MODE_FPU_TRAP;
    if (s->cr4 & CR4_OSFXSR)
        mode |= MODE_SSE;
    if ((s->cr4 & CR4_OSXSAVE) && (s->xcr0 & avx) == avx)
        mode |= MODE_AVX;
    if ((mode & MODE_AVX) && (s->xcr0 & XCR0_AVX512) == XCR0_AVX512)
        mode |= MODE_AVX512;
    return mode;
}

static bool data_breakpoints(uint64_t dr7)
{
    for (unsigned i = 0; i < 4; i++) {
        if ((dr7 >> (2 * i) & 3) && (bits_get(dr7, 17 + 4 * i, 16 + 4 * i) & 1))
            return true;
    }
    return false;
}

void tcpu_update_mode(struct tcpu *c)
{
    const struct cpu_state *s = &c->s;
    uint32_t mode = segment_mode(s) | vector_mode(s);
    bool protected_mode = s->cr0 & CR0_PE;
    unsigned level = protected_mode ? cpl(c) : 0;
    mode |= privilege_mode(s, level);
    if (protected_mode)
        mode |= MODE_PROTECTED;
    if (protected_mode && (s->rflags & FLAG_VM))
        mode |= MODE_V86;
    if (s->efer & EFER_LMA)
        mode |= MODE_LONG;
    if ((s->rflags & FLAG_TF) || (points_dr7(c) & 0xff) || c->debug.watch.step)
        mode |= MODE_STEP;
    c->watch = data_breakpoints(points_dr7(c));
    direct_level(c, level == 3);
    c->user = level == 3;
    c->mode = mode;
    c->hot.barrier[0] = open_data(&s->seg[SEG_FS]) ? 0 : SEGMENT_BARRIER;
    c->hot.barrier[1] = open_data(&s->seg[SEG_GS]) ? 0 : SEGMENT_BARRIER;
}

void tcpu_if_changed(struct tcpu *c)
{
    if ((c->s.rflags & FLAG_IF) && __atomic_load_n(&c->intr_level, __ATOMIC_SEQ_CST))
        tcpu_pend(c, PENDING_INTR);
}
