// STOS and MOVS from translated code: runs of the host's own instruction, each within one page of
// source and destination that the inline TLB knows. Whatever is not so plain (MMIO, code pages,
// elements across pages, DF) is left to the interpreter. Registers are exact after every run.
#include "engine/translate/jit_impl.h"

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

static void host_stos(uint8_t *to, uint64_t count, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 2: asm volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 4: asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    default: asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    }
}

static void host_movs(uint8_t *to, const uint8_t *from, uint64_t count, unsigned size)
{
    switch (size) {
    case 1: asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    case 2: asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    case 4: asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    default: asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
}

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
    uint64_t *gpr = c->s.gpr, mask = register_mask(kind);
    uint64_t source = gpr[RSI] & mask, dest = gpr[RDI] & mask, room = to_page_end(dest);
    const uint8_t *from = NULL;
    if (kind & SITE_MOVS) {
        room = min_u64(room, to_page_end(source));
        from = room < size ? NULL : host_of(c, source, ACCESS_READ);
        if (!from)
            return 0;
    }
    uint8_t *to = room < size ? NULL : host_of(c, dest, ACCESS_WRITE);
    if (!to)
        return 0;
    count = min_u64(count, room / size);
    if (from)
        host_movs(to, from, count, size);
    else
        host_stos(to, count, size, gpr[RAX]);
    gpr[RDI] = (dest + count * size) & mask;
    if (from)
        gpr[RSI] = (source + count * size) & mask;
    return count;
}

const void *jit_gate_string(struct tcpu *c, uint32_t id, uint64_t value)
{
    struct jit *jit = c->jit;
    const struct jit_site site = jit->site[id];
    const struct jit_block *b = &jit->block[site.block];
    uint64_t left = site.access & SITE_REP ? c->s.gpr[RCX] & register_mask(site.access) : 1;
    uint64_t done = 0;
    c->counter[COUNTER_STRINGS]++;
    c->s.rip = c->insn_rip = b->rip + jit->mark[b->marks + site.insn].guest;
    if (c->s.rflags & FLAG_DF)
        return jit_step(c, site.block, site.insn);
    while (left) {
        uint64_t n = run(c, site.access, site.size, left);
        if (!n)
            return jit_step(c, site.block, site.insn);
        left -= n;
        if (site.access & SITE_REP)
            c->s.gpr[RCX] = left;
        done += n * site.size;
        if (left && done >= RUN_BYTES)
            return jit_continue(c);
    }
    return jit_resume(c, &site);
}
