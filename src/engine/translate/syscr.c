// Control and debug registers, flags, halting, and the instructions about caches and TLBs.
// Sources: Intel SDM vol. 2, vol. 3 chapters 2, 4.10, 17 and 20.3 (VME, PVI).
// Not modelled: caching modes (CD, NW, INVD do nothing), SMAP, CET, protection keys: their CR4 bits
// are reserved here.
#include "engine/translate/system_impl.h"
#include "engine/translate/tlb2.h"

static bool code64(const struct tcpu *c)
{
    return (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
}

static void need_cpl0(struct tcpu *c)
{
    if ((c->mode & MODE_PROTECTED) && cpl(c) != 0)
        cpu_raise(c, VEC_GP, 0);
}

static _Noreturn void gp(struct tcpu *c)
{
    cpu_raise(c, VEC_GP, 0);
}

// --- CR0, CR3, CR4 -------------------------------------------------------------------------------

void pdpte_load(struct tcpu *c, uint64_t cr3)
{
    uint64_t entry[4],
        reserved = BITS(63, 52) | BITS(8, 5) | BITS(2, 1) | (BITS(51, 12) & ~c->phys_mask);
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *host = tvm_host(c->vm, (cr3 & BITS(31, 5)) + 8 * i, 8, NULL);
        entry[i] =
            host ? __atomic_load_n((const uint64_t *)(const void *)host, __ATOMIC_RELAXED) : 0;
        if ((entry[i] & PTE_P) && (entry[i] & reserved))
            gp(c);
    }
    for (unsigned i = 0; i < 4; i++)
        c->s.pdpte[i] = entry[i];
}

static bool pae_legacy(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

static void write_cr0(struct tcpu *c, uint64_t value)
{
    const uint64_t known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
                           CR0_NW | CR0_CD | CR0_PG;
    uint64_t old = c->s.cr0, efer = c->s.efer;
    if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) ||
        ((value & CR0_NW) && !(value & CR0_CD)))
        gp(c);
    value = (value & known) | CR0_ET;
    if (!(value & CR0_PG) && (code64(c) || (c->s.cr4 & CR4_PCIDE)))
        gp(c);
    if ((value & CR0_PG) && !(old & CR0_PG) && (efer & EFER_LME)) {
        if (!(c->s.cr4 & CR4_PAE) || (c->s.seg[SEG_CS].attr & SEGA_L))
            gp(c);
        efer |= EFER_LMA;
    }
    if (!(value & CR0_PG))
        efer &= ~EFER_LMA;
    if (pae_legacy(value, c->s.cr4, efer) && ((value ^ old) & (CR0_PG | CR0_CD | CR0_NW)))
        pdpte_load(c, c->s.cr3);
    c->s.cr0 = value;
    c->s.efer = efer;
    if ((value ^ old) & (CR0_PG | CR0_WP | CR0_PE))
        tlb_flush_all(c);
    tcpu_update_mode(c);
}

static void write_cr3(struct tcpu *c, uint64_t value)
{
    uint64_t old = c->s.cr3;
    bool keep = false;
    if (c->s.efer & EFER_LMA) {
        if (c->s.cr4 & CR4_PCIDE) {
            keep = value >> 63;
            value &= ~BIT(63);
        }
        if (value & ~(c->phys_mask | PAGE_MASK))
            gp(c);
    } else {
        value = (uint32_t)value;
        if (pae_legacy(c->s.cr0, c->s.cr4, c->s.efer))
            pdpte_load(c, value);
    }
    c->s.cr3 = value;
    if (!keep)
        tlb_flush_context(c);
    else if (value != old)
        tlb_flush_inline(c, false);
}

static uint64_t cr4_known(const struct tcpu *c)
{
    static const struct {
        uint32_t bit;
        uint16_t feature;
    } rows[] = {
        {CR4_VME | CR4_PVI, FEATURE_VME},
        {CR4_TSD, FEATURE_TSC},
        {CR4_DE, FEATURE_DE},
        {CR4_PSE, FEATURE_PSE},
        {CR4_PAE, FEATURE_PAE},
        {CR4_MCE, FEATURE_MCE},
        {CR4_PGE, FEATURE_PGE},
        {CR4_OSFXSR, FEATURE_FXSR},
        {CR4_OSXMMEXCPT, FEATURE_SSE},
        {CR4_UMIP, FEATURE_UMIP},
        {CR4_FSGSBASE, FEATURE_FSGSBASE},
        {CR4_PCIDE, FEATURE_PCID},
        {CR4_OSXSAVE, FEATURE_XSAVE},
        {CR4_SMEP, FEATURE_SMEP},
    };
    uint64_t known = CR4_PCE;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if (feature_has(&c->features, rows[i].feature))
            known |= rows[i].bit;
    }
    return known;
}

static void write_cr4(struct tcpu *c, uint64_t value)
{
    uint64_t old = c->s.cr4, paging = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP;
    if (value & ~cr4_known(c))
        gp(c);
    if ((c->s.efer & EFER_LMA) && !(value & CR4_PAE))
        gp(c);
    if ((value & ~old & CR4_PCIDE) && (!(c->s.efer & EFER_LMA) || (c->s.cr3 & 0xfff)))
        gp(c);
    if (pae_legacy(c->s.cr0, value, c->s.efer) && ((value ^ old) & paging))
        pdpte_load(c, c->s.cr3);
    if ((value ^ old) & (CR4_OSXSAVE | CR4_OSFXSR))
        fpu_to_memory(c);
    c->s.cr4 = value;
    if ((value ^ old) & (paging | CR4_PCIDE))
        tlb_flush_all(c);
    tcpu_update_mode(c);
}

static uint64_t read_cr8(struct tcpu *c)
{
    fpu_to_memory(c);
    tvm_leave(c);
    uint64_t value = c->vm->up->cr8_read(c->vm->opaque, c->index);
    tvm_enter(c);
    return value;
}

static void write_cr8(struct tcpu *c, uint64_t value)
{
    if (value >> 4)
        gp(c);
    fpu_to_memory(c);
    tvm_leave(c);
    c->vm->up->cr8_write(c->vm->opaque, c->index, (uint8_t)value);
    tvm_enter(c);
}

void sys_mov_cr(struct tcpu *c, const struct insn *insn)
{
    bool load = insn->operand[0].kind == OPND_CR;
    unsigned cr = insn->operand[load ? 0 : 1].reg;
    if (insn->prefix & PREFIX_LOCK) // AMD's name for CR8 outside 64-bit mode
        cr = cr == 0 && feature_has(&c->features, FEATURE_CR8_LEGACY) ? 8 : 1;
    if (cr > 8 || cr == 1 || (cr > 4 && cr < 8))
        cpu_raise(c, VEC_UD, 0);
    need_cpl0(c);
    if (load) {
        uint64_t value = operand_read(c, insn, 1);
        switch (cr) {
        case 0: write_cr0(c, value); break;
        case 2: c->s.cr2 = value; break;
        case 3: write_cr3(c, value); break;
        case 4: write_cr4(c, value); break;
        case 8: write_cr8(c, value); break;
        }
        return;
    }
    const uint64_t value[] = {c->s.cr0, 0, c->s.cr2, c->s.cr3, c->s.cr4};
    operand_write(c, insn, 0, cr == 8 ? read_cr8(c) : value[cr]);
}

void sys_smsw(struct tcpu *c, const struct insn *insn)
{
    if ((c->s.cr4 & CR4_UMIP))
        need_cpl0(c);
    operand_write(c, insn, 0, c->s.cr0);
}

void sys_lmsw(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    uint64_t low = operand_read(c, insn, 0) & 15;
    write_cr0(c, (c->s.cr0 & ~14ull) | low);
}

void sys_clts(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    c->s.cr0 &= ~CR0_TS;
    tcpu_update_mode(c);
}

// --- debug registers -----------------------------------------------------------------------------

static void write_dr(struct tcpu *c, unsigned dr, uint64_t value)
{
    if (dr >= 6 && value >> 32)
        gp(c);
    if (dr < 4)
        c->s.dr[dr] = value;
    else if (dr == 6)
        c->s.dr6 = (value & 0xe00f) | DR6_FIXED;
    else
        c->s.dr7 = (value & 0xffff23ff) | DR7_FIXED;
    tlb_flush_inline(c, true); // pages with data breakpoints lose their tags
    tcpu_update_mode(c);
}

void sys_mov_dr(struct tcpu *c, const struct insn *insn)
{
    bool load = insn->operand[0].kind == OPND_DR;
    unsigned dr = insn->operand[load ? 0 : 1].reg;
    if (dr > 7 || ((dr == 4 || dr == 5) && (c->s.cr4 & CR4_DE)))
        cpu_raise(c, VEC_UD, 0);
    need_cpl0(c);
    if (c->s.dr7 & DR7_GD)
        raise_db(c, DR6_BD);
    if (dr == 4 || dr == 5)
        dr += 2;
    if (load)
        write_dr(c, dr, operand_read(c, insn, 1));
    else
        operand_write(c, insn, 0, dr < 4 ? c->s.dr[dr] : dr == 6 ? c->s.dr6 : c->s.dr7);
}

// --- TLB and caches ------------------------------------------------------------------------------

void sys_invlpg(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    uint64_t at = insn_offset(c, insn);
    if (code64(c))
        at += insn->seg >= SEG_FS ? c->s.seg[insn->seg].base : 0;
    else
        at = (uint32_t)(at + c->s.seg[insn->seg].base);
    if (is_canonical(at))
        tlb_flush_page(c, at);
}

void sys_invpcid(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    uint64_t type = operand_read(c, insn, 0);
    gva_t at = insn_linear(c, insn, 16, ACCESS_READ);
    uint64_t pcid = mem_read(c, at, 8), address = mem_read(c, at + 8, 8);
    if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(c->s.cr4 & CR4_PCIDE)) ||
        (type == 0 && !is_canonical(address)))
        gp(c);
    if (type == 0)
        tlb2_drop(c, address, (unsigned)pcid, false);
    else if (type == 1)
        tlb_flush_pcid(c, (unsigned)pcid);
    else
        tlb_flush_all(c);
}

void sys_cache(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
}

void sys_xgetbv(struct tcpu *c, const struct insn *insn)
{
    uint32_t index = (uint32_t)c->s.gpr[RCX];
    if (!(c->s.cr4 & CR4_OSXSAVE))
        cpu_raise(c, VEC_UD, 0);
    uint64_t value = c->s.xcr0;
    if (index == 1 && feature_has(&c->features, FEATURE_XGETBV1)) {
        fpu_to_memory(c);
        uint64_t in_use;
        __builtin_memcpy(&in_use, c->s.xsave + 512, 8);
        value &= in_use;
    } else if (index != 0) {
        gp(c);
    }
    c->s.gpr[RAX] = (uint32_t)value;
    c->s.gpr[RDX] = value >> 32;
}

void sys_xsetbv(struct tcpu *c, const struct insn *insn)
{
    if (!(c->s.cr4 & CR4_OSXSAVE))
        cpu_raise(c, VEC_UD, 0);
    need_cpl0(c);
    uint64_t value = (uint32_t)c->s.gpr[RAX] | c->s.gpr[RDX] << 32, known = XCR0_X87 | XCR0_SSE;
    if (feature_has(&c->features, FEATURE_AVX))
        known |= XCR0_AVX;
    if (feature_has(&c->features, FEATURE_AVX512F))
        known |= XCR0_AVX512;
    uint64_t avx512 = value & XCR0_AVX512;
    if ((uint32_t)c->s.gpr[RCX] != 0 || (value & ~known) || !(value & XCR0_X87) ||
        ((value & XCR0_AVX) && !(value & XCR0_SSE)) ||
        (avx512 && (avx512 != XCR0_AVX512 || !(value & XCR0_AVX))))
        gp(c);
    fpu_to_memory(c);
    c->s.xcr0 = value;
    tcpu_update_mode(c);
}

// --- flags and halting ---------------------------------------------------------------------------

void sys_hlt(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    c->s.activity = CPU_HALTED;
    tcpu_pend(c, PENDING_EVENT);
}

// Which flag CLI and STI change: IF, VIF, or none (#GP).
static uint64_t interrupt_flag(struct tcpu *c)
{
    unsigned iopl = (unsigned)bits_get(c->s.rflags, 13, 12);
    if (!(c->mode & MODE_PROTECTED) || cpl(c) <= iopl)
        return FLAG_IF;
    uint64_t virtual_mode = c->mode & MODE_V86 ? CR4_VME : CR4_PVI;
    if (!(c->s.cr4 & virtual_mode) || cpl(c) != 3)
        gp(c);
    return FLAG_VIF;
}

void sys_cli(struct tcpu *c, const struct insn *insn)
{
    c->s.rflags &= ~interrupt_flag(c);
}

void sys_sti(struct tcpu *c, const struct insn *insn)
{
    uint64_t flag = interrupt_flag(c);
    if (flag == FLAG_VIF && (c->s.rflags & FLAG_VIP))
        gp(c);
    if (flag == FLAG_IF && !(c->s.rflags & FLAG_IF)) {
        c->s.interrupt_shadow = 1;
        tcpu_pend(c, PENDING_EVENT);
    }
    c->s.rflags |= flag;
    tcpu_if_changed(c);
}

static bool v86_virtual(struct tcpu *c, const struct insn *insn)
{
    if (!(c->mode & MODE_V86) || bits_get(c->s.rflags, 13, 12) == 3)
        return false;
    if (!(c->s.cr4 & CR4_VME) || insn->opsize != 2)
        gp(c);
    return true;
}

void sys_pushf(struct tcpu *c, const struct insn *insn)
{
    uint64_t flags = c->s.rflags & ~(FLAG_VM | FLAG_RF);
    if (v86_virtual(c, insn))
        flags = bits_set(flags | FLAG_IOPL, 9, 9, flags & FLAG_VIF ? 1 : 0);
    stack_push(c, insn->opsize, flags);
}

void sys_popf(struct tcpu *c, const struct insn *insn)
{
    bool virtual_if = v86_virtual(c, insn);
    uint64_t flags = stack_peek(c, insn->opsize, 0),
             mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    if (virtual_if) {
        if ((flags & FLAG_TF) || ((flags & FLAG_IF) && (c->s.rflags & FLAG_VIP)))
            gp(c);
        flags = bits_set(flags, 19, 19, flags & FLAG_IF ? 1 : 0);
        mask |= FLAG_VIF;
    } else {
        bool free = !(c->mode & MODE_PROTECTED) || cpl(c) == 0;
        if (free || cpl(c) <= bits_get(c->s.rflags, 13, 12))
            mask |= FLAG_IF;
        if (free)
            mask |= FLAG_IOPL;
        if (insn->opsize != 2)
            mask |= FLAG_AC | FLAG_ID;
    }
    stack_add(c, insn->opsize);
    flags_load(c, flags, mask);
}
