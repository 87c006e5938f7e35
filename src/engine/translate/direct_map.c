// What cages map: a copy of the guest's page tables, for user pages that are plain RAM and have
// been accessed. It is a third level of TLB: whatever takes tags from the inline TLB makes regions
// of it stale, and these are compared with the guest's tables before the cage runs again. A page is
// there with no more rights than an inline tag would give, so that nothing goes unnoticed here that
// is noticed there. Sources: Intel SDM vol. 3, 4.10.
#include "engine/translate/direct_impl.h"

#include "base/copy.h"
#include "engine/translate/interp_impl.h"
#include "engine/translate/tlb2.h"

#define LOWEST (64 * KIB)             // the host keeps what is below to itself
#define HIGHEST (BIT(47) - PAGE_SIZE) // and the last page
#define PROTS (PAGE_SIZE - 1)

// --- regions -------------------------------------------------------------------------------------

static unsigned slot_of(uint64_t number)
{
    return (unsigned)(number * 0x9e3779b97f4a7c15ull >> 32) % (2 * DIRECT_REGIONS);
}

static struct direct_region *region_find(const struct direct_space *s, uint64_t number)
{
    for (unsigned i = slot_of(number); s->at[i]; i = (i + 1) % (2 * DIRECT_REGIONS)) {
        struct direct_region *r = &s->region[s->at[i] - 1];
        if (r->number == number)
            return r;
    }
    return NULL;
}

static struct direct_region *region_add(struct direct_space *s, uint64_t number)
{
    if (s->regions == DIRECT_REGIONS)
        return NULL;
    unsigned i = slot_of(number);
    while (s->at[i])
        i = (i + 1) % (2 * DIRECT_REGIONS);
    struct direct_region *r = &s->region[s->regions++];
    s->at[i] = (uint16_t)s->regions;
    r->number = number;
    r->stale = true;
    return r;
}

void direct_space_clear(struct direct_space *s)
{
    for (uint32_t i = 0; i < s->regions; i++)
        fill_bytes(&s->region[i], 0, sizeof s->region[i]);
    fill_bytes(s->at, 0, sizeof s->at);
    s->regions = 0;
    s->cr3 = 0;
    cage_unmap(s->cage, LOWEST, cage_area(s->cage) - LOWEST);
    uint64_t above = cage_area(s->cage) + CAGE_AREA_BYTES;
    cage_unmap(s->cage, above, HIGHEST - above);
}

// The page's number in RAM; ~0: it is elsewhere.
static uint64_t ram_number(const struct tcpu *c, gpa_t page, const struct tvm_slot **slot)
{
    const uint8_t *host = tvm_host(c->vm, page, PAGE_SIZE, slot), *ram = c->vm->config.ram_host;
    bool in = host && host >= ram && (uint64_t)(host - ram) < c->vm->config.ram_bytes;
    return in ? (uint64_t)(host - ram) >> PAGE_SHIFT : ~0ull;
}

// --- the guest's tables --------------------------------------------------------------------------

// The entries of 2 MiB of linear addresses, and what those above them allow.
struct table {
    const uint64_t *entry; // 512; NULL: nothing is there, or one large page from `gpa`
    gpa_t gpa;
    unsigned rights;
    bool large;
};

static uint64_t address_bits(const struct tcpu *c)
{
    return BITS(51, 12) & c->phys_mask;
}

// Is the entry in use, and for user code? What it allows is taken from rights.
static bool entry_usable(const struct tcpu *c, uint64_t entry, unsigned *rights)
{
    const uint64_t need = PTE_P | PTE_U | PTE_A;
    uint64_t reserved = BITS(51, 12) & ~c->phys_mask;
    if (!(c->s.efer & EFER_NXE))
        reserved |= PTE_NX;
    if ((entry & need) != need || entry & reserved)
        return false;
    if (!(entry & PTE_W))
        *rights &= ~(unsigned)RIGHT_WRITE;
    if (entry & PTE_NX)
        *rights &= ~(unsigned)RIGHT_EXEC;
    return true;
}

static uint64_t entry_at(const struct tcpu *c, gpa_t table, unsigned index)
{
    const uint8_t *at = tvm_host(c->vm, table + index * 8, 8, NULL);
    return at ? __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_ACQUIRE) : 0;
}

static struct table find_table(const struct tcpu *c, gva_t at)
{
    struct table t = {.rights = RIGHT_USER | RIGHT_WRITE | RIGHT_EXEC};
    gpa_t table = c->s.cr3 & address_bits(c);
    for (unsigned level = 4; level > 1; level--) {
        unsigned shift = 3 + 9 * level;
        uint64_t entry = entry_at(c, table, at >> shift & 511);
        if (!entry_usable(c, entry, &t.rights))
            return t;
        table = entry & address_bits(c);
        if (!(entry & PTE_PS))
            continue;
        uint64_t low = entry & BITS(shift - 1, 13); // reserved
        if (level == 4 || low || (level == 3 && !feature_has(&c->features, FEATURE_PDPE1GB)))
            return t;
        t.large = true;
        t.gpa = (table & ~(BIT(shift) - 1)) + (at & (BIT(shift) - 1) & ~(BIT(21) - 1));
        if (entry & PTE_D)
            t.rights |= RIGHT_DIRTY;
        return t;
    }
    t.entry = (const uint64_t *)(const void *)tvm_host(c->vm, table, PAGE_SIZE, NULL);
    return t;
}

// Of a vCPU that lets a cage write and one that announces code, one sees the other, as with tags of
// the inline TLB (tlb_note_writable()). A flush does not end it: a cage keeps what still holds.
static void note_writable(struct tcpu *c, uint64_t n)
{
    uint8_t *known = &c->direct->page[n];
    if (!(*known & PAGE_WRITABLE))
        __atomic_store_n(known, *known | PAGE_WRITABLE, __ATOMIC_SEQ_CST);
}

bool direct_may_write(const struct tcpu *c, gpa_t page)
{
    uint64_t n = c->direct ? ram_number(c, page, NULL) : ~0ull;
    return n != ~0ull && __atomic_load_n(&c->direct->page[n], __ATOMIC_SEQ_CST) & PAGE_WRITABLE;
}

// What the cage should have of a page, as in direct_region.page. run: rather executable than
// writable.
static uint64_t page_wanted(struct tcpu *c, gva_t linear, gpa_t gpa, unsigned rights, bool run)
{
    const struct tvm_slot *slot;
    uint64_t n = ram_number(c, gpa, &slot), at = n << PAGE_SHIFT;
    bool dirty = (rights & RIGHT_WRITE) && (rights & RIGHT_DIRTY);
    if (n == ~0ull)
        return 0;
    if ((rights & RIGHT_EXEC) && (run || !(rights & RIGHT_WRITE))) {
        uint64_t code = direct_code_page(c, linear, gpa, n);
        if (code != ~0ull)
            return code << PAGE_SHIFT | CAGE_READ | CAGE_EXEC;
    }
    if (dirty)
        note_writable(c, n);
    return at | CAGE_READ | (dirty && page_write_unseen(c->vm, slot, gpa) ? CAGE_WRITE : 0);
}

// Entry i of a table; of a large page one that is made up.
static uint64_t entry_of(const struct table *t, unsigned i)
{
    if (t->large)
        return (t->gpa + (i << PAGE_SHIFT)) | PTE_P | PTE_W | PTE_U | PTE_A |
               (t->rights & RIGHT_DIRTY ? PTE_D : 0);
    return t->entry ? __atomic_load_n(&t->entry[i], __ATOMIC_ACQUIRE) : 0;
}

const uint8_t *direct_code_at(struct tcpu *c, gva_t at)
{
    struct table t = find_table(c, at);
    unsigned rights = t.rights;
    uint64_t entry = entry_of(&t, at >> PAGE_SHIFT & 511);
    if (!entry_usable(c, entry, &rights) || !(rights & RIGHT_EXEC))
        return NULL;
    uint64_t n = ram_number(c, entry & address_bits(c), NULL);
    return n == ~0ull ? NULL : (const uint8_t *)c->vm->config.ram_host + (n << PAGE_SHIFT);
}

// --- making them agree ---------------------------------------------------------------------------

static bool tell_cage(struct direct_space *s, gva_t at, uint64_t wanted)
{
    if (!wanted)
        return cage_unmap(s->cage, at, PAGE_SIZE);
    return cage_map(s->cage, at, PAGE_SIZE, wanted & ~PROTS, wanted & PROTS);
}

// False: the cage refuses.
static bool page_sync(struct tcpu *c, struct direct_space *s, struct direct_region *r, unsigned i,
                      unsigned rights, bool run)
{
    gva_t at = (r->number << DIRECT_REGION_BITS) + (i << PAGE_SHIFT);
    uint64_t entry = r->entry[i], wanted = 0;
    if (entry_usable(c, entry, &rights) && at >= LOWEST && at < HIGHEST)
        wanted = page_wanted(c, at, entry & address_bits(c),
                             rights | (entry & PTE_D ? RIGHT_DIRTY : 0), run);
    if (wanted == r->page[i])
        return true;
    r->page[i] = wanted;
    c->counter[COUNTER_DIRECT_PAGES] += wanted != 0;
    return tell_cage(s, at, wanted);
}

// The fault that makes it necessary, if there is one, decides about its own page.
struct reason {
    gva_t at; // 0: none
    enum access access;
};

static bool region_sync(struct tcpu *c, struct direct_space *s, struct direct_region *r,
                        const struct reason *why)
{
    gva_t from = r->number << DIRECT_REGION_BITS;
    struct table t = find_table(c, from);
    bool doubt = r->doubtful || r->rights != t.rights;
    r->stale = r->doubtful = false; // protecting code may make it so again
    r->rights = (uint8_t)t.rights;
    for (unsigned i = 0; i < 512; i++) {
        uint64_t entry = entry_of(&t, i);
        bool asked = why->at && why->at >> PAGE_SHIFT == (from >> PAGE_SHIFT) + i;
        if (entry == r->entry[i] && !doubt && !asked)
            continue;
        r->entry[i] = entry;
        bool run = asked ? why->access == ACCESS_EXEC : r->page[i] & CAGE_EXEC;
        if (!page_sync(c, s, r, i, t.rights, run))
            return false;
    }
    return true;
}

static bool sync_stale(struct tcpu *c, struct direct_space *s)
{
    const struct reason none = {0};
    while (s->stale || s->some_stale) {
        bool all = s->stale;
        s->stale = s->some_stale = false;
        for (uint32_t i = 0; i < s->regions; i++) {
            struct direct_region *r = &s->region[i];
            if ((all || r->stale) && !region_sync(c, s, r, &none))
                return false;
        }
    }
    return true;
}

static bool sync_fault(struct tcpu *c, struct direct_space *s, const struct reason *why)
{
    uint64_t number = why->at >> DIRECT_REGION_BITS;
    struct direct_region *r = region_find(s, number);
    if (!r && s->regions == DIRECT_REGIONS)
        return false;
    return region_sync(c, s, r ? r : region_add(s, number), why);
}

bool direct_space_fault(struct tcpu *c, struct direct_space *s, gva_t at, enum access access)
{
    static const unsigned prots[] = {
        [ACCESS_READ] = CAGE_READ, [ACCESS_WRITE] = CAGE_WRITE, [ACCESS_EXEC] = CAGE_EXEC};
    if (at < LOWEST || at >= HIGHEST || at - cage_area(s->cage) < CAGE_AREA_BYTES ||
        !mem_allows(c, at, access))
        return false;
    const struct reason why = {at, access};
    if (!sync_fault(c, s, &why)) {
        direct_space_clear(s);
        return false;
    }
    const struct direct_region *r = region_find(s, at >> DIRECT_REGION_BITS);
    return r->page[at >> PAGE_SHIFT & 511] & prots[access];
}

// --- spaces --------------------------------------------------------------------------------------

// The guest has nothing near the cage's own area, nor will it have without a fault.
static bool area_free(const struct tcpu *c, const struct direct_space *s)
{
    gpa_t top = c->s.cr3 & address_bits(c);
    return !(entry_at(c, top, cage_area(s->cage) >> 39 & 511) & PTE_P);
}

static struct direct_space *space_of(struct direct *d, uint64_t cr3)
{
    struct direct_space *oldest = NULL;
    for (unsigned i = 0; i < DIRECT_SPACES; i++) {
        struct direct_space *s = &d->space[i];
        if (s->cage && s->cr3 == cr3)
            return s;
        if (s->cage && (!oldest || s->used < oldest->used))
            oldest = s;
    }
    if (!oldest)
        return NULL;
    direct_space_clear(oldest);
    oldest->cr3 = cr3;
    return oldest;
}

struct direct_space *direct_space_ready(struct tcpu *c)
{
    struct direct_space *s = space_of(c->direct, c->s.cr3 & address_bits(c));
    if (!s || !area_free(c, s))
        return NULL;
    s->stale |= s->pcid != tlb2_pcid(c);
    s->pcid = tlb2_pcid(c);
    s->used = ++c->direct->runs;
    if (sync_stale(c, s) && cage_flush(s->cage))
        return s;
    direct_space_clear(s);
    return NULL;
}

// --- what flushes say ----------------------------------------------------------------------------

static void region_doubt(struct direct_space *s, gva_t at)
{
    struct direct_region *r = region_find(s, at >> DIRECT_REGION_BITS);
    if (r)
        s->some_stale = r->stale = true;
}

void direct_forget_all(struct tcpu *c)
{
    for (unsigned i = 0; c->direct && i < DIRECT_SPACES; i++) {
        struct direct_space *s = &c->direct->space[i];
        s->stale = true;
        for (uint32_t k = 0; k < s->regions; k++)
            s->region[k].doubtful = true;
    }
}

void direct_forget_pcid(struct tcpu *c, unsigned pcid)
{
    for (unsigned i = 0; c->direct && i < DIRECT_SPACES; i++)
        c->direct->space[i].stale |= c->direct->space[i].pcid == pcid;
}

void direct_forget_page(struct tcpu *c, gva_t at, unsigned pcid, bool large)
{
    for (unsigned i = 0; c->direct && i < DIRECT_SPACES; i++) {
        struct direct_space *s = &c->direct->space[i];
        if (s->pcid != pcid && pcid != DIRECT_ALL_PCIDS)
            continue;
        region_doubt(s, at);
        if (large)
            region_doubt(s, at ^ BIT(DIRECT_REGION_BITS));
    }
}

// Of all regions, those that have the page of RAM with these rights; ~0: any page.
static void doubt_page(struct direct *d, uint64_t page, unsigned prot)
{
    for (unsigned n = 0; n < DIRECT_SPACES; n++) {
        struct direct_space *s = &d->space[n];
        for (uint32_t i = 0; i < s->regions; i++) {
            struct direct_region *r = &s->region[i];
            for (unsigned k = 0; k < 512 && !r->doubtful; k++)
                r->doubtful =
                    r->page[k] & prot && (page == ~0ull || r->page[k] >> PAGE_SHIFT == page);
            r->stale |= r->doubtful;
            s->some_stale |= r->doubtful;
        }
    }
}

void direct_protect(struct tcpu *c, gpa_t page)
{
    if (!c->direct)
        return;
    uint64_t n = page == ~0ull ? page : ram_number(c, page, NULL);
    doubt_page(c->direct, n, CAGE_WRITE);
    if (page != ~0ull && n != ~0ull)
        c->direct->page[n] &= (uint8_t)~PAGE_WRITABLE;
}

bool direct_holds_code(const struct tcpu *c, gpa_t page)
{
    uint64_t n = c->direct ? ram_number(c, page, NULL) : ~0ull;
    return n != ~0ull && c->direct->page[n] & PAGE_KNOWN;
}

void direct_look_again(struct tcpu *c, uint64_t n)
{
    uint64_t copy = direct_copied(c, n);
    doubt_page(c->direct, n, CAGE_EXEC);
    if (copy != ~0ull)
        doubt_page(c->direct, copy, CAGE_EXEC);
    direct_forget_code(c->direct, n);
}

void direct_code_changed(struct tcpu *c, gpa_t at, uint64_t len)
{
    for (gpa_t page = align_down(at, PAGE_SIZE); c->direct && page < at + len; page += PAGE_SIZE) {
        if (direct_holds_code(c, page))
            direct_look_again(c, ram_number(c, page, NULL));
    }
}

void direct_all_code_changed(struct tcpu *c)
{
    for (uint64_t n = 0; c->direct && n < c->vm->config.ram_bytes >> PAGE_SHIFT; n++) {
        if (c->direct->page[n] & PAGE_KNOWN)
            direct_look_again(c, n);
    }
}
