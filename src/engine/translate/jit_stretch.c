// Stretches: an innermost loop whose accesses move by constants is checked for many iterations at
// once. A second copy of its body, without checks and without a poll, runs for as many iterations
// as all of its streams stay in the pages that they are in.
//
// A stream is what is accessed from one base, or base and index, of which the loop changes at most
// one, by a constant in every iteration; or constant addresses. The branch that closes the loop
// leads to code that polls, looks each stream up in the inline TLB, keeps its addend and works out
// how far the loop's counter, a register that moves by a constant, may go before the first stream
// leaves its page. Then the copy runs until the counter is there. Where a stream is not in the TLB,
// or leaves its page in this very iteration, the loop as it stands does the iteration: so faults,
// devices, watched pages and code pages are its affair alone.
//
// What was found holds as for groups: only polls and the interpreter withdraw translations. The
// copy has no poll, so it is bounded (STRETCH_INSNS); where an access in it that is no stream goes
// to the interpreter, the loop is left.
//
// Loops of few iterations lose by it. Each stretch costs its account PAYS iterations, and what was
// done brings them in; where that is overdrawn, the block is translated without.
#include "base/bits.h"
#include "base/copy.h"
#include "engine/translate/jit_trans.h"

#define STRETCH_INSNS 8192 // in one stretch: some microseconds
#define STEP_MAX 256       // bytes in an iteration; more: pages are left too soon
#define MOVES_MAX 4096     // of a register within an iteration
#define SPAN_MAX 1024      // bytes that a stream accesses in an iteration
#define PAYS 6             // iterations in a stretch, at least
#define CREDIT 256         // stretches that may bring nothing before it is given up
#define ROOM_MAX 32768     // that the counter moves in a stretch
#define CONSTANTS 16       // in place of a base register
#define RATIO_BITS 24

// What is known of registers on the way through a loop's body.
struct registers {
    uint16_t written;
    uint16_t spoiled;  // otherwise than by constants in each iteration
    int32_t moved[16]; // since the iteration began
};

// --- planning ------------------------------------------------------------------------------------

static uint64_t insn_end(const struct trans *t, unsigned i)
{
    return t->b->rip + t->jit->mark[t->b->marks + i].guest + t->insn[i].len;
}

// The instruction of the block that a branch leads to, or -1.
static int leads_to(const struct trans *t, unsigned i)
{
    const struct insn *in = &t->insn[i];
    bool branch = in->form != UINT16_MAX && insn_form(in)->flags & FORM_BRANCH;
    return branch ? trans_loop_target(t, in, insn_end(t, i)) : -1;
}

static bool is_jump(const struct insn *in)
{
    return in->op == OP_JCC || in->op == OP_JMP_NEAR;
}

static bool in_place(const struct trans *t, unsigned reg)
{
    return reg < 16 && host_reg(t, reg) != NO_HOST;
}

// Branches of the body lead forward or out of it; all else is copied by trans_native().
static bool can_copy(const struct trans *t, unsigned i, unsigned last)
{
    const struct insn *in = &t->insn[i];
    int to = leads_to(t, i);
    if (in->form == UINT16_MAX || in->op == OP_PAUSE)
        return false;
    switch (in->op) {
    case OP_JMP_NEAR: return to > (int)i && to <= (int)last;
    case OP_JCC: return to < 0 ? (int64_t)in->imm > 0 : to > (int)i;
    case OP_LEA:
    case OP_NOP: return true;
    default: return trans_allowed(t, in);
    }
}

static void follow_registers(const struct insn *in, bool always, struct registers *r)
{
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *op = &in->operand[i];
        unsigned reg = op->reg & 15u;
        int32_t step;
        if (op->kind != OPND_GPR || !(op->flags & OPERAND_WRITE))
            continue;
        r->written |= (uint16_t)(1u << reg);
        if (always && trans_constant_step(in, reg, &step) && r->moved[reg] + step < MOVES_MAX &&
            r->moved[reg] + step > -MOVES_MAX)
            r->moved[reg] += step;
        else
            r->spoiled |= (uint16_t)(1u << reg);
    }
}

// From the start of an iteration to its end. False: not this loop.
static bool follow_body(const struct trans *t, const struct stretch *s, struct registers *r)
{
    unsigned always_from = s->head; // branches before here lead no further
    *r = (struct registers){0};
    for (unsigned i = s->head; i < s->branch; i++) {
        if (!can_copy(t, i, s->branch))
            return false;
        follow_registers(&t->insn[i], i >= always_from, r);
        int to = leads_to(t, i);
        if (to > (int)always_from && to <= s->branch)
            always_from = (unsigned)to;
    }
    return true;
}

static bool same_stream(const struct stream *a, const struct stream *b)
{
    int32_t low = a->low < b->low ? a->low : b->low, high = a->high > b->high ? a->high : b->high;
    return a->base == b->base && a->index == b->index && a->scale == b->scale &&
           a->page == b->page && high - low <= SPAN_MAX;
}

static void add_stream(struct trans *t, struct stretch *s, const struct stream *add, unsigned i)
{
    unsigned n = 0;
    while (n < s->streams && !same_stream(&s->stream[n], add))
        n++;
    if (n == STREAMS_MAX)
        return;
    struct stream *stream = &s->stream[n];
    if (n == s->streams)
        s->stream[s->streams++] = *add;
    stream->low = add->low < stream->low ? add->low : stream->low;
    stream->high = add->high > stream->high ? add->high : stream->high;
    stream->write |= add->write;
    t->stream[i] = (uint8_t)(n + 1);
}

static bool has_bit(uint16_t mask, unsigned reg)
{
    return reg < 16 && mask >> reg & 1;
}

// The stream of an access, if it is one. now: where registers are before it, whole: what an
// iteration does to them.
static bool stream_of(const struct trans *t, const struct member *m, const struct registers *now,
                      const struct registers *whole, struct stream *out)
{
    if (m->page || m->reg >= 16) {
        *out = (struct stream){.base = CONSTANTS,
                               .index = REG_NONE,
                               .varies = REG_NONE,
                               .low = m->at,
                               .high = m->at + m->size,
                               .write = m->write,
                               .page = m->page};
        return true;
    }
    bool base = has_bit(whole->written, m->reg), index = has_bit(whole->written, m->index);
    if (has_bit(whole->spoiled, m->reg) || has_bit(whole->spoiled, m->index) || (base && index))
        return false;
    unsigned varies = base ? m->reg : index ? m->index : REG_NONE;
    int32_t low = m->disp + now->moved[m->reg], step = whole->moved[m->reg];
    if (index) {
        low += m->scale * now->moved[m->index];
        step = m->scale * whole->moved[m->index];
    }
    *out = (struct stream){.base = m->reg,
                           .index = m->index,
                           .scale = m->scale,
                           .varies = (uint8_t)varies,
                           .low = low,
                           .high = low + m->size,
                           .write = m->write,
                           .step = step};
    return step <= STEP_MAX && step >= -STEP_MAX && (varies == REG_NONE || in_place(t, varies));
}

static void find_streams(struct trans *t, struct stretch *s, const struct registers *whole)
{
    struct registers now = {0};
    for (unsigned i = s->head; i < s->branch; i++) {
        const struct insn *in = &t->insn[i];
        struct member m;
        struct stream stream;
        t->next = insn_end(t, i); // constants follow it
        if (!is_jump(in) && in->op != OP_LEA && in->op != OP_NOP && trans_member(t, in, &m) &&
            stream_of(t, &m, &now, whole, &stream))
            add_stream(t, s, &stream, i);
        follow_registers(in, true, &now);
    }
}

// The condition as the other operand sees it.
static unsigned exchanged_condition(unsigned condition)
{
    switch (condition) {
    case COND_B: return COND_A;
    case COND_A: return COND_B;
    case COND_BE: return COND_AE;
    case COND_AE: return COND_BE;
    case COND_L: return COND_G;
    case COND_G: return COND_L;
    case COND_LE: return COND_GE;
    case COND_GE: return COND_LE;
    default: return condition;
    }
}

// How far from its bound a register that moves towards it is at least when the loop goes on. False:
// it does not move towards it.
static bool leaves_distance(unsigned condition, bool up, uint8_t *least)
{
    *least = 1;
    switch (condition) {
    case COND_NE: return true;
    case COND_BE:
    case COND_LE: *least = 0; return up;
    case COND_B:
    case COND_L: return up;
    case COND_AE:
    case COND_GE: *least = 0; return !up;
    case COND_A:
    case COND_G: return !up;
    default: return false;
    }
}

static bool can_count(const struct trans *t, unsigned reg, const struct registers *whole)
{
    int32_t step = whole->moved[reg];
    return in_place(t, reg) && !has_bit(whole->spoiled, reg) && step && step <= STEP_MAX &&
           step >= -STEP_MAX;
}

// A loop that ends in a comparison of a register that can count with something that it does not
// change: as long as the bound is ahead, the copy need not look.
static bool find_bound(const struct trans *t, struct stretch *s, const struct registers *whole)
{
    const struct insn *in = &t->insn[s->branch - 1], *branch = &t->insn[s->branch];
    const struct operand *op = in->operand;
    if (s->branch == s->head || in->op != OP_CMP || in->opsize != 8 || branch->op != OP_JCC ||
        t->label[s->branch] || op[0].kind != OPND_GPR ||
        (op[1].kind != OPND_GPR && op[1].kind != OPND_IMM))
        return false;
    unsigned condition = (unsigned)insn_condition(branch), counter = op[0].reg, bound = REG_NONE;
    if (op[1].kind == OPND_GPR) {
        bool swapped = !has_bit(whole->written, counter);
        bound = op[!swapped].reg;
        counter = op[swapped].reg;
        condition = swapped ? exchanged_condition(condition) : condition;
        if (has_bit(whole->written, bound))
            return false;
    }
    if (!can_count(t, counter, whole) ||
        !leaves_distance(condition, whole->moved[counter] > 0, &s->distance))
        return false;
    s->bounded = true;
    s->bound = (uint8_t)bound;
    s->limit = (int64_t)in->imm;
    s->counter = (uint8_t)counter;
    s->step = whole->moved[counter];
    return true;
}

// The register that is compared at the end of each iteration of the copy: one that a stream moves
// with, if not the loop's own.
static bool find_counter(const struct trans *t, struct stretch *s, const struct registers *whole)
{
    if (find_bound(t, s, whole))
        return s->streams;
    for (unsigned n = 0; n < s->streams; n++)
        if (s->stream[n].step) {
            s->counter = s->stream[n].varies;
            s->step = whole->moved[s->counter];
            return true;
        }
    return false;
}

static bool plan(struct trans *t, struct stretch *s)
{
    struct registers whole;
    if (t->live[s->head] || trans_avoids(t, s->head, AVOID_STRETCH) || !follow_body(t, s, &whole))
        return false;
    find_streams(t, s, &whole);
    if (!find_counter(t, s, &whole)) {
        for (unsigned i = s->head; i < s->branch; i++)
            t->stream[i] = 0;
        return false;
    }
    return true;
}

// Loops without a loop in them.
void trans_plan_stretches(struct trans *t)
{
    int last = -1; // branch backward
    t->stretches = 0;
    t->copying = NULL;
    t->reserved = 0;
    if (!t->b->loop || !t->code64)
        return;
    trans_exchanged(t);
    for (unsigned i = 0; i < t->count; i++) {
        int to = leads_to(t, i);
        t->stream[i] = 0;
        if (to < 0 || to > (int)i)
            continue;
        struct stretch *s = &t->stretch[t->stretches];
        fill_bytes(s, 0, sizeof *s);
        s->head = (uint8_t)to;
        s->branch = (uint8_t)i;
        if (to > last && is_jump(&t->insn[i]) && t->stretches < STRETCHES_MAX && plan(t, s))
            t->stretches++;
        last = (int)i;
    }
    trans_standard(t);
}

struct stretch *trans_stretch_to(struct trans *t, unsigned insn)
{
    for (unsigned n = 0; n < t->stretches && !t->copying; n++)
        if (t->stretch[n].branch == insn)
            return &t->stretch[n];
    return NULL;
}

// --- the way in ----------------------------------------------------------------------------------

static int32_t size_of(int32_t step)
{
    return step < 0 ? -step : step;
}

static struct emit_mem account_field(const struct stretch *s, size_t field)
{
    return emit_gs(offsetof(struct tcpu, hot.stretch_account) +
                   s->account * sizeof(struct stretch_account) + field);
}

static struct emit_mem addend_of(unsigned stream)
{
    return emit_gs(offsetof(struct tcpu, hot.stream_addend) + stream * sizeof(uint64_t));
}

void trans_count_stretch(const struct trans *t, struct emit *e)
{
    const struct stretch *s = t->copying;
    emit_store(e, 8, account_field(s, offsetof(struct stretch_account, to)),
               host_reg(t, s->counter));
}

const void *trans_leave_stretch(struct trans *t, const void *to)
{
    const void *at = emit_exec(t->cold);
    trans_count_stretch(t, t->cold);
    emit_jmp_to(t->cold, to);
    return at;
}

// What the last stretch brought, less what one costs.
static void settle_account(struct trans *t, struct stretch *s)
{
    struct emit *e = t->e;
    unsigned counter = host_reg(t, s->counter);
    struct emit_mem from = account_field(s, offsetof(struct stretch_account, from)),
                    to = account_field(s, offsetof(struct stretch_account, to)),
                    balance = account_field(s, offsetof(struct stretch_account, balance));
    t->c->hot.stretch_account[s->account] =
        (struct stretch_account){.balance = (int64_t)size_of(s->step) * PAYS * CREDIT};
    emit_load(e, 8, T0, s->step > 0 ? to : from);
    emit_alu_rm(e, ALU_SUB, 8, T0, s->step > 0 ? from : to);
    emit_alu_ri(e, ALU_SUB, 8, T0, size_of(s->step) * PAYS);
    emit_alu_mr(e, ALU_ADD, 8, balance, T0);
    emit_jcc_to(e, COND_S, trans_stub(t, GATE_SHORT, trans_site(t, ACCESS_READ, 0)));
    emit_store(e, 8, from, counter);
    emit_store(e, 8, to, counter);
}

// T1, bytes that the stream may move, into what the counter may; rounded down. Uses T0.
static void scale_room(struct emit *e, const struct stretch *s, const struct stream *stream)
{
    uint32_t from = (uint32_t)size_of(stream->step), to = (uint32_t)size_of(s->step);
    uint32_t ratio = (uint32_t)(((uint64_t)to << RATIO_BITS) / from);
    if (from == to)
        return;
    if (from % to == 0 && is_power_of_two(from / to)) {
        emit_shift_ri(e, SHIFT_SHR, 8, T1, (unsigned)__builtin_ctz(from / to));
        return;
    }
    emit_mov_ri(e, T0, ratio);
    emit_op_rr(e, 8, 0, MAP_0F, 0xaf, T1, T0); // imul
    emit_shift_ri(e, SHIFT_SHR, 8, T1, RATIO_BITS);
}

// Makes hot.stretch_room no more than T1.
static void reduce_room(struct emit *e)
{
    emit_load(e, 8, T0, GS(hot.stretch_room));
    emit_alu_rr(e, ALU_CMP, 8, T1, T0);
    emit_op_rr(e, 8, 0, MAP_0F, 0x42, T0, T1); // cmovb
    emit_store(e, 8, GS(hot.stretch_room), T0);
}

// No more than what the stream has left in its page; T2: its offset there.
static void limit_room(struct emit *e, const struct stretch *s, const struct stream *stream)
{
    if (!stream->step)
        return;
    if (stream->step > 0) {
        emit_mov_ri(e, T1, (uint64_t)(int32_t)PAGE_SIZE - (uint64_t)(stream->high - stream->low));
        emit_alu_rr(e, ALU_SUB, 8, T1, T2);
    } else {
        emit_mov_rr(e, 8, T1, T2);
    }
    scale_room(e, s, stream);
    reduce_room(e);
}

// A guest register's value, which may be in memory.
static unsigned value_of(struct trans *t, unsigned guest)
{
    if (host_reg(t, guest) != NO_HOST)
        return host_reg(t, guest);
    emit_load(t->e, 8, T1, gpr_slot(t, guest));
    return T1;
}

// No more than what leaves the loop's own bound ahead, for which it has just decided that it is not
// reached. If that is little, there is no stretch.
static uint8_t *limit_to_bound(struct trans *t, struct stretch *s)
{
    struct emit *e = t->e;
    unsigned counter = host_reg(t, s->counter), bound = T1;
    if (s->bound == REG_NONE)
        emit_mov_ri(e, T1, (uint64_t)s->limit);
    else
        bound = value_of(t, s->bound);
    if (s->step > 0) {
        emit_mov_rr(e, 8, T1, bound);
        emit_alu_rr(e, ALU_SUB, 8, T1, counter);
    } else {
        emit_mov_rr(e, 8, T2, counter);
        emit_alu_rr(e, ALU_SUB, 8, T2, bound);
        emit_mov_rr(e, 8, T1, T2);
    }
    if (s->distance)
        emit_alu_ri(e, ALU_SUB, 8, T1, s->distance);
    emit_alu_ri(e, ALU_CMP, 8, T1, size_of(s->step) * PAYS);
    uint8_t *near = emit_jcc(e, COND_B);
    reduce_room(e);
    return near;
}

// What does not vary of the stream's address is added to its addend, T0.
static void keep_addend(struct trans *t, const struct stream *stream, unsigned n)
{
    struct emit *e = t->e;
    if (stream->base == CONSTANTS) {
        emit_mov_ri(e, T1, stream->page);
        emit_alu_rr(e, ALU_ADD, 8, T0, T1);
    } else if (stream->base != stream->varies) {
        emit_alu_rr(e, ALU_ADD, 8, T0, value_of(t, stream->base));
    }
    if (stream->index != REG_NONE && stream->index != stream->varies)
        emit_lea(e, 8, T0, emit_indexed(T0, value_of(t, stream->index), stream->scale, 0));
    emit_store(e, 8, addend_of(n), T0);
}

static struct address first_byte(const struct stream *stream)
{
    bool constant = stream->base == CONSTANTS;
    return (struct address){.base = constant ? REG_NONE : stream->base,
                            .index = stream->index,
                            .scale = stream->scale,
                            .width = 8,
                            .segment = SEG_COUNT,
                            .constant = constant,
                            .value = stream->page + (uint64_t)stream->low,
                            .disp = stream->low};
}

// The last value of the counter with which the copy goes on, from the room it has, into T0.
static void set_last(struct trans *t, const struct stretch *s)
{
    struct emit *e = t->e;
    emit_mov_rr(e, 8, T0, host_reg(t, s->counter));
    emit_alu_rm(e, s->step > 0 ? ALU_ADD : ALU_SUB, 8, T0, GS(hot.stretch_room));
    emit_store(e, 8, GS(hot.stretch_last), T0);
}

static int32_t most_room(const struct stretch *s)
{
    int32_t room = STRETCH_INSNS / (s->branch - s->head + 1) * size_of(s->step);
    return room < ROOM_MAX ? room : ROOM_MAX;
}

// Decides whether there is a stretch from here, and prepares it. The counter must be far from where
// it would overflow.
static void emit_way_in(struct trans *t, struct stretch *s)
{
    struct emit *e = t->e;
    t->i = s->head;
    t->rip = t->b->rip + t->jit->mark[t->b->marks + s->head].guest;
    t->flags_live = false;
    s->start = emit_exec(e);
    emit_land(e, s->from);
    trans_poll_here(t);
    settle_account(t, s);
    emit_mov_rr(e, 8, T0, host_reg(t, s->counter));
    emit_alu_ri(e, s->step > 0 ? ALU_ADD : ALU_SUB, 8, T0, 2 * ROOM_MAX);
    s->fail[STREAMS_MAX] = emit_jcc(e, COND_O);
    emit_store_i(e, 8, GS(hot.stretch_room), most_room(s));
    s->fail[STREAMS_MAX + 1] = s->bounded ? limit_to_bound(t, s) : NULL;
    for (unsigned n = 0; n < s->streams; n++) {
        const struct stream *stream = &s->stream[n];
        struct address a = first_byte(stream);
        s->fail[n] = trans_check_span(t, &a, (unsigned)(stream->high - stream->low),
                                      stream->write ? ACCESS_WRITE : ACCESS_READ);
        keep_addend(t, stream, n);
        limit_room(e, s, stream);
    }
    set_last(t, s);
}

// There is no stretch.
static void emit_way_back(struct trans *t, const struct stretch *s)
{
    for (unsigned n = 0; n < s->streams; n++)
        emit_land(t->e, s->fail[n]);
    emit_land(t->e, s->fail[STREAMS_MAX]);
    if (s->bounded)
        emit_land(t->e, s->fail[STREAMS_MAX + 1]);
    emit_jmp_to(t->e, trans_done(t, s->head));
}

// Into the copy, which begins here.
static const void *emit_entry(struct trans *t, const struct stretch *s)
{
    struct emit *e = t->e;
    uint8_t *in = emit_jmp(e);
    emit_way_back(t, s);
    emit_align(e, 64); // short loops run up to twice as fast so
    emit_land(e, in);
    return emit_exec(e);
}

// --- the copy ------------------------------------------------------------------------------------

bool trans_stream(struct trans *t, const struct address *a, unsigned size, enum access access,
                  struct emit_mem *mem)
{
    const struct stretch *s = t->copying;
    unsigned n = t->stream[t->i];
    const struct stream *stream = n ? &s->stream[n - 1] : NULL;
    bool constant = stream && stream->base == CONSTANTS;
    int32_t at = constant ? (int32_t)(a->value - stream->page) : a->disp;
    if (!stream || a->string || a->constant != constant || a->segment != SEG_COUNT ||
        (!constant && (a->base != stream->base || a->index != stream->index)) ||
        size > (unsigned)(stream->high - stream->low) ||
        (access == ACCESS_WRITE && !stream->write)) {
        t->broken |= t->reserved != 0;
        return false;
    }
    unsigned addend = stream->temporary;
    if (addend == NO_HOST)
        emit_load(t->e, 8, addend = T1, addend_of(n - 1));
    bool scaled = stream->varies == stream->index && stream->varies != stream->base;
    *mem = stream->varies == REG_NONE
               ? emit_at(addend, at)
               : emit_indexed(addend, host_reg(t, stream->varies), scaled ? stream->scale : 1, at);
    return true;
}

// Whether the instruction needs none of the temporaries that hold addends.
static bool leaves_temporaries(const struct trans *t)
{
    const struct insn *in = t->in;
    if (!t->reserved || trans_spares(t))
        return true;
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *op = &in->operand[i];
        if (op->kind == OPND_GPR && (op->flags & OPERAND_HIGH || !in_place(t, op->reg & 15u)))
            return false;
    }
    return t->stream[t->i] && trans_allowed(t, in);
}

static void begin_insn(struct trans *t)
{
    struct jit_mark *copy = &t->jit->mark[t->b->marks + t->count + t->b->copied++];
    const struct jit_mark *mark = &t->jit->mark[t->b->marks + t->i];
    *copy = (struct jit_mark){.host = (uint16_t)(jit_offset(t->jit, t->e) - t->b->checked),
                              .guest = mark->guest};
    t->in = &t->insn[t->i];
    t->rip = t->b->rip + mark->guest;
    t->next = t->rip + t->in->len;
    t->flags_live = t->live[t->i] != 0;
    if (!t->label[t->i])
        return;
    t->ended = false;
    trans_come_to(t);
}

// On to the next iteration, unless the counter has gone as far as it may.
static void emit_turn(struct trans *t, const struct stretch *s, const void *again)
{
    struct emit *e = t->e;
    if (t->reserved & 1u << T0 && s->streams < 3)
        emit_alu_rr(e, ALU_CMP, 8, host_reg(t, s->counter), T0);
    else
        emit_alu_rm(e, ALU_CMP, 8, host_reg(t, s->counter), GS(hot.stretch_last));
    emit_jcc_to(e, s->step > 0 ? COND_LE : COND_GE, again);
}

// Out of the loop, if the guest's branch says so.
static void emit_exit(struct trans *t, const struct stretch *s)
{
    const void *after =
        s->branch + 1u < t->count ? trans_done(t, s->branch + 1u) : jit_exec(t->jit, t->after);
    enum condition leaves = (enum condition)(insn_condition(t->in) ^ 1);
    if (t->in->op == OP_JCC)
        emit_jcc_to(t->e, leaves, trans_leave_stretch(t, after));
}

// False: something in it needs what it cannot have.
static bool emit_body(struct trans *t, struct stretch *s, unsigned reserved)
{
    t->reserved = reserved;
    for (unsigned n = 0; n < s->streams; n++) {
        static const uint8_t temporaries[] = {T1, T2, T0};
        s->stream[n].temporary = reserved ? temporaries[n] : NO_HOST;
        if (reserved)
            emit_load(t->e, 8, temporaries[n], addend_of(n));
    }
    for (unsigned n = 0; n < t->groups; n++)
        t->group[n].ready &= t->group[n].first < s->head || t->group[n].first > s->branch;
    const void *again = emit_entry(t, s);
    t->broken = t->ended = false;
    t->held = NULL;
    t->kept = NO_HOST;
    for (t->i = s->head; t->i < s->branch && !t->broken; t->i++) {
        begin_insn(t);
        t->broken |= !leaves_temporaries(t);
        if (s->bounded && t->i + 1u == s->branch)
            emit_turn(t, s, again);
        if (!t->ended)
            trans_insn(t);
    }
    begin_insn(t);
    emit_exit(t, s);
    if (!s->bounded)
        emit_turn(t, s, again);
    trans_count_stretch(t, t->e);
    emit_jmp_to(t->e, s->start);
    t->reserved = 0;
    return !t->broken;
}

// With addends in the temporaries if that goes, the counter's last value in T0 if that goes too;
// else all in memory.
static void emit_stretch(struct trans *t, struct stretch *s)
{
    static const unsigned reserve[] = {1u << T0 | 1u << T1 | 1u << T2, 1u << T1 | 1u << T2, 0};
    struct jit *jit = t->jit;
    emit_way_in(t, s);
    struct emit_place hot = emit_here(t->e), cold = emit_here(t->cold);
    uint32_t sites = jit->sites, links = jit->links;
    uint8_t copied = t->b->copied;
    t->copying = s;
    for (unsigned i = s->streams > 3 ? 2 : 0; !emit_body(t, s, reserve[i]);
         i += s->streams == 3 ? 2 : 1) {
        emit_back_to(t->e, hot);
        emit_back_to(t->cold, cold);
        jit->sites = sites;
        jit->links = links;
        t->b->copied = copied;
        t->fixups = 0;
        if (i == 2) {
            emit_way_back(t, s);
            break;
        }
    }
    t->copying = NULL;
}

void trans_emit_stretches(struct trans *t)
{
    bool ended = t->ended;
    if (t->b->exchange && t->stretches)
        trans_exchanged(t);
    t->c->counter[COUNTER_STRETCHES] += t->stretches;
    for (unsigned n = 0; n < t->stretches; n++) {
        t->stretch[n].account = (uint16_t)(t->jit->accounts++ % STRETCH_ACCOUNTS);
        emit_stretch(t, &t->stretch[n]);
    }
    t->ended = ended;
}
