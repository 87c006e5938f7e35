// Which block runs at a guest address: pages by handle, blocks by page and offset, and the small
// table of pages that translated code consults by itself (ctlb).
#include "base/checked.h"
#include "base/copy.h"
#include "engine/translate/jit_impl.h"

uint32_t jit_page_slot(const struct tcpu *c, gva_t at)
{
    return c->tlb_mask ? (uint32_t)(at >> PAGE_SHIFT) % CTLB_ENTRIES : 0;
}

static uint32_t page_bucket(gva_t at, gpa_t gpa)
{
    uint64_t x = (at >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull ^ (gpa >> PAGE_SHIFT);
    return (uint32_t)(x ^ x >> 32) % JIT_PAGE_HASH;
}

static uint32_t gpa_bucket(gpa_t gpa)
{
    return (uint32_t)(gpa >> PAGE_SHIFT) % JIT_PAGE_HASH;
}

static uint32_t block_bucket(uint32_t page, uint64_t rip)
{
    // Those of a page are together: what is looked up while one is translated is near.
    uint32_t group = page * 0x9e3779b1u >> (32 - JIT_BLOCK_HASH_BITS) & ~63u;
    return group | (uint32_t)(rip & PAGE_MASK) * 0x85ebca6bu >> 26;
}

bool jit_eligible(const struct tcpu *c)
{
    unsigned size = c->mode & MODE_CODE_SIZE;
    if (c->mode & (MODE_ALIGN | MODE_STEP | MODE_V86) || c->s.interrupt_shadow ||
        c->s.activity != CPU_RUNNING)
        return false;
    return size == MODE_CODE64 || (size == MODE_CODE32 && (c->mode & MODE_FLAT) &&
                                   (c->mode & MODE_STACK32) && (c->mode & MODE_PROTECTED));
}

void jit_forget_page(struct tcpu *c, gva_t at, bool large)
{
    for (unsigned user = 0; user < 2; user++) {
        uint32_t *ctlb = c->hot.ctlb[user];
        ctlb[jit_page_slot(c, at)] = 0;
        if (large)
            fill_bytes(&ctlb[jit_page_slot(c, at) & ~1023u], 0, 1024 * sizeof *ctlb);
    }
}

static void forget_all(struct tcpu *c, unsigned user)
{
    fill_bytes(c->hot.ctlb[user], 0, sizeof c->hot.ctlb[user]);
    c->jit->ctlb_locals[user] = 0;
}

static void forget_local(struct tcpu *c, unsigned user)
{
    struct jit *jit = c->jit;
    if (jit->ctlb_locals[user] > CTLB_LISTED) {
        forget_all(c, user);
        return;
    }
    for (uint32_t i = 0; i < jit->ctlb_locals[user]; i++)
        c->hot.ctlb[user][jit->ctlb_local[user][i]] = 0;
    jit->ctlb_locals[user] = 0;
}

void jit_forget_pages(struct tcpu *c, bool globals)
{
    for (unsigned user = 0; c->jit && user < 2; user++) {
        if (globals)
            forget_all(c, user);
        else
            forget_local(c, user);
    }
}

static void remember_page(struct tcpu *c, gva_t at, uint32_t page)
{
    struct jit *jit = c->jit;
    unsigned user = c->user;
    c->hot.ctlb[user][jit_page_slot(c, at)] = page;
    if (tlb_code_is_global(c, at))
        return;
    if (jit->ctlb_locals[user] < CTLB_LISTED)
        jit->ctlb_local[user][jit->ctlb_locals[user]] = (uint16_t)jit_page_slot(c, at);
    if (jit->ctlb_locals[user] <= CTLB_LISTED)
        jit->ctlb_locals[user]++;
}

// The tables of each privilege hold one mode's code at a time.
static void match_mode(struct tcpu *c)
{
    struct jit *jit = c->jit;
    unsigned user = c->user;
    uint32_t mode = c->mode & KEY_MASK;
    if (jit->seen[user] == mode)
        return;
    jit->seen[user] = mode;
    forget_all(c, user);
    jit_forget_targets(c, user);
}

static uint32_t add_page(struct tcpu *c, gva_t at, gpa_t gpa, uint8_t *host, uint32_t bucket)
{
    struct jit *jit = c->jit;
    if (jit->pages == JIT_PAGES) {
        jit_flush(c);
        match_mode(c);
    }
    uint32_t index = jit->pages++;
    jit->page[index] = (struct jit_page){
        .at = at,
        .gpa = gpa,
        .host = host,
        .mode = c->mode & KEY_MASK,
        .next = jit->page_hash[bucket],
        .next_gpa = jit->gpa_hash[gpa_bucket(gpa)],
    };
    jit->page_hash[bucket] = index;
    jit->gpa_hash[gpa_bucket(gpa)] = index;
    return index;
}

uint32_t jit_find_page(struct tcpu *c, uint64_t rip)
{
    struct jit *jit = c->jit;
    match_mode(c);
    uint32_t *slot = &c->hot.ctlb[c->user][jit_page_slot(c, rip)];
    gva_t at = align_down(rip, PAGE_SIZE);
    if (*slot && jit->page[*slot].at == at)
        return *slot;
    c->counter[COUNTER_PAGE_CHECKS]++;
    uint8_t *host;
    gpa_t gpa = align_down(mem_code_gpa(c, rip, &host), PAGE_SIZE);
    if (!host)
        return 0;
    uint32_t mode = c->mode & KEY_MASK, bucket = page_bucket(at, gpa);
    uint32_t index = jit->page_hash[bucket];
    while (index && (jit->page[index].at != at || jit->page[index].gpa != gpa ||
                     jit->page[index].mode != mode || jit->page[index].host != host))
        index = jit->page[index].next;
    if (!index)
        index = add_page(c, at, gpa, host, bucket);
    remember_page(c, at, index);
    return index;
}

uint32_t jit_known_block(const struct jit *jit, uint32_t page, uint64_t rip)
{
    uint32_t i = jit->block_hash[block_bucket(page, rip)];
    while (i && (jit->block[i].page != page || jit->block[i].rip != rip))
        i = jit->block[i].next;
    return i;
}

void jit_add_block(struct jit *jit, uint32_t block)
{
    uint32_t bucket = block_bucket(jit->block[block].page, jit->block[block].rip);
    jit->block[block].next = jit->block_hash[bucket];
    jit->block_hash[bucket] = block;
}

// A block whose bytes have changed may soon change again, and translation costs several times what
// the interpreter takes: after the nth change it is translated when it has run 1 << n times.
static bool settled(struct jit *jit, uint32_t page, uint64_t rip)
{
    uint32_t i = block_bucket(page, rip) % VISITS;
    jit->unsettled = jit->visits[i].dropped && jit->visits[i].seen < 1u << jit->visits[i].dropped;
    jit->visits[i].seen += jit->unsettled;
    return !jit->unsettled;
}

static void forget_visits(struct jit *jit, const struct jit_block *b)
{
    uint32_t i = block_bucket(b->page, b->rip) % VISITS;
    jit->visits[i].seen = 0;
    jit->visits[i].dropped += jit->visits[i].dropped < VISITS_DOUBLED_MAX;
}

uint32_t jit_find_block(struct tcpu *c, uint32_t page, uint64_t rip)
{
    struct jit *jit = c->jit;
    uint32_t known = jit_known_block(jit, page, rip);
    return known ? known : settled(jit, page, rip) ? jit_translate(c, page, rip) : 0;
}

void jit_forget_returns(struct tcpu *c)
{
    copy_bytes(c->jit->shadow_rsp, c->jit->shadow_base, sizeof c->jit->shadow_rsp);
    c->hot.shadow_rsp = c->hot.shadow_base;
}

// Brings the shadow stack of this privilege into use; its entries are of one mode.
static void match_returns(struct tcpu *c)
{
    struct jit *jit = c->jit;
    unsigned user = c->user;
    uint32_t mode = c->mode & KEY_MASK;
    if (jit->shadow_user != user) {
        jit->shadow_rsp[jit->shadow_user] = c->hot.shadow_rsp;
        jit->shadow_user = user;
        c->hot.shadow_rsp = jit->shadow_rsp[user];
        c->hot.shadow_base = jit->shadow_base[user];
    }
    if (jit->shadow_mode[user] != mode) {
        jit->shadow_mode[user] = mode;
        c->hot.shadow_rsp = c->hot.shadow_base;
    }
}

const void *jit_continue(struct tcpu *c)
{
    struct jit *jit = c->jit;
    match_returns(c);
    c->insn_rip = c->s.rip;
    c->s.rflags &= ~FLAG_RF; // matters only to breakpoints, and none is armed
    if (__atomic_load_n(&c->pending, __ATOMIC_RELAXED) || !jit_eligible(c))
        return jit->leave;
    uint32_t page = jit_find_page(c, c->s.rip);
    uint32_t block = page ? jit_find_block(c, page, c->s.rip) : 0;
    return block ? jit_exec(jit, jit->block[block].entry) : jit->leave;
}

void jit_patch(struct jit *jit, uint32_t at, uint32_t target)
{
    int32_t distance = (int32_t)(target - (at + 4));
    __atomic_store_n((int32_t *)(jit->buf.write + at), distance, __ATOMIC_RELEASE);
}

// Code that is rewritten all the time would leave long chains.
static void unlink_block(struct jit *jit, const struct jit_block *b)
{
    uint32_t index = (uint32_t)(b - jit->block),
             *next = &jit->block_hash[block_bucket(b->page, b->rip)];
    while (*next && *next != index)
        next = &jit->block[*next].next;
    if (*next)
        *next = b->next;
}

// All ways into a dropped block lead to its stub, and from there to its successor.
void jit_drop(struct tcpu *c, struct jit_block *b)
{
    struct jit *jit = c->jit;
    b->dropped = true;
    unlink_block(jit, b);
    jit_forget_target(c, b);
    uint32_t entries[] = {b->checked, b->entry};
    for (unsigned i = 0; i < 2; i++) {
        jit->buf.write[entries[i]] = 0xe9;
        jit_patch(jit, entries[i] + 1, b->stub);
    }
}

void jit_drop_changed(struct tcpu *c, struct jit_block *b)
{
    c->counter[COUNTER_INVALIDATED]++;
    forget_visits(c->jit, b);
    jit_drop(c, b);
    jit_distrust_flags(c->jit, b);
}

// Those that verify themselves need not be told.
static void drop_overlapping(struct tcpu *c, struct jit_page *page, gpa_t at, uint64_t len)
{
    struct jit *jit = c->jit;
    uint32_t *next = &page->blocks;
    while (*next) {
        struct jit_block *b = &jit->block[*next];
        bool hit = ranges_overlap(page->gpa + (b->rip & PAGE_MASK), b->bytes, at, len) ||
                   (b->ahead_to && ranges_overlap(page->gpa + b->ahead_from,
                                                  b->ahead_to - b->ahead_from, at, len));
        if (hit && !b->dropped && !b->verifies)
            jit_drop_changed(c, b);
        if (b->dropped)
            *next = b->next_in_page;
        else
            next = &b->next_in_page;
    }
    next = &page->tails;
    while (*next) {
        struct jit_block *b = &jit->block[*next];
        uint64_t head = PAGE_SIZE - (b->rip & PAGE_MASK);
        bool hit = b->bytes > head && ranges_overlap(page->gpa, b->bytes - head, at, len);
        if (hit && !b->dropped && !b->verifies)
            jit_drop_changed(c, b);
        if (b->dropped)
            *next = b->next_tail;
        else
            next = &b->next_tail;
    }
}

void jit_invalidate(struct tcpu *c, gpa_t at, uint64_t len)
{
    struct jit *jit = c->jit;
    if (!jit || !len)
        return;
    if (len > 64 * PAGE_SIZE) {
        jit_flush(c);
        return;
    }
    for (gpa_t page = align_down(at, PAGE_SIZE); page < at + len; page += PAGE_SIZE)
        for (uint32_t i = jit->gpa_hash[gpa_bucket(page)]; i; i = jit->page[i].next_gpa)
            if (jit->page[i].gpa == page)
                drop_overlapping(c, &jit->page[i], at, len);
}

// A few blocks at a time, where the cache is small: then the table is larger than all that is in
// it.
static void forget_blocks(struct jit *jit)
{
    if (jit->blocks > JIT_BLOCK_HASH / 16) {
        fill_bytes(jit->block_hash, 0, sizeof jit->block_hash);
        return;
    }
    for (uint32_t i = 1; i < jit->blocks; i++)
        jit->block_hash[block_bucket(jit->block[i].page, jit->block[i].rip)] = 0;
}

// Tables come as zeroes, or are made when they are first used.
void jit_start_empty(struct tcpu *c)
{
    struct jit *jit = c->jit;
    jit->pages = jit->blocks = jit->marks = jit->sites = jit->links = 1;
    jit_start_heat(c);
}

void jit_flush(struct tcpu *c)
{
    struct jit *jit = c->jit;
    if (!jit || (jit->pages == 1 && jit->blocks == 1)) // nothing in it: do not touch large tables
        return;
    c->counter[COUNTER_CACHE_FLUSHES]++;
    jit->generation++;
    jit_forget_pages(c, true);
    for (unsigned user = 0; user < 2; user++)
        if (jit->targets_made[user])
            jit_forget_targets(c, user);
    jit_forget_returns(c);
    jit->hot.at = jit->hot_start;
    jit->cold.at = jit->cold_start;
    jit->hot.overflow = jit->cold.overflow = false;
    forget_blocks(jit);
    fill_bytes(jit->avoid, 0, sizeof jit->avoid);
    fill_bytes(jit->loop, 0, sizeof jit->loop);
    jit->pages = jit->blocks = jit->marks = jit->sites = jit->links = 1;
    jit->open_pages = 0;
    fill_bytes(jit->page_hash, 0, sizeof jit->page_hash);
    fill_bytes(jit->gpa_hash, 0, sizeof jit->gpa_hash);
}
