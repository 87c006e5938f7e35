// Ways out of a block: stubs in the cold area, direct branches that learn their target, indirect
// ones that look it up, and the poll for whatever is pending.
#include "engine/translate/jit_trans.h"

// Takes the next record of an array; the last one is shared when the array is full, and the block
// is thrown away then.
static uint32_t take(struct trans *t, uint32_t *used, uint32_t max)
{
    if (*used + 1 >= max)
        t->e->overflow = true;
    else
        ++*used;
    return *used - 1;
}

uint32_t trans_site(struct trans *t, enum access access, unsigned size)
{
    struct jit *jit = t->jit;
    uint32_t id = take(t, &jit->sites, jit->max_sites);
    jit->site[id] = (struct jit_site){.block = t->block,
                                      .insn = (uint8_t)t->i,
                                      .access = (uint8_t)access,
                                      .size = (uint16_t)size,
                                      .range = (uint16_t)size,
                                      .exchanged = t->exchanged};
    return id;
}

const void *trans_stub(struct trans *t, enum gate gate, uint32_t id)
{
    const void *at = emit_exec(t->cold);
    emit_mov_ri(t->cold, T0, id);
    emit_jmp_to(t->cold, t->jit->gate[gate]);
    return at;
}

void trans_step(struct trans *t)
{
    emit_mov_ri(t->e, T0, trans_site(t, ACCESS_READ, 0));
    emit_jmp_to(t->e, t->jit->gate[GATE_STEP]);
}

static void poll(struct emit *e, bool flags_live, const void *stub)
{
    if (!flags_live) {
        emit_alu_mi(e, ALU_CMP, 4, GS(pending), 0);
        emit_jcc_to(e, COND_NE, stub);
        return;
    }
    emit_load(e, 4, T0, GS(pending));
    uint8_t *nothing = emit_jrcxz(e);
    emit_jmp_to(e, stub);
    emit_land_short(e, nothing);
}

void trans_fpu(struct trans *t)
{
    if (t->fpu_checked)
        return;
    t->fpu_checked = true;
    t->b->fpu = true;
    t->held = NULL;
    uint32_t site = trans_site(t, ACCESS_READ, 0);
    const void *stub = trans_stub(t, GATE_FPU, site);
    if (t->flags_live) {
        emit_load(t->e, 1, T0, GS(fpu_live));
        emit_lea(t->e, 4, T0, emit_at(T0, -1));
        uint8_t *live = emit_jrcxz(t->e);
        emit_jmp_to(t->e, stub);
        emit_land_short(t->e, live);
    } else {
        emit_alu_mi(t->e, ALU_CMP, 1, GS(fpu_live), 0);
        emit_jcc_to(t->e, COND_E, stub);
    }
    t->jit->site[site].resume = jit_offset(t->jit, t->e);
}

static bool near(const struct trans *t, uint64_t target)
{
    return ((target ^ t->rip) & ~PAGE_MASK) == 0;
}

// Where a branch within the page goes if its target is translated already, or is this block.
static const void *known_target(const struct trans *t, uint64_t target)
{
    if (!near(t, target) || t->jit->poll_all)
        return NULL;
    if (target == t->b->rip)
        return jit_exec(t->jit, t->b->entry);
    uint32_t known = jit_known_block(t->jit, t->page, target);
    return known ? jit_exec(t->jit, t->jit->block[known].entry) : NULL;
}

static uint32_t add_link(struct trans *t, uint64_t target)
{
    struct jit *jit = t->jit;
    uint32_t id = take(t, &jit->links, jit->max_links);
    jit->link[id] = (struct jit_link){.rip = target, .page = t->page};
    return id;
}

// Every cycle of blocks has a branch that does not go forward, and these poll.
static bool is_backward(const struct trans *t, uint64_t target)
{
    return target <= t->rip;
}

void trans_poll_here(struct trans *t)
{
    poll(t->e, t->flags_live, trans_stub(t, GATE_POLL, add_link(t, t->rip)));
}

static void jump_linked(struct trans *t, uint64_t target, uint32_t link)
{
    const void *known = known_target(t, target);
    if (known) {
        emit_jmp_to(t->e, known);
        return;
    }
    emit_jmp_to(t->e, trans_stub(t, GATE_LINK, link));
    t->jit->link[link].patch = jit_offset(t->jit, t->e) - 4;
}

void trans_land(struct trans *t)
{
    uint32_t known = near(t, t->next) ? jit_known_block(t->jit, t->page, t->next) : 0;
    if (known && t->jit->block[known].landing && !t->jit->poll_all) {
        emit_jmp_to(t->e, jit_exec(t->jit, t->jit->block[known].landing));
        return;
    }
    jit_emit_arrival(t->e, t->next, true, t->jit->astray[t->c->user]);
    uint32_t link = add_link(t, t->next);
    t->jit->link[link].checked = 1;
    emit_jmp_to(t->e, trans_stub(t, GATE_LINK, link));
    t->jit->link[link].patch = jit_offset(t->jit, t->e) - 4;
}

void trans_call_to(struct trans *t, uint64_t target)
{
    uint32_t link = add_link(t, target);
    if (is_backward(t, target))
        poll(t->e, t->taken[t->i], trans_stub(t, GATE_POLL, link));
    const void *known = known_target(t, target);
    emit_call_to(t->e, known ? known : trans_stub(t, GATE_LINK, link));
    t->jit->link[link].patch = jit_offset(t->jit, t->e) - 4;
    t->returns = true;
}

void trans_return(struct trans *t, int popped)
{
    emit_mov_ri(t->e, T2, trans_site(t, ACCESS_READ, (uint16_t)popped));
    emit_ret(t->e);
}

// To the gate when the branch has been taken often.
static void count_visit(struct trans *t, bool flags_live, uint32_t link)
{
    const void *stub = trans_stub(t, GATE_HOT, link);
    struct emit_mem heat =
        emit_gs(offsetof(struct tcpu, hot.heat) + link % HEAT_COUNTERS * sizeof t->c->hot.heat[0]);
    jit_count_from_start(t->c, link);
    t->jit->link[link].from = (uint16_t)(t->rip & PAGE_MASK);
    if (!flags_live) {
        emit_alu_mi(t->e, ALU_SUB, 4, heat, 1);
        emit_jcc_to(t->e, COND_E, stub);
        return;
    }
    emit_load(t->e, 4, T0, heat);
    emit_lea(t->e, 4, T0, emit_at(T0, -1));
    emit_store(t->e, 4, heat, T0);
    uint8_t *hot = emit_jrcxz(t->e);
    uint8_t *not_yet = emit_jmp(t->e);
    emit_land_short(t->e, hot);
    emit_jmp_to(t->e, stub);
    emit_land(t->e, not_yet);
}

// Whether it is not known yet that the branch closes a hot loop.
static bool counts(const struct trans *t, uint64_t target)
{
    const struct jit_loop *loop = jit_loop_at(t->jit, t->page, (unsigned)(target & PAGE_MASK));
    return is_backward(t, target) && near(t, target) && !t->b->tail && !t->jit->poll_all &&
           !t->jit->all_hot && (!loop || loop->branch < (t->rip & PAGE_MASK));
}

static void jump_out(struct trans *t, uint64_t target)
{
    uint32_t link = add_link(t, target);
    bool flags_live = t->i >= t->count || t->taken[t->i];
    if (is_backward(t, target))
        poll(t->e, flags_live, trans_stub(t, GATE_POLL, link));
    if (counts(t, target))
        count_visit(t, flags_live, link);
    jump_linked(t, target, link);
}

void trans_jump(struct trans *t, uint64_t target)
{
    if (trans_inner_jump(t, target))
        return;
    bool exchanged = t->exchanged;
    if (exchanged) {
        trans_emit_back(t, t->e);
        trans_standard(t);
    }
    jump_out(t, target);
    if (exchanged)
        trans_exchanged(t);
}

// The way out of a loop that has exchanged registers.
static const void *leave_stub(struct trans *t, uint64_t target)
{
    const void *known = known_target(t, target);
    uint32_t link = known ? 0 : add_link(t, target);
    const void *to = known ? known : trans_stub(t, GATE_LINK, link);
    const void *at = emit_exec(t->cold);
    trans_emit_back(t, t->cold);
    emit_jmp_to(t->cold, to);
    if (!known)
        t->jit->link[link].patch = jit_offset(t->jit, t->cold) - 4;
    return at;
}

void trans_jump_if(struct trans *t, enum condition condition, uint64_t target)
{
    if (trans_inner_jump_if(t, condition, target))
        return;
    if (is_backward(t, target)) {
        uint8_t *past = emit_jcc(t->e, condition ^ 1);
        trans_jump(t, target);
        emit_land(t->e, past);
        return;
    }
    if (t->exchanged) {
        emit_jcc_to(t->e, condition, leave_stub(t, target));
        return;
    }
    const void *known = known_target(t, target);
    if (known) {
        emit_jcc_to(t->e, condition, known);
        return;
    }
    uint32_t link = add_link(t, target);
    emit_jcc_to(t->e, condition, trans_stub(t, GATE_LINK, link));
    t->jit->link[link].patch = jit_offset(t->jit, t->e) - 4;
}

// ibtc_index() of the target in T1, times two: to be scaled by 8.
static void emit_ibtc_index(struct emit *e, bool bmi2)
{
    if (bmi2) {
        emit_rorx(e, 4, T2, T1, 12);
        emit_lea(e, 4, T0, emit_indexed(T1, T2, 1, 0));
        emit_movzx(e, T0, T0, 2);
        emit_mov_ri(e, T2, 2);
        emit_shrx(e, 4, T0, T0, T2);
        emit_lea(e, 4, T0, emit_indexed(T0, T0, 1, 0));
        return;
    }
    emit_u8(e, 0x9c); // pushf
    emit_mov_rr(e, 4, T0, T1);
    emit_shift_ri(e, SHIFT_ROR, 4, T0, 12);
    emit_alu_rr(e, ALU_ADD, 4, T0, T1);
    emit_movzx(e, T0, T0, 2);
    emit_shift_ri(e, SHIFT_SHR, 4, T0, 2);
    emit_shift_ri(e, SHIFT_SHL, 4, T0, 1);
    emit_u8(e, 0x9d); // popf
}

void jit_emit_lookup(const struct jit *jit, struct emit *e, unsigned user, const void *miss)
{
    size_t table =
        offsetof(struct tcpu, hot.ibtc) + user * IBTC_ENTRIES * sizeof(struct ibtc_entry);
    struct emit_mem entry = {REG_NONE, T0, 8, true, (int32_t)table}, host = entry;
    host.disp += (int32_t)offsetof(struct ibtc_entry, host);
    poll(e, true, miss);
    emit_ibtc_index(e, jit->bmi2);
    emit_load(e, 8, T2, host);
    emit_load(e, 8, T0, entry);
    emit_op_rr(e, 8, 0, MAP_ONE, 0xf7, 2, T0); // not
    emit_lea(e, 8, T0, emit_indexed(T0, T1, 1, 1));
    uint8_t *hit = emit_jrcxz(e);
    emit_jmp_to(e, miss);
    emit_land_short(e, hit);
}

void trans_indirect(struct trans *t, int pushed, bool call)
{
    size_t table = offsetof(struct tcpu, hot.target) + t->c->user * sizeof t->c->hot.target[0];
    struct emit_mem target = {REG_NONE, T0, 8, true, (int32_t)table};
    emit_movzx(t->e, T0, T1, 2);
    emit_mov_ri(t->e, T2, trans_site(t, ACCESS_READ, (uint16_t)pushed));
    if (call)
        emit_call_m(t->e, target);
    else
        emit_jmp_m(t->e, target);
    t->returns = call;
}
