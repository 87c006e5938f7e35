// Where returns and indirect branches arrive. They do not ask whether they are right before they
// jump: a return goes to what the host's return address on the shadow stack leads to, an indirect
// branch to the entry of `hot.target` that the target's low bits name. What they arrive at does: it
// compares T1, where the guest goes, with the one guest address that it stands for. So a wrong
// guess costs a detour, and a right one nothing but the comparison. T2 is the branch's site
// meanwhile.
//
// Such an entry is flags-safe only if the block needs flags. Once the block's bytes change, its
// successor may, so the old entry becomes a jump to one that is.
#include "base/copy.h"
#include "engine/translate/jit_impl.h"

static bool fits_i32(uint64_t v)
{
    return (int64_t)v == (int32_t)v;
}

void jit_emit_arrival(struct emit *e, uint64_t rip, bool flags_live, const void *other)
{
    if (flags_live) {
        emit_mov_ri(e, T0, 0 - rip);
        emit_lea(e, 8, T0, emit_indexed(T0, T1, 1, 0));
        uint8_t *same = emit_jrcxz(e);
        emit_jmp_to(e, other);
        emit_land_short(e, same);
        return;
    }
    if (fits_i32(rip)) {
        emit_alu_ri(e, ALU_CMP, 8, T1, (int32_t)rip);
    } else {
        emit_mov_ri(e, T0, rip);
        emit_alu_rr(e, ALU_CMP, 8, T1, T0);
    }
    emit_jcc_to(e, COND_NE, other);
}

static void poll(const struct jit *jit, struct emit *e, bool flags_live)
{
    struct emit_mem pending = emit_gs(offsetof(struct tcpu, pending));
    if (!flags_live) {
        emit_alu_mi(e, ALU_CMP, 4, pending, 0);
        emit_jcc_to(e, COND_NE, jit->gate[GATE_ARRIVE]);
        return;
    }
    emit_load(e, 4, T0, pending);
    uint8_t *nothing = emit_jrcxz(e);
    emit_jmp_to(e, jit->gate[GATE_ARRIVE]);
    emit_land_short(e, nothing);
}

// Writes an arrival at a block that is there already; its offset, or 0 when there is no room.
static uint32_t write_arrival(struct jit *jit, const struct jit_block *b, bool flags_live,
                              const void *other, bool polls)
{
    struct emit *e = &jit->hot, before = *e;
    uint32_t at = jit_offset(jit, e);
    jit_emit_arrival(e, b->rip, flags_live, other);
    if (polls)
        poll(jit, e, flags_live);
    emit_jmp_to(e, jit_exec(jit, b->checked));
    if (!e->overflow)
        return at;
    *e = before;
    return 0;
}

static unsigned user_of(const struct jit *jit, const struct jit_block *b)
{
    return jit->page[b->page].mode & MODE_USER ? 1 : 0;
}

static void set(struct tcpu *c, unsigned user, uint64_t rip, const void *host)
{
    bool known = host != NULL;
    c->hot.target[user][target_index(rip)] = known ? host : c->jit->lookup[user];
    c->hot.ibtc[user][ibtc_index(rip)] = (struct ibtc_entry){known ? rip : IBTC_FREE, host};
}

void jit_learn_target(struct tcpu *c, struct jit_block *b)
{
    struct jit *jit = c->jit;
    unsigned user = user_of(jit, b);
    if (!b->target)
        b->target = write_arrival(jit, b, b->needs_flags, jit->lookup[user], true);
    if (!b->target)
        return;
    set(c, user, b->rip, jit_exec(jit, b->target));
    if (jit->targets[user] < TARGETS_LISTED)
        jit->target_listed[user][jit->targets[user]] = b->rip;
    if (jit->targets[user] <= TARGETS_LISTED)
        jit->targets[user]++;
}

// Zeroes do for the entries of the ibtc, but for the one that rip 0 leads to.
static void start(struct tcpu *c, unsigned user)
{
    for (unsigned i = 0; i < TARGET_ENTRIES; i++)
        c->hot.target[user][i] = c->jit->lookup[user];
    c->hot.ibtc[user][0].rip = IBTC_FREE;
    c->jit->targets_made[user] = true;
}

void jit_forget_targets(struct tcpu *c, unsigned user)
{
    struct jit *jit = c->jit;
    bool made = jit->targets_made[user], all = made && jit->targets[user] > TARGETS_LISTED;
    for (unsigned i = 0; all && i < IBTC_ENTRIES; i++)
        c->hot.ibtc[user][i] = (struct ibtc_entry){IBTC_FREE, NULL};
    if (all || !made)
        start(c, user);
    for (unsigned i = 0; !all && i < jit->targets[user]; i++)
        set(c, user, jit->target_listed[user][i], NULL);
    jit->targets[user] = 0;
}

// Its places in the tables, so that the next visitor finds its successor.
void jit_forget_target(struct tcpu *c, const struct jit_block *b)
{
    struct jit *jit = c->jit;
    unsigned user = user_of(jit, b);
    const void *host = jit_exec(jit, b->target),
               **near = &c->hot.target[user][target_index(b->rip)];
    struct ibtc_entry *far = &c->hot.ibtc[user][ibtc_index(b->rip)];
    if (b->target && *near == host)
        *near = jit->lookup[user];
    if (b->target && far->host == host)
        *far = (struct ibtc_entry){IBTC_FREE, NULL};
}

static void redirect(struct jit *jit, const struct jit_block *b, uint32_t entry, const void *other,
                     bool polls)
{
    if (!entry || b->needs_flags)
        return;
    uint32_t safe = write_arrival(jit, b, true, other, polls);
    if (!safe)
        safe = (uint32_t)((const uint8_t *)other - jit->buf.exec);
    jit->buf.write[entry] = 0xe9;
    jit_patch(jit, entry + 1, safe);
}

void jit_distrust_flags(struct jit *jit, const struct jit_block *b)
{
    unsigned user = user_of(jit, b);
    redirect(jit, b, b->landing, jit->astray[user], false);
    redirect(jit, b, b->target, jit->lookup[user], true);
}
