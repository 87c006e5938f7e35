// What translated code asks of C: TLB misses, single instructions for the interpreter, branches
// whose target is not known, host exceptions. Each function returns where translated code goes on.
//
// c->s is complete on entry except for rip, which follows from the id. Records of the calling block
// are valid until something flushes the cache; jit->generation tells.
#include "engine/translate/jit_impl.h"
#include "engine/translate/lockstep.h"
#include "engine/translate/system_impl.h"

#include <stdlib.h>

static bool is_pending(const struct tcpu *c)
{
    return __atomic_load_n(&c->pending, __ATOMIC_RELAXED) != 0;
}

static uint64_t insn_rip(const struct jit *jit, const struct jit_block *b, unsigned insn)
{
    return b->rip + jit->mark[b->marks + insn].guest;
}

static bool canonical(uint64_t at)
{
    return (uint64_t)((int64_t)(at << 16) >> 16) == at;
}

// Tests can have every branch leave translated code.
static bool leaves_always(struct jit *jit)
{
    jit->polled = jit->poll_all;
    return jit->poll_all;
}

const void *jit_resume(struct tcpu *c, const struct jit_site *site)
{
    const struct jit_block *b = &c->jit->block[site->block];
    if (b->fpu)
        fpu_to_machine(c);
    if (site->exchanged)
        jit_exchange(c, b->exchange);
    return jit_exec(c->jit, site->resume);
}

const void *jit_step(struct tcpu *c, uint32_t block, unsigned insn)
{
    struct jit *jit = c->jit;
    struct jit_block *b = &jit->block[block];
    uint32_t generation = jit->generation, mode = c->mode;
    for (bool inside = true; inside; insn++) {
        bool last = insn + 1u == b->insns;
        uint64_t next = last ? 0 : insn_rip(jit, b, insn + 1u);
        c->s.rip = insn_rip(jit, b, insn);
        interp_step(c);
        if (last || b->loop || b->verifies || c->s.rip != next || jit->generation != generation ||
            b->dropped || c->mode != mode || is_pending(c) || c->s.interrupt_shadow ||
            c->s.activity != CPU_RUNNING) {
            if (c->lockstep && b->verifies)
                c->lockstep->expecting = false; // the interpreter may have gone on
            return leaves_always(jit) ? jit->leave : jit_continue(c);
        }
        inside = b->inside >> (insn + 1u) & 1;
    }
    if (b->fpu)
        fpu_to_machine(c);
    return jit_exec(jit, b->checked + jit->mark[b->marks + insn].host);
}

static const void *gate_step(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    const struct jit_site *site = &jit->site[id];
    if (site->access == ACCESS_EXEC) {
        uint32_t generation = jit->generation;
        const struct jit_block *b = &jit->block[site->block];
        c->s.rip = c->insn_rip = b->rip;
        if (jit_find_page(c, jit->page[b->tail].at) == b->tail && jit->generation == generation &&
            !b->dropped)
            return jit_exec(jit, site->resume);
        if (jit->generation != generation)
            return jit_continue(c);
    }
    c->counter[COUNTER_STEPS]++;
    return jit_step(c, site->block, site->insn);
}

// The check of a group failed: the rest of the block without groups.
static const void *without_group(struct tcpu *c, uint32_t id, enum avoid why)
{
    struct jit *jit = c->jit;
    const struct jit_site site = jit->site[id];
    uint32_t generation = jit->generation, plain = site.plain;
    if (!plain || jit->block[plain].dropped)
        plain = jit_translate_plain(c, &jit->block[site.block], site.insn);
    if (!plain)
        return jit->leave;
    if (jit->generation == generation) {
        jit->site[id].plain = plain;
        jit_stray(c, &jit->block[site.block], c->s.rip, why);
    }
    return jit_exec(jit, jit->block[plain].entry);
}

static const void *gate_slow(struct tcpu *c, uint32_t id, uint64_t from)
{
    struct jit *jit = c->jit;
    const struct jit_site *site = &jit->site[id];
    struct jit_block *b = &jit->block[site->block];
    enum access access = site->access & SITE_ACCESS;
    bool masked = site->access & SITE_MASKED; // whether it faults depends on the mask
    uint64_t at = from + site->lead;
    bool crosses = (from & PAGE_MASK) + site->range > PAGE_SIZE;
    bool misaligned = site->access & SITE_ALIGNED && at & (site->size - 1u);
    c->s.rip = c->insn_rip = insn_rip(jit, b, site->insn);
    c->counter[COUNTER_TLB_FILLS]++;
    if (!crosses && !misaligned && !masked && canonical(at) && tlb_fill(c, at, access, c->user)) {
        if (site->access & SITE_MIXED && !tlb_fill_writable(c, at, c->user))
            return without_group(c, id, AVOID_MIXED);
        return jit_resume(c, site);
    }
    if (site->access & SITE_GROUP)
        return without_group(c, id, AVOID_GROUP);
    c->counter[COUNTER_SLOW_ACCESSES]++;
    return jit_step(c, site->block, site->insn);
}

static const void *gate_link(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    struct jit_link link = jit->link[id];
    uint32_t generation = jit->generation;
    c->s.rip = c->insn_rip = link.rip;
    if (leaves_always(jit))
        return jit->leave;
    c->counter[COUNTER_LINKS]++;
    bool near = !link.checked && ((link.rip ^ jit->page[link.page].at) & ~PAGE_MASK) == 0;
    uint32_t page = near ? link.page : jit_find_page(c, link.rip);
    uint32_t block = page ? jit_find_block(c, page, link.rip) : 0;
    if (!block)
        return jit->leave;
    const struct jit_block *b = &jit->block[block];
    if (jit->generation == generation && link.patch)
        jit_patch(jit, link.patch, near ? b->entry : b->checked);
    return jit_exec(jit, b->entry);
}

static const void *gate_poll(struct tcpu *c, uint32_t id, uint64_t value)
{
    if (!is_pending(c))
        return gate_link(c, id, value);
    c->counter[COUNTER_POLLS]++;
    c->s.rip = c->jit->link[id].rip;
    return c->jit->leave;
}

// A branch to where no code can be faults before it has changed anything: the interpreter does it
// again, from the state before.
static const void *bad_target(struct tcpu *c, const struct jit_site *site)
{
    if (site->size)
        c->s.gpr[RSP] -= (uint64_t)(int16_t)site->size;
    return jit_step(c, site->block, site->insn);
}

static const void *gate_indirect(struct tcpu *c, uint32_t id, uint64_t target)
{
    struct jit *jit = c->jit;
    if (!canonical(target))
        return bad_target(c, &jit->site[id]);
    c->s.rip = c->insn_rip = target;
    if (is_pending(c)) {
        c->counter[COUNTER_POLLS]++;
        return jit->leave;
    }
    if (leaves_always(jit))
        return jit->leave;
    c->counter[COUNTER_INDIRECT]++;
    uint32_t page = jit_find_page(c, target);
    uint32_t block = page ? jit_find_block(c, page, target) : 0;
    if (!block)
        return jit->leave;
    jit_learn_target(c, &jit->block[block]);
    return jit_exec(jit, jit->block[block].entry);
}

// A checked entry does not know its page, or the block was dropped. A dropped block hands its
// visitors on to the block that took its place; where code keeps changing, not over ever more of
// them: the last one comes here each time.
static const void *gate_page(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    struct jit_block *old = &jit->block[id];
    uint32_t generation = jit->generation;
    c->s.rip = c->insn_rip = old->rip;
    uint32_t page = jit_find_page(c, old->rip);
    if (page == old->page && !old->dropped && jit->generation == generation)
        return jit_exec(jit, old->entry);
    uint32_t block = page ? jit_find_block(c, page, c->s.rip) : 0;
    if (!block)
        return jit->leave;
    struct jit_block *b = &jit->block[block];
    if (jit->generation == generation && old->dropped && b->page == old->page &&
        old->ancestors < JIT_ANCESTORS_MAX) {
        if (b->ancestors <= old->ancestors)
            b->ancestors = old->ancestors + 1;
        jit_patch(jit, old->checked + 1, b->checked);
        jit_patch(jit, old->entry + 1, b->entry);
    }
    return jit_exec(jit, b->entry);
}

// The far transfers that systems live on, without the detour by the interpreter's cache: their
// handlers ask nothing of the instruction but its operand size.
static const void *gate_transfer(struct tcpu *c, uint32_t id, uint64_t next)
{
    static interp_fn *const handlers[] = {
        [SITE_SYSCALL] = sys_syscall, [SITE_SYSRET] = sys_sysret, [SITE_IRET] = sys_iret};
    struct jit *jit = c->jit;
    const struct jit_site *site = &jit->site[id];
    const struct insn insn = {.opsize = (uint8_t)site->size};
    c->insn_rip = insn_rip(jit, &jit->block[site->block], site->insn);
    c->s.rip = next;
    c->counter[COUNTER_TRANSFERS]++;
    handlers[site->access](c, &insn);
    return leaves_always(jit) ? jit->leave : jit_continue(c);
}

static const void *gate_arrive(struct tcpu *c, uint32_t id, uint64_t target)
{
    c->counter[COUNTER_POLLS]++;
    c->s.rip = target;
    return jit_continue(c);
}

static const void *gate_fpu(struct tcpu *c, uint32_t id, uint64_t value)
{
    c->counter[COUNTER_FPU_LOADS]++;
    return jit_resume(c, &c->jit->site[id]);
}

static uint32_t block_at(const struct jit *jit, uint32_t offset)
{
    uint32_t low = 1, high = jit->blocks;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (jit->block[middle].end <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low < jit->blocks && jit->block[low].checked <= offset ? low : 0;
}

// The host CPU refused an instruction of the guest's: division, alignment, an unmasked
// floating-point exception. Anything else in translated code is our own mistake.
static const void *gate_trap(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    uint32_t offset = (uint32_t)(c->hot.trap_pc - (uint64_t)(uintptr_t)jit->buf.exec);
    uint32_t block = block_at(jit, offset);
    int insn = block ? jit_insn_at(jit, &jit->block[block], offset) : -1;
    c->counter[COUNTER_TRAPS]++;
    if (insn < 0 || c->hot.trap_no == VEC_PF)
        abort();
    c->s.rip = c->insn_rip = insn_rip(jit, &jit->block[block], (unsigned)insn);
    if (c->hot.trap_no == VEC_MF)
        cpu_raise(c, VEC_MF, 0);
    if (c->hot.trap_no == VEC_XM)
        cpu_raise(c, c->s.cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD, 0);
    return jit_step(c, block, (unsigned)insn);
}

gate_fn *const jit_gate_fns[GATE_COUNT] = {
    [GATE_SLOW] = gate_slow,     [GATE_STEP] = gate_step,           [GATE_LINK] = gate_link,
    [GATE_POLL] = gate_poll,     [GATE_INDIRECT] = gate_indirect,   [GATE_PAGE] = gate_page,
    [GATE_ARRIVE] = gate_arrive, [GATE_STRING] = jit_gate_string,   [GATE_FPU] = gate_fpu,
    [GATE_TRAP] = gate_trap,     [GATE_TRANSFER] = gate_transfer,   [GATE_HOT] = jit_gate_hot,
    [GATE_HOP] = jit_gate_hop,   [GATE_CHANGED] = jit_gate_changed, [GATE_SHORT] = jit_gate_short,
};
