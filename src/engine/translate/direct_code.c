// Which pages of code may run on the CPU itself. CPUID, XGETBV, RDTSC, RDTSCP, RDPID and LSL say
// what the guest is not to know, and in user mode nothing stops them, or only at a price for every
// stop; VMCALL and VMMCALL would be heard by a hypervisor under the host; XSAVE may write more than
// the guest's CPUID says. A page that has some of them runs as a copy in which each is an undefined
// instruction; the interpreter meets the original. Not modelled: code that reads those bytes of
// itself; LAR, VERR and VERW, which see the host's descriptors.
//
// Bytes that look like one may be the end of one instruction and the start of another (0F 31 in
// "cmp eax, 15; xor esi, esi"). Wherever one begins to read code, one soon falls into step with
// it. So it is read from many places well before them: what all of these ways meet is an
// instruction, what none meets is not. Where they disagree, the page does not run.
#include "engine/translate/direct_impl.h"

#include <string.h>

#include "base/copy.h"
#include "engine/translate/interp_impl.h"
#include "engine/translate/simd.h"
#include "engine/translate/unrest.h"
#include "host/ram_file.h"

#define WAYS_FROM 128 // bytes before
#define WAYS_TO 64
#define UNDEFINED 0x0b // after 0F: UD2

_Static_assert(DIRECT_COPIES *TVM_VCPUS *PAGE_SIZE <= RAM_FILE_SPARE, "room for all copies");

static bool is_group_1(uint8_t modrm)
{
    switch (modrm) {
    case 0xc1:              // VMCALL
    case 0xd0:              // XGETBV
    case 0xd9:              // VMMCALL
    case 0xf9: return true; // RDTSCP
    default: return false;
    }
}

// In memory; /4 is XSAVE, or XSAVEC after C7, /6 XSAVEOPT.
static bool is_save(uint8_t modrm)
{
    return modrm < 0xc0 && ((modrm >> 3 & 7) == 4 || (modrm >> 3 & 7) == 6);
}

// Could these bytes be one of them?
static bool looks_telling(const uint8_t *p, const uint8_t *end, bool saves)
{
    if (p[0] != 0x0f || end - p < 2)
        return false;
    switch (p[1]) {
    case 0xa2:              // CPUID
    case 0x31: return true; // RDTSC
    case 0x01: return end - p > 2 && is_group_1(p[2]);
    case 0x03: return end - p > 2 && p[2] >= 0xc0; // LSL, by which a CPU's number is found
    case 0xae: return end - p > 2 && saves && is_save(p[2]);
    case 0xc7: // RDPID, and RDSEED with it
        return end - p > 2 && (p[2] >= 0xf8 || (saves && is_save(p[2])));
    default: return false;
    }
}

static bool is_telling(unsigned op)
{
    switch (op) {
    case OP_CPUID:
    case OP_XGETBV:
    case OP_RDTSC:
    case OP_RDTSCP:
    case OP_RDPID:
    case OP_RDSEED:
    case OP_LSL:
    case OP_VMCALL:
    case OP_VMMCALL:
    case OP_XSAVE:
    case OP_XSAVEOPT:
    case OP_XSAVEC: return true;
    default: return false;
    }
}

static bool is_prefix(uint8_t byte)
{
    return (byte & 0xf0) == 0x40 || (byte & 0xe7) == 0x26 || (byte & 0xfc) == 0x64 ||
           byte == 0xf0 || (byte & 0xfe) == 0xf2;
}

// Is it one of those that tell, by an opcode at p and not by a displacement that looks like one?
// len: to what is read after it.
static bool decode_at(const uint8_t *at, const uint8_t *p, const uint8_t *end, unsigned *len)
{
    struct insn insn;
    size_t room = (size_t)(end - at);
    bool known = insn_decode(at, room < INSN_MAX ? room : INSN_MAX, 8, &insn) == INSN_OK;
    *len = known ? insn.len : 1;
    while (at < p && is_prefix(*at))
        at++;
    return known && at == p && is_telling(insn.op);
}

#define LONGEST 3 // bytes that tell, but for prefixes

struct code {
    uint8_t before[WAYS_FROM + LONGEST]; // the end of the page that lies before it
    uint8_t page[PAGE_SIZE];
};

// Of the ways to p, how many meet one that tells there? Those that come to one place are the same
// from there on, so each place is read once, the last one first.
static unsigned ways_met(const uint8_t *p, const uint8_t *end)
{
    bool meets[WAYS_FROM]; // by the distance from p
    unsigned met = 0;
    for (unsigned back = 0; back < WAYS_FROM; back++) {
        unsigned len;
        bool telling = decode_at(p - back, p, end, &len);
        meets[back] = len > back ? telling : meets[back - len];
    }
    for (unsigned back = WAYS_TO; back < WAYS_FROM; back++)
        met += meets[back];
    return met;
}

// Makes it undefined in the copy if it is an instruction. False: one cannot tell, or not do so.
static bool settle(const struct code *code, const uint8_t *p, uint8_t *copy)
{
    unsigned met = ways_met(p, code->page + PAGE_SIZE);
    if (met != WAYS_FROM - WAYS_TO)
        return met == 0;
    if (p + 1 < code->page)
        return false;
    copy[p + 1 - code->page] = UNDEFINED;
    return true;
}

// Puts the copy of the page in order, also where an instruction begins on the page before.
static bool settle_page(const struct code *code, bool saves, uint8_t *copy)
{
    const uint8_t *end = code->page + PAGE_SIZE, *p = code->page - LONGEST + 1;
    while ((p = memchr(p, 0x0f, (size_t)(end - p)))) {
        if (looks_telling(p, end, saves) && !settle(code, p, copy))
            return false;
        p++;
    }
    return true;
}

static uint64_t copy_number(const struct tcpu *c, unsigned i)
{
    return (c->vm->config.ram_bytes >> PAGE_SHIFT) + c->index * DIRECT_COPIES + i;
}

static unsigned copy_of(const struct direct *d, uint64_t n)
{
    unsigned i = 0;
    while (i < d->copies && d->copy[i] != n)
        i++;
    return i;
}

// Of page n: the copy that it is to have. False: there are too many.
static bool keep_copy(struct tcpu *c, uint64_t n, const uint8_t *copy)
{
    struct direct *d = c->direct;
    unsigned i = copy_of(d, n);
    if (i == d->copies)
        i = copy_of(d, ~0ull);
    if (i == DIRECT_COPIES)
        return false;
    if (i == d->copies)
        d->copies++;
    d->copy[i] = n;
    uint8_t *spare = c->vm->config.ram_file->spare;
    copy_bytes(spare + (uint64_t)(c->index * DIRECT_COPIES + i) * PAGE_SIZE, copy, PAGE_SIZE);
    return true;
}

// The next page was perhaps looked at when nobody knew what is before it.
static void look_at_next_again(struct tcpu *c, gva_t at, const uint8_t *page)
{
    const uint8_t *end = page + PAGE_SIZE;
    bool begun = end[-1] == 0x0f || end[-2] == 0x0f;
    const uint8_t *next = begun ? direct_code_at(c, at + PAGE_SIZE) : NULL;
    if (next)
        direct_look_again(c, (uint64_t)(next - (uint8_t *)c->vm->config.ram_host) >> PAGE_SHIFT);
}

static enum direct_page look(struct tcpu *c, gva_t at, uint64_t n)
{
    struct code code;
    uint8_t copy[PAGE_SIZE];
    const uint8_t *before = direct_code_at(c, at - PAGE_SIZE);
    const uint8_t *host = (const uint8_t *)c->vm->config.ram_host + (n << PAGE_SHIFT);
    copy_bytes(code.page, host, PAGE_SIZE);
    copy_bytes(copy, code.page, PAGE_SIZE);
    if (before)
        copy_bytes(code.before, before + PAGE_SIZE - sizeof code.before, sizeof code.before);
    else
        fill_bytes(code.before, 0x90, sizeof code.before);
    look_at_next_again(c, at, code.page);
    if (!settle_page(&code, simd_host_saves_more(c), copy))
        return PAGE_REFUSED;
    if (memcmp(copy, code.page, PAGE_SIZE) == 0)
        return PAGE_RUNS;
    return keep_copy(c, n, copy) ? PAGE_RUNS_COPY : PAGE_REFUSED;
}

uint64_t direct_code_page(struct tcpu *c, gva_t at, gpa_t gpa, uint64_t n)
{
    uint8_t *known = &c->direct->page[n];
    if (unrest_is_open(c->vm, gpa))
        return ~0ull;
    if (!(*known & PAGE_KNOWN) && tvm_protect_code(c->vm, c, gpa, PAGE_SIZE))
        *known |= (uint8_t)look(c, at, n);
    if (*known & PAGE_RUNS)
        return n;
    return *known & PAGE_RUNS_COPY ? copy_number(c, copy_of(c->direct, n)) : ~0ull;
}

uint64_t direct_copied(const struct tcpu *c, uint64_t n)
{
    unsigned i = copy_of(c->direct, n);
    return i < c->direct->copies ? copy_number(c, i) : ~0ull;
}

void direct_forget_code(struct direct *d, uint64_t n)
{
    d->page[n] &= (uint8_t)~PAGE_KNOWN;
    unsigned i = copy_of(d, n);
    if (i < d->copies)
        d->copy[i] = ~0ull;
}
