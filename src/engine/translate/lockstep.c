// One block in LOCKSTEP_EVERY is first tried by the interpreter, whose stores are only noted down,
// and then run for real as translated code; registers, flags, vector state and the noted bytes must
// agree.
//
// Left out: instructions that reach devices, time or chance, blocks that fault, guests with several
// processors (another may change memory in between). The first-level TLB is emptied for the try, so
// that every access takes the way through mmu.c where it can be noted.
#include "engine/translate/lockstep.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/interp.h"
#include "engine/translate/jit.h"
#include "engine/translate/simd_impl.h"
#include "engine/translate/tvm.h"

#define LOCKSTEP_EVERY 241 // a prime: no divisor of common loop lengths
#define LOCKSTEP_INSNS 64

err_t lockstep_new(struct tcpu *c, struct error *e)
{
    c->lockstep = aligned_alloc(64, align_up(sizeof *c->lockstep, 64));
    if (!c->lockstep)
        return error_set(e, ERR_NO_MEMORY, "no memory for lockstep");
    fill_bytes(c->lockstep, 0, sizeof *c->lockstep);
    return OK;
}

void lockstep_free(struct tcpu *c)
{
    free(c->lockstep);
    c->lockstep = NULL;
}

// --- noted memory ---

static unsigned find(const struct lockstep *l, const uint8_t *host)
{
    unsigned i = 0;
    while (i < l->bytes && l->host[i] != host)
        i++;
    return i;
}

uint64_t lockstep_read(struct lockstep *l, uint8_t *host, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = find(l, host + i);
        value |= (uint64_t)(at < l->bytes ? l->value[at] : host[i]) << (8 * i);
    }
    return value;
}

void lockstep_write(struct lockstep *l, uint8_t *host, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++) {
        unsigned at = find(l, host + i);
        if (at == LOCKSTEP_BYTES)
            lockstep_give_up(l);
        l->host[at] = host + i;
        l->value[at] = (uint8_t)(value >> (8 * i));
        l->bytes = at < l->bytes ? l->bytes : at + 1;
    }
}

void lockstep_give_up(struct lockstep *l)
{
    longjmp(l->give_up, 1);
}

// --- the try ---

// Instructions whose effect is all in registers and RAM.
static bool repeatable(const struct insn *in)
{
    if (insn_form(in)->flags & FORM_SYSTEM)
        return in->op == OP_CLI || in->op == OP_PUSHF;
    return in->op != OP_RDRAND && in->op != OP_RDSEED && !(in->op == OP_JCC && in->imm == 0);
}

// What ends a translated block, beside a branch that is taken.
static bool ends(const struct insn *in)
{
    bool conditional = in->op == OP_JCC || in->op == OP_LOOP || in->op == OP_JCXZ;
    return insn_form(in)->flags & FORM_BRANCH && !conditional;
}

// Which flags mean nothing after an instruction. One that may keep a flag reads it, says the table.
static uint64_t undefined_after(const struct insn *in, uint64_t before)
{
    const struct insn_form *form = insn_form(in);
    uint64_t set = form->flags_written & ~form->flags_undefined & ~form->flags_read;
    return (before & ~set) | form->flags_undefined;
}

// Runs the interpreter over the block that begins at s.rip, in at most max instructions.
static void try_block(struct tcpu *c, unsigned max)
{
    for (unsigned i = 0; i < max; i++) {
        struct insn in;
        unsigned have;
        if (interp_fetch(c, c->s.rip, &in, &have) != INSN_OK || !repeatable(&in))
            lockstep_give_up(c->lockstep);
        uint64_t next = c->s.rip + in.len;
        interp_step(c);
        c->lockstep->undefined = undefined_after(&in, c->lockstep->undefined);
        if (ends(&in) || c->s.rip != next)
            return;
    }
}

static void restore(struct tcpu *c)
{
    fpu_to_memory(c);
    copy_bytes(&c->s, &c->lockstep->before, sizeof c->s);
    c->lockstep->trying = false;
    tcpu_update_mode(c);
}

bool lockstep_try(struct tcpu *c)
{
    struct lockstep *l = c->lockstep;
    unsigned insns = jit_block_insns(c, c->s.rip);
    if (++l->seen % LOCKSTEP_EVERY || c->vm->config.vcpus != 1 || !insns || insns > LOCKSTEP_INSNS)
        return false;
    fpu_to_memory(c);
    copy_bytes(&l->before, &c->s, sizeof c->s);
    tlb_flush_all(c);
    jmp_buf unwind;
    copy_bytes(&unwind, &c->unwind, sizeof unwind);
    l->bytes = 0;
    l->undefined = 0;
    l->trying = true;
    volatile bool done = false;
    if (!setjmp(l->give_up) && !setjmp(c->unwind)) {
        try_block(c, insns);
        done = true;
    }
    copy_bytes(&c->unwind, &unwind, sizeof unwind);
    fpu_to_memory(c);
    copy_bytes(&l->want, &c->s, sizeof c->s);
    restore(c);
    tlb_flush_all(c); // the try may have set tags for reading code
    l->expecting = done && !c->s.pending_dbg;
    l->invalidated = c->counter[COUNTER_INVALIDATED];
    return l->expecting;
}

// --- the comparison ---

static _Noreturn void differ(struct tcpu *c, const char *what, uint64_t got, uint64_t want)
{
    c->lockstep->expecting = false;
    snprintf(c->error, sizeof c->error,
             "lockstep: the block at %#llx left %s %#llx, the interpreter %#llx",
             (unsigned long long)c->lockstep->before.rip, what, (unsigned long long)got,
             (unsigned long long)want);
    cpu_exit(c, ENGINE_FAILED);
}

static void compare_registers(struct tcpu *c)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    const struct cpu_state *want = &c->lockstep->want;
    if (c->s.rip != want->rip)
        differ(c, "rip", c->s.rip, want->rip);
    for (unsigned i = 0; i < 16; i++)
        if (c->s.gpr[i] != want->gpr[i])
            differ(c, names[i], c->s.gpr[i], want->gpr[i]);
    if ((c->s.rflags ^ want->rflags) & ~(FLAG_RF | c->lockstep->undefined))
        differ(c, "rflags", c->s.rflags, want->rflags);
}

// Vector and x87 registers as XRSTOR would load them: a component whose bit is clear is initial.
static uint64_t vector_word(const struct cpu_state *s, unsigned at, unsigned component)
{
    uint64_t in_use = load_le64(s->xsave + AREA_BV);
    return in_use >> component & 1 ? load_le64(s->xsave + at) : 0;
}

static void compare_component(struct tcpu *c, unsigned component, unsigned start, unsigned end)
{
    static const char *const names[XSAVE_COMPONENTS] = {
        "an x87 register", "an xmm register",   "an upper ymm half", NULL, NULL,
        "a mask register", "an upper zmm half", "a zmm register"};
    for (unsigned at = start; at < end; at += 8) {
        uint64_t got = vector_word(&c->s, at, component);
        uint64_t expected = vector_word(&c->lockstep->want, at, component);
        if (got != expected)
            differ(c, names[component], got, expected);
    }
}

static void compare_vectors(struct tcpu *c)
{
    compare_component(c, 0, AREA_ST, AREA_XMM);
    compare_component(c, 1, AREA_XMM, AREA_XMM + 256);
    for (unsigned i = 2; i < XSAVE_COMPONENTS; i++) {
        unsigned at = simd_layout(c)->at[i];
        if (simd_components(c) >> i & 1)
            compare_component(c, i, at, at + xsave_component_bytes(i));
    }
}

static void compare_controls(struct tcpu *c)
{
    const struct cpu_state *want = &c->lockstep->want;
    uint32_t got = load_le32(c->s.xsave + AREA_MXCSR), mxcsr = load_le32(want->xsave + AREA_MXCSR);
    if (got != mxcsr)
        differ(c, "mxcsr", got, mxcsr);
    if (!(load_le64(c->s.xsave + AREA_BV) & load_le64(want->xsave + AREA_BV) & XCR0_X87))
        return;
    got = load_le32(c->s.xsave + AREA_FCW); // and the status word
    uint32_t x87 = load_le32(want->xsave + AREA_FCW);
    if (got != x87)
        differ(c, "x87 status and control", got, x87);
}

static void compare_memory(struct tcpu *c)
{
    const struct lockstep *l = c->lockstep;
    for (unsigned i = 0; i < l->bytes; i++)
        if (*l->host[i] != l->value[i])
            differ(c, "in memory", *l->host[i], l->value[i]);
}

// Something pending, or a store into the block itself, stops translated code inside the block:
// nothing to compare then.
static bool stopped_inside(const struct tcpu *c)
{
    return c->s.rip != c->lockstep->want.rip &&
           (__atomic_load_n(&c->pending, __ATOMIC_RELAXED) ||
            c->counter[COUNTER_INVALIDATED] != c->lockstep->invalidated);
}

void lockstep_compare(struct tcpu *c)
{
    if (!c->lockstep->expecting || stopped_inside(c)) {
        c->lockstep->expecting = false;
        return;
    }
    fpu_to_memory(c);
    compare_registers(c);
    compare_vectors(c);
    compare_controls(c);
    compare_memory(c);
    c->lockstep->expecting = false;
    c->counter[COUNTER_LOCKSTEP]++;
}

void lockstep_unexpected(struct tcpu *c)
{
    differ(c, "by a fault; vector", c->s.event_vector, 0);
}
