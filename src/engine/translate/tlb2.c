// The second-level TLB: 4 KiB and large pages, tagged with PCID, flushed in constant time by age;
// and the flushing of both levels. Architectural flush points are the only moments at which guests
// may rely on a change of their page tables, and every one of them ends here (SDM vol. 3, 4.10).
// Not modelled: paging-structure caches (every miss walks from the top).
#include "engine/translate/tlb2.h"

#include <stdlib.h>

#include "engine/translate/interp_impl.h"
#include "engine/translate/jit.h"

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
    unsigned mask = c->tlb_mask == TLB_ENTRIES - 1 ? TLB2_SMALL - 1 : 1;
    return &c->tlb2->small[at >> 12 & mask];
}

static struct translation *large_at(const struct tcpu *c, gva_t at)
{
    unsigned mask = c->tlb_mask == TLB_ENTRIES - 1 ? TLB2_LARGE - 1 : 1;
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

void tlb2_insert(struct tcpu *c, struct translation *e)
{
    struct tlb2 *t = c->tlb2;
    e->born = t->time;
    e->pcid = (uint16_t)tlb2_pcid(c);
    find_host(c, e);
    if (e->shift == 12) {
        *small_at(c, e->page) = *e;
        return;
    }
    struct translation *large = large_at(c, e->page);
    *large = *e;
    large->gpa -= e->page & (BIT(21) - 1);
    large->page = align_down(e->page, BIT(21));
    t->large_seen = true;
    t->huge_seen |= e->shift > 21;
}

err_t tlb2_new(struct tcpu *c, struct error *e)
{
    c->tlb2 = calloc(1, sizeof *c->tlb2);
    if (!c->tlb2)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's TLB");
    c->tlb2->time = 1;
    tlb_flush_all(c);
    return OK;
}

void tlb2_free(struct tcpu *c)
{
    free(c->tlb2);
    c->tlb2 = NULL;
}

// --- flushing
// ----------------------------------------------------------------------------------------

static void tags_clear(uint64_t *tag, unsigned count)
{
    uint64_t none = TLB_NO_TAG, n = count;
    uint64_t *first = tag;
    __asm__ volatile("rep stosq" : "+D"(tag), "+c"(n) : "a"(none) : "memory");
    *first = tlb_no_tag(0);
}

void tlb_flush_inline(struct tcpu *c)
{
    for (unsigned user = 0; user < 2; user++) {
        if (!c->tlb2->filled[user])
            continue;
        struct tlb *t = &c->tlb[user];
        tags_clear(t->read, TLB_ENTRIES);
        tags_clear(t->write, TLB_ENTRIES);
        tags_clear(t->exec, TLB_ENTRIES);
        c->tlb2->filled[user] = false;
    }
    c->tlb2->large_inline = false;
    c->counter[COUNTER_TLB_FLUSHES]++;
    jit_forget_pages(c);
}

static void inline_drop(struct tcpu *c, unsigned user, unsigned i)
{
    c->tlb[user].read[i] = tlb_no_tag(i);
    c->tlb[user].write[i] = tlb_no_tag(i);
    c->tlb[user].exec[i] = tlb_no_tag(i);
}

void tlb_flush_all(struct tcpu *c)
{
    c->tlb2->dead_all = c->tlb2->time++;
    c->tlb2->large_seen = c->tlb2->huge_seen = false;
    c->tlb2->filled[0] = c->tlb2->filled[1] = true;
    tlb_flush_inline(c);
}

void tlb_flush_pcid(struct tcpu *c, unsigned pcid)
{
    pcid &= 0xfff;
    c->tlb2->dead[pcid] = c->tlb2->time++;
    if (pcid == tlb2_pcid(c))
        tlb_flush_inline(c);
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

void tlb2_drop(struct tcpu *c, gva_t at, unsigned pcid, bool globals)
{
    struct tlb2 *t = c->tlb2;
    drop_if_maps(small_at(c, at), at, pcid, globals);
    drop_if_maps(large_at(c, at), at, pcid, globals);
    // All fragments of a larger page die together.
    for (unsigned i = 0; t->huge_seen && i < TLB2_LARGE; i++)
        drop_if_maps(&t->large[i], at, pcid, globals);
    if (pcid != tlb2_pcid(c))
        return;
    jit_forget_page(c, at, t->huge_seen ? 30 : t->large_seen ? 21 : 12);
    inline_drop(c, 0, at >> PAGE_SHIFT & c->tlb_mask);
    inline_drop(c, 1, at >> PAGE_SHIFT & c->tlb_mask);
    for (unsigned i = 0; t->large_inline && i < 2 * TLB_ENTRIES; i++) {
        unsigned user = i / TLB_ENTRIES, n = i % TLB_ENTRIES, shift = t->inline_shift[user][n];
        if (shift > 12 && !((t->inline_page[user][n] ^ at) >> shift))
            inline_drop(c, user, n);
    }
}

void tlb_flush_page(struct tcpu *c, gva_t at)
{
    tlb2_drop(c, at, tlb2_pcid(c), true);
}

void tlb_protect_page(struct tcpu *c, gpa_t page)
{
    uintptr_t host = page == ~0ull ? 0 : (uintptr_t)tvm_host(c->vm, page, 1, NULL);
    for (unsigned user = 0; user < 2; user++) {
        struct tlb *t = &c->tlb[user];
        for (unsigned i = 0; i < TLB_ENTRIES; i++) {
            if (t->write[i] != tlb_no_tag(i) && (!host || t->write[i] + t->addend[i] == host))
                t->write[i] = tlb_no_tag(i);
        }
    }
}
