// The interpreter: fetching, a cache of decoded instructions, dispatch. The reference for what
// every instruction does; runs whatever the block translator leaves to it, or everything.
//
// The cache is keyed by the host address of the code bytes (that is, by guest-physical address) and
// the code size, so that page-table changes need no flush. A cached instruction lies in RAM that
// tvm_protect_code() guards, and is dropped when its bytes change. Those that cross a page have a
// small cache of their own, where a hit depends on both pages.
#include "engine/translate/interp.h"

#include <sys/mman.h>

#include "engine/translate/system_impl.h"
#include "engine/translate/unrest.h"

#define ONCE_INSNS 64 // of interp_once()
#define ICACHE_BITS 15
#define ICACHE_ENTRIES (1u << ICACHE_BITS)

struct icache_entry {
    // Of the first byte; NULL: free. Two cache lines in all.
    const uint8_t *host __attribute__((aligned(64)));
    interp_fn *run;
    uint32_t size; // MODE_CODE_SIZE bits it was decoded for
    uint32_t pad;
    struct insn insn;
};

// An instruction whose first part ends its page.
struct crossing {
    const uint8_t *tail; // of the other part, at the start of its page
    struct icache_entry first;
};

#define CROSSINGS 256u

struct icache {
    struct icache_entry entry[ICACHE_ENTRIES];
    struct crossing crossing[CROSSINGS];
    bool crossings; // there are any
    bool filled;    // there is anything
};

err_t icache_new(struct tcpu *c, struct error *e)
{
    // Large and at first empty: pages come, as zeroes, when they are used.
    void *p = mmap(NULL, sizeof *c->icache, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's instruction cache");
    c->icache = p;
    return OK;
}

void icache_free(struct tcpu *c)
{
    if (c->icache)
        munmap(c->icache, sizeof *c->icache);
    c->icache = NULL;
}

static inline struct icache_entry *icache_at(struct tcpu *c, const uint8_t *host)
{
    uintptr_t h = (uintptr_t)host;
    return &c->icache->entry[(h ^ h >> ICACHE_BITS) & (ICACHE_ENTRIES - 1)];
}

static struct crossing *crossing_at(struct tcpu *c, const uint8_t *host)
{
    uintptr_t h = (uintptr_t)host >> PAGE_SHIFT; // their offsets in the page are much alike
    return &c->icache->crossing[(h ^ h >> 8 ^ (uintptr_t)host) % CROSSINGS];
}

static void forget_crossings(struct tcpu *c)
{
    for (unsigned i = 0; c->icache->crossings && i < CROSSINGS; i++)
        c->icache->crossing[i].first.host = NULL;
    c->icache->crossings = false;
}

void icache_flush(struct tcpu *c)
{
    for (unsigned i = 0; c->icache->filled && i < ICACHE_ENTRIES; i++)
        if (c->icache->entry[i].host)
            c->icache->entry[i].host = NULL;
    c->icache->filled = false;
    forget_crossings(c);
}

void icache_invalidate(struct tcpu *c, gpa_t at, uint64_t len)
{
    if (len > ICACHE_ENTRIES) {
        icache_flush(c);
        return;
    }
    if ((at & PAGE_MASK) < INSN_MAX || (at & PAGE_MASK) + len > PAGE_SIZE - INSN_MAX)
        forget_crossings(c);
    // Instructions that begin up to 14 bytes earlier, in the same page, may reach into the range.
    unsigned before = (unsigned)min_u64(at & PAGE_MASK, INSN_MAX - 1);
    const uint8_t *host = tvm_host(c->vm, at - before, 1, NULL);
    for (uint64_t i = 0; host && i < before + len; i++) {
        struct icache_entry *entry = icache_at(c, host + i);
        if (entry->host == host + i)
            entry->host = NULL;
    }
}

// --- dispatch ------------------------------------------------------------------------------------

static bool is_state_save(unsigned op)
{
    return op == OP_XSAVE || op == OP_XRSTOR || op == OP_XSAVEOPT || op == OP_XSAVEC ||
           op == OP_XSAVES || op == OP_XRSTORS;
}

// The handler, from what never changes while the vCPU lives: the instruction and the features
// shown.
static interp_fn *handler(const struct tcpu *c, const struct insn *insn)
{
    const struct insn_form *form = insn_form(insn);
    const uint32_t vector = FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512;
    bool scan = insn->op == OP_TZCNT || insn->op == OP_LZCNT; // BSF and BSR without the feature
    if (form->feature != FEATURE_NONE && !feature_has(&c->features, form->feature) && !scan)
        return sys_ud;
    if ((insn->prefix & PREFIX_LOCK) && insn->op != OP_MOV_CR &&
        (!(form->flags & FORM_LOCKABLE) || insn->operand[0].kind != OPND_MEM))
        return sys_ud;
    if ((form->flags & vector) || is_state_save(insn->op))
        return simd_insn;
    if (interp_integer[insn->op])
        return interp_integer[insn->op];
    return interp_system[insn->op] ? interp_system[insn->op] : sys_ud;
}

static inline unsigned code_bytes(const struct tcpu *c)
{
    return 2u << (c->mode & MODE_CODE_SIZE);
}

// Advances rip past the instruction, whose last byte must lie within CS.
static inline void advance(struct tcpu *c, unsigned len)
{
    uint64_t rip = c->s.rip;
    c->insn_rip = rip;
    if ((c->mode & MODE_CODE_SIZE) == MODE_CODE64) {
        c->s.rip = rip + len;
        return;
    }
    if (rip + len - 1 > c->s.seg[SEG_CS].limit)
        cpu_raise(c, VEC_GP, 0);
    c->s.rip = (uint32_t)(rip + len);
}

void interp_insn(struct tcpu *c, const struct insn *insn)
{
    advance(c, insn->len);
    handler(c, insn)(c, insn);
}

static enum insn_status decode(struct tcpu *c, const uint8_t *code, unsigned len, struct insn *out)
{
    return insn_decode(code, len, code_bytes(c), out);
}

// --- fetching ------------------------------------------------------------------------------------

static _Noreturn void bad_code(struct tcpu *c, enum insn_status status, gva_t at, unsigned have)
{
    if (status == INSN_TRUNCATED && have < INSN_MAX) {
        gva_t next = c->mode & MODE_LONG ? at + have : (uint32_t)(at + have);
        mem_probe_exec(c, next); // raises; else another vCPU has just mapped the page
        cpu_restart(c);
    }
    cpu_raise(c, status == INSN_INVALID ? VEC_UD : VEC_GP, 0);
}

// --- instructions across pages

static unsigned room_at(gva_t at)
{
    return (unsigned)(PAGE_SIZE - (at & PAGE_MASK));
}

// Host addresses of an instruction's two parts, or false when either is not in RAM.
static bool find_parts(struct tcpu *c, gva_t at, gpa_t gpa[2], const uint8_t *host[2])
{
    unsigned room = room_at(at);
    gva_t next = c->mode & MODE_LONG ? at + room : (uint32_t)(at + room);
    uint8_t *page[2];
    gpa[0] = mem_code_gpa(c, at, &page[0]);
    if (!page[0])
        return false;
    gpa[1] = mem_code_gpa(c, next, &page[1]);
    host[0] = page[0] + (at & PAGE_MASK);
    host[1] = page[1];
    return page[1];
}

static bool run_crossing(struct tcpu *c, gva_t at)
{
    const uint8_t *host[2];
    gpa_t gpa[2];
    uint8_t *page;
    mem_code_gpa(c, at, &page);
    if (!page || !c->icache->crossings)
        return false;
    const struct crossing *x = crossing_at(c, page + (at & PAGE_MASK));
    if (x->first.host != page + (at & PAGE_MASK) || x->first.size != (c->mode & MODE_CODE_SIZE) ||
        !find_parts(c, at, gpa, host) || x->tail != host[1])
        return false;
    advance(c, x->first.insn.len);
    x->first.run(c, &x->first.insn);
    return true;
}

// Keeps an instruction of this length, if it is still so long once its bytes are guarded.
static void keep_crossing(struct tcpu *c, gva_t at, unsigned len)
{
    const uint8_t *host[2];
    gpa_t gpa[2];
    unsigned room = room_at(at);
    uint8_t code[INSN_MAX];
    if (len <= room || !find_parts(c, at, gpa, host) || unrest_is_open(c->vm, gpa[0]) ||
        unrest_is_open(c->vm, gpa[1]) || !tvm_protect_code(c->vm, c, gpa[0], room) ||
        !tvm_protect_code(c->vm, c, gpa[1], len - room))
        return;
    struct crossing *x = crossing_at(c, host[0]);
    x->first.host = NULL;
    mem_copy_code(code, host[0], room);
    mem_copy_code(code + room, host[1], len - room);
    if (decode(c, code, len, &x->first.insn) != INSN_OK)
        return;
    x->first.run = handler(c, &x->first.insn);
    x->first.size = c->mode & MODE_CODE_SIZE;
    x->first.host = host[0];
    x->tail = host[1];
    c->icache->crossings = true;
}

enum insn_status interp_fetch(struct tcpu *c, gva_t at, struct insn *out, unsigned *have)
{
    uint8_t code[INSN_MAX];
    *have = mem_fetch(c, at, code);
    enum insn_status status = decode(c, code, *have, out);
    if (status != INSN_TRUNCATED)
        return status;
    *have = mem_fetch_on(c, at, code, *have);
    return decode(c, code, *have, out);
}

static void uncached(struct tcpu *c, gva_t at)
{
    struct insn insn;
    unsigned have;
    enum insn_status status = interp_fetch(c, at, &insn, &have);
    if (status != INSN_OK)
        bad_code(c, status, at, have);
    keep_crossing(c, at, insn.len);
    interp_insn(c, &insn);
}

// Decodes at `at` into the cache; NULL where the instruction cannot be kept.
static struct icache_entry *fill(struct tcpu *c, gva_t at)
{
    uint8_t *page;
    struct insn insn;
    gpa_t gpa = mem_code_gpa(c, at, &page);
    unsigned room = (unsigned)(PAGE_SIZE - (at & PAGE_MASK));
    if (!page)
        return NULL;
    if (unrest_is_open(c->vm, gpa))
        return NULL;
    const uint8_t *host = page + (at & PAGE_MASK);
    if (room > INSN_MAX)
        room = INSN_MAX;
    // The length first, then the guard over so many bytes, then what the bytes are once guarded.
    // Always from a copy: other vCPUs may be writing them.
    uint8_t code[INSN_MAX];
    mem_copy_code(code, host, room);
    if (decode(c, code, room, &insn) != INSN_OK || !tvm_protect_code(c->vm, c, gpa, insn.len))
        return NULL;
    struct icache_entry *entry = icache_at(c, host);
    mem_copy_code(code, host, insn.len);
    if (decode(c, code, insn.len, &entry->insn) != INSN_OK) {
        entry->host = NULL;
        return NULL;
    }
    entry->run = handler(c, &entry->insn);
    entry->size = c->mode & MODE_CODE_SIZE;
    entry->host = host;
    c->icache->filled = true;
    return entry;
}

static __attribute__((noinline)) void step_slow(struct tcpu *c, gva_t at)
{
    if (room_at(at) < INSN_MAX && run_crossing(c, at))
        return;
    struct icache_entry *entry = fill(c, at);
    if (!entry) {
        uncached(c, at);
        return;
    }
    advance(c, entry->insn.len);
    entry->run(c, &entry->insn);
}

// rip must be within CS and, in 64-bit code, canonical, whatever its first byte is.
static inline gva_t code_address(struct tcpu *c)
{
    uint64_t rip = c->s.rip;
    c->insn_rip = rip;
    if ((c->mode & MODE_CODE_SIZE) == MODE_CODE64)
        return rip;
    if (rip > c->s.seg[SEG_CS].limit)
        cpu_raise(c, VEC_GP, 0);
    return (uint32_t)(c->s.seg[SEG_CS].base + rip);
}

static inline void step(struct tcpu *c)
{
    gva_t at = code_address(c);
    const struct tlb *t = &c->tlb[c->user];
    unsigned i = tlb_index(c, at);
    c->counter[COUNTER_INTERPRETED]++;
    if (t->exec[i] != align_down(at, PAGE_SIZE)) {
        step_slow(c, at);
        return;
    }
    const uint8_t *host = (const uint8_t *)(uintptr_t)(at + t->addend[i]);
    struct icache_entry *entry = icache_at(c, host);
    if (entry->host != host || entry->size != (c->mode & MODE_CODE_SIZE)) {
        step_slow(c, at);
        return;
    }
    advance(c, entry->insn.len);
    // The cache is larger than the host's nearer ones: most time would go by waiting for it.
    const struct icache_entry *next = icache_at(c, host + entry->insn.len);
    __builtin_prefetch(next);
    __builtin_prefetch((const uint8_t *)next + 64);
    entry->run(c, &entry->insn);
}

void interp_step(struct tcpu *c)
{
    step(c);
}

// The bytes of an instruction that lies in one page of RAM; false for others.
static bool fetch_plain(struct tcpu *c, gva_t at, uint8_t code[INSN_MAX])
{
    const struct tlb *t = &c->tlb[c->user];
    unsigned i = tlb_index(c, at);
    if (room_at(at) < INSN_MAX || t->exec[i] != align_down(at, PAGE_SIZE))
        return false;
    mem_copy_code(code, (const uint8_t *)(uintptr_t)(at + t->addend[i]), INSN_MAX);
    return true;
}

void interp_once(struct tcpu *c)
{
    struct insn insn;
    uint8_t code[INSN_MAX];
    for (unsigned n = 0; n < ONCE_INSNS; n++) {
        gva_t at = code_address(c);
        if (!fetch_plain(c, at, code) || decode(c, code, INSN_MAX, &insn) != INSN_OK) {
            step(c);
            return;
        }
        c->counter[COUNTER_INTERPRETED]++;
        advance(c, insn.len);
        handler(c, &insn)(c, &insn);
        if (c->s.rip != c->insn_rip + insn.len || insn_form(&insn)->flags & FORM_SYSTEM ||
            __atomic_load_n(&c->pending, __ATOMIC_RELAXED))
            return;
    }
}

void interp_run(struct tcpu *c, uint32_t mode_bits)
{
    uint32_t mode = c->mode & mode_bits;
    do
        step(c);
    while (!__atomic_load_n(&c->pending, __ATOMIC_RELAXED) && (c->mode & mode_bits) == mode);
}
