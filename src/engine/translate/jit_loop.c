// A block that is a whole loop: the code from the target of a hot branch backward to that branch, in
// one page. Branches within it need neither links nor checks, the flags that live are known at
// them, and it polls where they lead back to.
//
// The only way in is its start. What comes back in the middle (from a call, from the interpreter)
// goes to blocks of its own, and from these to the start.
#include "engine/translate/jit_trans.h"

#define AHEAD_INSNS 96 // looked at for a branch backward when every block is to be hot

// For tests, which do not wait until a loop is hot: the last branch to the block's start.
static unsigned find_branch(struct trans *t)
{
    const struct jit_page *page = &t->jit->page[t->page];
    unsigned start = (unsigned)(t->b->rip & PAGE_MASK), at = start, found = 0;
    for (unsigned i = 0; i < AHEAD_INSNS && at < PAGE_SIZE; i++) {
        struct insn in;
        if (insn_decode(page->host + at, PAGE_SIZE - at, t->code64 ? 8 : 4, &in) != INSN_OK)
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

void trans_find_labels(struct trans *t)
{
    const struct jit_mark *mark = &t->jit->mark[t->b->marks];
    for (unsigned i = 0; i < t->count; i++)
        t->label[i] = LABEL_NONE;
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        int to = insn_form(in)->flags & FORM_BRANCH
                     ? trans_loop_target(t, in, t->b->rip + mark[i].guest + in->len)
                     : -1;
        if (to > (int)i && !t->label[to])
            t->label[to] = LABEL_FORWARD;
        else if (to >= 0 && to <= (int)i)
            t->label[to] = LABEL_BACKWARD;
    }
}

// The vector state comes into the machine once, before the loop: nothing in it takes it out but gates,
// and these bring it back.
void trans_enter_loop(struct trans *t)
{
    t->flags_live = t->live[0] != 0;
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        if (in->form != UINT16_MAX && trans_is_vector(in) && trans_allowed(t, in))
            trans_fpu(t);
    }
}

void trans_label(struct trans *t)
{
    unsigned left = 0;
    t->ended = false;
    for (unsigned i = 0; i < t->fixups; i++) {
        if (t->fixup[i].insn == t->i)
            emit_land(t->e, t->fixup[i].at);
        else
            t->fixup[left++] = t->fixup[i];
    }
    t->fixups = left;
    if (t->label[t->i] == LABEL_BACKWARD)
        trans_poll_here(t);
}

static void add_fixup(struct trans *t, uint8_t *at, int insn)
{
    t->fixup[t->fixups++] = (struct fixup){at, (uint8_t)insn};
}

static const void *done_target(const struct trans *t, int insn)
{
    return jit_exec(t->jit, t->b->checked + t->jit->mark[t->b->marks + (unsigned)insn].host);
}

bool trans_inner_jump(struct trans *t, uint64_t target)
{
    int to = target_insn(t, target);
    if (to < 0)
        return false;
    if (to > (int)t->i)
        add_fixup(t, emit_jmp(t->e), to);
    else
        emit_jmp_to(t->e, done_target(t, to));
    return true;
}

bool trans_inner_jump_if(struct trans *t, enum condition condition, uint64_t target)
{
    int to = target_insn(t, target);
    if (to < 0)
        return false;
    if (to > (int)t->i)
        add_fixup(t, emit_jcc(t->e, condition), to);
    else
        emit_jcc_to(t->e, condition, done_target(t, to));
    return true;
}
