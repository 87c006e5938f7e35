// Stopping a guest for a debugger: points at addresses, INT3, single steps. Points take the place
// of the guest's debug registers in all that looks at those, so both find the same accesses; what
// is hit ends run() in place of a #DB. While there are points or steps, instructions are
// interpreted one by one; INT3 alone costs nothing.
#include "engine/translate/system_impl.h"
#include "engine/translate/tlb2.h"
#include "engine/watch.h"

err_t debug_watch(struct tcpu *c, const struct engine_watch *watch, struct error *e)
{
    const struct engine_watch nothing = {0};
    watch = watch ? watch : &nothing;
    err_t err = engine_watch_check(watch, e);
    if (err)
        return err;
    c->debug.watch = *watch;
    c->debug.pass_rip = c->s.rip;
    c->debug.dr7 = engine_watch_dr7(watch);
    c->debug.hits = 0;
    tlb_flush_inline(c, true); // watched pages lose their tags, others get them
    tcpu_update_mode(c);
    return OK;
}

void debug_hit(struct tcpu *c, unsigned n)
{
    if (c->debug.watch.points)
        c->debug.hits |= (uint8_t)BIT(n);
    else
        c->s.pending_dbg |= BIT(n);
    tcpu_pend(c, PENDING_EVENT);
}

static _Noreturn void stop(struct tcpu *c, bool int3, bool step)
{
    c->debug.stop =
        (struct engine_stop){.at = code_linear(c), .point = -1, .int3 = int3, .step = step};
    if (c->debug.hits)
        c->debug.stop.point = __builtin_ctz(c->debug.hits);
    c->debug.hits = 0;
    cpu_exit(c, ENGINE_STOPPED);
}

void debug_after(struct tcpu *c)
{
    if (c->debug.watch.step || c->debug.hits)
        stop(c, false, c->debug.watch.step);
}

void debug_before(struct tcpu *c, uint64_t points)
{
    c->debug.hits = (uint8_t)points;
    if (points)
        stop(c, false, false);
}

void debug_int3(struct tcpu *c)
{
    bool passes = c->debug.watch.pass && c->insn_rip == c->debug.pass_rip;
    c->debug.watch.pass = false;
    if (passes || !c->debug.watch.int3)
        return;
    c->s.rip = c->insn_rip;
    stop(c, true, false);
}
