// A block that is a whole loop: the code from the target of a hot branch backward to that branch,
// in one page. Branches within it need neither links nor checks, the flags that live are known at
// them, and it polls where they lead back to.
//
// A loop that uses R8 to R11, which are in memory elsewhere, more than others exchanges them: while
// it runs, the others are in memory (in s.gpr, in each other's place). Ways out exchange them back,
// or leave it to the gates: hot.exchanged says what is to be done.
//
// The only way in is its start. What comes back in the middle (from a call, from the interpreter)
// goes to blocks of its own, and from these to the start.
#include "base/copy.h"
#include "engine/translate/jit_trans.h"

// By how many uses a register must lead to be exchanged; more where calls come back in the middle.
#define EXCHANGE_PAYS 3
#define EXCHANGE_PAYS_CALLING 12
#define AHEAD_INSNS 96 // looked at for a branch backward when every block is to be hot

// For tests, which do not wait until a loop is hot: the last branch to the block's start.
static unsigned find_branch(struct trans *t)
{
    const struct jit_page *page = &t->jit->page[t->page];
    unsigned start = (unsigned)(t->b->rip & PAGE_MASK), at = start, found = 0;
    for (unsigned i = 0; i < AHEAD_INSNS && at < PAGE_SIZE; i++) {
        struct insn in;
        uint8_t code[INSN_MAX]; // a copy: other processors may be writing there
        unsigned len = (unsigned)min_u64(INSN_MAX, PAGE_SIZE - at);
        copy_bytes(code, page->host + at, len);
        if (insn_decode(code, len, t->code64 ? 8 : 4, &in) != INSN_OK)
            break;
        if (insn_form(&in)->flags & FORM_BRANCH && in.operand[0].kind == OPND_REL &&
            in.op != OP_CALL_NEAR && at + in.len + in.imm == start)
            found = at - start;
        at += in.len;
    }
    return found;
}

unsigned trans_loop_bytes(struct trans *t)
{
    unsigned start = (unsigned)(t->b->rip & PAGE_MASK);
    if (!t->b->hot || t->jit->poll_all)
        return 0;
    if (t->jit->all_hot)
        return find_branch(t);
    const struct jit_loop *loop = jit_loop_at(t->jit, t->page, start);
    return loop ? loop->branch - start : 0;
}

static int insn_at(const struct trans *t, uint64_t offset)
{
    const struct jit_mark *mark = &t->jit->mark[t->b->marks];
    unsigned low = 0, high = t->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (mark[middle].guest < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->count && mark[low].guest == offset ? (int)low : -1;
}

static int target_insn(const struct trans *t, uint64_t target)
{
    return t->b->loop && target - t->b->rip < t->b->bytes ? insn_at(t, target - t->b->rip) : -1;
}

int trans_loop_target(const struct trans *t, const struct insn *in, uint64_t next)
{
    uint64_t target = t->code64 ? next + in->imm : (uint32_t)(next + in->imm);
    bool relative = in->operand[0].kind == OPND_REL && in->opsize == (t->code64 ? 8 : 4);
    return relative && in->op != OP_CALL_NEAR ? target_insn(t, target) : -1;
}

static uint64_t insn_end(const struct trans *t, unsigned i)
{
    return t->b->rip + t->jit->mark[t->b->marks + i].guest + t->insn[i].len;
}

void trans_find_labels(struct trans *t)
{
    fill_bytes(t->label, LABEL_NONE, t->count);
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        int to = insn_form(in)->flags & FORM_BRANCH ? trans_loop_target(t, in, insn_end(t, i)) : -1;
        if (to > (int)i && !t->label[to])
            t->label[to] = LABEL_FORWARD;
        else if (to >= 0 && to <= (int)i)
            t->label[to] = LABEL_BACKWARD;
    }
}

// The vector state comes into the machine once, before the loop: nothing in it takes it out but
// gates, and these bring it back.
static void check_vectors(struct trans *t)
{
    t->flags_live = t->live[0] != 0;
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        if (in->form != UINT16_MAX && trans_is_vector(in) && trans_allowed(t, in))
            trans_fpu(t);
    }
}

#define PAIRS 4

static unsigned pair_of(uint32_t pairs, unsigned n)
{
    return pairs >> 8 * n & 0xff;
}

static void exchange(struct tcpu *c, uint32_t pairs)
{
    for (; pairs; pairs >>= 8) {
        uint64_t *a = &c->s.gpr[pairs & 15], *b = &c->s.gpr[pairs >> 4 & 15], value = *a;
        *a = *b;
        *b = value;
    }
}

void jit_exchange(struct tcpu *c, uint32_t pairs)
{
    exchange(c, pairs);
    c->hot.exchanged = pairs;
}

void jit_exchange_back(struct tcpu *c)
{
    exchange(c, c->hot.exchanged);
    c->hot.exchanged = 0;
}

void trans_standard(struct trans *t)
{
    copy_bytes(t->host, jit_host_reg, sizeof t->host);
    for (unsigned i = 0; i < ARRAY_LEN(t->home); i++)
        t->home[i] = (uint8_t)i;
    t->exchanged = false;
}

void trans_exchanged(struct trans *t)
{
    trans_standard(t);
    for (unsigned n = 0; n < PAIRS && pair_of(t->b->exchange, n); n++) {
        unsigned in = pair_of(t->b->exchange, n) >> 4, out = pair_of(t->b->exchange, n) & 15;
        t->host[in] = jit_host_reg[out];
        t->host[out] = NO_HOST;
        t->home[out] = (uint8_t)in;
        t->exchanged = true;
    }
}

// The same both ways.
static void emit_exchange(const struct trans *t, struct emit *e, uint32_t now)
{
    for (unsigned n = 0; n < PAIRS && pair_of(t->b->exchange, n); n++) {
        unsigned in = pair_of(t->b->exchange, n) >> 4, out = pair_of(t->b->exchange, n) & 15;
        struct emit_mem place = emit_gs(offsetof(struct tcpu, s.gpr) + 8ul * in);
        emit_load(e, 8, T2, place);
        emit_store(e, 8, place, jit_host_reg[out]);
        emit_mov_rr(e, 8, jit_host_reg[out], T2);
    }
    emit_store_i(e, 4, GS(hot.exchanged), (int32_t)now);
}

void trans_emit_back(const struct trans *t, struct emit *e)
{
    emit_exchange(t, e, 0);
}

// How often instructions of the loop name each register; those of loops within it count more.
static void count_uses(const struct trans *t, unsigned *uses)
{
    unsigned weight[JIT_LOOP_INSNS];
    for (unsigned i = 0; i < t->count; i++)
        weight[i] = 1;
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        int to = insn_form(in)->flags & FORM_BRANCH ? trans_loop_target(t, in, insn_end(t, i)) : -1;
        for (int n = to; to > 0 && n <= (int)i; n++)
            weight[n] = weight[n] < 256 ? weight[n] * 8 : weight[n];
    }
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        for (unsigned n = 0; n < in->operands; n++)
            if (in->operand[n].kind == OPND_GPR)
                uses[in->operand[n].reg & 15u] += weight[i];
        if (in->base < 16)
            uses[in->base] += weight[i];
        if (in->index < 16)
            uses[in->index] += weight[i];
    }
}

// Registers that instructions of the loop mean without naming them stay where they are. False: all
// of them do.
static bool find_fixed(const struct trans *t, unsigned *fixed)
{
    *fixed = 1u << RAX | 1u << RCX | 1u << RDX | 1u << RSP;
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        if (insn_form(in)->flags & FORM_STRING)
            *fixed |= 1u << RSI | 1u << RDI;
        if (in->op == OP_LEAVE)
            *fixed |= 1u << RBP;
        for (unsigned n = 0; n < in->operands; n++) {
            const struct operand *op = &in->operand[n];
            if (op->kind == OPND_GPR && op->flags & OPERAND_HIGH)
                return false;
            if (op->kind == OPND_GPR && op->field == FIELD_NONE)
                *fixed |= 1u << (op->reg & 15u);
        }
    }
    return true;
}

static unsigned least_used(const unsigned *uses, unsigned fixed)
{
    unsigned least = 16;
    for (unsigned r = 0; r < 16; r++)
        if (jit_host_reg[r] != NO_HOST && !(fixed >> r & 1) &&
            (least == 16 || uses[r] < uses[least]))
            least = r;
    return least;
}

static unsigned most_used(const unsigned *uses, unsigned fixed)
{
    unsigned most = 16;
    for (unsigned r = 0; r < 16; r++)
        if (jit_host_reg[r] == NO_HOST && !(fixed >> r & 1) && (most == 16 || uses[r] > uses[most]))
            most = r;
    return most;
}

static bool has_calls(const struct trans *t)
{
    bool calls = false;
    for (unsigned i = 0; i < t->count; i++)
        calls |= t->insn[i].op == OP_CALL_NEAR;
    return calls;
}

void trans_choose_exchange(struct trans *t)
{
    unsigned uses[16], fixed;
    unsigned pays = has_calls(t) ? EXCHANGE_PAYS_CALLING : EXCHANGE_PAYS;
    clear_words(uses, sizeof uses);
    t->b->exchange = 0;
    if (!t->code64 || !find_fixed(t, &fixed))
        return;
    count_uses(t, uses);
    for (unsigned n = 0; n < PAIRS; n++) {
        unsigned in = most_used(uses, fixed), out = least_used(uses, fixed);
        if (in == 16 || out == 16 || uses[in] < uses[out] + pays)
            return;
        fixed |= 1u << in | 1u << out;
        t->b->exchange |= (in << 4 | out) << 8 * n;
    }
}

void trans_enter_loop(struct trans *t)
{
    check_vectors(t);
    if (!t->b->exchange)
        return;
    emit_exchange(t, t->e, t->b->exchange);
    trans_exchanged(t);
}

void trans_come_to(struct trans *t)
{
    unsigned left = 0;
    t->ended = false;
    t->held = NULL;
    t->kept = NO_HOST;
    for (unsigned i = 0; i < t->fixups; i++) {
        if (t->fixup[i].insn == t->i)
            emit_land(t->e, t->fixup[i].at);
        else
            t->fixup[left++] = t->fixup[i];
    }
    t->fixups = left;
}

void trans_label(struct trans *t)
{
    trans_come_to(t);
    if (t->label[t->i] == LABEL_BACKWARD)
        trans_poll_here(t);
}

static void add_fixup(struct trans *t, uint8_t *at, int insn)
{
    t->fixup[t->fixups++] = (struct fixup){at, (uint8_t)insn};
}

const void *trans_done(const struct trans *t, unsigned insn)
{
    return jit_exec(t->jit, t->b->checked + t->jit->mark[t->b->marks + insn].host);
}

bool trans_inner_jump(struct trans *t, uint64_t target)
{
    int to = target_insn(t, target);
    struct stretch *stretch = trans_stretch_to(t, t->i);
    if (to < 0)
        return false;
    if (stretch)
        stretch->from = emit_jmp(t->e);
    else if (to > (int)t->i)
        add_fixup(t, emit_jmp(t->e), to);
    else
        emit_jmp_to(t->e, trans_done(t, (unsigned)to));
    return true;
}

bool trans_inner_jump_if(struct trans *t, enum condition condition, uint64_t target)
{
    int to = target_insn(t, target);
    struct stretch *stretch = trans_stretch_to(t, t->i);
    if (to < 0)
        return false;
    if (t->copying && to > t->copying->branch)
        emit_jcc_to(t->e, condition, trans_leave_stretch(t, trans_done(t, (unsigned)to)));
    else if (stretch)
        stretch->from = emit_jcc(t->e, condition);
    else if (to > (int)t->i)
        add_fixup(t, emit_jcc(t->e, condition), to);
    else
        emit_jcc_to(t->e, condition, trans_done(t, (unsigned)to));
    return true;
}
