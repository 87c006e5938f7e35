// Which blocks are hot, and whether their slots pay.
//
// Branches backward within a page count how often they are taken; when that is often in a short
// time, the blocks of the loop are translated once more, with checks that need more preparation:
// slots (jit_mem.c) and groups (jit_group.c). What runs often but not at once, as most of a large
// program does, would wear out the slots for nothing.
//
// A slot that goes from page to page all the time costs more than it saves: translated code counts
// its misses, and where they come fast, the block is translated again without it. What was tried in
// vain is kept by a hash of the instruction's address until the cache is flushed.
#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/jit_impl.h"

#define HOT_VISITS 3000
#define HOT_TIME 1024 // in which so many make a block hot, in units of 1,024 TSC ticks
#define HOP_MISSES 64
#define HOP_TIME 32 // in units of 1,024 TSC ticks: some 500 for each miss
#define STRAYS 64
#define STRAY_TIME 64 // in which so many are too many

static uint32_t clock_now(void)
{
    uint32_t low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return low >> 10 | high << 22;
}

void jit_start_heat(struct tcpu *c)
{
    for (unsigned i = 0; i < SLOTS; i++)
        c->hot.slot[i].tag = SLOT_EMPTY;
}

void jit_count_from_start(struct tcpu *c, uint32_t link)
{
    c->hot.heat[link % HEAT_COUNTERS] = HOT_VISITS;
    c->jit->link[link].counted_from = clock_now();
}

// Of a chunk: the slots that hold this page, or all. Their addends stay: they lead into guest RAM,
// and the rest of a group may be about to use one.
static void empty_chunk(struct slot *slot, gva_t page, bool all)
{
    for (unsigned i = 0; i < SLOT_CHUNK; i++)
        if (all || slot[i].tag == page)
            slot[i].tag = SLOT_EMPTY;
}

static void empty_slots(struct tcpu *c, gva_t page, bool all)
{
    struct jit_hot *hot = &c->hot;
    for (unsigned i = 0; c->jit && i < sizeof hot->slot_used; i += 8) {
        for (unsigned n = i; load_le64(hot->slot_used + i) && n < i + 8; n++) {
            if (hot->slot_used[n])
                empty_chunk(&hot->slot[n * SLOT_CHUNK], page, all);
            hot->slot_used[n] &= !all;
        }
    }
}

void jit_forget_slots(struct tcpu *c)
{
    empty_slots(c, 0, true);
}

void jit_forget_slots_of(struct tcpu *c, gva_t at)
{
    empty_slots(c, align_down(at, PAGE_SIZE), false);
}

uint8_t *jit_avoid(struct jit *jit, uint64_t rip)
{
    return &jit->avoid[(rip * 0x9e3779b97f4a7c15ull >> 32) % AVOID_ENTRIES];
}

static struct jit_loop *loop_entry(struct jit *jit, uint32_t page, unsigned head)
{
    return &jit->loop[(page * 0x9e3779b1u ^ head * 0x85ebca6bu) >> 16 & (JIT_LOOPS - 1)];
}

const struct jit_loop *jit_loop_at(struct jit *jit, uint32_t page, unsigned head)
{
    const struct jit_loop *loop = loop_entry(jit, page, head);
    return loop->page == page && loop->head == head ? loop : NULL;
}

// All blocks of a loop become hot, those that are translated later too, and the first becomes the
// loop as a whole, also where it was a smaller one.
static void heat_loop(struct tcpu *c, uint32_t index, unsigned first, unsigned last)
{
    struct jit *jit = c->jit;
    struct jit_page *page = &jit->page[index];
    const struct jit_loop *known = jit_loop_at(jit, index, first);
    bool larger = !known || known->branch < last;
    if (larger)
        *loop_entry(jit, index, first) = (struct jit_loop){index, (uint16_t)first, (uint16_t)last};
    for (unsigned line = first / 64; line <= last / 64; line++)
        page->hot_lines |= 1ull << line;
    for (uint32_t i = page->blocks; i; i = jit->block[i].next_in_page) {
        struct jit_block *b = &jit->block[i];
        unsigned at = (unsigned)(b->rip & PAGE_MASK);
        if (at >= first && at <= last && !b->tail && !b->plain && !b->dropped && !b->verifies &&
            (!b->hot || (larger && at == first))) {
            c->counter[COUNTER_HOT]++;
            jit_drop(c, b);
        }
    }
}

const void *jit_gate_hot(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    struct jit_link *link = &jit->link[id];
    bool fast = clock_now() - link->counted_from < HOT_TIME;
    jit_count_from_start(c, id);
    c->s.rip = link->rip;
    if (jit->page[link->page].open)
        jit_close_pages(c); // hot only once its bytes are protected
    else if (fast)
        heat_loop(c, link->page, (unsigned)(link->rip & PAGE_MASK), link->from);
    return jit_continue(c);
}

// Goes on at the site's instruction, in a translation that does not have there what does not pay.
static const void *make_without(struct tcpu *c, const struct jit_site *site, enum avoid what)
{
    struct jit *jit = c->jit;
    struct jit_block *b = &jit->block[site->block];
    c->s.rip = b->rip + jit->mark[b->marks + site->insn].guest;
    *jit_avoid(jit, c->s.rip) |= (uint8_t)what;
    if (!b->dropped)
        jit_drop(c, b);
    return jit_continue(c);
}

const void *jit_gate_hop(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    const struct jit_site *site = &jit->site[id];
    uint32_t now = clock_now(), since = now - jit->slot_time[site->slot];
    jit->slot_time[site->slot] = now;
    c->hot.slot_left[site->slot] = HOP_MISSES;
    c->counter[COUNTER_SLOT_MISSES] += HOP_MISSES;
    return since > HOP_TIME ? jit_resume(c, site) : make_without(c, site, AVOID_SLOT);
}

const void *jit_gate_short(struct tcpu *c, uint32_t id, uint64_t value)
{
    return make_without(c, &c->jit->site[id], AVOID_STRETCH);
}

// Not where blocks have to be left at their ends only.
void jit_stray(struct tcpu *c, struct jit_block *b, uint64_t rip, enum avoid why)
{
    if (c->jit->poll_all || b->dropped || ++b->strayed < STRAYS)
        return;
    uint32_t now = clock_now(), since = now - b->strayed_from;
    b->strayed = 0;
    b->strayed_from = now;
    if (since > STRAY_TIME)
        return;
    *jit_avoid(c->jit, rip) |= (uint8_t)why;
    jit_drop(c, b);
}
