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

void trans_load_id(struct emit *e, enum note kind, uint32_t id)
{
    emit_mov_ri(e, T0, id);
    emit_note(e, kind, 4);
}

void trans_load_linear(struct emit *e, unsigned reg, uint64_t value)
{
    emit_mov_ri(e, reg, value);
    if (value <= UINT32_MAX)
        emit_note(e, NOTE_LINEAR_U32, 4);
    else if ((int64_t)value == (int32_t)value)
        emit_note(e, NOTE_LINEAR_S32, 4);
    else
        emit_note(e, NOTE_LINEAR_64, 8);
}

static enum note gate_id(enum gate gate)
{
    switch (gate) {
    case GATE_LINK:
    case GATE_POLL:
    case GATE_HOT: return NOTE_LINK;
    case GATE_PAGE:
    case GATE_CHANGED: return NOTE_BLOCK;
    default: return NOTE_SITE;
    }
}

const void *trans_stub(struct trans *t, enum gate gate, uint32_t id)
{
    const void *at = emit_exec(t->cold);
    trans_load_id(t->cold, gate_id(gate), id);
    emit_jmp_to(t->cold, t->jit->gate[gate]);
    return at;
}

void trans_step(struct trans *t)
{
    trans_load_id(t->e, NOTE_SITE, trans_site(t, ACCESS_READ, 0));
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
    t->kept_before = NO_HOST;
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

static void jump_linked(struct trans *t, uint32_t link)
{
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
    emit_call_to(t->e, trans_stub(t, GATE_LINK, link));
    t->jit->link[link].patch = jit_offset(t->jit, t->e) - 4;
    t->returns = true;
}

// The number of a branch that changes rsp by so much, into T2.
static void load_site(struct trans *t, int change)
{
    emit_mov_ri(t->e, T2, trans_site(t, ACCESS_READ, (uint16_t)change));
    emit_note(t->e, NOTE_SITE, 4);
}

void trans_return(struct trans *t, int popped)
{
    load_site(t, popped);
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
        emit_note(t->e, NOTE_HEAT, 5);
        emit_jcc_to(t->e, COND_E, stub);
        return;
    }
    emit_load(t->e, 4, T0, heat);
    emit_note(t->e, NOTE_HEAT, 4);
    emit_lea(t->e, 4, T0, emit_at(T0, -1));
    emit_store(t->e, 4, heat, T0);
    emit_note(t->e, NOTE_HEAT, 4);
    uint8_t *hot = emit_jrcxz(t->e);
    uint8_t *not_yet = emit_jmp(t->e);
    emit_land_short(t->e, hot);
    emit_jmp_to(t->e, stub);
    emit_land(t->e, not_yet);
}

// Whether it is not known yet that the branch closes a hot loop.
static bool counts(struct trans *t, uint64_t target)
{
    const struct jit_loop *loop = jit_loop_at(t->jit, t->page, (unsigned)(target & PAGE_MASK));
    t->own |= loop != NULL;
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
    jump_linked(t, link);
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

// The way out of a loop that has exchanged registers, or of a stretch.
static const void *leave_stub(struct trans *t, uint64_t target)
{
    uint32_t link = add_link(t, target);
    const void *to = trans_stub(t, GATE_LINK, link), *at = emit_exec(t->cold);
    if (t->copying)
        trans_count_stretch(t, t->cold);
    if (t->exchanged)
        trans_emit_back(t, t->cold);
    emit_jmp_to(t->cold, to);
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
    if (t->exchanged || t->copying) {
        emit_jcc_to(t->e, condition, leave_stub(t, target));
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
    struct emit_mem entry = {.base = REG_NONE,
                             .index = T0,
                             .scale = 8,
                             .gs = true,
                             .disp = (int32_t)table},
                    host = entry;
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
    struct emit_mem target = {
        .base = REG_NONE, .index = T0, .scale = 8, .gs = true, .disp = (int32_t)table};
    emit_movzx(t->e, T0, T1, 2);
    load_site(t, pushed);
    if (call)
        emit_call_m(t->e, target);
    else
        emit_jmp_m(t->e, target);
    t->returns = call;
}
