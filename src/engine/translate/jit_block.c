// Translates one block: decodes forward, finds out backward which flags are needed, emits.
//
// A block is a run of instructions within one page and one linear sequence: it ends at an
// unconditional branch, at an instruction that only the interpreter can do and that may change what
// follows, or at a size limit. Conditional branches leave it on the way. An instruction that
// crosses the end of its page is a block of its own, which asks for the second page each time.
//
// Not exact: where arithmetic flags will be overwritten before anything reads them, a fault or an
// interrupt in between may show other values in the saved RFLAGS than a processor would.
#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/jit_trans.h"
#include "engine/translate/perfmap.h"

#define LANDING_BYTES (2 * EMIT_ROOM) // of the jump that a call comes back to, and of its stub
#define RUN_BLOCKS 8 // translated at once, each where a call in the one before comes back to

static void copy_source(struct trans *t, struct source *s)
{
    const struct jit_page *page = &t->jit->page[t->page];
    unsigned offset = (unsigned)(t->b->rip & PAGE_MASK);
    s->len = (unsigned)min_u64(t->b->loop ? JIT_LOOP_BYTES : JIT_SOURCE_BYTES, PAGE_SIZE - offset);
    copy_bytes(s->code, page->host + offset, s->len);
    if (!t->b->tail)
        return;
    copy_bytes(s->code + s->len, t->jit->page[t->b->tail].host, INSN_MAX);
    s->len += INSN_MAX;
}

bool trans_ends_block(const struct insn *in)
{
    switch (in->op) {
    case OP_JCC:
    case OP_LOOP:
    case OP_JCXZ: return false;
    default: return !trans_continues(in);
    }
}

// A loop is no unit where an indirect jump leads on, as in an interpreter's.
static bool is_indirect_jump(const struct insn *in)
{
    return in->op == OP_JMP_NEAR && in->operand[0].kind != OPND_REL;
}

static bool ends_here(const struct trans *t, const struct insn *in, unsigned at, unsigned loop)
{
    return loop ? at > loop || is_indirect_jump(in) : trans_ends_block(in) || t->b->tail;
}

enum insn_status trans_decode(const struct trans *t, const uint8_t *code, size_t len,
                              struct insn *out)
{
    return t->code64 ? insn_decode_memo(&t->jit->memo, code, len, out)
                     : insn_decode(code, len, 4, out);
}

// Fills insn[], marks and the block's size. An undecodable first instruction counts as one of its
// own. Where all is one loop, as far as the branch at `loop` from the start.
static void decode(struct trans *t, const struct source *s, unsigned loop)
{
    struct jit *jit = t->jit;
    unsigned at = 0, max = loop ? JIT_LOOP_INSNS : t->max;
    if (t->b->verifies)
        max = (unsigned)min_u64(max, JIT_VERIFIED_INSNS);
    t->count = 0;
    while (t->count < max) {
        struct insn *in = &t->insn[t->count];
        enum insn_status status = trans_decode(t, s->code + at, s->len - at, in);
        if (status != INSN_OK && t->count)
            break;
        if (status != INSN_OK) {
            *in = (struct insn){.op = OP_UD2, .len = (uint8_t)min_u64(s->len, 15)};
            in->form = UINT16_MAX;
        }
        jit->mark[t->b->marks + t->count++].guest = (uint16_t)at;
        at += in->len;
        if (status != INSN_OK || ends_here(t, in, at, loop))
            break;
    }
    t->b->bytes = (uint16_t)at;
    t->b->insns = (uint8_t)t->count;
}

static bool undecoded(const struct insn *in)
{
    return in->form == UINT16_MAX;
}

static bool emits_nothing(const struct trans *t, const struct insn *in)
{
    if (in->op != OP_NOP && in->op != OP_ENDBR64 && in->op != OP_ENDBR32 && in->op != OP_PREFETCH)
        return false;
    return feature_has(&t->c->features, insn_form(in)->feature) && !(in->prefix & PREFIX_LOCK);
}

static bool trans_known(struct trans *t)
{
    uint32_t flags = insn_form(t->in)->flags;
    if (flags & FORM_BRANCH)
        return trans_branch(t) || trans_system(t);
    return emits_nothing(t, t->in) || (flags & FORM_STACK && trans_stack(t)) || trans_system(t) ||
           trans_lea(t) || trans_native(t);
}

// What an emitter began and gave up is undone.
void trans_insn(struct trans *t)
{
    struct emit_place hot = emit_here(t->e), cold = emit_here(t->cold);
    unsigned fixups = t->fixups;
    uint32_t links = t->jit->links;
    bool fpu = t->fpu_checked;
    struct group *led = t->member[t->i].group ? &t->group[t->member[t->i].group - 1] : NULL;
    bool ready = led && led->ready;
    bool spares = (t->held || t->kept != NO_HOST) && trans_spares(t);
    if (t->held && !spares && !trans_holds(t))
        t->held = NULL;
    t->kept_before = t->kept;
    if (!spares)
        t->kept = NO_HOST;
    if (!undecoded(t->in) && trans_known(t))
        return;
    emit_back_to(t->e, hot);
    emit_back_to(t->cold, cold);
    t->jit->links = links;
    t->fpu_checked = fpu;
    t->fixups = fixups;
    t->held = NULL;
    t->kept = NO_HOST;
    if (led)
        led->ready = ready;
    t->broken = true;
    if (t->copying)
        return;
    trans_step(t);
    t->ended = undecoded(t->in) || trans_ends_block(t->in);
}

// What may go on anywhere finds the registers where they belong.
static bool goes_anywhere(const struct insn *in)
{
    return in->op == OP_CALL_NEAR || in->op == OP_RET_NEAR || is_indirect_jump(in);
}

static void trans_in_place(struct trans *t)
{
    bool exchanged = t->exchanged && goes_anywhere(t->in);
    if (exchanged) {
        trans_emit_back(t, t->e);
        trans_standard(t);
    }
    trans_insn(t);
    if (exchanged)
        trans_exchanged(t);
}

// Goes to the stub unless the linear page at `at` still leads to this page of code.
static void check_page(struct trans *t, gva_t at, uint32_t page, const void *stub)
{
    unsigned slot = jit_page_slot(t->c, at);
    struct emit_mem ctlb = emit_gs(offsetof(struct tcpu, hot.ctlb) +
                                   t->c->user * sizeof t->c->hot.ctlb[0] + slot * sizeof(uint32_t));
    if (t->b->needs_flags) {
        emit_load(t->e, 4, T0, ctlb);
        emit_note(t->e, NOTE_CTLB, 4);
        emit_lea(t->e, 8, T0, emit_at(T0, INT32_MIN)); // always in four bytes
        emit_change(t->e, 4, 0 - page);
        emit_note(t->e, NOTE_PAGE_MINUS, 4);
        uint8_t *same = emit_jrcxz(t->e);
        emit_jmp_to(t->e, stub);
        emit_land_short(t->e, same);
    } else {
        emit_op_rm(t->e, 4, 0, MAP_ONE, 0x81, ALU_CMP, ctlb);
        emit_note(t->e, NOTE_CTLB, 4);
        emit_u32(t->e, page); // always four bytes
        emit_note(t->e, NOTE_PAGE, 4);
        emit_jcc_to(t->e, COND_NE, stub);
    }
}

// The rest of an instruction in the next page.
static void check_tail(struct trans *t)
{
    struct jit *jit = t->jit;
    uint32_t site = trans_site(t, ACCESS_EXEC, 0);
    check_page(t, jit->page[t->b->tail].at, t->b->tail, trans_stub(t, GATE_STEP, site));
    jit->site[site].resume = jit_offset(jit, t->e);
}

// The entry from other pages asks for this page; the rest of an instruction in the next page is
// asked for always.
static void emit_entries(struct trans *t)
{
    struct jit *jit = t->jit;
    const void *stub = trans_stub(t, GATE_PAGE, t->block);
    t->b->stub = (uint32_t)((const uint8_t *)stub - jit->buf.exec);
    t->b->checked = jit_offset(jit, t->e);
    check_page(t, t->b->rip, t->page, stub);
    t->b->entry = jit_offset(jit, t->e);
    if (t->b->verifies)
        trans_verify(t); // what has changed may have nothing in the next page
    if (t->b->tail)
        check_tail(t);
    if (t->b->tail && t->b->verifies)
        trans_verify_tail(t);
}

// What comes between two instructions of a loop. An unconditional branch, or a call, does not end
// the block; what follows it and is no target of a branch is never reached.
static void go_on(struct trans *t)
{
    if (t->returns)
        trans_land(t);
    t->returns = false;
}

static void emit_one(struct trans *t)
{
    struct jit_mark *mark = &t->jit->mark[t->b->marks + t->i];
    mark->host = (uint16_t)(jit_offset(t->jit, t->e) - t->b->checked);
    t->in = &t->insn[t->i];
    t->rip = t->b->rip + mark->guest;
    t->next = t->rip + t->in->len;
    t->flags_live = t->live[t->i] != 0;
    if (t->b->loop && t->label[t->i])
        trans_label(t);
    if (!t->ended)
        trans_in_place(t);
    if (t->b->loop && t->i + 1 < t->count)
        go_on(t);
    if (trans_stretch_to(t, t->i)) { // also comes from there
        t->held = NULL;
        t->kept = NO_HOST;
    }
}

void trans_emit(struct trans *t)
{
    trans_plan_groups(t);
    t->i = 0;
    emit_entries(t);
    if (t->b->loop)
        trans_enter_loop(t);
    for (t->i = 0; t->i < t->count && (t->b->loop || !t->ended); t->i++)
        emit_one(t);
    t->after = jit_offset(t->jit, t->e);
    if (!t->ended)
        trans_jump(t, t->code64 ? t->next : (uint32_t)t->next);
    trans_emit_stretches(t);
    // An entry that is dropped is overwritten with a jump.
    while (jit_offset(t->jit, t->e) - t->b->entry < 5 && !t->e->overflow)
        emit_u8(t->e, 0xcc);
    t->b->end = jit_offset(t->jit, t->e);
}

// Sees to large pages before code gets there.
static void back(struct jit *jit, const struct emit *area, size_t *chunk)
{
    if (jit_offset(jit, area) / CODEBUF_CHUNK >= *chunk)
        codebuf_back(&jit->buf, (*chunk)++);
}

static bool hot_here(const struct jit_page *page, uint64_t rip)
{
    return page->hot_lines >> (rip & PAGE_MASK) / 64 & 1;
}

static bool begin(struct trans *t, uint32_t page, uint32_t tail, uint64_t rip)
{
    struct jit *jit = t->jit;
    if (jit->blocks + 1 >= jit->max_blocks || jit->marks + 2 * JIT_LOOP_INSNS >= jit->max_marks)
        return false;
    back(jit, &jit->hot, &jit->hot_chunk);
    back(jit, &jit->cold, &jit->cold_chunk);
    bool open = jit_is_open(t->c, page, tail);
    t->page = page;
    t->block = jit->blocks;
    t->b = &jit->block[t->block];
    *t->b = (struct jit_block){.rip = rip,
                               .page = page,
                               .tail = tail,
                               .marks = jit->marks,
                               .plain = t->plain,
                               .verifies = open,
                               .hot = !tail && !t->plain && !open &&
                                      (jit->all_hot || hot_here(&jit->page[page], rip))};
    t->fpu_checked = t->ended = t->returns = false;
    t->held = NULL;
    t->kept = NO_HOST;
    t->fixups = 0;
    t->moving = trans_page_moves(t);
    trans_standard(t);
    t->start.landing = t->start.hot = jit_offset(jit, &jit->hot);
    t->start.cold = jit_offset(jit, &jit->cold);
    t->start.sites = jit->sites;
    t->start.links = jit->links;
    jit->hot.notes = jit->cold.notes = 0;
    t->own = false;
    return true;
}

static bool same_bytes(const uint8_t *a, const uint8_t *b, size_t n)
{
    for (; n >= 8 && load_le64(a) == load_le64(b); n -= 8)
        a += 8, b += 8;
    while (n && *a == *b)
        a++, b++, n--;
    return n == 0;
}

unsigned trans_head_bytes(const struct jit_block *b)
{
    return (unsigned)min_u64(b->bytes, PAGE_SIZE - (b->rip & PAGE_MASK));
}

static bool protect_source(struct trans *t)
{
    const struct jit_block *b = t->b;
    const struct jit_page *page = t->jit->page;
    unsigned head = trans_head_bytes(b);
    return tvm_protect_code(t->c->vm, t->c, page[t->page].gpa + (b->rip & PAGE_MASK), head) &&
           (head == b->bytes ||
            tvm_protect_code(t->c->vm, t->c, page[b->tail].gpa, b->bytes - head));
}

static bool source_unchanged(const struct trans *t, const struct source *s)
{
    const struct jit_block *b = t->b;
    const struct jit_page *page = t->jit->page;
    unsigned head = trans_head_bytes(b);
    return same_bytes(s->code, page[t->page].host + (b->rip & PAGE_MASK), head) &&
           (head == b->bytes || same_bytes(s->code + head, page[b->tail].host, b->bytes - head));
}

// Protects the bytes, and sees to it that they are the ones that were decoded.
static bool read_source(struct trans *t)
{
    struct source *s = &t->source;
    unsigned loop = trans_loop_bytes(t);
    do {
        t->b->loop = loop;
        copy_source(t, s);
        decode(t, s, loop);
        if (loop &&
            (t->b->bytes <= loop || undecoded(&t->insn[0]))) { // too long, or not all of it code
            loop = t->b->loop = 0;
            decode(t, s, loop);
        }
        if (t->b->verifies)
            return true; // it sees for itself that they are
        if (!protect_source(t))
            return false;
    } while (!source_unchanged(t, s));
    return true;
}

enum outcome { DONE, REFUSED, FULL };

// For what a call comes back to, once its block is done.
static bool room_to_land(const struct trans *t)
{
    return t->e->end - t->e->at >= LANDING_BYTES && t->cold->end - t->cold->at >= LANDING_BYTES &&
           t->jit->links + 1 < t->jit->max_links;
}

void trans_begin_code(struct trans *t)
{
    struct jit *jit = t->jit;
    if (t->lands) {
        t->b->landing = t->start.landing;
        jit_emit_arrival(t->e, t->b->rip, t->b->needs_flags, jit->astray[t->c->user]);
    }
    t->start.hot = jit_offset(jit, t->e);
    jit->hot.notes = 0;
}

void trans_undo(struct trans *t)
{
    struct jit *jit = t->jit;
    jit->hot.at = jit->buf.write + t->start.hot;
    jit->cold.at = jit->buf.write + t->start.cold;
    jit->hot.overflow = jit->cold.overflow = false;
    jit->hot.notes = jit->cold.notes = 0;
    jit->sites = t->start.sites;
    jit->links = t->start.links;
    t->fpu_checked = t->ended = t->returns = false;
    t->held = NULL;
    t->kept = t->kept_before = NO_HOST;
    t->fixups = 0;
}

void trans_undo_all(struct trans *t)
{
    trans_undo(t);
    t->jit->hot.at = t->jit->buf.write + t->start.landing;
    t->start.hot = t->start.landing;
    t->b->landing = 0;
}

// Branches within the page go straight to blocks that are there. What a call comes back to asks for
// the page all the same: it may be another by then.
static void settle_links(struct trans *t)
{
    struct jit *jit = t->jit;
    for (uint32_t i = t->start.links; i < jit->links && !jit->poll_all; i++) {
        const struct jit_link *link = &jit->link[i];
        bool near = ((link->rip ^ t->b->rip) & ~PAGE_MASK) == 0;
        uint32_t known = near ? jit_known_block(jit, t->page, link->rip) : 0;
        const struct jit_block *b = &jit->block[known];
        if (known && link->patch)
            jit_patch(jit, link->patch, link->checked ? b->checked : b->entry);
    }
}

static void add_block(struct trans *t)
{
    struct jit *jit = t->jit;
    struct jit_block *b = t->b;
    jit->blocks++;
    jit->marks += t->count + b->copied;
    if (t->c->vm->perf)
        perf_map_add(t->c->vm->perf, jit_exec(jit, t->start.landing), b->end - t->start.landing,
                     b->rip);
    if (b->verifies)
        jit_note_open(jit, t->page);
    b->next_in_page = jit->page[t->page].blocks;
    jit->page[t->page].blocks = t->block;
    b->next_tail = jit->page[b->tail].tails; // those of page 0, which is none, are never looked at
    jit->page[b->tail].tails = t->block;
    if (!t->plain)
        jit_add_block(jit, t->block);
    settle_links(t);
}

// Tests have every block copied as soon as it is there.
static enum outcome copy_own(struct trans *t)
{
    trans_prove(t);
    trans_undo_all(t);
    if (trans_copy(t) == COPY_DONE) {
        t->c->counter[COUNTER_COPIED]++;
        return DONE;
    }
    trans_begin_code(t);
    trans_emit(t);
    return t->e->overflow || t->cold->overflow ? FULL : DONE;
}

static enum outcome make(struct trans *t)
{
    if (!read_source(t))
        return REFUSED;
    if (t->b->loop)
        trans_find_labels(t);
    trans_live_flags(t);
    // What it turns out to have become may need flags that it does not.
    t->b->needs_flags = t->live[0] != 0 || t->b->verifies;
    if (t->b->loop)
        trans_choose_exchange(t);
    trans_plan_stretches(t);
    trans_begin_code(t);
    trans_emit(t);
    if (t->e->overflow || t->cold->overflow)
        return FULL;
    t->c->counter[COUNTER_BLOCKS]++;
    t->c->counter[COUNTER_INSNS] += t->count;
    t->c->counter[COUNTER_LOOPS] += t->b->loop;
    t->c->counter[COUNTER_VERIFYING] += t->b->verifies;
    trans_keep(t);
    return t->jit->copy_own && trans_can_share(t) ? copy_own(t) : DONE;
}

// From the store where it can be.
static enum outcome copy(struct trans *t)
{
    enum copy_outcome outcome = trans_copy(t);
    if (outcome != COPY_DONE)
        return outcome == COPY_FULL ? FULL : REFUSED;
    t->c->counter[COUNTER_COPIED]++;
    t->c->counter[COUNTER_COPIED_INSNS] += t->count;
    return DONE;
}

static enum outcome translate(struct trans *t, uint32_t page, uint32_t tail, uint64_t rip)
{
    if (!begin(t, page, tail, rip))
        return FULL;
    enum outcome outcome = copy(t);
    if (outcome == REFUSED)
        outcome = make(t);
    if (outcome == DONE && t->returns && !room_to_land(t))
        outcome = FULL;
    if (outcome != DONE)
        trans_undo_all(t);
    else
        add_block(t);
    return outcome;
}

// What follows a call is translated with it where that is a new block of the same page: then the
// host's return comes straight to its checked entry.
static bool can_follow(const struct trans *t, uint64_t rip)
{
    return !t->jit->poll_all && align_down(rip, PAGE_SIZE) == t->jit->page[t->page].at &&
           (rip & PAGE_MASK) + INSN_MAX <= PAGE_SIZE && !jit_known_block(t->jit, t->page, rip);
}

// The block at rip and, where it is a call, what it comes back to.
static enum outcome translate_run(struct trans *t, uint32_t page, uint32_t tail, uint64_t rip,
                                  uint32_t *block)
{
    enum outcome outcome = translate(t, page, tail, rip);
    *block = t->block;
    t->plain = false;
    t->lands = true;
    t->max = JIT_INSNS;
    for (unsigned n = 0; outcome == DONE && t->returns; n++) {
        uint64_t next = t->next;
        if (n < RUN_BLOCKS && can_follow(t, next) && translate(t, page, 0, next) == DONE)
            continue;
        t->next = next;
        trans_land(t);
        break;
    }
    return outcome;
}

// The page of the rest of the instruction at rip, where it crosses the end of its page; 0 if it
// does not, or its rest is not in RAM. Raises as the fetch does.
static uint32_t find_tail(struct tcpu *c, uint32_t page, uint64_t rip)
{
    unsigned offset = (unsigned)(rip & PAGE_MASK), left = PAGE_SIZE - offset;
    bool code64 = (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
    uint8_t code[INSN_MAX];
    struct insn in;
    if (left >= INSN_MAX)
        return 0;
    copy_bytes(code, c->jit->page[page].host + offset, left);
    if (insn_decode(code, left, code64 ? 8 : 4, &in) != INSN_TRUNCATED)
        return 0;
    return jit_find_page(c, code64 ? rip + left : (uint32_t)(rip + left));
}

static uint32_t translate_at(struct tcpu *c, uint32_t page, uint64_t rip, bool plain, unsigned max)
{
    struct jit *jit = c->jit;
    struct trans t;
    t.c = c;
    t.jit = jit;
    t.e = &jit->hot;
    t.cold = &jit->cold;
    t.code64 = (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
    enum outcome outcome = FULL;
    uint32_t block = 0;
    for (unsigned tries = 0; outcome == FULL; tries++) {
        uint32_t generation = jit->generation, tail = find_tail(c, page, rip);
        t.plain = plain;
        t.lands = false;
        t.max = max;
        if (jit->generation == generation)
            outcome = translate_run(&t, page, tail, rip, &block);
        if (outcome != FULL)
            break;
        if (jit->generation == generation)
            jit_flush(c);
        page = jit_find_page(c, rip);
        if (!page || tries == 2)
            return 0;
    }
    return outcome == DONE ? block : 0;
}

uint32_t jit_translate(struct tcpu *c, uint32_t page, uint64_t rip)
{
    return translate_at(c, page, rip, false, JIT_INSNS);
}

uint32_t jit_translate_plain(struct tcpu *c, const struct jit_block *b, unsigned insn)
{
    uint64_t rip = b->rip + c->jit->mark[b->marks + insn].guest;
    return translate_at(c, b->page, rip, true, b->insns - insn);
}

int jit_insn_at(const struct jit *jit, const struct jit_block *b, uint32_t offset)
{
    const struct jit_mark *mark = &jit->mark[b->marks];
    int i = b->insns + b->copied;
    while (i-- > 0 && b->checked + mark[i].host > offset)
        ;
    for (int copy = i; i >= b->insns || (i >= 0 && mark[i].guest != mark[copy].guest); i--)
        ;
    return i;
}
