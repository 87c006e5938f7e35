// String instructions from translated code: runs of the host's own instruction, each within one
// page of source and destination that the inline TLB knows. Whatever is not so plain (MMIO, code
// pages, elements across pages, DF) is left to the interpreter. Registers are exact after every
// run.
#include "engine/translate/integer_impl.h"
#include "engine/translate/jit_impl.h"
#include "engine/translate/string_run.h"

#define RUN_BYTES 65536u // between two looks at what is pending

// The host address of a linear address that may be accessed so, or NULL. Raises as the access
// would.
static uint8_t *host_of(struct tcpu *c, gva_t at, enum access access)
{
    struct tlb *t = &c->tlb[c->user];
    unsigned i = tlb_index(c, at);
    const uint64_t *tag = access == ACCESS_WRITE ? &t->write[i] : &t->read[i];
    if (*tag != align_down(at, PAGE_SIZE) &&
        ((uint64_t)((int64_t)(at << 16) >> 16) != at || !tlb_fill(c, at, access, c->user)))
        return NULL;
    return (uint8_t *)(uintptr_t)(at + t->addend[i]);
}

static const struct {
    bool source, dest, writes, compares;
    string_run_fn *fn[2]; // [1] with REPNE
} instructions[] = {
    [SITE_STOS] = {.dest = true, .writes = true, .fn = {string_stos, string_stos}},
    [SITE_MOVS] = {.source = true, .dest = true, .writes = true, .fn = {string_movs, string_movs}},
    [SITE_LODS] = {.source = true, .fn = {string_lods, string_lods}},
    [SITE_SCAS] = {.dest = true, .compares = true, .fn = {string_repe_scas, string_repne_scas}},
    [SITE_CMPS] = {.source = true,
                   .dest = true,
                   .compares = true,
                   .fn = {string_repe_cmps, string_repne_cmps}},
};

static uint64_t to_page_end(gva_t at)
{
    return PAGE_SIZE - (at & PAGE_MASK);
}

static uint64_t register_mask(unsigned kind)
{
    return kind & SITE_SHORT ? UINT32_MAX : UINT64_MAX;
}

// One run; how many elements it did: 0 when the interpreter must do the next one.
static uint64_t run(struct tcpu *c, unsigned kind, unsigned size, uint64_t count)
{
    unsigned op = kind & SITE_STRING;
    uint64_t *gpr = c->s.gpr, mask = register_mask(kind);
    uint64_t source = gpr[RSI] & mask, dest = gpr[RDI] & mask;
    struct string_run r = {.acc = gpr[RAX]};
    if (instructions[op].source) {
        count = min_u64(count, to_page_end(source) / size);
        r.source = count ? host_of(c, source, ACCESS_READ) : NULL;
        if (!r.source)
            return 0;
    }
    if (instructions[op].dest) {
        count = min_u64(count, to_page_end(dest) / size);
        enum access access = instructions[op].writes ? ACCESS_WRITE : ACCESS_READ;
        r.dest = count ? host_of(c, dest, access) : NULL;
        if (!r.dest)
            return 0;
    }
    r.count = count;
    instructions[op].fn[(kind & SITE_REPNE) != 0](&r, size, false);
    count -= r.count;
    if (instructions[op].source)
        gpr[RSI] = (source + count * size) & mask;
    if (instructions[op].dest)
        gpr[RDI] = (dest + count * size) & mask;
    if (instructions[op].compares)
        c->s.rflags = flags_unpack(c->s.rflags, r.acc);
    else
        gpr[RAX] = r.acc;
    return count;
}

// A repeated comparison whose last element was not, or was, equal.
static bool stopped(const struct tcpu *c, unsigned kind)
{
    bool equal = c->s.rflags & FLAG_ZF;
    return instructions[kind & SITE_STRING].compares && (kind & SITE_REPNE ? equal : !equal);
}

const void *jit_gate_string(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    const struct jit_site site = jit->site[id];
    const struct jit_block *b = &jit->block[site.block];
    bool repeated = site.access & (SITE_REP | SITE_REPNE);
    uint64_t left = repeated ? c->s.gpr[RCX] & register_mask(site.access) : 1, done = 0;
    c->counter[COUNTER_STRINGS]++;
    c->s.rip = c->insn_rip = b->rip + jit->mark[b->marks + site.insn].guest;
    if (c->s.rflags & FLAG_DF)
        return jit_step(c, site.block, site.insn);
    while (left) {
        uint64_t n = run(c, site.access, site.size, left);
        if (!n)
            return jit_step(c, site.block, site.insn);
        left -= n;
        if (repeated)
            c->s.gpr[RCX] = left;
        if (stopped(c, site.access))
            break;
        done += n * site.size;
        if (left && done >= RUN_BYTES)
            return jit_continue(c);
    }
    return jit_resume(c, &site);
}
