// Instructions on segment and descriptor-table registers: MOV and POP of segment registers, LxS,
// LAR, LSL, VERR, VERW, ARPL, LLDT, LTR, SLDT, STR, LGDT, LIDT, SGDT, SIDT. Source: Intel SDM
// vol. 2.
#include "engine/translate/system_impl.h"

static void need_protected(struct tcpu *c) // these do not exist in real and virtual-8086 mode
{
    if (!(c->mode & MODE_PROTECTED) || (c->mode & MODE_V86))
        cpu_raise(c, VEC_UD, 0);
}

static void need_cpl0(struct tcpu *c)
{
    if (c->mode & MODE_PROTECTED && cpl(c) != 0)
        cpu_raise(c, VEC_GP, 0);
}

static void umip_check(struct tcpu *c)
{
    if ((c->s.cr4 & CR4_UMIP) && (c->mode & MODE_PROTECTED) && cpl(c) != 0)
        cpu_raise(c, VEC_GP, 0);
}

void sys_mov_sreg(struct tcpu *c, const struct insn *insn)
{
    if (insn->operand[0].kind != OPND_SEG) {
        if (insn->operand[1].reg >= SEG_COUNT)
            cpu_raise(c, VEC_UD, 0);
        operand_write(c, insn, 0, c->s.seg[insn->operand[1].reg].selector);
        return;
    }
    unsigned seg = insn->operand[0].reg;
    if (seg == SEG_CS || seg >= SEG_COUNT)
        cpu_raise(c, VEC_UD, 0);
    seg_load(c, seg, (uint16_t)operand_read(c, insn, 1));
    if (seg == SEG_SS)
        c->s.interrupt_shadow = 2;
}

static unsigned seg_operand(const struct insn *insn)
{
    for (unsigned i = 0; i < insn->operands; i++) {
        if (insn->operand[i].kind == OPND_SEG)
            return insn->operand[i].reg;
    }
    return SEG_DS;
}

void sys_lxs(struct tcpu *c, const struct insn *insn)
{
    gva_t at = insn_linear(c, insn, insn->opsize + 2, ACCESS_READ);
    uint64_t offset = mem_read(c, at, insn->opsize);
    uint16_t selector = (uint16_t)mem_read(c, at + insn->opsize, 2);
    seg_load(c, seg_operand(insn), selector);
    operand_write(c, insn, 0, offset);
}

void sys_arpl(struct tcpu *c, const struct insn *insn)
{
    need_protected(c);
    uint64_t dst = operand_read(c, insn, 0), src = operand_read(c, insn, 1);
    bool raise = (dst & 3) < (src & 3);
    if (raise) // else nothing is written, not even to a read-only page
        operand_write(c, insn, 0, (dst & ~3ull) | (src & 3));
    c->s.rflags = bits_set(c->s.rflags, 6, 6, raise);
}

void sys_sldt(struct tcpu *c, const struct insn *insn)
{
    need_protected(c);
    umip_check(c);
    operand_write(c, insn, 0, c->s.ldtr.selector);
}

void sys_str(struct tcpu *c, const struct insn *insn)
{
    need_protected(c);
    umip_check(c);
    operand_write(c, insn, 0, c->s.tr.selector);
}

void sys_lldt(struct tcpu *c, const struct insn *insn)
{
    need_protected(c);
    need_cpl0(c);
    uint16_t selector = (uint16_t)operand_read(c, insn, 0);
    struct descriptor d;
    if (selector_null(selector)) {
        c->s.ldtr = (struct cpu_segment){.selector = selector};
        return;
    }
    if ((selector & 4) || !descriptor_read(c, selector, true, &d) ||
        descriptor_type(&d) != SYS_LDT || !is_canonical(descriptor_system(selector, &d).base))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_NP, selector & ~3u);
    c->s.ldtr = descriptor_system(selector, &d);
}

void sys_ltr(struct tcpu *c, const struct insn *insn)
{
    need_protected(c);
    need_cpl0(c);
    uint16_t selector = (uint16_t)operand_read(c, insn, 0);
    struct descriptor d;
    if (selector_null(selector))
        cpu_raise(c, VEC_GP, 0);
    if ((selector & 4) || !descriptor_read(c, selector, true, &d))
        cpu_raise(c, VEC_GP, selector & ~3u);
    unsigned type = descriptor_type(&d);
    if ((type != SYS_TSS && (type != SYS_TSS16 || (c->mode & MODE_LONG))) ||
        !is_canonical(descriptor_system(selector, &d).base))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_NP, selector & ~3u);
    d.hi |= BIT(9); // busy
    mem_write_system(c, d.at + 5, 1, d.hi >> 8 & 0xff);
    c->s.tr = descriptor_system(selector, &d);
}

// --- asking about selectors ----------------------------------------------------------------------

static bool visible(const struct tcpu *c, uint16_t selector, const struct descriptor *d)
{
    unsigned type = descriptor_type(d), dpl = descriptor_dpl(d);
    return DESC_CONFORMING(type) || (dpl >= cpl(c) && dpl >= (selector & 3u));
}

static bool lar_type(const struct tcpu *c, unsigned type)
{
    if (type & 16)
        return true;
    if (c->mode & MODE_LONG)
        return type == SYS_LDT || type == SYS_TSS || type == SYS_TSS_BUSY || type == SYS_CALL_GATE;
    return type == SYS_TSS16 || type == SYS_LDT || type == SYS_TSS16_BUSY ||
           type == SYS_CALL_GATE16 || type == SYS_TASK_GATE || type == SYS_TSS ||
           type == SYS_TSS_BUSY || type == SYS_CALL_GATE;
}

static bool lsl_type(const struct tcpu *c, unsigned type)
{
    if (type & 16)
        return true;
    if (!(c->mode & MODE_LONG) && (type == SYS_TSS16 || type == SYS_TSS16_BUSY))
        return true;
    return type == SYS_LDT || type == SYS_TSS || type == SYS_TSS_BUSY;
}

// LAR and LSL: the result and ZF, or ZF clear and nothing else.
void sys_lar(struct tcpu *c, const struct insn *insn)
{
    need_protected(c);
    uint16_t selector = (uint16_t)operand_read(c, insn, 1);
    struct descriptor d;
    bool lar = insn->op == OP_LAR;
    bool ok = !selector_null(selector) && descriptor_read(c, selector, true, &d) &&
              (lar ? lar_type : lsl_type)(c, descriptor_type(&d)) && visible(c, selector, &d);
    if (ok)
        operand_write(c, insn, 0, lar ? d.hi & 0x00ffff00 : descriptor_segment(selector, &d).limit);
    c->s.rflags = bits_set(c->s.rflags, 6, 6, ok);
}

void sys_verr(struct tcpu *c, const struct insn *insn)
{
    need_protected(c);
    uint16_t selector = (uint16_t)operand_read(c, insn, 0);
    struct descriptor d;
    bool ok = !selector_null(selector) && descriptor_read(c, selector, false, &d);
    if (ok) {
        unsigned type = descriptor_type(&d);
        ok = (insn->op == OP_VERR ? DESC_READABLE(type) : DESC_WRITABLE_DATA(type)) &&
             visible(c, selector, &d);
    }
    c->s.rflags = bits_set(c->s.rflags, 6, 6, ok);
}

// --- table registers -----------------------------------------------------------------------------

static unsigned table_base_size(const struct tcpu *c)
{
    return (c->mode & MODE_CODE_SIZE) == MODE_CODE64 ? 8 : 4;
}

void sys_sgdt(struct tcpu *c, const struct insn *insn)
{
    umip_check(c);
    const struct cpu_table *t = insn->op == OP_SGDT ? &c->s.gdtr : &c->s.idtr;
    unsigned size = table_base_size(c);
    gva_t at = insn_linear(c, insn, 2 + size, ACCESS_WRITE);
    mem_probe_write(c, at, 2 + size);
    mem_write(c, at, 2, t->limit);
    mem_write(c, at + 2, size, t->base);
}

void sys_lgdt(struct tcpu *c, const struct insn *insn)
{
    need_cpl0(c);
    struct cpu_table *t = insn->op == OP_LGDT ? &c->s.gdtr : &c->s.idtr;
    unsigned size = table_base_size(c);
    gva_t at = insn_linear(c, insn, 2 + size, ACCESS_READ);
    uint64_t limit = mem_read(c, at, 2), base = mem_read(c, at + 2, size);
    if (size == 8 && !is_canonical(base))
        cpu_raise(c, VEC_GP, 0);
    if (size == 4 && insn->opsize == 2)
        base &= 0xffffff;
    *t = (struct cpu_table){.base = base, .limit = (uint32_t)limit};
}
