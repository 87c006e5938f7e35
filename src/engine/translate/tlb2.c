// The second-level TLB: 4 KiB and large pages, tagged with PCID, flushed in constant time by age;
// and the flushing of both levels. Architectural flush points are the only moments at which guests
// may rely on a change of their page tables, and every one of them ends here (SDM vol. 3, 4.10).
// Not modelled: paging-structure caches (every miss walks from the top).
#include "engine/translate/tlb2.h"

#include <stdlib.h>

#include "base/copy.h"
#include "engine/translate/direct.h"
#include "engine/translate/interp_impl.h"
#include "engine/translate/jit.h"
#include "host/ram_file.h"

static bool alive(const struct tlb2 *t, const struct translation *e, unsigned pcid)
{
    if (e->born <= t->dead_all)
        return false;
    return (e->rights & RIGHT_GLOBAL) || (e->pcid == pcid && e->born > t->dead[pcid]);
}

unsigned tlb2_pcid(const struct tcpu *c)
{
    return c->s.cr4 & CR4_PCIDE ? (unsigned)(c->s.cr3 & 0xfff) : 0;
}

static struct translation *small_at(const struct tcpu *c, gva_t at)
{
    unsigned mask = c->tlb_mask & (TLB2_SMALL - 1);
    return &c->tlb2->small[at >> 12 & mask];
}

static struct translation *large_at(const struct tcpu *c, gva_t at)
{
    unsigned mask = c->tlb_mask & (TLB2_LARGE - 1);
    return &c->tlb2->large[at >> 21 & mask];
}

static void find_host(const struct tcpu *c, struct translation *e)
{
    e->host = tvm_host(c->vm, e->gpa, 1, &e->slot);
}

bool tlb2_find(const struct tcpu *c, gva_t at, struct translation *out)
{
    unsigned pcid = tlb2_pcid(c);
    const struct translation *e = small_at(c, at);
    if (e->page == align_down(at, PAGE_SIZE) && alive(c->tlb2, e, pcid)) {
        *out = *e;
        return true;
    }
    e = large_at(c, at);
    if (e->page != align_down(at, BIT(21)) || !alive(c->tlb2, e, pcid))
        return false;
    *out = *e;
    out->page = align_down(at, PAGE_SIZE);
    out->gpa += at & (BIT(21) - 1) & ~PAGE_MASK;
    find_host(c, out);
    return true;
}

static unsigned region(gva_t at, unsigned shift)
{
    return (unsigned)((at >> shift) * 0x9e3779b97f4a7c15ull >> 52) % TLB2_REGIONS;
}

static void large_kept(struct tlb2 *t, const struct translation *e)
{
    t->large_seen = true;
    t->large_region[region(e->page, 22)] = 1;
    if (e->shift > 22)
        t->huge_region[region(e->page, 30)] = 1;
}

void tlb2_insert(struct tcpu *c, struct translation *e)
{
    struct tlb2 *t = c->tlb2;
    e->born = t->time;
    e->pcid = (uint16_t)tlb2_pcid(c);
    find_host(c, e);
    if (e->host && c->vm->config.ram_file)
        ram_file_touch(c->vm->config.ram_file, e->host, 1);
    if (e->shift == 12) {
        *small_at(c, e->page) = *e;
        return;
    }
    struct translation *large = large_at(c, e->page);
    *large = *e;
    large->gpa -= e->page & (BIT(21) - 1);
    large->page = align_down(e->page, BIT(21));
    large_kept(t, e);
}

static void inline_drop(struct tcpu *c, unsigned user, unsigned i)
{
    c->tlb[user].read[i] = c->tlb[user].write[i] = c->tlb[user].exec[i] = tlb_no_tag(i);
}

err_t tlb2_new(struct tcpu *c, struct error *e)
{
    c->tlb2 = calloc(1, sizeof *c->tlb2);
    if (!c->tlb2)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's TLB");
    c->tlb2->time = 1;
    for (unsigned user = 0; user < 2; user++) { // all others are empty when zero
        inline_drop(c, user, 0);
        inline_drop(c, user, TLB_ENTRIES - 1);
    }
    tlb_flush_all(c);
    return OK;
}

void tlb2_free(struct tcpu *c)
{
    free(c->tlb2);
    c->tlb2 = NULL;
}

// --- flushing ------------------------------------------------------------------------------------

// Of the entries in a list, which then is empty.
static void drop_listed(struct tcpu *c, unsigned user, unsigned list, bool globals)
{
    struct inline_use *use = &c->tlb2->use[user];
    for (uint32_t n = 0; n < use->listed[list]; n++) {
        unsigned i = use->list[list][n];
        use->flags[i] &= (uint8_t) ~(INLINE_LISTED << list);
        if (globals || !(use->flags[i] & INLINE_GLOBAL))
            inline_drop(c, user, i);
    }
    use->listed[list] = 0;
}

void tlb_flush_inline(struct tcpu *c, bool globals)
{
    for (unsigned user = 0; user < 2; user++) {
        drop_listed(c, user, 0, globals);
        if (globals)
            drop_listed(c, user, 1, true);
    }
    jit_forget_slots(c);
    c->counter[COUNTER_TLB_FLUSHES]++;
    jit_forget_pages(c, globals);
}

void tlb_claim(struct tcpu *c, unsigned i, bool user, const struct translation *t)
{
    struct inline_use *use = &c->tlb2->use[user];
    uint64_t addend = (uint64_t)(uintptr_t)t->host - t->page;
    bool global = t->rights & RIGHT_GLOBAL;
    if (use->page[i] != t->page || c->tlb[user].addend[i] != addend ||
        !(use->flags[i] & INLINE_GLOBAL) == global) {
        inline_drop(c, user, i);
        use->page[i] = t->page;
        c->tlb[user].addend[i] = addend;
    }
    unsigned flags = use->flags[i] & (3 * INLINE_LISTED);
    if (!(flags & INLINE_LISTED << global))
        use->list[global][use->listed[global]++] = (uint16_t)i;
    flags |= (unsigned)INLINE_LISTED << global;
    use->flags[i] =
        (uint8_t)(flags | (global ? INLINE_GLOBAL : 0) | (t->shift > 12 ? INLINE_LARGE : 0));
    if (t->shift > 12)
        large_kept(c->tlb2, t);
}

bool tlb_code_is_global(const struct tcpu *c, gva_t at)
{
    unsigned i = tlb_index(c, at);
    return c->tlb[c->user].exec[i] == align_down(at, PAGE_SIZE) &&
           (c->tlb2->use[c->user].flags[i] & INLINE_GLOBAL);
}

void tlb_flush_all(struct tcpu *c)
{
    struct tlb2 *t = c->tlb2;
    t->dead_all = t->time++;
    if (t->large_seen) {
        fill_bytes(t->large_region, 0, sizeof t->large_region);
        fill_bytes(t->huge_region, 0, sizeof t->huge_region);
    }
    t->large_seen = false;
    fill_bytes(t->writable, 0, sizeof t->writable);
    tlb_flush_inline(c, true);
    direct_forget_all(c);
}

void tlb_flush_pcid(struct tcpu *c, unsigned pcid)
{
    pcid &= 0xfff;
    c->tlb2->dead[pcid] = c->tlb2->time++;
    direct_forget_pcid(c, pcid);
    if (pcid == tlb2_pcid(c))
        tlb_flush_inline(c, false);
}

void tlb_flush_context(struct tcpu *c)
{
    tlb_flush_pcid(c, tlb2_pcid(c));
}

static void drop_if_maps(struct translation *e, gva_t at, unsigned pcid, bool globals)
{
    bool global = e->rights & RIGHT_GLOBAL;
    if (e->shift && !((e->page ^ at) >> e->shift) && (global ? globals : e->pcid == pcid))
        e->born = 0;
}

// Drops the fragments of large pages around `at`.
static void inline_drop_large(struct tcpu *c, unsigned user, gva_t at)
{
    unsigned first = tlb_index(c, at) & ~1023u;
    const uint8_t *flags = c->tlb2->use[user].flags;
    for (unsigned i = first; i < first + 1024 && i <= c->tlb_mask; i++) {
        if (flags[i] & INLINE_LARGE)
            inline_drop(c, user, i);
    }
}

void tlb2_drop(struct tcpu *c, gva_t at, unsigned pcid, bool globals)
{
    struct tlb2 *t = c->tlb2;
    bool large = t->large_region[region(at, 22)], huge = t->huge_region[region(at, 30)];
    drop_if_maps(small_at(c, at), at, pcid, globals);
    drop_if_maps(large_at(c, at), at, pcid, globals);
    // All fragments of a larger page die together.
    if (large)
        drop_if_maps(large_at(c, at ^ BIT(21)), at, pcid, globals);
    for (unsigned i = 0; huge && i < TLB2_LARGE; i++)
        drop_if_maps(&t->large[i], at, pcid, globals);
    if (huge && globals)
        direct_forget_all(c);
    else if (huge)
        direct_forget_pcid(c, pcid);
    else
        direct_forget_page(c, at, globals ? DIRECT_ALL_PCIDS : pcid, large);
    if (pcid != tlb2_pcid(c))
        return;
    if (huge) {
        tlb_flush_inline(c, true);
        return;
    }
    jit_forget_page(c, at, large);
    if (large)
        jit_forget_slots(c);
    else
        jit_forget_slots_of(c, at);
    for (unsigned user = 0; user < 2; user++) {
        inline_drop(c, user, tlb_index(c, at));
        if (large)
            inline_drop_large(c, user, at);
    }
}

void tlb_flush_page(struct tcpu *c, gva_t at)
{
    tlb2_drop(c, at, tlb2_pcid(c), true);
}

// Withdraws write tags that lead to a host page, or all.
static void protect_listed(struct tcpu *c, unsigned user, unsigned list, uintptr_t host)
{
    const struct inline_use *use = &c->tlb2->use[user];
    struct tlb *t = &c->tlb[user];
    for (uint32_t n = 0; n < use->listed[list]; n++) {
        unsigned i = use->list[list][n];
        if (!host || t->write[i] + t->addend[i] == host)
            t->write[i] = tlb_no_tag(i);
    }
}

static uint64_t *writable_at(const struct tcpu *c, gpa_t page, uint64_t *bit)
{
    uint64_t n = page >> PAGE_SHIFT & (TLB2_WRITABLE - 1);
    *bit = BIT(n % 64);
    return &c->tlb2->writable[n / 64];
}

// Of a vCPU that sets a tag and one that announces code, one sees the other: the first sets the
// bit, then looks at the page's flags, the second sets PAGE_CODE, then looks at the bit.
void tlb_note_writable(struct tcpu *c, gpa_t page)
{
    uint64_t bit, *word = writable_at(c, page, &bit);
    uint64_t had = __atomic_load_n(word, __ATOMIC_RELAXED);
    if (!(had & bit))
        __atomic_store_n(word, had | bit, __ATOMIC_SEQ_CST);
}

bool tlb_may_write(const struct tcpu *c, gpa_t page)
{
    uint64_t bit, *word = writable_at(c, page, &bit);
    return __atomic_load_n(word, __ATOMIC_SEQ_CST) & bit || direct_may_write(c, page);
}

void tlb_protect_page(struct tcpu *c, gpa_t page)
{
    bool all = page == ~0ull;
    if (!all && !tlb_may_write(c, page))
        return;
    direct_protect(c, page);
    jit_forget_slots(c);
    uintptr_t host = all ? 0 : (uintptr_t)tvm_host(c->vm, page, 1, NULL);
    for (unsigned n = 0; n < 4; n++)
        protect_listed(c, n & 1, n >> 1, host);
}
