// Far transfers: JMP, CALL and RET between code segments, call gates of 16, 32 and 64 bits, IRET in
// every mode. Sources: Intel SDM vol. 2 (the pseudo-code of JMP, CALL, RET, IRET), vol. 3
// sections 5.8 and 20.2.
#include "engine/translate/system_impl.h"

static bool code64(const struct tcpu *c)
{
    return (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
}

static bool descriptor_is_long(const struct tcpu *c, const struct descriptor *d)
{
    return (c->mode & MODE_LONG) && (d->hi & BIT(21));
}

bool code_size_valid(const struct tcpu *c, const struct descriptor *d)
{
    return !(c->mode & MODE_LONG) || (d->hi & (BIT(21) | BIT(22))) != (BIT(21) | BIT(22));
}

void code_target_check(struct tcpu *c, const struct descriptor *d, uint64_t offset)
{
    bool fits =
        descriptor_is_long(c, d) ? is_canonical(offset) : offset <= descriptor_segment(0, d).limit;
    if (!fits)
        cpu_raise(c, VEC_GP, c->event_ext);
}

void set_cpl(struct tcpu *c, unsigned new_cpl)
{
    c->s.seg[SEG_SS].attr = (uint16_t)bits_set(c->s.seg[SEG_SS].attr, 6, 5, new_cpl);
}

void code_load(struct tcpu *c, uint16_t selector, struct descriptor *d, unsigned new_cpl)
{
    descriptor_set_accessed(c, d);
    c->s.seg[SEG_CS] = descriptor_segment((uint16_t)((selector & ~3) | new_cpl), d);
}

void flags_load(struct tcpu *c, uint64_t value, uint64_t mask)
{
    c->s.rflags = (c->s.rflags & ~mask) | (value & mask) | FLAG_FIXED;
    c->keep_rf = (mask & FLAG_RF) != 0;
    tcpu_update_mode(c);
    tcpu_if_changed(c);
}

// --- JMP and CALL --------------------------------------------------------------------------------

static void jump_real(struct tcpu *c, uint16_t selector, uint64_t offset)
{
    if (!(c->mode & MODE_V86) && offset > c->s.seg[SEG_CS].limit)
        cpu_raise(c, VEC_GP, 0);
    if ((c->mode & MODE_V86) && offset > 0xffff)
        cpu_raise(c, VEC_GP, 0);
    if (c->mode & MODE_V86)
        c->s.seg[SEG_CS] = segment_v86(selector);
    else
        segment_load_real(c, SEG_CS, selector);
    c->s.rip = offset;
    tcpu_update_mode(c);
}

static void code_fetch(struct tcpu *c, uint16_t selector, struct descriptor *d)
{
    if (selector_null(selector))
        cpu_raise(c, VEC_GP, 0);
    if (!descriptor_read(c, selector, true, d))
        cpu_raise(c, VEC_GP, selector & ~3u);
}

// A code segment that JMP or CALL names directly.
static void direct_check(struct tcpu *c, uint16_t selector, const struct descriptor *d)
{
    unsigned type = descriptor_type(d), dpl = descriptor_dpl(d);
    bool allowed =
        DESC_CONFORMING(type) ? dpl <= cpl(c) : (selector & 3u) <= cpl(c) && dpl == cpl(c);
    if (!allowed || !code_size_valid(c, d))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(d))
        cpu_raise(c, VEC_NP, selector & ~3u);
}

struct gate {
    uint16_t selector; // of the target
    uint64_t offset;
    struct descriptor code;
    unsigned size;   // of pushed items
    unsigned params; // items to copy
};

static void gate_load(struct tcpu *c, uint16_t selector, const struct descriptor *d, bool call,
                      struct gate *g)
{
    unsigned dpl = descriptor_dpl(d);
    if (dpl < cpl(c) || dpl < (selector & 3u))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(d))
        cpu_raise(c, VEC_NP, selector & ~3u);
    bool wide = descriptor_type(d) == SYS_CALL_GATE;
    g->size = c->mode & MODE_LONG ? 8 : wide ? 4 : 2;
    g->params = c->mode & MODE_LONG ? 0 : d->hi & 31;
    g->selector = (uint16_t)(d->lo >> 16);
    g->offset =
        (d->lo & 0xffff) | (wide ? d->hi & 0xffff0000 : 0) | (uint64_t)(uint32_t)d->upper << 32;
    if ((c->mode & MODE_LONG) && (d->upper >> 40 & 31))
        cpu_raise(c, VEC_GP, selector & ~3u);
    code_fetch(c, g->selector, &g->code);
    unsigned type = descriptor_type(&g->code), code_dpl = descriptor_dpl(&g->code);
    bool allowed = DESC_CODE(type) &&
                   (call || DESC_CONFORMING(type) ? code_dpl <= cpl(c) : code_dpl == cpl(c));
    if (c->mode & MODE_LONG)
        allowed &= (g->code.hi & (BIT(21) | BIT(22))) == BIT(21);
    if (!allowed)
        cpu_raise(c, VEC_GP, g->selector & ~3u);
    if (!descriptor_present(&g->code))
        cpu_raise(c, VEC_NP, g->selector & ~3u);
}

static void task_jump(struct tcpu *c, uint16_t selector, struct descriptor *d,
                      enum task_reason reason)
{
    unsigned type = descriptor_type(d), dpl = descriptor_dpl(d);
    if ((c->mode & MODE_LONG) || dpl < cpl(c) || dpl < (selector & 3u) ||
        (type != SYS_TASK_GATE && type != SYS_TSS16 && type != SYS_TSS))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(d))
        cpu_raise(c, VEC_NP, selector & ~3u);
    if (type == SYS_TASK_GATE)
        task_gate(c, d, reason, false, 0);
    else
        task_switch(c, selector, d, reason, false, 0);
    tcpu_update_mode(c);
    tcpu_if_changed(c);
}

static bool is_call_gate(const struct tcpu *c, const struct descriptor *d)
{
    unsigned type = descriptor_type(d);
    return type == SYS_CALL_GATE || (type == SYS_CALL_GATE16 && !(c->mode & MODE_LONG));
}

static void jump_far(struct tcpu *c, uint16_t selector, uint64_t offset)
{
    struct descriptor d;
    if (!(c->mode & MODE_PROTECTED) || (c->mode & MODE_V86)) {
        jump_real(c, selector, offset);
        return;
    }
    code_fetch(c, selector, &d);
    if (is_call_gate(c, &d)) {
        struct gate g;
        gate_load(c, selector, &d, false, &g);
        selector = g.selector;
        offset = g.offset;
        d = g.code;
    } else if (DESC_CODE(descriptor_type(&d))) {
        direct_check(c, selector, &d);
    } else {
        task_jump(c, selector, &d, TASK_JMP);
        return;
    }
    code_target_check(c, &d, offset);
    code_load(c, selector, &d, cpl(c));
    c->s.rip = offset;
    tcpu_update_mode(c);
}

static void push_far_return(struct tcpu *c, struct frame *f)
{
    frame_push(c, f, c->s.seg[SEG_CS].selector);
    frame_push(c, f, c->s.rip);
}

static void call_gate_inner(struct tcpu *c, struct gate *g, unsigned dpl)
{
    struct frame old, f;
    frame_current(c, g->size, &old);
    frame_inner(c, dpl, g->size, &f);
    frame_push(c, &f, c->s.seg[SEG_SS].selector);
    frame_push(c, &f, c->s.gpr[RSP]);
    uint64_t params[31];
    for (unsigned i = 0; i < g->params; i++)
        params[i] = frame_pop(c, &old);
    for (unsigned i = g->params; i--;)
        frame_push(c, &f, params[i]);
    push_far_return(c, &f);
    descriptor_set_accessed(c, &g->code);
    frame_commit(c, &f);
    code_load(c, g->selector, &g->code, dpl);
}

static void call_gate(struct tcpu *c, uint16_t selector, const struct descriptor *d)
{
    struct gate g;
    gate_load(c, selector, d, true, &g);
    code_target_check(c, &g.code, g.offset);
    unsigned dpl = descriptor_dpl(&g.code);
    if (!DESC_CONFORMING(descriptor_type(&g.code)) && dpl < cpl(c)) {
        call_gate_inner(c, &g, dpl);
    } else {
        struct frame f;
        frame_current(c, g.size, &f);
        if (c->mode & MODE_LONG)
            f.wide = true;
        push_far_return(c, &f);
        descriptor_set_accessed(c, &g.code);
        frame_commit(c, &f);
        code_load(c, g.selector, &g.code, cpl(c));
    }
    c->s.rip = g.offset;
}

static void call_direct(struct tcpu *c, uint16_t selector, struct descriptor *d, uint64_t offset,
                        unsigned opsize)
{
    struct frame f;
    direct_check(c, selector, d);
    code_target_check(c, d, offset);
    frame_current(c, opsize, &f);
    push_far_return(c, &f);
    descriptor_set_accessed(c, d);
    frame_commit(c, &f);
    code_load(c, selector, d, cpl(c));
    c->s.rip = offset;
}

static void call_far(struct tcpu *c, uint16_t selector, uint64_t offset, unsigned opsize)
{
    struct descriptor d;
    if (!(c->mode & MODE_PROTECTED) || (c->mode & MODE_V86)) {
        struct frame f;
        frame_current(c, opsize, &f);
        push_far_return(c, &f);
        jump_real(c, selector, offset);
        c->s.gpr[RSP] = f.sp;
        return;
    }
    code_fetch(c, selector, &d);
    if (is_call_gate(c, &d)) {
        call_gate(c, selector, &d);
    } else if (DESC_CODE(descriptor_type(&d))) {
        call_direct(c, selector, &d, offset, opsize);
    } else {
        task_jump(c, selector, &d, TASK_CALL);
        return;
    }
    tcpu_update_mode(c);
}

// The far pointer: immediate, or in memory with the offset first.
static uint16_t far_pointer(struct tcpu *c, const struct insn *insn, uint64_t *offset)
{
    if (insn->operand[0].kind == OPND_FAR) {
        *offset = insn->imm & size_mask(insn->opsize);
        return (uint16_t)insn->imm2;
    }
    gva_t at = insn_linear(c, insn, insn->opsize + 2, ACCESS_READ);
    *offset = mem_read(c, at, insn->opsize);
    return (uint16_t)mem_read(c, at + insn->opsize, 2);
}

void sys_jmp_far(struct tcpu *c, const struct insn *insn)
{
    uint64_t offset;
    uint16_t selector = far_pointer(c, insn, &offset);
    jump_far(c, selector, offset);
}

void sys_call_far(struct tcpu *c, const struct insn *insn)
{
    uint64_t offset;
    uint16_t selector = far_pointer(c, insn, &offset);
    call_far(c, selector, offset, insn->opsize);
}

// --- RET and IRET --------------------------------------------------------------------------------

// The code segment that RET or IRET goes back to.
static void return_code_check(struct tcpu *c, uint16_t selector, struct descriptor *d)
{
    code_fetch(c, selector, d);
    unsigned type = descriptor_type(d), dpl = descriptor_dpl(d), rpl = selector & 3;
    if (rpl < cpl(c) || !DESC_CODE(type) || (DESC_CONFORMING(type) ? dpl > rpl : dpl != rpl) ||
        !code_size_valid(c, d))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(d))
        cpu_raise(c, VEC_NP, selector & ~3u);
}

// The stack segment that goes with it.
static struct cpu_segment return_stack(struct tcpu *c, uint16_t selector, unsigned rpl,
                                       const struct descriptor *code)
{
    struct descriptor d;
    if (selector_null(selector)) {
        if (!descriptor_is_long(c, code) || rpl == 3 || (selector & 3u) != rpl)
            cpu_raise(c, VEC_GP, 0);
        return (struct cpu_segment){.selector = selector, .attr = (uint16_t)(rpl << 5)};
    }
    if (!descriptor_read(c, selector, false, &d) || (selector & 3u) != rpl ||
        !DESC_WRITABLE_DATA(descriptor_type(&d)) || descriptor_dpl(&d) != rpl)
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_SS, selector & ~3u);
    descriptor_set_accessed(c, &d);
    return descriptor_segment(selector, &d);
}

// rsp as a return to an outer stack of that width loads it.
static uint64_t merge_sp(const struct tcpu *c, const struct cpu_segment *ss,
                         const struct descriptor *code, uint64_t sp)
{
    if (descriptor_is_long(c, code))
        return sp;
    if (ss->attr & SEGA_DB)
        return sp & 0xffffffff;
    return (c->s.gpr[RSP] & ~0xffffull) | (sp & 0xffff);
}

static void frame_skip(struct frame *f, unsigned bytes)
{
    uint64_t mask = f->wide ? ~0ull : f->ss.attr & SEGA_DB ? 0xffffffffull : 0xffffull;
    f->sp = (f->sp & ~mask) | ((f->sp + bytes) & mask);
}

static void ret_real(struct tcpu *c, struct frame *f, unsigned extra)
{
    uint64_t offset = frame_pop(c, f);
    uint16_t selector = (uint16_t)frame_pop(c, f);
    jump_real(c, selector, offset);
    frame_skip(f, extra);
    c->s.gpr[RSP] = f->sp;
}

void sys_ret_far(struct tcpu *c, const struct insn *insn)
{
    unsigned extra = insn->operand[0].kind == OPND_IMM ? insn->imm & 0xffff : 0;
    struct frame f;
    frame_current(c, insn->opsize, &f);
    if (!(c->mode & MODE_PROTECTED) || (c->mode & MODE_V86)) {
        ret_real(c, &f, extra);
        return;
    }
    struct descriptor d;
    uint64_t offset = frame_pop(c, &f);
    uint16_t selector = (uint16_t)frame_pop(c, &f);
    unsigned rpl = selector & 3;
    return_code_check(c, selector, &d);
    frame_skip(&f, extra);
    bool outer = rpl > cpl(c);
    if (outer) {
        uint64_t sp = frame_pop(c, &f);
        uint16_t ss = (uint16_t)frame_pop(c, &f);
        f.ss = return_stack(c, ss, rpl, &d);
        f.wide = descriptor_is_long(c, &d);
        f.sp = merge_sp(c, &f.ss, &d, sp);
        frame_skip(&f, extra);
    }
    code_target_check(c, &d, offset);
    descriptor_set_accessed(c, &d);
    frame_commit(c, &f);
    code_load(c, selector, &d, rpl);
    c->s.rip = offset;
    if (outer)
        segments_drop_inner(c);
    tcpu_update_mode(c);
}

uint64_t iret_flags_mask(const struct tcpu *c, unsigned opsize)
{
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    bool free = !(c->mode & MODE_PROTECTED) || cpl(c) == 0;
    if (free || cpl(c) <= bits_get(c->s.rflags, 13, 12))
        mask |= FLAG_IF;
    if (free)
        mask |= FLAG_IOPL;
    if (opsize == 2)
        return mask;
    mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    return free && (c->mode & MODE_PROTECTED) ? mask | FLAG_VIF | FLAG_VIP : mask;
}

// What follows from them is the end of sys_iret()'s business.
static void iret_flags(struct tcpu *c, uint64_t value, uint64_t mask)
{
    c->s.rflags = (c->s.rflags & ~mask) | (value & mask) | FLAG_FIXED;
    c->keep_rf = (mask & FLAG_RF) != 0;
}

static void iret_real(struct tcpu *c, unsigned opsize, struct frame *f)
{
    uint64_t offset = frame_pop(c, f);
    uint16_t selector = (uint16_t)frame_pop(c, f);
    uint64_t flags = frame_pop(c, f), mask = iret_flags_mask(c, opsize);
    jump_real(c, selector, offset);
    c->s.gpr[RSP] = f->sp;
    iret_flags(c, flags, mask);
}

static void iret_v86(struct tcpu *c, unsigned opsize, struct frame *f)
{
    bool direct = bits_get(c->s.rflags, 13, 12) == 3;
    if (!direct && (!(c->s.cr4 & CR4_VME) || opsize != 2))
        cpu_raise(c, VEC_GP, 0);
    uint64_t offset = frame_pop(c, f);
    uint16_t selector = (uint16_t)frame_pop(c, f);
    uint64_t flags = frame_pop(c, f), mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    if (direct) {
        mask |= FLAG_IF | (opsize == 2 ? 0 : FLAG_RF | FLAG_AC | FLAG_ID);
    } else {
        if ((flags & FLAG_TF) || ((flags & FLAG_IF) && (c->s.rflags & FLAG_VIP)))
            cpu_raise(c, VEC_GP, 0);
        flags = bits_set(flags, 19, 19, flags & FLAG_IF ? 1 : 0);
        mask |= FLAG_VIF;
    }
    jump_real(c, selector, offset);
    c->s.gpr[RSP] = f->sp;
    iret_flags(c, flags, mask);
}

// From ring 0 into virtual-8086 mode.
static void iret_to_v86(struct tcpu *c, struct frame *f, uint64_t offset, uint16_t cs,
                        uint64_t flags)
{
    uint64_t sp = frame_pop(c, f);
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint16_t selector[5];
    for (unsigned i = 0; i < 5; i++)
        selector[i] = (uint16_t)frame_pop(c, f);
    for (unsigned i = 0; i < 5; i++)
        c->s.seg[order[i]] = segment_v86(selector[i]);
    c->s.seg[SEG_CS] = segment_v86(cs);
    c->s.rip = offset & 0xffff;
    c->s.gpr[RSP] = sp & 0xffffffff;
    uint64_t all = FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF |
                   FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    iret_flags(c, flags, all);
}

// Whether the segment is what loading its selector again would make it.
static bool is_current(struct tcpu *c, const struct cpu_segment *s)
{
    struct descriptor d;
    if (!descriptor_read(c, s->selector, false, &d))
        return false;
    struct cpu_segment now = descriptor_segment(s->selector, &d);
    return now.base == s->base && now.limit == s->limit && now.attr == s->attr;
}

static bool is_current_stack(struct tcpu *c, const struct cpu_segment *s)
{
    if (selector_null(s->selector))
        return !s->base && !s->limit && s->attr == (s->selector & 3u) << 5 && s->selector < 3;
    return DESC_WRITABLE_DATA(s->attr & 31u) && bits_get(s->attr, 6, 5) == (s->selector & 3u) &&
           is_current(c, s);
}

// IRET in 64-bit code from an interrupt of the same code, which changes nothing but RIP, RSP and
// flags that no mode depends on. False: nothing is done.
static bool iret_in_place(struct tcpu *c)
{
    enum { RIP, CS, FLAGS, SP, SS, WORDS };
    struct frame f;
    uint64_t word[WORDS], mask = iret_flags_mask(c, 8);
    frame_current(c, 8, &f);
    frame_pop_long(c, &f, word, WORDS);
    const struct cpu_segment *cs = &c->s.seg[SEG_CS], *ss = &c->s.seg[SEG_SS];
    if ((uint16_t)word[CS] != cs->selector || (uint16_t)word[SS] != ss->selector ||
        ((word[FLAGS] ^ c->s.rflags) & mask & ~(FLAGS_ARITH | FLAG_DF | FLAG_IF | FLAG_RF)) ||
        !is_canonical(word[RIP]) || !is_current(c, cs) || !is_current_stack(c, ss))
        return false;
    c->s.rip = word[RIP];
    c->s.gpr[RSP] = word[SP];
    iret_flags(c, word[FLAGS], mask);
    return true;
}

static void iret_protected(struct tcpu *c, unsigned opsize, struct frame *f)
{
    uint64_t offset = frame_pop(c, f);
    uint16_t selector = (uint16_t)frame_pop(c, f);
    uint64_t flags = frame_pop(c, f), mask = iret_flags_mask(c, opsize);
    if (opsize == 4 && (flags & FLAG_VM) && cpl(c) == 0 && !(c->mode & MODE_LONG)) {
        iret_to_v86(c, f, offset, selector, flags);
        return;
    }
    struct descriptor d;
    return_code_check(c, selector, &d);
    unsigned rpl = selector & 3;
    bool outer = rpl > cpl(c);
    if (outer || code64(c)) {
        uint64_t sp = frame_pop(c, f);
        uint16_t ss = (uint16_t)frame_pop(c, f);
        f->ss = return_stack(c, ss, rpl, &d);
        f->sp = merge_sp(c, &f->ss, &d, sp);
    }
    code_target_check(c, &d, offset);
    descriptor_set_accessed(c, &d);
    frame_commit(c, f);
    code_load(c, selector, &d, rpl);
    c->s.rip = offset;
    iret_flags(c, flags, mask);
    if (outer)
        segments_drop_inner(c);
}

void sys_iret(struct tcpu *c, const struct insn *insn)
{
    struct frame f;
    bool in_place = code64(c) && insn->opsize == 8 && !(c->s.rflags & FLAG_NT) && iret_in_place(c);
    frame_current(c, insn->opsize, &f);
    if (in_place) {
        // Nothing that a mode depends on has changed.
    } else if (c->mode & MODE_V86) {
        iret_v86(c, insn->opsize, &f);
    } else if (!(c->mode & MODE_PROTECTED)) {
        iret_real(c, insn->opsize, &f);
    } else if (c->s.rflags & FLAG_NT) {
        if (c->mode & MODE_LONG)
            cpu_raise(c, VEC_GP, 0);
        task_return(c);
    } else {
        iret_protected(c, insn->opsize, &f);
    }
    c->s.nmi_blocked = 0;
    if (!in_place)
        tcpu_update_mode(c);
    tcpu_if_changed(c);
    if (!c->s.nmi_blocked && c->s.nmi_pending)
        tcpu_pend(c, PENDING_NMI);
}
