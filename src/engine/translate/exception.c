// Exceptions and interrupts: raising, double and triple faults, delivery through the vector table
// in real mode and through gates in protected, virtual-8086 and long mode. Sources: Intel SDM vol.
// 3 chapters 6, 17 and 20 (virtual-8086, VME). Not modelled: the RF image of interrupts between
// string iterations; machine checks.
#include "engine/translate/system_impl.h"

enum exception_class {
    CLASS_NONE,
    CLASS_BENIGN,
    CLASS_CONTRIBUTORY,
    CLASS_PAGE_FAULT,
    CLASS_DOUBLE
};

static enum exception_class class_of(unsigned vector)
{
    switch (vector) {
    case VEC_DE:
    case VEC_TS:
    case VEC_NP:
    case VEC_SS:
    case VEC_GP: return CLASS_CONTRIBUTORY;
    case VEC_PF: return CLASS_PAGE_FAULT;
    case VEC_DF: return CLASS_DOUBLE;
    default: return CLASS_BENIGN;
    }
}

static bool has_error_code(unsigned vector)
{
    return vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
}

static void event_set(struct tcpu *c, unsigned vector, uint32_t error)
{
    c->s.event_pending = 1;
    c->s.event_vector = (uint8_t)vector;
    c->s.event_type = CPU_EVENT_EXCEPTION;
    c->s.event_has_error = has_error_code(vector);
    c->s.event_error = error;
}

// What happens once vector strikes while another event is being delivered (SDM table 6-5).
_Noreturn void cpu_raise(struct tcpu *c, unsigned vector, uint32_t error)
{
    enum exception_class second = class_of(vector);
    enum exception_class first = (enum exception_class)c->in_exception;
    c->s.rip = c->insn_rip;
    c->in_exception = CLASS_NONE;
    c->event_ext = 0;
    c->s.event_pending = 0;
    c->counter[COUNTER_EXCEPTIONS]++;
    if (first == CLASS_DOUBLE && second != CLASS_BENIGN)
        c->s.activity = CPU_SHUTDOWN;
    else if ((first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) ||
             (first == CLASS_PAGE_FAULT &&
              (second == CLASS_CONTRIBUTORY || second == CLASS_PAGE_FAULT)))
        event_set(c, VEC_DF, 0);
    else
        event_set(c, vector, error);
    tcpu_pend(c, PENDING_EVENT);
    longjmp(c->unwind, 1);
}

_Noreturn void cpu_raise_pf(struct tcpu *c, gva_t at, uint32_t error)
{
    c->s.cr2 = at;
    cpu_raise(c, VEC_PF, error);
}

_Noreturn void raise_db(struct tcpu *c, uint64_t dr6_bits)
{
    c->s.dr6 |= dr6_bits;
    cpu_raise(c, VEC_DB, 0);
}

_Noreturn void cpu_restart(struct tcpu *c)
{
    c->s.rip = c->insn_rip;
    c->in_exception = CLASS_NONE;
    c->event_ext = 0;
    tcpu_pend(c, PENDING_EVENT);
    longjmp(c->unwind, 1);
}

_Noreturn void cpu_exit(struct tcpu *c, enum engine_exit exit)
{
    c->exit = exit;
    longjmp(c->unwind, 2);
}

void event_deliver(struct tcpu *c)
{
    struct cpu_state *s = &c->s;
    unsigned vector = s->event_vector;
    bool exception = s->event_type == CPU_EVENT_EXCEPTION;
    s->event_pending = 1; // until it is delivered, or another one takes its place
    s->interrupt_shadow = 0;
    c->insn_rip = s->rip;
    c->in_exception = exception ? (uint8_t)class_of(vector) : CLASS_BENIGN;
    cpu_deliver(c, vector, (enum cpu_event_type)s->event_type, s->event_has_error, s->event_error);
    s->event_pending = 0;
    c->in_exception = CLASS_NONE;
}

// --- real mode, and virtual-8086 mode's own handlers ---------------------------------------------

static void deliver_real(struct tcpu *c, unsigned vector)
{
    struct frame f;
    if (vector * 4 + 3 > c->s.idtr.limit)
        cpu_raise(c, VEC_GP, vector * 8 + 2);
    uint32_t entry = (uint32_t)mem_read_system(c, (uint32_t)(c->s.idtr.base + vector * 4), 4);
    frame_current(c, 2, &f);
    f.error = 0;
    frame_push(c, &f, c->s.rflags);
    frame_push(c, &f, c->s.seg[SEG_CS].selector);
    frame_push(c, &f, c->s.rip);
    frame_commit(c, &f);
    segment_load_real(c, SEG_CS, (uint16_t)(entry >> 16));
    c->s.rip = entry & 0xffff;
    c->s.rflags &= ~(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
}

// VME: is INT n in virtual-8086 mode redirected to the 8086 program's own handler?
static bool vme_redirected(struct tcpu *c, unsigned vector)
{
    if (!(c->s.cr4 & CR4_VME) || (c->s.tr.attr & SEGA_TYPE) < SYS_TSS || c->s.tr.limit < 103)
        return false;
    unsigned io_map = (unsigned)mem_read_system(c, (uint32_t)(c->s.tr.base + 102), 2);
    unsigned at = io_map - 32 + vector / 8;
    if (io_map < 32 || at > c->s.tr.limit)
        return false;
    return !(mem_read_system(c, (uint32_t)(c->s.tr.base + at), 1) >> (vector % 8) & 1);
}

static void deliver_vme(struct tcpu *c, unsigned vector)
{
    struct frame f;
    uint64_t flags = c->s.rflags;
    bool virtual_if = bits_get(flags, 13, 12) < 3;
    uint32_t entry = (uint32_t)mem_read(c, vector * 4, 4);
    if (virtual_if)
        flags = bits_set(flags | FLAG_IOPL, 9, 9, flags & FLAG_VIF ? 1 : 0);
    frame_current(c, 2, &f);
    frame_push(c, &f, flags);
    frame_push(c, &f, c->s.seg[SEG_CS].selector);
    frame_push(c, &f, c->s.rip);
    frame_commit(c, &f);
    c->s.seg[SEG_CS] = segment_v86((uint16_t)(entry >> 16));
    c->s.rip = entry & 0xffff;
    c->s.rflags &= ~(FLAG_TF | FLAG_RF | FLAG_NT | (virtual_if ? FLAG_VIF : FLAG_IF));
}

// --- gates ---------------------------------------------------------------------------------------

struct delivery {
    unsigned vector;
    enum cpu_event_type type;
    bool has_error;
    uint32_t error;
    uint64_t flags; // to be pushed
    struct descriptor gate;
    uint16_t cs;
    uint64_t offset;
    struct descriptor code;
    unsigned new_cpl;
};

static uint32_t vector_error(const struct tcpu *c, unsigned vector)
{
    return vector * 8 + 2 + c->event_ext;
}

static void gate_read(struct tcpu *c, struct delivery *x)
{
    unsigned size = c->mode & MODE_LONG ? 16 : 8, offset = x->vector * size;
    if (offset + size - 1 > c->s.idtr.limit)
        cpu_raise(c, VEC_GP, vector_error(c, x->vector));
    gva_t at = c->s.idtr.base + offset;
    if (!(c->mode & MODE_LONG))
        at = (uint32_t)at;
    uint64_t raw = mem_read_system(c, at, 8);
    x->gate = (struct descriptor){.at = at, .lo = (uint32_t)raw, .hi = (uint32_t)(raw >> 32)};
    if (c->mode & MODE_LONG)
        x->gate.upper = mem_read_system(c, at + 8, 8);
}

static void gate_check(struct tcpu *c, const struct delivery *x)
{
    unsigned type = descriptor_type(&x->gate);
    bool known = type == SYS_INT_GATE || type == SYS_TRAP_GATE;
    if (!(c->mode & MODE_LONG))
        known |= type == SYS_INT_GATE16 || type == SYS_TRAP_GATE16 || type == SYS_TASK_GATE;
    if (!known || (x->type == CPU_EVENT_SOFT_INT && descriptor_dpl(&x->gate) < cpl(c)))
        cpu_raise(c, VEC_GP, vector_error(c, x->vector));
    if (!descriptor_present(&x->gate))
        cpu_raise(c, VEC_NP, vector_error(c, x->vector));
}

static void code_check(struct tcpu *c, struct delivery *x)
{
    x->cs = (uint16_t)(x->gate.lo >> 16);
    x->offset = (x->gate.lo & 0xffff) | (x->gate.hi & 0xffff0000) | x->gate.upper << 32;
    if (descriptor_type(&x->gate) <= SYS_TRAP_GATE16)
        x->offset &= 0xffff;
    if (selector_null(x->cs))
        cpu_raise(c, VEC_GP, c->event_ext);
    if (!descriptor_read(c, x->cs, false, &x->code))
        cpu_raise(c, VEC_GP, selector_error(c, x->cs));
    unsigned type = descriptor_type(&x->code), dpl = descriptor_dpl(&x->code);
    bool long_code = (x->code.hi & (BIT(21) | BIT(22))) == BIT(21);
    if (!DESC_CODE(type) || dpl > cpl(c) || ((c->mode & MODE_LONG) && !long_code))
        cpu_raise(c, VEC_GP, selector_error(c, x->cs));
    x->new_cpl = DESC_CONFORMING(type) ? cpl(c) : dpl;
    if ((c->mode & MODE_V86) && x->new_cpl != 0)
        cpu_raise(c, VEC_GP, selector_error(c, x->cs));
    if (!descriptor_present(&x->code))
        cpu_raise(c, VEC_NP, selector_error(c, x->cs));
}

static void ist_stack(struct tcpu *c, unsigned ist, struct frame *f)
{
    unsigned offset = 28 + 8 * ist;
    if (offset + 7 > c->s.tr.limit)
        cpu_raise(c, VEC_TS, selector_error(c, c->s.tr.selector));
    f->sp = mem_read_system(c, c->s.tr.base + offset, 8);
}

static void push_return(struct tcpu *c, struct frame *f, const struct delivery *x, bool stack_too)
{
    if (stack_too) {
        frame_push(c, f, c->s.seg[SEG_SS].selector);
        frame_push(c, f, c->s.gpr[RSP]);
    }
    frame_push(c, f, x->flags);
    frame_push(c, f, c->s.seg[SEG_CS].selector);
    frame_push(c, f, c->s.rip);
    if (x->has_error)
        frame_push(c, f, x->error);
}

static void enter_handler(struct tcpu *c, struct delivery *x, const struct frame *f)
{
    uint64_t clear = FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT;
    if ((descriptor_type(&x->gate) & 1) == 0)
        clear |= FLAG_IF; // interrupt gates have even types
    if (!f->wide)
        code_target_check(c, &x->code, x->offset);
    else if (!is_canonical(x->offset))
        cpu_raise(c, VEC_GP, c->event_ext);
    descriptor_set_accessed(c, &x->code);
    frame_commit(c, f);
    code_load(c, x->cs, &x->code, x->new_cpl);
    c->s.rip = x->offset;
    c->s.rflags &= ~clear;
}

static void deliver_long(struct tcpu *c, struct delivery *x)
{
    struct frame f;
    unsigned ist = x->gate.hi & 7;
    bool inner = x->new_cpl < cpl(c);
    frame_current(c, 8, &f);
    f.wide = true;
    if (inner)
        frame_inner(c, x->new_cpl, 8, &f);
    f.system = x->new_cpl < 3;
    if (ist)
        ist_stack(c, ist, &f);
    f.sp &= ~15ull;
    push_return(c, &f, x, true);
    enter_handler(c, x, &f);
}

static void deliver_protected(struct tcpu *c, struct delivery *x)
{
    struct frame f;
    unsigned size = descriptor_type(&x->gate) <= SYS_TRAP_GATE16 ? 2 : 4;
    bool inner = x->new_cpl < cpl(c), v86 = c->mode & MODE_V86;
    if (!inner) {
        frame_current(c, size, &f);
        push_return(c, &f, x, false);
        enter_handler(c, x, &f);
        return;
    }
    frame_inner(c, x->new_cpl, size, &f);
    static const uint8_t v86_pushed[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    for (unsigned i = 0; v86 && i < 4; i++)
        frame_push(c, &f, c->s.seg[v86_pushed[i]].selector);
    push_return(c, &f, x, true);
    enter_handler(c, x, &f);
    for (unsigned i = 0; v86 && i < 4; i++)
        c->s.seg[v86_pushed[i]] = (struct cpu_segment){0};
}

static uint64_t flags_image(const struct tcpu *c, unsigned vector, enum cpu_event_type type)
{
    bool fault = type == CPU_EVENT_EXCEPTION && vector != VEC_DB && vector != VEC_DF;
    return c->s.rflags | (fault ? FLAG_RF : 0);
}

static void deliver_gate(struct tcpu *c, struct delivery *x)
{
    gate_read(c, x);
    gate_check(c, x);
    if (descriptor_type(&x->gate) == SYS_TASK_GATE) {
        c->s.rflags = x->flags;
        task_gate(c, &x->gate, TASK_GATE, x->has_error, x->error);
        return;
    }
    code_check(c, x);
    if (c->mode & MODE_LONG)
        deliver_long(c, x);
    else
        deliver_protected(c, x);
}

void cpu_deliver(struct tcpu *c, unsigned vector, enum cpu_event_type type, bool has_error,
                 uint32_t error)
{
    c->event_ext = type != CPU_EVENT_SOFT_INT;
    struct delivery x = {.vector = vector,
                         .type = type,
                         .has_error = has_error,
                         .error = error,
                         .flags = flags_image(c, vector, type)};
    if (type == CPU_EVENT_EXCEPTION && vector == VEC_DB)
        c->s.dr7 &= ~DR7_GD;
    if (!(c->mode & MODE_PROTECTED))
        deliver_real(c, vector);
    else
        deliver_gate(c, &x);
    c->event_ext = 0;
    c->no_step = 1;
    tcpu_update_mode(c);
    tcpu_if_changed(c);
}

// INT n in virtual-8086 mode: to the 8086 program, to protected mode, or refused.
static bool int_v86(struct tcpu *c, unsigned vector)
{
    if (vme_redirected(c, vector)) {
        deliver_vme(c, vector);
        c->no_step = 1;
        tcpu_update_mode(c);
        return true;
    }
    if (bits_get(c->s.rflags, 13, 12) < 3)
        cpu_raise(c, VEC_GP, 0);
    return false;
}

void sys_int(struct tcpu *c, const struct insn *insn)
{
    unsigned vector = insn->imm & 0xff;
    if ((c->mode & MODE_V86) && int_v86(c, vector))
        return;
    cpu_deliver(c, vector, CPU_EVENT_SOFT_INT, false, 0);
}

void sys_int3(struct tcpu *c, const struct insn *insn)
{
    debug_int3(c);
    cpu_deliver(c, VEC_BP, CPU_EVENT_SOFT_INT, false, 0);
}

void sys_into(struct tcpu *c, const struct insn *insn)
{
    if (c->s.rflags & FLAG_OF)
        cpu_deliver(c, VEC_OF, CPU_EVENT_SOFT_INT, false, 0);
}

// ICEBP: a trap-like #DB that no gate DPL stops; DR6 stays as it is.
void sys_int1(struct tcpu *c, const struct insn *insn)
{
    cpu_deliver(c, VEC_DB, CPU_EVENT_EXCEPTION, false, 0);
}

void sys_ud(struct tcpu *c, const struct insn *insn)
{
    cpu_raise(c, VEC_UD, 0);
}
