// Blocks to and from the store that vCPUs share (jit_store.h): a block just translated is copied
// there as if it lay at 0, and from there into a vCPU's own cache, with everything adjusted that
// depends on the place (enum note) or on the page's linear address.
//
// A block is copied only where translating would lead to the same: its mode, its place in the page,
// its bytes, and those beyond it that were looked at for the flags, are compared, after they have
// been protected. Not kept: hot blocks, which have slots and groups of their own vCPU, and
// instructions that cross pages.
#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/jit_store.h"
#include "engine/translate/jit_trans.h"

enum area { HOT, COLD };

// Where a block lies, or is to lie.
struct place {
    uint32_t code[2]; // by enum area, in the cache
    uint32_t site, link, block, page;
    gva_t at; // of the page
    uint32_t ctlb;
    uint64_t entries; // of the inline TLB, from that of linear page 0 to the page's
};

static uint32_t part(uint32_t *end, uint32_t bytes)
{
    uint32_t at = *end;
    *end += (bytes + 3) & ~3u;
    return at;
}

struct stored_parts stored_parts_of(const struct stored *b)
{
    struct stored_parts p = {.end = sizeof *b};
    uint32_t notes = 0;
    for (unsigned i = 0; i < STORED_NOTES; i++)
        notes += b->notes[HOT][i] + (uint32_t)b->notes[COLD][i];
    p.source = part(&p.end, b->source);
    p.spans = part(&p.end, b->spans * (uint32_t)sizeof(struct stored_span));
    p.ahead = part(&p.end, b->ahead);
    p.moves = part(&p.end, b->moves * (uint32_t)sizeof(struct stored_move));
    p.marks = part(&p.end, b->insns * (uint32_t)sizeof(struct jit_mark));
    p.sites = part(&p.end, b->sites * (uint32_t)sizeof(struct stored_site));
    p.links = part(&p.end, b->links * (uint32_t)sizeof(struct stored_link));
    p.notes = part(&p.end, notes * (uint32_t)sizeof(uint16_t));
    p.code[HOT] = part(&p.end, b->hot);
    p.code[COLD] = part(&p.end, b->cold);
    return p;
}

static struct place place_of(const struct trans *t)
{
    const struct jit *jit = t->jit;
    gva_t at = jit->page[t->page].at;
    return (struct place){.code = {t->start.hot, t->start.cold},
                          .site = t->start.sites,
                          .link = t->start.links,
                          .block = t->block,
                          .page = t->page,
                          .at = at,
                          .entries = t->c->tlb_mask ? at >> PAGE_SHIFT : 0,
                          .ctlb = jit_page_slot(t->c, at) * (uint32_t)sizeof(uint32_t)};
}

// --- adjusting -----------------------------------------------------------------------------------

// What a copy at a place adds to the noted bytes of code at 0, for the kinds that just add.
static uint32_t delta_of(const struct place *p, enum area area, unsigned kind)
{
    switch (kind) {
    case STORED_FIXED: return 0 - p->code[area];
    case STORED_OTHER: return p->code[!area] - p->code[area];
    case STORED_SITE: return p->site;
    case STORED_LINK: return p->link;
    case STORED_BLOCK: return p->block;
    case STORED_PAGE: return p->page;
    case STORED_PAGE_MINUS: return 0 - p->page;
    case STORED_CTLB: return p->ctlb;
    default: return 0;
    }
}

static size_t heat_at(uint32_t link)
{
    return offsetof(struct tcpu, hot.heat) + link % HEAT_COUNTERS * sizeof(uint32_t);
}

// Linear addresses may lie so that the instruction's form does not hold them.
static bool set_linear(uint8_t *at, unsigned kind, gva_t page)
{
    if (kind == STORED_64) {
        store_le64(at, load_le64(at) + page);
        return true;
    }
    uint64_t value = page + (uint64_t)(int32_t)load_le32(at);
    store_le32(at, (uint32_t)value);
    return kind == STORED_U32 ? value <= UINT32_MAX : (int64_t)value == (int32_t)value;
}

static bool unset_linear(uint8_t *at, unsigned kind, gva_t page)
{
    if (kind == STORED_64) {
        store_le64(at, load_le64(at) - page);
        return true;
    }
    uint64_t value = kind == STORED_U32 ? load_le32(at) : (uint64_t)(int32_t)load_le32(at);
    store_le32(at, (uint32_t)(value - page));
    return (int64_t)(value - page) == (int32_t)(value - page);
}

static void add_to(uint8_t *at, uint32_t delta)
{
    store_le32(at, load_le32(at) + delta);
}

// The entry of a page so many pages further on. The arrays of the TLB lie one after another.
static void move_entry(uint8_t *at, uint64_t pages)
{
    size_t start = offsetof(struct tcpu, tlb), entry = (load_le32(at) - start) / sizeof(uint64_t);
    size_t array = entry & ~(size_t)(TLB_ENTRIES - 1);
    entry = (entry + (size_t)pages) & (TLB_ENTRIES - 1);
    store_le32(at, (uint32_t)(start + (array | entry) * sizeof(uint64_t)));
}

static void set_heat(struct tcpu *c, uint8_t *at, uint32_t first)
{
    uint32_t link = first + load_le32(at);
    store_le32(at, (uint32_t)heat_at(link));
    jit_count_from_start(c, link);
}

// --- out of the store ----------------------------------------------------------------------------

// False where the code cannot be at this place.
static bool adjust(struct tcpu *c, const struct stored *b, enum area area, const struct place *p,
                   const uint16_t **note, uint8_t *code)
{
    const uint16_t *n = *note;
    bool fits = true;
    for (unsigned kind = 0; kind < STORED_HEAT; kind++) {
        uint32_t delta = delta_of(p, area, kind);
        for (unsigned i = b->notes[area][kind]; i; i--)
            add_to(code + *n++, delta);
    }
    for (unsigned i = b->notes[area][STORED_HEAT]; i; i--)
        set_heat(c, code + *n++, p->link);
    for (unsigned i = b->notes[area][STORED_TLB]; i; i--)
        move_entry(code + *n++, p->entries);
    for (unsigned kind = STORED_U32; kind <= STORED_64; kind++)
        for (unsigned i = b->notes[area][kind]; i; i--)
            fits &= set_linear(code + *n++, kind, p->at);
    *note = n;
    return fits;
}

// The target of a link keeps its place before or after the block, which decides where polls are,
// unless addresses wrap around.
static bool link_target(const struct trans *t, const struct place *p, int32_t to, uint64_t *rip)
{
    uint64_t limit = t->code64 ? UINT64_MAX : UINT32_MAX;
    *rip = p->at + (uint64_t)to;
    bool wraps = to < 0 ? *rip > p->at : *rip < p->at;
    return !wraps && *rip <= limit &&
           (!t->code64 || (uint64_t)((int64_t)(*rip << 16) >> 16) == *rip);
}

static bool copy_links(struct trans *t, const struct stored *b, const struct place *p,
                       const struct stored_link *from)
{
    struct jit_link *link = &t->jit->link[p->link];
    for (unsigned i = 0; i < b->links; i++) {
        link[i] = (struct jit_link){
            .patch = p->code[HOT] + from[i].patch, .page = p->page, .from = from[i].from};
        if (!link_target(t, p, from[i].to, &link[i].rip))
            return false;
    }
    return true;
}

static void copy_sites(const struct stored *b, const struct place *p, struct jit_site *site,
                       const struct stored_site *from)
{
    for (unsigned i = 0; i < b->sites; i++)
        site[i] = (struct jit_site){
            .block = p->block,
            .resume = from[i].resume == STORED_NOWHERE ? 0 : p->code[HOT] + from[i].resume,
            .insn = from[i].insn,
            .access = from[i].access,
            .size = from[i].size,
            .range = from[i].range,
            .lead = from[i].lead};
}

static void look_ahead(struct jit_block *to, const struct stored *b, const struct stored_span *span)
{
    to->ahead_from = PAGE_SIZE - 1;
    for (unsigned i = 0; i < b->spans; i++) {
        to->ahead_from = (uint16_t)min_u64(to->ahead_from, span[i].at);
        to->ahead_to = (uint16_t)max_u64(to->ahead_to, span[i].at + span[i].len);
    }
}

static void copy_block(struct trans *t, const struct stored *b, const struct stored_parts *parts,
                       const struct place *p)
{
    struct jit_block *to = t->b;
    to->checked = p->code[HOT];
    to->entry = p->code[HOT] + b->entry;
    to->end = p->code[HOT] + b->hot;
    to->stub = p->code[COLD] + b->stub;
    to->bytes = b->source;
    to->insns = b->insns;
    to->fpu = b->fpu;
    to->inside = b->inside;
    t->c->counter[COUNTER_LOADED] += b->state == STORED_CHECKED;
    look_ahead(to, b, stored_part(b, parts->spans));
    copy_bytes(&t->jit->mark[to->marks], stored_part(b, parts->marks),
               b->insns * sizeof(struct jit_mark));
    t->count = b->insns;
    t->returns = b->returns;
    t->next = to->rip + b->source;
}

// Groups do not pay here where they have failed before.
static bool avoided(const struct trans *t, const struct stored *b, const struct stored_parts *parts)
{
    const struct stored_site *site = stored_part(b, parts->sites);
    const struct jit_mark *mark = stored_part(b, parts->marks);
    for (unsigned i = 0; i < b->sites; i++)
        if (site[i].access & SITE_GROUP &&
            *jit_avoid(t->jit, t->b->rip + mark[site[i].insn].guest) & (AVOID_GROUP | AVOID_MIXED))
            return true;
    return false;
}

static bool room_for(const struct trans *t, const struct stored *b)
{
    const struct jit *jit = t->jit;
    return !jit->hot.overflow && jit->hot.end - jit->hot.at >= b->hot &&
           jit->cold.end - jit->cold.at >= b->cold && jit->max_sites - jit->sites > b->sites &&
           jit->max_links - jit->links > b->links;
}

static enum copy_outcome copy_out(struct trans *t, const struct stored *b)
{
    struct jit *jit = t->jit;
    const struct stored_parts parts = stored_parts_of(b);
    const uint16_t *note = stored_part(b, parts.notes);
    t->b->needs_flags = b->needs_flags;
    trans_begin_code(t);
    const struct place p = place_of(t);
    if (!room_for(t, b))
        return COPY_FULL;
    if (avoided(t, b, &parts) || !copy_links(t, b, &p, stored_part(b, parts.links)))
        return COPY_NONE;
    copy_bytes(jit->hot.at, stored_part(b, parts.code[HOT]), b->hot);
    copy_bytes(jit->cold.at, stored_part(b, parts.code[COLD]), b->cold);
    if (!adjust(t->c, b, HOT, &p, &note, jit->hot.at) ||
        !adjust(t->c, b, COLD, &p, &note, jit->cold.at))
        return COPY_NONE;
    copy_sites(b, &p, &jit->site[p.site], stored_part(b, parts.sites));
    copy_block(t, b, &parts, &p);
    jit->hot.at += b->hot;
    jit->cold.at += b->cold;
    jit->sites += b->sites;
    jit->links += b->links;
    return COPY_DONE;
}

static bool same_code(const uint8_t *a, const uint8_t *b, size_t n)
{
    for (; n >= 8; a += 8, b += 8, n -= 8)
        if (load_le64(a) != load_le64(b))
            return false;
    while (n && *a == *b)
        a++, b++, n--;
    return n == 0;
}

// The same of a piece of what is kept, which begins so many bytes into it. *move: the next field.
static bool same_piece(const struct trans *t, const uint8_t *there, const uint8_t *kept,
                       unsigned from, unsigned len, const struct stored_move **move,
                       const struct stored_move *end)
{
    unsigned done = 0;
    for (; *move < end && (*move)->at < from + len; ++*move) {
        unsigned at = (*move)->at - from;
        if (!same_code(there + done, kept + done, at - done) ||
            !trans_same_field(t, (*move)->kind, there + at, kept + at))
            return false;
        done = at + 4;
    }
    return same_code(there + done, kept + done, len - done);
}

// Whether the page has what the block was made of.
static bool same_source(const struct trans *t, const struct stored *b,
                        const struct stored_parts *parts)
{
    const uint8_t *page = t->jit->page[t->page].host, *ahead = stored_part(b, parts->ahead);
    const struct stored_span *span = stored_part(b, parts->spans);
    const struct stored_move *move = stored_part(b, parts->moves), *end = move + b->moves;
    unsigned from = b->source;
    if (!same_piece(t, page + b->at, stored_part(b, parts->source), 0, b->source, &move, end))
        return false;
    for (unsigned i = 0; i < b->spans; from += span[i].len, ahead += span[i++].len)
        if (!same_piece(t, page + span[i].at, ahead, from, span[i].len, &move, end))
            return false;
    return true;
}

static bool protect(struct trans *t, const struct stored *b, const struct stored_parts *parts)
{
    gpa_t page = t->jit->page[t->page].gpa;
    const struct stored_span *span = stored_part(b, parts->spans);
    if (!tvm_protect_code(t->c->vm, t->c, page + b->at, b->source))
        return false;
    for (unsigned i = 0; i < b->spans; i++)
        if (!tvm_protect_code(t->c->vm, t->c, page + span[i].at, span[i].len))
            return false;
    return true;
}

static bool matches(struct trans *t, const struct stored *b)
{
    const struct stored_parts parts = stored_parts_of(b);
    return b->mode == t->jit->page[t->page].mode && b->at == (t->b->rip & PAGE_MASK) &&
           same_source(t, b, &parts) && protect(t, b, &parts) && same_source(t, b, &parts);
}

static uint32_t key_of(const struct trans *t, const uint8_t *code)
{
    unsigned at = (unsigned)(t->b->rip & PAGE_MASK);
    return jit_store_key(t->jit->page[t->page].mode, at,
                         trans_first_bytes(t, code, (unsigned)PAGE_SIZE - at));
}

enum copy_outcome trans_copy(struct trans *t)
{
    struct jit_store *store = t->c->vm->store;
    enum copy_outcome outcome = COPY_NONE;
    const struct stored *b;
    struct jit_search search = {0};
    if (!trans_can_share(t) || !jit_store_enter(store, t->c->index))
        return COPY_NONE;
    uint32_t key = key_of(t, t->jit->page[t->page].host + (t->b->rip & PAGE_MASK));
    while (outcome == COPY_NONE && (b = jit_store_next(store, t->c->index, key, &search)))
        if (matches(t, b) && (outcome = copy_out(t, b)) != COPY_DONE)
            trans_undo_all(t);
    jit_store_leave(store, t->c->index);
    return outcome;
}

// --- into the store ------------------------------------------------------------------------------

static bool within(uint32_t at, uint32_t start, uint32_t end)
{
    return at >= start && at < end;
}

// What a displacement at an offset in the cache depends on; STORED_NOTES: nothing. False when it
// leads where a copy could not follow.
static bool kind_of_branch(const struct trans *t, enum area area, uint32_t at, unsigned *kind)
{
    const struct jit *jit = t->jit;
    uint32_t to = at + 4 + load_le32(jit->buf.write + at);
    uint32_t end[2] = {jit_offset(jit, &jit->hot), jit_offset(jit, &jit->cold)};
    uint32_t start[2] = {t->start.hot, t->start.cold};
    if (within(to, start[area], end[area]))
        *kind = STORED_NOTES;
    else if (within(to, start[!area], end[!area]))
        *kind = STORED_OTHER;
    else
        *kind = STORED_FIXED;
    return *kind != STORED_FIXED || jit->buf.write + to < jit->hot_start;
}

static bool kind_of(const struct trans *t, enum area area, const struct emit_note *n,
                    unsigned *kind)
{
    static const uint8_t kinds[NOTE_KINDS] = {
        [NOTE_SITE] = STORED_SITE,
        [NOTE_LINK] = STORED_LINK,
        [NOTE_BLOCK] = STORED_BLOCK,
        [NOTE_PAGE] = STORED_PAGE,
        [NOTE_PAGE_MINUS] = STORED_PAGE_MINUS,
        [NOTE_CTLB] = STORED_CTLB,
        [NOTE_HEAT] = STORED_HEAT,
        [NOTE_TLB] = STORED_TLB,
        [NOTE_LINEAR_U32] = STORED_U32,
        [NOTE_LINEAR_S32] = STORED_S32,
        [NOTE_LINEAR_64] = STORED_64,
    };
    if (n->kind == NOTE_BRANCH)
        return kind_of_branch(t, area, (uint32_t)(n->at - t->jit->buf.write), kind);
    if (n->kind >= NOTE_KINDS)
        return false;
    *kind = kinds[n->kind];
    return true;
}

// Counts an area's notes by kind, which is noted beside the emitter's.
static bool count_notes(const struct trans *t, enum area area, struct emit *e, struct stored *b)
{
    if (e->notes > e->max_notes)
        return false;
    for (unsigned i = 0; i < e->notes; i++) {
        unsigned kind;
        if (!kind_of(t, area, &e->note[i], &kind))
            return false;
        e->note[i].stored = kind;
        if (kind != STORED_NOTES)
            b->notes[area][kind]++;
    }
    return true;
}

static void find_moves(struct trans *t)
{
    t->moves = 0;
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *in = &t->insn[i];
        unsigned at = t->jit->mark[t->b->marks + i].guest, first = t->moves;
        t->moves += trans_moving_fields(t, in, t->b->rip + at + in->len, &t->move[first]);
        for (unsigned n = first; n < t->moves; n++)
            t->move[n].at += (uint16_t)at;
    }
    for (unsigned i = 0; i < t->ahead_moves; i++) {
        t->move[t->moves] = t->ahead_move[i];
        t->move[t->moves++].at += t->b->bytes;
    }
}

static bool measure(struct trans *t, struct stored *b)
{
    const struct jit *jit = t->jit;
    const struct jit_block *from = t->b;
    find_moves(t);
    *b = (struct stored){
        .state = STORED_ROOM,
        .key = key_of(t, t->source.code),
        .mode = jit->page[t->page].mode,
        .at = (uint16_t)(from->rip & PAGE_MASK),
        .source = from->bytes,
        .spans = (uint16_t)t->spans,
        .ahead = (uint16_t)t->ahead_bytes,
        .moves = (uint16_t)t->moves,
        .hot = (uint16_t)(jit_offset(jit, &jit->hot) - t->start.hot),
        .cold = (uint16_t)(jit_offset(jit, &jit->cold) - t->start.cold),
        .entry = (uint16_t)(from->entry - from->checked),
        .stub = (uint16_t)(from->stub - t->start.cold),
        .sites = (uint16_t)(jit->sites - t->start.sites),
        .links = (uint16_t)(jit->links - t->start.links),
        .insns = from->insns,
        .fpu = from->fpu,
        .returns = t->returns,
        .needs_flags = from->needs_flags,
        .inside = from->inside,
    };
    bool fits = jit_offset(jit, &jit->hot) - t->start.hot < STORED_NOWHERE &&
                jit_offset(jit, &jit->cold) - t->start.cold < STORED_NOWHERE &&
                from->checked == t->start.hot;
    if (!fits || !count_notes(t, HOT, &t->jit->hot, b) || !count_notes(t, COLD, &t->jit->cold, b))
        return false;
    b->bytes = stored_parts_of(b).end;
    return true;
}

static bool store_links(const struct trans *t, const struct stored *b, const struct place *p,
                        struct stored_link *to)
{
    for (unsigned i = 0; i < b->links; i++) {
        const struct jit_link *link = &t->jit->link[p->link + i];
        int64_t distance = (int64_t)(link->rip - p->at);
        uint64_t rip;
        to[i] = (struct stored_link){.to = (int32_t)distance,
                                     .patch = (uint16_t)(link->patch - p->code[HOT]),
                                     .from = link->from};
        if (distance != to[i].to || link->checked || !link_target(t, p, to[i].to, &rip))
            return false;
    }
    return true;
}

static void store_sites(const struct trans *t, const struct stored *b, const struct place *p,
                        struct stored_site *to)
{
    for (unsigned i = 0; i < b->sites; i++) {
        const struct jit_site *site = &t->jit->site[p->site + i];
        to[i] = (struct stored_site){
            .resume = site->resume ? (uint16_t)(site->resume - p->code[HOT]) : STORED_NOWHERE,
            .size = site->size,
            .range = site->range,
            .lead = site->lead,
            .insn = site->insn,
            .access = site->access};
    }
}

// One noted place, back to what it would be at 0.
static bool unset(uint8_t *at, enum area area, unsigned kind, const struct place *p)
{
    if (kind >= STORED_U32)
        return unset_linear(at, kind, p->at);
    if (kind == STORED_HEAT)
        store_le32(at,
                   ((load_le32(at) - (uint32_t)heat_at(0)) / (uint32_t)sizeof(uint32_t) - p->link) %
                       HEAT_COUNTERS);
    else if (kind == STORED_TLB)
        move_entry(at, 0 - p->entries);
    else
        add_to(at, 0 - delta_of(p, area, kind));
    return true;
}

// Copies an area's code, takes its notes in order of kind, and brings the code to 0.
static bool store_code(const struct trans *t, const struct stored *b, enum area area,
                       const struct place *p, uint16_t **note, uint8_t *code)
{
    const uint8_t *from = t->jit->buf.write + p->code[area];
    const struct emit *e = area == HOT ? &t->jit->hot : &t->jit->cold;
    uint16_t *next[STORED_NOTES];
    bool fits = true;
    for (unsigned i = 0; i < STORED_NOTES; i++) {
        next[i] = *note;
        *note += b->notes[area][i];
    }
    copy_bytes(code, from, area == HOT ? b->hot : b->cold);
    for (unsigned i = 0; i < e->notes; i++) {
        unsigned kind = e->note[i].stored;
        uint16_t at = (uint16_t)(e->note[i].at - from);
        if (kind == STORED_NOTES)
            continue;
        *next[kind]++ = at;
        fits &= unset(code + at, area, kind, p);
    }
    return fits;
}

// The guest code, with the fields that move as they are kept.
static void store_source(const struct trans *t, struct stored *to, const struct stored_parts *parts)
{
    uint8_t *source = stored_part(to, parts->source), *ahead = stored_part(to, parts->ahead);
    copy_bytes(source, t->source.code, to->source);
    copy_bytes(stored_part(to, parts->spans), t->span, to->spans * sizeof t->span[0]);
    copy_bytes(ahead, t->ahead_code, to->ahead);
    copy_bytes(stored_part(to, parts->moves), t->move, to->moves * sizeof t->move[0]);
    for (unsigned i = 0; i < t->moves; i++) {
        unsigned at = t->move[i].at;
        uint8_t *field = at < to->source ? source + at : ahead + (at - to->source);
        store_le32(field, trans_unmoved(t->jit->page[t->page].at, t->move[i].kind, field));
    }
}

// All but the header's length, without which it is no block.
static bool store_block(const struct trans *t, const struct stored *header, struct stored *to)
{
    const struct stored_parts parts = stored_parts_of(header);
    const struct place p = place_of(t);
    uint16_t *note = stored_part(to, parts.notes);
    copy_bytes(to, header, sizeof *header);
    store_source(t, to, &parts);
    copy_bytes(stored_part(to, parts.marks), &t->jit->mark[t->b->marks],
               to->insns * sizeof(struct jit_mark));
    store_sites(t, to, &p, stored_part(to, parts.sites));
    return store_links(t, to, &p, stored_part(to, parts.links)) &&
           store_code(t, to, HOT, &p, &note, stored_part(to, parts.code[HOT])) &&
           store_code(t, to, COLD, &p, &note, stored_part(to, parts.code[COLD]));
}

bool trans_store(struct trans *t, struct stored *to, uint32_t max)
{
    struct stored header;
    if (!measure(t, &header) || header.bytes > max)
        return false;
    fill_bytes(to, 0, header.bytes); // between its parts, too
    return store_block(t, &header, to);
}

bool trans_can_share(const struct trans *t)
{
    return t->c->vm->store && !t->b->hot && !t->b->tail && !t->plain && !t->b->verifies;
}

void trans_keep(struct trans *t)
{
    struct jit_store *store = t->c->vm->store;
    struct stored header;
    if (!trans_can_share(t) || t->own || t->spans > SPANS_MAX ||
        !jit_store_enter(store, t->c->index))
        return;
    struct stored *to =
        measure(t, &header) ? jit_store_room(store, header.bytes, t->c->index) : NULL;
    if (to && store_block(t, &header, to))
        jit_store_add(store, to);
    jit_store_leave(store, t->c->index);
}
