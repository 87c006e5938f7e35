// Groups: accesses of a block that are made from the same base register, from the same base and
// index, or to constant addresses in one page, and lie close together. The first of them, the
// leader, checks the bytes of all; the others only load the addend that it kept. The base may move
// by constants on the way (PUSH, POP, ADD, LEA).
//
// What the leader found holds until the block is left, because only the interpreter and polls can
// withdraw it: an instruction that the interpreter ran in the middle of a group is followed by
// others in the interpreter until the group ends (jit_block.inside). Where a group has writes, the
// leader checks for writing, even if it reads. Where its check fails and no fault of the leader's
// is the reason (another page, a page that may only be read), the rest of the block runs in a
// translation without groups.
#include "base/copy.h"
#include "engine/translate/jit_trans.h"

#define SPAN_MAX 256 // bytes that a leader checks
// In place of a base register: addresses, those that move with the code, and the last few pairs of
// base and index.
#define CONSTANTS 16
#define RELATIVES 17
#define PAIR 18
#define PAIRS 3
#define BASES (PAIR + PAIRS)
#define DISP_MAX (1 << 30)

static const struct operand *memory_operand(const struct insn *in)
{
    for (unsigned i = 0; i < in->operands; i++)
        if (in->operand[i].kind == OPND_MEM)
            return &in->operand[i];
    return NULL;
}

static bool is_quad(const struct insn *in, unsigned op)
{
    return in->op == op && in->opsize == 8 && !(in->prefix & PREFIX_LOCK);
}

static struct member on_stack(int32_t disp, bool write)
{
    return (struct member){.base = RSP,
                           .reg = RSP,
                           .index = REG_NONE,
                           .scale = 1,
                           .at = disp,
                           .disp = disp,
                           .size = 8,
                           .write = write};
}

bool trans_member(const struct trans *t, const struct insn *in, struct member *m)
{
    const struct operand *mem = memory_operand(in);
    struct address a;
    if (!mem || !mem->size || mem->size > 64 || in->evex_aaa || !trans_address(t, in, &a) ||
        a.width != 8 || a.segment != SEG_COUNT)
        return false;
    if (!a.constant && (a.moves || a.base >= 16 || a.disp > DISP_MAX || a.disp < -DISP_MAX))
        return false;
    if (a.constant && (a.value & PAGE_MASK) + mem->size > PAGE_SIZE)
        return false;
    *m = (struct member){.base = a.relative            ? RELATIVES
                                 : a.constant          ? CONSTANTS
                                 : a.index == REG_NONE ? a.base
                                                       : PAIR,
                         .reg = a.base,
                         .index = a.index,
                         .scale = a.scale,
                         .disp = a.disp,
                         .at = a.constant ? (int32_t)(a.value & PAGE_MASK) : a.disp,
                         .page = a.constant ? align_down(a.value, PAGE_SIZE) : 0,
                         .size = (uint8_t)mem->size,
                         .write = mem->flags & OPERAND_WRITE};
    return true;
}

// Of an instruction that is_plain().
static bool member_of(const struct trans *t, const struct insn *in, struct member *m)
{
    switch (in->op) {
    case OP_PUSH:
    case OP_CALL_NEAR:
    case OP_POP:
    case OP_RET_NEAR:
        if (!is_quad(in, in->op))
            return false;
        *m = in->op == OP_PUSH || in->op == OP_CALL_NEAR ? on_stack(-8, true) : on_stack(0, false);
        return true;
    case OP_JCC:
    case OP_LEA:
    case OP_NOP:
    case OP_ENDBR64: return false;
    default: return trans_member(t, in, m);
    }
}

bool trans_constant_step(const struct insn *in, unsigned reg, int32_t *step)
{
    const struct operand *op = in->operand;
    *step = in->op == OP_PUSH ? -8 : 8;
    if (is_quad(in, OP_PUSH) || is_quad(in, OP_POP))
        return reg == RSP && op[0].kind != OPND_MEM && (op[0].reg != RSP || in->op == OP_PUSH);
    if (in->opsize != 8 || op[0].kind != OPND_GPR || op[0].reg != reg)
        return false;
    if (in->op == OP_LEA) {
        *step = (int32_t)in->disp;
        return in->addrsize == 8 && in->base == reg && in->index == REG_NONE;
    }
    bool sum = (in->op == OP_ADD || in->op == OP_SUB) && op[1].kind == OPND_IMM;
    int64_t by = sum ? (int64_t)in->imm : 1;
    *step = (int32_t)(in->op == OP_SUB || in->op == OP_DEC ? -by : by);
    return (sum || in->op == OP_INC || in->op == OP_DEC) && by > -SPAN_MAX * 64 &&
           by < SPAN_MAX * 64;
}

struct plan {
    uint8_t open[BASES][2];    // 1 + the group to which more may come, of reads and with writes
    int32_t moved[BASES];      // the base since the block began, or since it was lost
    struct member pair[PAIRS]; // what the pairs are
    uint64_t pairs;            // met so far
};

static void forget_bases(struct plan *p)
{
    _Static_assert(sizeof *p % 8 == 0, "cleared in words");
    clear_words(p, sizeof *p);
}

static void close_base(struct plan *p, unsigned base)
{
    p->open[base][0] = p->open[base][1] = 0;
    p->moved[base] = 0;
}

// The pair's place: that of an equal one, or the one that was taken longest ago.
static uint8_t place_of(struct plan *p, const struct member *m)
{
    for (unsigned i = 0; i < PAIRS && i < p->pairs; i++)
        if (p->pair[i].reg == m->reg && p->pair[i].index == m->index &&
            p->pair[i].scale == m->scale)
            return (uint8_t)(PAIR + i);
    unsigned i = (unsigned)(p->pairs++ % PAIRS);
    p->pair[i] = *m;
    close_base(p, PAIR + i);
    return (uint8_t)(PAIR + i);
}

static void close_pairs_with(struct plan *p, unsigned reg)
{
    for (unsigned i = 0; i < PAIRS && i < p->pairs; i++)
        if (p->pair[i].reg == reg || p->pair[i].index == reg)
            close_base(p, PAIR + i);
}

static bool joins(struct group *g, const struct member *m, unsigned insn)
{
    int32_t low = m->at < g->low ? m->at : g->low;
    int32_t high = m->at + m->size > g->high ? m->at + m->size : g->high;
    if (g->page != m->page || high - low > SPAN_MAX)
        return false;
    g->low = low;
    g->high = high;
    g->last = (uint8_t)insn;
    g->members++;
    return true;
}

bool trans_avoids(struct trans *t, unsigned insn, enum avoid what)
{
    uint64_t rip = t->b->rip + t->jit->mark[t->b->marks + insn].guest;
    bool avoided = *jit_avoid(t->jit, rip) & what;
    t->own |= avoided;
    return avoided;
}

// A check for writing vouches for reads too.
static unsigned group_for(struct trans *t, struct plan *p, const struct member *m, unsigned insn)
{
    uint8_t *open = p->open[m->base];
    struct group *reads = open[0] ? &t->group[open[0] - 1] : NULL;
    if (open[1] && joins(&t->group[open[1] - 1], m, insn))
        return open[1];
    if (reads && !m->write && joins(reads, m, insn))
        return open[0];
    if (reads && m->write && !open[1] && !trans_avoids(t, reads->first, AVOID_MIXED) &&
        joins(reads, m, insn)) {
        reads->write = true;
        open[1] = open[0];
        open[0] = 0;
        return open[1];
    }
    if (t->groups == GROUPS_MAX)
        return 0;
    struct group *g = &t->group[t->groups++];
    *g = (struct group){.first = (uint8_t)insn,
                        .last = (uint8_t)insn,
                        .members = 1,
                        .write = m->write,
                        .whole = m->base >= PAIR,
                        .low = m->at,
                        .high = m->at + m->size,
                        .page = m->page};
    return open[m->write] = (uint8_t)t->groups;
}

// What is not known here may go through C and change any register.
static bool is_plain(const struct trans *t, const struct insn *in)
{
    switch (in->op) {
    case OP_PUSH:
    case OP_POP: return is_quad(in, in->op) && in->operand[0].kind != OPND_MEM;
    case OP_CALL_NEAR:
    case OP_RET_NEAR:
    case OP_JCC:
    case OP_LEA:
    case OP_NOP:
    case OP_ENDBR64: return !(in->prefix & PREFIX_LOCK);
    case OP_PAUSE: return false; // other vCPUs may get their way meanwhile
    default: return trans_allowed(t, in);
    }
}

static void follow_registers(const struct trans *t, struct plan *p, const struct insn *in)
{
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *op = &in->operand[i];
        unsigned reg = op->reg & 15u;
        int32_t step;
        if (op->kind != OPND_GPR || !(op->flags & OPERAND_WRITE))
            continue;
        close_pairs_with(p, reg);
        if (trans_constant_step(in, reg, &step) &&
            p->moved[reg] + step == (int16_t)(p->moved[reg] + step))
            p->moved[reg] += step;
        else
            close_base(p, reg);
    }
}

static void keep_groups(struct trans *t)
{
    for (unsigned i = 0; i < t->groups; i++) {
        struct group *g = &t->group[i];
        g->used = g->members > 1 && !trans_avoids(t, g->first, AVOID_GROUP);
        g->addend = offsetof(struct tcpu, hot.group_addend) + i * sizeof(uint64_t);
        for (unsigned n = g->first + 1u; g->used && !t->b->loop && n <= g->last; n++)
            t->b->inside |= 1ull << n;
    }
}

void trans_plan_groups(struct trans *t)
{
    struct plan p;
    t->groups = 0;
    for (unsigned i = 0; i < t->count; i++)
        t->member[i].group = 0;
    if (t->plain || !t->code64 || t->b->tail)
        return;
    forget_bases(&p);
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        struct member *m = &t->member[i];
        t->next = t->b->rip + t->jit->mark[t->b->marks + i].guest + in->len; // constants follow it
        if (t->b->loop && (t->label[i] || (i && trans_stretch_to(t, i - 1))))
            forget_bases(&p);
        if (in->form == UINT16_MAX || !is_plain(t, in)) {
            forget_bases(&p);
            continue;
        }
        if (member_of(t, in, m)) {
            if (m->base == PAIR)
                m->base = place_of(&p, m);
            m->at += p.moved[m->base];
            m->group = (uint8_t)group_for(t, &p, m, i);
        }
        follow_registers(t, &p, in);
    }
    keep_groups(t);
}

static bool in_place(const struct trans *t, unsigned reg)
{
    return reg < 16 && host_reg(t, reg) != NO_HOST;
}

bool trans_spares(const struct trans *t)
{
    const struct insn *in = t->in;
    if (in->form == UINT16_MAX || (trans_is_vector(in) && !t->fpu_checked))
        return false;
    for (unsigned i = 0; i < in->operands; i++)
        if (in->operand[i].kind == OPND_GPR && !in_place(t, in->operand[i].reg & 15u))
            return false;
    if (in->op == OP_LEA)
        return in->opsize >= 4 && in->addrsize == 8 && in_place(t, in->base) &&
               (in->index == REG_NONE || in_place(t, in->index));
    return in->op == OP_JCC || in->op == OP_NOP || (!memory_operand(in) && trans_allowed(t, in));
}

bool trans_holds(const struct trans *t)
{
    const struct insn *in = t->in;
    unsigned group = t->member[t->i].group;
    if (!group || &t->group[group - 1] != t->held)
        return trans_spares(t);
    if (trans_is_vector(in) && !t->fpu_checked)
        return false;
    return in->op == OP_CALL_NEAR ? in->operand[0].kind == OPND_REL
                                  : in->op == OP_PUSH || in->op == OP_POP || trans_allowed(t, in);
}

struct group *trans_group(struct trans *t, const struct address *a, unsigned size,
                          enum access access)
{
    const struct member *m = &t->member[t->i];
    if (!m->group || !t->group[m->group - 1].used || a->string || a->width != 8 ||
        a->segment != SEG_COUNT || a->constant != (m->base == CONSTANTS || m->base == RELATIVES) ||
        size != m->size || (access == ACCESS_WRITE) != m->write)
        return NULL;
    if (!a->constant &&
        (a->base != m->reg || a->index != m->index || a->scale != m->scale || a->disp != m->disp))
        return NULL;
    return &t->group[m->group - 1];
}
