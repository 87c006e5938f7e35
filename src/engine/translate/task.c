// Hardware task switches with 16- and 32-bit task state segments. Source: Intel SDM vol. 3
// chapter 7. Faults before the new task register is loaded belong to the old task, later ones to
// the new. Not modelled: the order of checks inside the new task beyond the order below; the T bit
// of the TSS becomes a debug trap.
#include "engine/translate/system_impl.h"

// Offsets in a 32-bit TSS; 16-bit ones are computed.
#define TSS_CR3 28
#define TSS_EIP 32
#define TSS_EFLAGS 36
#define TSS_GPR 40
#define TSS_SEG 72
#define TSS_LDT 96
#define TSS_TRAP 100

struct task { // what a TSS holds of a task
    uint32_t cr3, eip, eflags;
    uint32_t gpr[8];
    uint16_t seg[SEG_COUNT];
    uint16_t ldt;
    bool trap;
};

static const uint8_t seg_order[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};

static uint32_t tss_read(struct tcpu *c, uint64_t base, unsigned offset, unsigned size)
{
    return (uint32_t)mem_read_system(c, (uint32_t)(base + offset), size);
}

static void tss_write(struct tcpu *c, uint64_t base, unsigned offset, unsigned size, uint32_t value)
{
    mem_write_system(c, (uint32_t)(base + offset), size, value);
}

static void task_read(struct tcpu *c, uint64_t base, bool wide, struct task *t)
{
    unsigned size = wide ? 4 : 2;
    *t = (struct task){.cr3 = wide ? tss_read(c, base, TSS_CR3, 4) : 0};
    t->eip = tss_read(c, base, wide ? TSS_EIP : 14, size);
    t->eflags = tss_read(c, base, wide ? TSS_EFLAGS : 16, size);
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] =
            tss_read(c, base, (wide ? TSS_GPR : 18) + i * size, size) | (wide ? 0 : 0xffff0000);
    for (unsigned i = 0; i < (wide ? 6u : 4u); i++)
        t->seg[seg_order[i]] = (uint16_t)tss_read(c, base, (wide ? TSS_SEG : 34) + i * size, 2);
    t->ldt = (uint16_t)tss_read(c, base, wide ? TSS_LDT : 42, 2);
    t->trap = wide && (tss_read(c, base, TSS_TRAP, 2) & 1);
}

static void task_save(struct tcpu *c, bool wide, uint32_t eflags)
{
    uint64_t base = c->s.tr.base;
    unsigned size = wide ? 4 : 2;
    tss_write(c, base, wide ? TSS_EIP : 14, size, (uint32_t)c->s.rip);
    tss_write(c, base, wide ? TSS_EFLAGS : 16, size, eflags);
    for (unsigned i = 0; i < 8; i++)
        tss_write(c, base, (wide ? TSS_GPR : 18) + i * size, size, (uint32_t)c->s.gpr[i]);
    for (unsigned i = 0; i < (wide ? 6u : 4u); i++)
        tss_write(c, base, (wide ? TSS_SEG : 34) + i * size, 2, c->s.seg[seg_order[i]].selector);
}

static void set_busy(struct tcpu *c, uint16_t selector, bool busy)
{
    struct descriptor d;
    if (!descriptor_read(c, selector, false, &d))
        return;
    uint32_t hi = busy ? d.hi | BIT(9) : d.hi & ~BIT(9);
    mem_write_system(c, d.at + 5, 1, hi >> 8 & 0xff);
}

static void load_ldt(struct tcpu *c, uint16_t selector)
{
    struct descriptor d;
    c->s.ldtr = (struct cpu_segment){.selector = selector};
    if (selector_null(selector))
        return;
    if ((selector & 4) || !descriptor_read(c, selector, false, &d) ||
        descriptor_type(&d) != SYS_LDT || !descriptor_present(&d))
        cpu_raise(c, VEC_TS, selector_error(c, selector));
    c->s.ldtr = descriptor_segment(selector, &d);
}

static void load_code(struct tcpu *c, uint16_t selector)
{
    struct descriptor d;
    if (selector_null(selector) || !descriptor_read(c, selector, false, &d))
        cpu_raise(c, VEC_TS, selector_error(c, selector));
    unsigned type = descriptor_type(&d), dpl = descriptor_dpl(&d), rpl = selector & 3;
    if (!DESC_CODE(type) || (DESC_CONFORMING(type) ? dpl > rpl : dpl != rpl))
        cpu_raise(c, VEC_TS, selector_error(c, selector));
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_NP, selector_error(c, selector));
    code_load(c, selector, &d, rpl);
}

static void load_stack(struct tcpu *c, uint16_t selector, unsigned level)
{
    struct descriptor d;
    if (selector_null(selector) || !descriptor_read(c, selector, false, &d) ||
        !DESC_WRITABLE_DATA(descriptor_type(&d)) || (selector & 3u) != level ||
        descriptor_dpl(&d) != level)
        cpu_raise(c, VEC_TS, selector_error(c, selector));
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_SS, selector_error(c, selector));
    descriptor_set_accessed(c, &d);
    c->s.seg[SEG_SS] = descriptor_segment(selector, &d);
}

static void load_data(struct tcpu *c, unsigned seg, uint16_t selector, unsigned level)
{
    struct descriptor d;
    if (selector_null(selector))
        return;
    if (!descriptor_read(c, selector, false, &d))
        cpu_raise(c, VEC_TS, selector_error(c, selector));
    unsigned type = descriptor_type(&d), dpl = descriptor_dpl(&d);
    if (!DESC_READABLE(type) || (!DESC_CONFORMING(type) && (dpl < level || dpl < (selector & 3u))))
        cpu_raise(c, VEC_TS, selector_error(c, selector));
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_NP, selector_error(c, selector));
    descriptor_set_accessed(c, &d);
    c->s.seg[seg] = descriptor_segment(selector, &d);
}

// Segment registers of the new task; until each is loaded it holds a null segment with its
// selector.
static void load_segments(struct tcpu *c, const struct task *t)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        c->s.seg[i] = (struct cpu_segment){.selector = t->seg[i]};
    if (c->s.rflags & FLAG_VM) {
        for (unsigned i = 0; i < SEG_COUNT; i++)
            c->s.seg[i] = segment_v86(t->seg[i]);
        load_ldt(c, t->ldt);
        return;
    }
    unsigned level = t->seg[SEG_CS] & 3;
    set_cpl(c, level);
    load_ldt(c, t->ldt);
    load_code(c, t->seg[SEG_CS]);
    load_stack(c, t->seg[SEG_SS], level);
    load_data(c, SEG_DS, t->seg[SEG_DS], level);
    load_data(c, SEG_ES, t->seg[SEG_ES], level);
    load_data(c, SEG_FS, t->seg[SEG_FS], level);
    load_data(c, SEG_GS, t->seg[SEG_GS], level);
}

static void load_cr3(struct tcpu *c, uint32_t cr3)
{
    if (!(c->s.cr0 & CR0_PG) || cr3 == (uint32_t)c->s.cr3)
        return;
    if (c->s.cr4 & CR4_PAE)
        pdpte_load(c, cr3);
    c->s.cr3 = cr3;
    tlb_flush_context(c);
}

static void push_error(struct tcpu *c, bool wide, uint32_t error)
{
    struct frame f;
    tcpu_update_mode(c);
    frame_current(c, wide ? 4 : 2, &f);
    frame_push(c, &f, error);
    frame_commit(c, &f);
}

void task_switch(struct tcpu *c, uint16_t selector, struct descriptor *d, enum task_reason reason,
                 bool has_error, uint32_t error)
{
    struct cpu_state *s = &c->s;
    struct cpu_segment tss = descriptor_segment(selector, d);
    bool wide = (tss.attr & SEGA_TYPE) >= SYS_TSS, old_wide = (s->tr.attr & SEGA_TYPE) >= SYS_TSS;
    bool nested = reason == TASK_CALL || reason == TASK_GATE;
    if (tss.limit < (wide ? 103u : 43u) || s->tr.limit < (old_wide ? 103u : 43u))
        cpu_raise(c, VEC_TS, selector_error(c, selector));
    struct task t;
    task_read(c, tss.base, wide, &t); // faults of either TSS belong to the old task
    uint32_t eflags = (uint32_t)s->rflags & ~(reason == TASK_IRET ? (uint32_t)FLAG_NT : 0u);
    task_save(c, old_wide, eflags);
    if (nested)
        tss_write(c, tss.base, 0, 2, s->tr.selector);
    if (reason == TASK_JMP || reason == TASK_IRET)
        set_busy(c, s->tr.selector, false);
    if (reason != TASK_IRET)
        set_busy(c, selector, true);
    tss.attr |= 2; // busy
    s->tr = tss;
    s->cr0 |= CR0_TS;
    load_cr3(c, t.cr3);
    s->rip = t.eip;
    c->insn_rip = t.eip; // from here on a fault is the new task's
    s->rflags = (t.eflags & 0x3f7fd5) | FLAG_FIXED | (nested ? FLAG_NT : 0);
    for (unsigned i = 0; i < 8; i++)
        s->gpr[i] = t.gpr[i];
    s->dr7 &= ~0x155ull; // local breakpoints end with their task
    c->keep_rf = 1;
    load_segments(c, &t);
    tcpu_update_mode(c);
    if (has_error)
        push_error(c, wide, error);
    if (!(s->rflags & FLAG_VM) && s->rip > s->seg[SEG_CS].limit)
        cpu_raise(c, VEC_GP, c->event_ext);
    if (t.trap) {
        s->pending_dbg |= DR6_BT;
        tcpu_pend(c, PENDING_EVENT);
    }
}

void task_gate(struct tcpu *c, const struct descriptor *gate, enum task_reason reason,
               bool has_error, uint32_t error)
{
    uint16_t selector = (uint16_t)(gate->lo >> 16);
    struct descriptor d;
    if (selector_null(selector) || (selector & 4) || !descriptor_read(c, selector, false, &d) ||
        (descriptor_type(&d) != SYS_TSS16 && descriptor_type(&d) != SYS_TSS))
        cpu_raise(c, VEC_GP, selector_error(c, selector));
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_NP, selector_error(c, selector));
    task_switch(c, selector, &d, reason, has_error, error);
}

void task_return(struct tcpu *c)
{
    uint16_t selector = (uint16_t)tss_read(c, c->s.tr.base, 0, 2);
    struct descriptor d;
    if (selector_null(selector) || (selector & 4) || !descriptor_read(c, selector, false, &d) ||
        (descriptor_type(&d) != SYS_TSS16_BUSY && descriptor_type(&d) != SYS_TSS_BUSY))
        cpu_raise(c, VEC_TS, selector & ~3u);
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_NP, selector & ~3u);
    task_switch(c, selector, &d, TASK_IRET, false, 0);
}
