// MOVS, STOS, LODS, SCAS, CMPS with their repeat prefixes. Source: Intel SDM volume 2 (REP) and
// volume 1 section 7.3.9. INS and OUTS are the system part's.
//
// The work is done by the host's own string instruction: on guest memory directly, in runs that
// stay within one page of source and destination, or, where memory is not plain (MMIO, code, page
// ends, segment limits), on a copy of one element. Registers are exact after every run, so that a
// fault, an interrupt or a single step finds the instruction ready to be restarted.
#include "engine/translate/string_run.h"

#include "engine/translate/integer_impl.h"

enum string_kind {
    STRING_SOURCE = 1,   // reads through rSI
    STRING_DEST = 2,     // uses rDI
    STRING_WRITES = 4,   // writes there
    STRING_COMPARES = 8, // sets flags; REPE and REPNE look at ZF
};

#define HOST(text)                                                              \
    asm volatile(text                                                           \
                 : "+S"(r->source), "+D"(r->dest), "+c"(r->count), "+a"(r->acc) \
                 :                                                              \
                 : "cc", "memory")
#define BOTH_WAYS(text, tail)                \
    if (down)                                \
        HOST("std\n\t" text tail "\n\tcld"); \
    else                                     \
        HOST(text tail)
#define RUN(name, text, tail)                                 \
    void name(struct string_run *r, unsigned size, bool down) \
    {                                                         \
        switch (size) {                                       \
        case 1: BOTH_WAYS(text "b", tail); break;             \
        case 2: BOTH_WAYS(text "w", tail); break;             \
        case 4: BOTH_WAYS(text "l", tail); break;             \
        default: BOTH_WAYS(text "q", tail); break;            \
        }                                                     \
    }

RUN(string_movs, "rep movs", "")
RUN(string_stos, "rep stos", "")
RUN(string_lods, "rep lods", "")
RUN(string_repe_scas, "repe scas", FLAGS_OUT)
RUN(string_repne_scas, "repne scas", FLAGS_OUT)
RUN(string_repe_cmps, "repe cmps", FLAGS_OUT)
RUN(string_repne_cmps, "repne cmps", FLAGS_OUT)

// One string instruction being executed.
struct string {
    struct tcpu *c;
    const struct insn *insn;
    unsigned kind; // enum string_kind
    string_run_fn *fn;
    unsigned size;
    bool down;
};

static uint64_t address_register(const struct string *s, unsigned reg)
{
    return s->c->s.gpr[reg] & size_mask(s->insn->addrsize);
}

static gva_t source_linear(const struct string *s)
{
    return seg_linear(s->c, s->insn->seg, address_register(s, RSI), s->size, ACCESS_READ);
}

static gva_t dest_linear(const struct string *s)
{
    enum access access = s->kind & STRING_WRITES ? ACCESS_WRITE : ACCESS_READ;
    return seg_linear(s->c, SEG_ES, address_register(s, RDI), s->size, access);
}

// Moves the registers past n elements and takes over what the run computed.
static void commit(const struct string *s, const struct string_run *r, uint64_t n)
{
    struct tcpu *c = s->c;
    uint64_t step = s->down ? -n * s->size : n * s->size;
    unsigned width = s->insn->addrsize;
    if (s->kind & STRING_SOURCE)
        gpr_write(c, RSI, width, false, (c->s.gpr[RSI] + step) & size_mask(width));
    if (s->kind & STRING_DEST)
        gpr_write(c, RDI, width, false, (c->s.gpr[RDI] + step) & size_mask(width));
    if (s->insn->prefix & (PREFIX_REP | PREFIX_REPNE))
        gpr_write(c, RCX, width, false, (c->s.gpr[RCX] - n) & size_mask(width));
    if (s->kind & STRING_COMPARES)
        c->s.rflags = flags_unpack(c->s.rflags, r->acc);
    else
        c->s.gpr[RAX] = r->acc;
}

// One element by way of a copy: right for every kind of memory.
static void run_element(const struct string *s)
{
    struct tcpu *c = s->c;
    uint64_t source = 0, dest = 0;
    if (s->kind & STRING_SOURCE)
        source = mem_read(c, source_linear(s), s->size);
    gva_t to = s->kind & STRING_DEST ? dest_linear(s) : 0;
    if (s->kind & STRING_DEST && !(s->kind & STRING_WRITES))
        dest = mem_read(c, to, s->size);
    struct string_run r = {(uint8_t *)&source, (uint8_t *)&dest, 1, c->s.gpr[RAX]};
    s->fn(&r, s->size, s->down);
    if (s->kind & STRING_WRITES)
        mem_write(c, to, s->size, dest);
    commit(s, &r, 1);
}

// How many elements from this address on lie within its page and below a wrap of the address size.
static uint64_t elements_in_page(const struct string *s, gva_t at)
{
    uint64_t offset = at & PAGE_MASK;
    if (offset + s->size > PAGE_SIZE)
        return 0;
    return s->down ? offset / s->size + 1 : (PAGE_SIZE - offset) / s->size;
}

// Runs are for segments without a limit to mind, and where no alignment checks are on.
static bool segment_is_plain(const struct string *s, unsigned seg)
{
    uint32_t code = s->c->mode & MODE_CODE_SIZE;
    return code == MODE_CODE64 || (s->c->mode & MODE_FLAT && seg != SEG_FS && seg != SEG_GS);
}

static bool may_run(const struct string *s)
{
    bool plain = !(s->kind & STRING_SOURCE) || segment_is_plain(s, s->insn->seg);
    return plain && segment_is_plain(s, SEG_ES) && !(s->c->mode & (MODE_ALIGN | MODE_STEP)) &&
           s->insn->addrsize > 2;
}

// The host's view of n elements that begin (or, downwards, end) at `at`; NULL if not plain memory.
static uint8_t *host_range(const struct string *s, gva_t at, uint64_t n, enum access access)
{
    uint64_t before = s->down ? (n - 1) * s->size : 0;
    uint8_t *low = mem_host(s->c, at - before, (unsigned)(n * s->size), access);
    return low ? low + before : NULL;
}

// Runs up to `count` elements at host speed; returns false, nothing done, where that is impossible.
// Faults of the source come before those of the destination.
static bool run_many(const struct string *s, uint64_t count)
{
    struct string_run r = {.acc = s->c->s.gpr[RAX]};
    enum access access = s->kind & STRING_WRITES ? ACCESS_WRITE : ACCESS_READ;
    if (s->kind & STRING_SOURCE) {
        gva_t at = source_linear(s);
        count = min_u64(count, elements_in_page(s, at));
        if (count < 2 || !(r.source = host_range(s, at, count, ACCESS_READ)))
            return false;
    }
    if (s->kind & STRING_DEST) {
        gva_t at = dest_linear(s);
        count = min_u64(count, elements_in_page(s, at));
        if (count < 2 || !(r.dest = host_range(s, at, count, access)))
            return false;
    }
    r.count = count;
    s->fn(&r, s->size, s->down);
    commit(s, &r, count - r.count);
    return true;
}

// After a run: does the repetition go on?
static bool goes_on(const struct string *s)
{
    if (!address_register(s, RCX))
        return false;
    if (!(s->kind & STRING_COMPARES))
        return true;
    bool equal = s->c->s.rflags & FLAG_ZF;
    return s->insn->prefix & PREFIX_REPNE ? !equal : equal;
}

static void run_string(struct tcpu *c, const struct insn *insn, unsigned kind, string_run_fn *fn)
{
    struct string s = {c, insn, kind, fn, insn->opsize, c->s.rflags & FLAG_DF};
    if (!(insn->prefix & (PREFIX_REP | PREFIX_REPNE))) {
        run_element(&s);
        return;
    }
    if (!address_register(&s, RCX))
        return;
    bool fast = may_run(&s);
    for (;;) {
        if (!fast || !run_many(&s, address_register(&s, RCX)))
            run_element(&s);
        if (!goes_on(&s))
            return;
        if (__atomic_load_n(&c->pending, __ATOMIC_RELAXED) || c->mode & MODE_STEP) {
            c->s.rip = c->insn_rip; // resumes here
            return;
        }
    }
}

void op_movs(struct tcpu *c, const struct insn *insn)
{
    run_string(c, insn, STRING_SOURCE | STRING_DEST | STRING_WRITES, string_movs);
}

void op_stos(struct tcpu *c, const struct insn *insn)
{
    run_string(c, insn, STRING_DEST | STRING_WRITES, string_stos);
}

void op_lods(struct tcpu *c, const struct insn *insn)
{
    run_string(c, insn, STRING_SOURCE, string_lods);
}

void op_scas(struct tcpu *c, const struct insn *insn)
{
    run_string(c, insn, STRING_DEST | STRING_COMPARES,
               insn->prefix & PREFIX_REPNE ? string_repne_scas : string_repe_scas);
}

void op_cmps(struct tcpu *c, const struct insn *insn)
{
    run_string(c, insn, STRING_SOURCE | STRING_DEST | STRING_COMPARES,
               insn->prefix & PREFIX_REPNE ? string_repne_cmps : string_repe_cmps);
}
