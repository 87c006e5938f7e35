// Which arithmetic flags the guest needs where: backward through a block, and beyond its ends into
// the code that its direct branches lead to, as long as that is in the same page. What was looked
// at there is part of what the block depends on: when it changes, the block goes, too.
//
// Other pages are not looked at: what they hold can change without a trace when page tables do.
// What a return, an indirect branch or the interpreter goes on to needs all flags.
#include "base/copy.h"
#include "engine/translate/jit_trans.h"

#define AHEAD_INSNS 12 // looked at for one branch
#define AHEAD_FORKS 2  // conditional branches among them that are followed both ways

// A shift by a constant other than zero changes its flags for certain.
static unsigned flags_read(const struct insn *in)
{
    const struct insn_form *form = insn_form(in);
    bool shift = in->op == OP_SHL || in->op == OP_SHR || in->op == OP_SAR || in->op == OP_SHLD ||
                 in->op == OP_SHRD;
    unsigned mask = in->opsize == 8 ? 63 : 31;
    if (shift && in->operand[in->operands - 1].kind == OPND_IMM && in->imm & mask)
        return 0;
    if (!(form->flags & FORM_COND))
        return form->flags_read;
    static const uint16_t of_condition[8] = {
        FLAG_OF, FLAG_CF, FLAG_ZF,           FLAG_CF | FLAG_ZF,
        FLAG_SF, FLAG_PF, FLAG_SF | FLAG_OF, FLAG_ZF | FLAG_SF | FLAG_OF};
    return of_condition[insn_condition(in) >> 1];
}

// Where a relative branch in the page leads within it, as an offset; false otherwise.
static bool near_target(const struct trans *t, const struct insn *in, uint64_t next, unsigned *to)
{
    uint64_t target = next + in->imm;
    if (in->operand[0].kind != OPND_REL || in->opsize != (t->code64 ? 8 : 4))
        return false;
    *to = (unsigned)(target & PAGE_MASK);
    return align_down(t->code64 ? target : (uint32_t)target, PAGE_SIZE) == t->jit->page[t->page].at;
}

// Another vCPU may use the block where these bytes are the same.
static void remember_span(struct trans *t, unsigned at, const uint8_t *code, unsigned len)
{
    struct stored_span *last = t->spans ? &t->span[t->spans - 1] : NULL;
    bool follows = last && at == last->at + (unsigned)last->len;
    if (t->spans + !follows > SPANS_MAX || t->ahead_bytes + len > AHEAD_BYTES) {
        t->spans = SPANS_MAX + 1;
        return;
    }
    if (!follows) {
        last = &t->span[t->spans++];
        *last = (struct stored_span){.at = (uint16_t)at};
    }
    copy_bytes(t->ahead_code + t->ahead_bytes, code, len);
    t->ahead_bytes += len;
    last->len = (uint16_t)(last->len + len);
}

// The fields that move, of an instruction that is remembered next.
static void remember_fields(struct trans *t, const struct insn *in, uint64_t next)
{
    struct stored_move field[2];
    unsigned n = trans_moving_fields(t, in, next, field);
    for (unsigned i = 0; i < n && t->ahead_moves < AHEAD_MOVES; i++) {
        t->ahead_move[t->ahead_moves] = field[i];
        t->ahead_move[t->ahead_moves++].at += (uint16_t)t->ahead_bytes;
    }
}

// The instruction at an offset in the page; false when it is not one that lies in it.
static bool decode_ahead(struct trans *t, unsigned at, struct insn *in)
{
    const struct jit_page *page = &t->jit->page[t->page];
    uint8_t code[INSN_MAX];
    unsigned len = (unsigned)min_u64(INSN_MAX, PAGE_SIZE - at);
    if (!tvm_protect_code(t->c->vm, t->c, page->gpa + at, len))
        return false;
    if (len == INSN_MAX) { // in two overlapping pieces: cheaper than a copy of any length
        __builtin_memcpy(code, page->host + at, 8);
        __builtin_memcpy(code + INSN_MAX - 8, page->host + at + INSN_MAX - 8, 8);
    } else {
        copy_bytes(code, page->host + at, len);
    }
    t->b->ahead_from = (uint16_t)min_u64(t->b->ahead_from, at);
    t->b->ahead_to = (uint16_t)max_u64(t->b->ahead_to, at + len);
    bool whole = trans_decode(t, code, len, in) == INSN_OK;
    if (whole && t->spans <= SPANS_MAX)
        remember_fields(t, in, t->jit->page[t->page].at + at + in->len);
    remember_span(t, at, code, whole ? in->len : len);
    return whole;
}

// Which of `unknown` the code at an offset in the page reads before it writes them.
static unsigned needed_at(struct trans *t, unsigned at, unsigned unknown, unsigned forks)
{
    unsigned needed = 0, to;
    for (unsigned i = 0; unknown && i < AHEAD_INSNS; i++) {
        struct insn in;
        if (at >= PAGE_SIZE || !decode_ahead(t, at, &in))
            break;
        if (insn_form(&in)->flags & FORM_SYSTEM)
            return in.op == OP_POPF ? needed : needed | unknown;
        at += in.len;
        needed |= flags_read(&in) & unknown;
        unknown &= ~(unsigned)insn_form(&in)->flags_written;
        if (!(insn_form(&in)->flags & FORM_BRANCH))
            continue;
        if (!near_target(t, &in, t->jit->page[t->page].at + at, &to))
            break;
        if (in.op == OP_JMP_NEAR || in.op == OP_CALL_NEAR) {
            at = to;
        } else {
            if (!forks || in.op != OP_JCC)
                break;
            needed |= needed_at(t, to, unknown, --forks);
        }
        unknown &= ~needed;
    }
    return needed | unknown;
}

static unsigned needed_after(struct trans *t, const struct insn *in, uint64_t next)
{
    unsigned to;
    return near_target(t, in, next, &to) ? needed_at(t, to, FLAGS_ARITH, AHEAD_FORKS) : FLAGS_ARITH;
}

// After the last instruction, if it does not branch.
static unsigned needed_at_end(struct trans *t)
{
    uint64_t end = (t->b->rip & PAGE_MASK) + t->b->bytes;
    return t->b->tail || end >= PAGE_SIZE ? FLAGS_ARITH
                                          : needed_at(t, (unsigned)end, FLAGS_ARITH, AHEAD_FORKS);
}

// The flags that the target of a branch needs. Not asked where it would change nothing: nothing is
// between a forward branch and the instruction that sets all flags for it.
static unsigned needed_by_target(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insn[i];
    uint64_t next = t->b->rip + t->jit->mark[t->b->marks + i].guest + in->len;
    if (t->b->loop && trans_loop_target(t, in, next) >= 0)
        return 0; // follows from the loop itself
    bool compared = i && (insn_form(&t->insn[i - 1])->flags_written & FLAGS_ARITH) == FLAGS_ARITH;
    if (compared && in->op == OP_JCC && (int64_t)in->imm > 0)
        return FLAGS_ARITH;
    return needed_after(t, in, next);
}

// Before an instruction, with `live` after it.
static unsigned live_before(const struct trans *t, unsigned i, unsigned live)
{
    const struct insn *in = &t->insn[i];
    const struct insn_form *form = in->form == UINT16_MAX ? NULL : insn_form(in);
    if (!form || form->flags & FORM_SYSTEM)
        return form && in->op == OP_POPF ? 0 : FLAGS_ARITH;
    if (!(form->flags & FORM_BRANCH))
        return (live & ~(unsigned)form->flags_written) | flags_read(in);
    if (in->op != OP_JCC && in->op != OP_JMP_NEAR && in->op != OP_CALL_NEAR)
        return FLAGS_ARITH;
    return t->taken[i] | flags_read(in) | (in->op == OP_JCC ? live : 0);
}

// Backward through the block once; whether something was found to live that was not known to.
static bool go_back(struct trans *t)
{
    bool more = false;
    for (unsigned i = t->count; i-- > 0;) {
        const struct insn *in = &t->insn[i];
        uint64_t next = t->b->rip + t->jit->mark[t->b->marks + i].guest + in->len;
        int to = t->b->loop && in->form != UINT16_MAX && insn_form(in)->flags & FORM_BRANCH
                     ? trans_loop_target(t, in, next)
                     : -1;
        if (to >= 0)
            t->taken[i] = t->live[to];
        unsigned live = live_before(t, i, t->live[i + 1]) & FLAGS_ARITH;
        more |= live != t->live[i];
        t->live[i] = (uint16_t)live;
    }
    return more;
}

void trans_live_flags(struct trans *t)
{
    bool all = t->c->vm->config.debug & ENGINE_DEBUG_FLAGS_LIVE,
         ahead = !all && !t->jit->poll_all && !t->b->verifies;
    const struct insn *last = &t->insn[t->count - 1];
    bool falls = last->form != UINT16_MAX && !(insn_form(last)->flags & FORM_SYSTEM) &&
                 (!(insn_form(last)->flags & FORM_BRANCH) || last->op == OP_JCC);
    t->b->ahead_from = PAGE_SIZE - 1;
    t->b->ahead_to = 0;
    t->spans = t->c->vm->store ? 0 : SPANS_MAX + 1;
    t->ahead_bytes = t->ahead_moves = 0;
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        bool branch = in->form != UINT16_MAX && insn_form(in)->flags & FORM_BRANCH;
        t->taken[i] = (uint16_t)(ahead && branch ? needed_by_target(t, i) : FLAGS_ARITH);
        t->live[i] = all ? FLAGS_ARITH : 0;
    }
    t->live[t->count] = (uint16_t)(ahead && falls ? needed_at_end(t) : FLAGS_ARITH);
    while (!all && go_back(t) && t->b->loop)
        ;
}
