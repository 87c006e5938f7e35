// System instructions that translated code does itself: the interrupt flag, selectors, and string
// instructions by way of a gate of their own.
#include "engine/translate/jit_trans.h"

// s.rflags AND mask, plus `set`.
static void change_rflags(struct trans *t, uint32_t mask, uint32_t set)
{
    struct emit *e = t->e;
    emit_load(e, 4, T0, GS(s.rflags));
    emit_mov_ri(e, T2, mask);
    emit_pext(e, T0, T0, T2);
    emit_pdep(e, T0, T0, T2);
    if (set)
        emit_lea(e, 4, T0, emit_at(T0, (int32_t)set));
    emit_store(e, 4, GS(s.rflags), T0);
}

// Sets or clears one bit of s.rflags.
static void set_flag(struct trans *t, uint32_t flag, bool on)
{
    if (t->flags_live)
        change_rflags(t, ~flag, on ? flag : 0);
    else if (on)
        emit_alu_mi(t->e, ALU_OR, 4, GS(s.rflags), (int32_t)flag);
    else
        emit_alu_mi(t->e, ALU_AND, 4, GS(s.rflags), ~(int32_t)flag);
}

static bool trans_direction(struct trans *t)
{
    if (t->flags_live && !t->jit->bmi2)
        return false;
    set_flag(t, FLAG_DF, t->in->op == OP_STD);
    return true;
}

// STI with an interrupt waiting is the interpreter's. Otherwise no shadow needs to be kept: the
// next poll is after the next instruction at the earliest.
static void trans_sti(struct trans *t)
{
    emit_load(t->e, 4, T0, GS(intr_level));
    uint8_t *none = emit_jrcxz(t->e);
    trans_step(t);
    emit_land_short(t->e, none);
    set_flag(t, FLAG_IF, true);
}

static bool trans_if(struct trans *t)
{
    if (!(t->c->mode & (MODE_CPL0 | MODE_IOPL_OK)) || !t->jit->bmi2)
        return false;
    if (t->in->op == OP_STI)
        trans_sti(t);
    else
        set_flag(t, FLAG_IF, false);
    return true;
}

// MOV from a segment register.
static bool trans_selector(struct trans *t)
{
    const struct operand *to = &t->in->operand[0], *from = &t->in->operand[1];
    struct address a;
    if (from->kind != OPND_SEG)
        return false;
    struct emit_mem selector =
        emit_gs(offsetof(struct tcpu, s.seg) + from->reg * sizeof(struct cpu_segment) +
                offsetof(struct cpu_segment, selector));
    if (to->kind == OPND_MEM) {
        if (!trans_address(t, t->in, &a))
            return false;
        struct emit_mem mem = trans_check(t, &a, 2, ACCESS_WRITE);
        emit_load(t->e, 2, T2, selector);
        emit_store(t->e, 2, mem, T2);
        return true;
    }
    unsigned host = host_reg(t, to->reg);
    emit_load(t->e, 2, T2, selector);
    if (host == NO_HOST)
        emit_store(t->e, to->size == 2 ? 2 : 8, gpr_slot(t, to->reg), T2);
    else
        emit_mov_rr(t->e, to->size == 2 ? 2 : 4, host, T2);
    return true;
}

static struct address string_address(const struct trans *t, unsigned reg)
{
    return (struct address){.base = (uint8_t)reg,
                            .index = REG_NONE,
                            .scale = 1,
                            .width = t->code64 ? 8 : 4,
                            .segment = SEG_COUNT};
}

// Goes on if DF is clear; with DF set the instruction is the interpreter's.
static void need_forwards(struct trans *t)
{
    struct emit *e = t->e;
    emit_load(e, 4, T0, GS(s.rflags));
    emit_rorx(e, 4, T0, T0, 11); // DF, bit 10, comes to the top
    emit_mov_ri(e, T2, 31);
    emit_shrx(e, 4, T0, T0, T2);
    uint8_t *forwards = emit_jrcxz(e);
    trans_step(t);
    emit_land_short(e, forwards);
}

// One element: what is read through RSI waits in T2 until the other's check is done.
static void trans_element(struct trans *t, enum site_string op)
{
    struct emit *e = t->e;
    unsigned size = t->in->opsize, width = t->code64 ? 8 : 4;
    struct address source = string_address(t, RSI), dest = string_address(t, RDI);
    bool both = op == SITE_MOVS || op == SITE_CMPS;
    need_forwards(t);
    if (op == SITE_LODS) {
        struct emit_mem from = trans_check(t, &source, size, ACCESS_READ);
        emit_op_rm(e, size, 0, MAP_ONE, size == 1 ? 0x8a : 0x8b, host_reg(t, RAX), from);
    } else {
        if (both) {
            struct emit_mem from = trans_check(t, &source, size, ACCESS_READ);
            emit_load(e, size, T2, from);
            emit_store(e, 8, GS(hot.spill[0]), T2);
        }
        bool compares = op == SITE_CMPS || op == SITE_SCAS;
        struct emit_mem to = trans_check(t, &dest, size, compares ? ACCESS_READ : ACCESS_WRITE);
        if (both)
            emit_load(e, 8, T2, GS(hot.spill[0]));
        unsigned value = both ? T2 : host_reg(t, RAX);
        if (compares)
            emit_alu_rm(e, ALU_CMP, size, value, to);
        else
            emit_store(e, size, to, value);
        emit_lea(e, width, host_reg(t, RDI), emit_at(host_reg(t, RDI), (int32_t)size));
    }
    if (both || op == SITE_LODS)
        emit_lea(e, width, host_reg(t, RSI), emit_at(host_reg(t, RSI), (int32_t)size));
}

static enum site_string string_kind(unsigned op)
{
    switch (op) {
    case OP_MOVS: return SITE_MOVS;
    case OP_LODS: return SITE_LODS;
    case OP_SCAS: return SITE_SCAS;
    case OP_CMPS: return SITE_CMPS;
    default: return SITE_STOS;
    }
}

// Code that may do it without the gate, or NULL.
static const void *repeat_code(const struct trans *t, unsigned kind)
{
    unsigned op = kind & SITE_STRING, size = t->in->opsize;
    if (kind & SITE_SHORT || t->exchanged || size == 2 || (op != SITE_STOS && op != SITE_MOVS))
        return NULL;
    return t->jit->repeat[t->c->user][op][size / 4];
}

// Through flat segments.
static bool trans_string(struct trans *t)
{
    const struct insn *in = t->in;
    unsigned kind = string_kind(in->op);
    if (in->addrsize != (t->code64 ? 8 : 4) || in->seg == SEG_FS || in->seg == SEG_GS)
        return false;
    if (t->jit->bmi2 && !(in->prefix & (PREFIX_REP | PREFIX_REPNE))) {
        trans_element(t, kind);
        return true;
    }
    if (t->b->verifies && (kind == SITE_MOVS || kind == SITE_STOS))
        return false; // what C writes may be the block
    uint32_t site = trans_site(t, ACCESS_WRITE, in->opsize);
    if (in->prefix & (PREFIX_REP | PREFIX_REPNE))
        kind |= in->prefix & PREFIX_REPNE ? SITE_REPNE : SITE_REP;
    if (!t->code64)
        kind |= SITE_SHORT;
    t->jit->site[site].access = (uint8_t)kind;
    const void *repeat = repeat_code(t, kind);
    trans_load_id(t->e, NOTE_SITE, site);
    if (repeat)
        emit_call_to(t->e, repeat);
    else
        emit_jmp_to(t->e, t->jit->gate[GATE_STRING]);
    t->jit->site[site].resume = jit_offset(t->jit, t->e);
    return true;
}

// Ends the block: where it goes on depends on tables in memory.
static bool trans_transfer(struct trans *t, enum site_transfer kind)
{
    if (!feature_has(&t->c->features, insn_form(t->in)->feature))
        return false;
    uint32_t site = trans_site(t, ACCESS_READ, t->in->opsize);
    t->jit->site[site].access = (uint8_t)kind;
    trans_load_linear(t->e, T1, t->code64 ? t->next : (uint32_t)t->next);
    trans_load_id(t->e, NOTE_SITE, site);
    emit_jmp_to(t->e, t->jit->gate[GATE_TRANSFER]);
    t->ended = true;
    return true;
}

static bool trans_swapgs(struct trans *t)
{
    if (!t->code64 || !(t->c->mode & MODE_CPL0))
        return false;
    emit_load(t->e, 8, T0, GS(s.seg[SEG_GS].base));
    emit_load(t->e, 8, T2, GS(s.kernel_gs_base));
    emit_store(t->e, 8, GS(s.seg[SEG_GS].base), T2);
    emit_store(t->e, 8, GS(s.kernel_gs_base), T0);
    return true;
}

// RDTSC and RDTSCP. Outside ring 0 CR4.TSD may forbid it.
static bool trans_tsc(struct trans *t)
{
    struct emit *e = t->e;
    if (!t->jit->bmi2 || !feature_has(&t->c->features, insn_form(t->in)->feature))
        return false;
    if (!(t->c->mode & MODE_CPL0)) {
        emit_load(e, 4, T0, GS(s.cr4));
        emit_rorx(e, 4, T0, T0, 3); // TSD, bit 2, comes to the top
        emit_mov_ri(e, T2, 31);
        emit_shrx(e, 4, T0, T0, T2);
        uint8_t *allowed = emit_jrcxz(e);
        trans_step(t);
        emit_land_short(e, allowed);
    }
    if (t->in->op == OP_RDTSCP) {
        emit_bytes(e, "\x0f\xae\xe8", 3); // lfence
        emit_load(e, 4, host_reg(t, RCX), GS(s.tsc_aux));
    }
    emit_bytes(e, "\x0f\x31", 2); // rdtsc
    emit_rorx(e, 8, T0, RDX, 32);
    emit_lea(e, 8, T0, emit_indexed(RAX, T0, 1, 0));
    emit_load(e, 8, T2, GS(tsc_offset));
    emit_lea(e, 8, T0, emit_indexed(T0, T2, 1, 0));
    emit_mov_rr(e, 4, RAX, T0);
    emit_rorx(e, 8, RDX, T0, 32);
    emit_mov_rr(e, 4, RDX, RDX);
    return true;
}

// MOV from CR0, CR2, CR3 or CR4, at ring 0.
static bool trans_read_control(struct trans *t)
{
    const struct operand *to = &t->in->operand[0], *from = &t->in->operand[1];
    static const uint16_t field[] = {offsetof(struct tcpu, s.cr0), 0, offsetof(struct tcpu, s.cr2),
                                     offsetof(struct tcpu, s.cr3), offsetof(struct tcpu, s.cr4)};
    if (!(t->c->mode & MODE_CPL0) || to->kind != OPND_GPR || from->reg > 4 || from->reg == 1)
        return false;
    unsigned host = host_reg(t, to->reg);
    emit_load(t->e, t->code64 ? 8 : 4, host == NO_HOST ? T2 : host, emit_gs(field[from->reg]));
    if (host == NO_HOST)
        emit_store(t->e, 8, gpr_slot(t, to->reg), T2);
    return true;
}

// Every so often the interpreter's, which yields.
static bool trans_pause(struct trans *t)
{
    struct emit *e = t->e;
    if (t->c->vm->config.vcpus == 1)
        return false;
    emit_bytes(e, "\xf3\x90", 2);
    emit_load(e, 4, T0, GS(hot.pauses));
    emit_lea(e, 4, T0, emit_at(T0, -1));
    uint8_t *last = emit_jrcxz(e);
    emit_store(e, 4, GS(hot.pauses), T0);
    uint8_t *done = emit_jmp(e);
    emit_land_short(e, last);
    trans_step(t);
    emit_land(e, done);
    return true;
}

bool trans_system(struct trans *t)
{
    if (t->in->prefix & PREFIX_LOCK)
        return false;
    switch (t->in->op) {
    case OP_CLI:
    case OP_STI: return trans_if(t);
    case OP_CLD:
    case OP_STD: return trans_direction(t);
    case OP_MOV_SREG: return trans_selector(t);
    case OP_PAUSE: return trans_pause(t);
    case OP_SWAPGS: return trans_swapgs(t);
    case OP_SYSCALL: return trans_transfer(t, SITE_SYSCALL);
    case OP_SYSRET: return trans_transfer(t, SITE_SYSRET);
    case OP_IRET: return trans_transfer(t, SITE_IRET);
    case OP_MOV_CR: return trans_read_control(t);
    case OP_RDTSC:
    case OP_RDTSCP: return trans_tsc(t);
    case OP_STOS:
    case OP_MOVS:
    case OP_LODS:
    case OP_SCAS:
    case OP_CMPS: return trans_string(t);
    default: return false;
    }
}
