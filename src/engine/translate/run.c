// The run loop of a vCPU: what happens between two instructions (SDM vol. 3 table 6-2), and where
// faults and exits unwind to.
#include "engine/translate/run.h"

#include "engine/translate/direct.h"
#include "engine/translate/interp.h"
#include "engine/translate/jit.h"
#include "engine/translate/system_impl.h"
#include "host/clock.h"

// --- events at an instruction boundary -----------------------------------------------------------

static void deliver(struct tcpu *c)
{
    event_deliver(c);
    debug_after(c);
}

static void begin_event(struct tcpu *c, unsigned vector, enum cpu_event_type type)
{
    c->s.event_vector = (uint8_t)vector;
    c->s.event_type = (uint8_t)type;
    c->s.event_has_error = 0;
    c->s.event_error = 0;
    c->s.activity = CPU_RUNNING;
    deliver(c);
}

// A debugger's step is the program's: interrupts only end a HLT.
static bool interruptible(const struct tcpu *c)
{
    return !c->debug.watch.step || c->s.activity == CPU_HALTED;
}

static bool nmi_due(const struct tcpu *c)
{
    return interruptible(c) && c->s.nmi_pending && !c->s.nmi_blocked &&
           c->s.interrupt_shadow != 2 && c->s.activity != CPU_WAIT_FOR_SIPI;
}

static bool intr_due(const struct tcpu *c)
{
    return interruptible(c) && (c->s.rflags & FLAG_IF) && !c->s.interrupt_shadow &&
           c->s.activity != CPU_WAIT_FOR_SIPI && __atomic_load_n(&c->intr_level, __ATOMIC_SEQ_CST);
}

static void take_nmi(struct tcpu *c)
{
    c->s.nmi_pending = 0;
    c->s.nmi_blocked = 1;
    begin_event(c, VEC_NMI, CPU_EVENT_NMI);
}

// The interrupt may have gone away by now; a halted vCPU then stays halted.
static void take_intr(struct tcpu *c)
{
    fpu_to_memory(c);
    tvm_leave(c);
    int vector = c->vm->up->intr_ack(c->vm->opaque, c->index);
    tvm_enter(c);
    if (vector < 0)
        return;
    c->counter[COUNTER_INTERRUPTS]++;
    begin_event(c, (unsigned)vector & 0xff, CPU_EVENT_INTR);
}

// Requests of other threads. False: run() returns.
static bool take_requests(struct tcpu *c, uint32_t pending)
{
    if (pending & PENDING_NMI) {
        tcpu_unpend(c, PENDING_NMI);
        c->s.nmi_pending = 1;
    }
    if (pending & PENDING_INVALIDATE)
        tvm_catch_up(c);
    if (pending & PENDING_FLUSH) {
        tcpu_unpend(c, PENDING_FLUSH);
        if (c->jit)
            jit_flush(c);
    }
    if (pending & PENDING_KICK) {
        tcpu_unpend(c, PENDING_KICK);
        c->exit = ENGINE_KICKED;
        return false;
    }
    return true;
}

// PENDING_INTR stands only while the interrupt can be taken, so that translated code is not left in
// vain.
static void settle_intr(struct tcpu *c)
{
    tcpu_unpend(c, PENDING_INTR);
    if ((c->s.rflags & FLAG_IF) && __atomic_load_n(&c->intr_level, __ATOMIC_SEQ_CST))
        tcpu_pend(c, PENDING_INTR);
}

static bool still_idle(struct tcpu *c)
{
    if (c->s.activity == CPU_SHUTDOWN)
        c->exit = ENGINE_SHUTDOWN;
    else
        c->exit = ENGINE_HALTED;
    c->counter[COUNTER_HALTS] += c->s.activity == CPU_HALTED;
    return c->s.activity != CPU_RUNNING;
}

static void trap_pending(struct tcpu *c)
{
    uint64_t bits = c->s.pending_dbg;
    c->s.pending_dbg = 0;
    c->insn_rip = c->s.rip;
    raise_db(c, bits);
}

static void count_ticks(struct tcpu *c)
{
    uint64_t now = host_tsc();
    c->counter[COUNTER_TICKS] += now - c->ticked;
    c->ticked = now;
}

// Everything that stands between two instructions. False: run() returns, c->exit says why.
static bool boundary(struct tcpu *c)
{
    uint32_t pending = __atomic_load_n(&c->pending, __ATOMIC_SEQ_CST);
    count_ticks(c);
    c->insn_rip = c->s.rip;
    if (!take_requests(c, pending))
        return false;
    tcpu_unpend(c, PENDING_EVENT);
    if (c->s.event_pending) {
        deliver(c);
        return true;
    }
    if (c->s.activity == CPU_SHUTDOWN || c->s.activity == CPU_WAIT_FOR_SIPI)
        return !still_idle(c);
    if (c->s.pending_dbg && c->s.interrupt_shadow != 2)
        trap_pending(c);
    if (nmi_due(c))
        take_nmi(c);
    else if (intr_due(c))
        take_intr(c);
    if (still_idle(c))
        return false;
    settle_intr(c);
    return true;
}

// --- one instruction at a time -------------------------------------------------------------------

static void check_code_breakpoints(struct tcpu *c)
{
    uint64_t dr7 = points_dr7(c), at = code_linear(c), hit = 0;
    for (unsigned i = 0; i < 4 && dr7 & 0xff; i++) {
        if ((dr7 >> (2 * i) & 3) && !bits_get(dr7, 19 + 4 * i, 16 + 4 * i) && points_at(c, i) == at)
            hit |= BIT(i);
    }
    if (c->debug.watch.points)
        debug_before(c, hit);
    else if (hit && !(c->s.rflags & FLAG_RF))
        raise_db(c, hit);
}

// With TF, breakpoints, a debugger or an interrupt shadow: one instruction, and what it leaves
// behind.
static void step_watched(struct tcpu *c)
{
    uint8_t shadow = c->s.interrupt_shadow;
    bool trap = c->s.rflags & FLAG_TF, resume = c->s.rflags & FLAG_RF;
    c->insn_rip = c->s.rip;
    if (shadow != 2)
        check_code_breakpoints(c);
    c->no_step = c->keep_rf = 0;
    c->s.interrupt_shadow = 0;
    if (trap || c->debug.watch.step)
        tcpu_pend(c, PENDING_EVENT); // one repetition of a string at a time
    interp_step(c);
    if (c->s.interrupt_shadow == shadow)
        c->s.interrupt_shadow = 0; // shadows do not follow one another
    if (resume && !c->keep_rf)
        c->s.rflags &= ~FLAG_RF;
    if (trap && !c->no_step)
        c->s.pending_dbg |= DR6_BS;
    if (c->s.pending_dbg || c->s.interrupt_shadow)
        tcpu_pend(c, PENDING_EVENT);
    settle_intr(c);
    debug_after(c);
}

static void execute(struct tcpu *c)
{
    const uint32_t decides = MODE_STEP | MODE_CODE_SIZE | MODE_V86 | MODE_FLAT | MODE_ALIGN |
                             MODE_STACK32 | MODE_PROTECTED;
    if ((c->mode & MODE_STEP) || c->s.interrupt_shadow) {
        step_watched(c);
    } else if (direct_due(c)) {
        direct_run(c);
    } else if (c->jit && jit_eligible(c)) {
        jit_run(c);
    } else {
        c->s.rflags &= ~FLAG_RF; // matters only to breakpoints, and none is armed
        interp_run(c, decides);
    }
}

// --- run -----------------------------------------------------------------------------------------

static void follow_map(struct tcpu *c)
{
    if (c->map_seen == c->vm->map_changes)
        return;
    c->map_seen = c->vm->map_changes;
    tlb_flush_all(c);
    icache_flush(c);
    if (c->jit)
        jit_flush(c);
}

enum engine_exit tcpu_run(struct tcpu *c)
{
    tvm_enter(c);
    c->ticked = host_tsc();
    __atomic_store_n(&c->running, 1, __ATOMIC_SEQ_CST); // before boundary() looks: tvm.c
    follow_map(c);
    tcpu_pend(c, PENDING_EVENT);
    int landed = setjmp(c->unwind);
    if (landed)
        tcpu_update_mode(c); // an instruction may have stopped half-way through a change of mode
    if (landed != 2) {
        while (!__atomic_load_n(&c->pending, __ATOMIC_RELAXED) || boundary(c))
            execute(c);
    }
    fpu_to_memory(c);
    count_ticks(c);
    __atomic_store_n(&c->running, 0, __ATOMIC_SEQ_CST);
    tvm_leave(c);
    return c->exit;
}
