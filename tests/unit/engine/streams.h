// Random instruction streams for tests of the translator, and the comparison of two guests that ran
// one. Every stream ends in HLT, or in a fault, which halts too.
//
// The generator draws random bytes, keeps what decodes to an instruction that needs no privilege,
// and leaves out what reads flags that the one before left undefined. Half of the memory operands
// are made to hit the data area. Half of the streams are loops of a few rounds.
//
// FUZZ_ROUNDS=N: so many for each test; FUZZ_SECONDS=N: for so long; FUZZ_START=N: others than
// usual; FUZZ_SEED=N: only the one that a test named so.
#pragma once

#include <stdlib.h>

#include "guest64.h"

#include "cpu/insn.h"
#include "host/clock.h"

#define STREAM_INSNS 24
#define BRANCH_MAX 10
#define STRING_MAX 9
#define POPF_BYTES 6
#define PATCH_MAX 13
#define COUNTER (GUEST_DATA + 0xfff0) // of rounds, in streams that are loops

struct random {
    uint64_t state;
};

static inline uint64_t draw(struct random *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state;
}

// The seeds of a test.
struct seeds {
    uint64_t next;
    uint64_t left;
    ns_t until;
};

static inline uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 0) : otherwise;
}

// number: the test's.
static inline struct seeds seeds_of(unsigned number)
{
    const uint64_t seconds = setting("FUZZ_SECONDS", 0);
    if (getenv("FUZZ_SEED"))
        return (struct seeds){.next = setting("FUZZ_SEED", 0), .left = 1, .until = UINT64_MAX};
    return (struct seeds){.next = number + setting("FUZZ_START", 0) * 0xd1342543de82ef95,
                          .left = setting("FUZZ_ROUNDS", seconds ? UINT64_MAX : 300),
                          .until = seconds ? host_now() + seconds * NS_PER_SEC : UINT64_MAX};
}

static inline bool next_seed(struct seeds *s, uint64_t *seed)
{
    *seed = s->next;
    s->next += 0x9e3779b97f4a7c15;
    return s->left-- && host_now() < s->until;
}

struct stream {
    uint8_t code[STREAM_INSNS * (16 + BRANCH_MAX + STRING_MAX + POPF_BYTES + PATCH_MAX) + 32];
    unsigned len;
    unsigned undefined; // flags at the end
    unsigned ever;      // and anywhere before
    uint64_t base;      // of the guest's memory: 0 or GUEST_HIGH
};

static inline bool wanted(const struct insn *in, unsigned undefined)
{
    const struct insn_form *form = insn_form(in);
    if (form->flags & (FORM_SYSTEM | FORM_AVX512) || in->encoding == ENC_EVEX)
        return false;
    if (form->flags & FORM_BRANCH && (in->op != OP_JCC || in->prefix & PREFIX_OPSIZE))
        return false; // what a 66H means to branches is the processor's choice
    if (form->flags_read & undefined)
        return false;
    switch (in->op) {
    // Whether these mind misalignment is the processor's choice.
    case OP_SHA1MSG1:
    case OP_SHA1MSG2:
    case OP_SHA1NEXTE:
    case OP_SHA1RNDS4:
    case OP_SHA256MSG1:
    case OP_SHA256MSG2:
    case OP_SHA256RNDS2: return false;
    // Time, randomness, x87 pointers and the machine's own state differ between two runs.
    case OP_PUSHF:
    case OP_FXSAVE:
    case OP_FNSAVE:
    case OP_FNSTENV:
    case OP_CLFLUSH:
    case OP_CLFLUSHOPT:
    case OP_CLWB:
    case OP_ENTER:
    case OP_FRSTOR:
    case OP_FLDENV:
    case OP_FXRSTOR:
    case OP_LDMXCSR:
    case OP_VLDMXCSR:
    case OP_FLDCW:
    case OP_STD: return false;
    default: return !(form->flags & FORM_STRING && in->prefix & (PREFIX_REP | PREFIX_REPNE));
    }
}

// Shifts by CL leave flags undefined or as they were, depending on the count: taken as undefined.
static inline unsigned next_undefined(const struct insn *in, unsigned undefined)
{
    const struct insn_form *form = insn_form(in);
    bool maybe = form->flags_read & form->flags_undefined;
    unsigned written = maybe ? 0 : form->flags_written;
    return (undefined & ~written) | form->flags_undefined;
}

// Fields of 32 bits become addresses of data where a kernel has it.
static inline void move_fields(struct random *r, uint64_t base, const struct insn *in, uint8_t *out)
{
    uint32_t data = (uint32_t)base + GUEST_DATA;
    if (in->imm_bytes == 4 && in->opsize == 8 && draw(r) % 2)
        store_le32(out + in->len - 4, data + (draw(r) & 0xfff));
    if (in->disp_bytes == 4 && in->has_modrm && in->base != REG_RIP)
        store_le32(out + in->len - in->imm_bytes - 4, data + (draw(r) & 0x7ff));
}

static inline bool random_insn(struct random *r, bool code64, uint64_t base, unsigned undefined,
                               uint8_t *out, struct insn *in)
{
    uint64_t bytes[2] = {draw(r), draw(r)};
    memcpy(out, bytes, 16);
    unsigned at = 0;
    if (code64 && draw(r) % 2)
        out[at++] = 0x40 | (draw(r) & 15);
    if (draw(r) % 3 == 0)
        out[at] = 0x0f;
    if (draw(r) % 16 == 0)
        out[0] = 0x66;
    if (insn_decode(out, 15, code64 ? 8 : 4, in) != INSN_OK || !wanted(in, undefined))
        return false;
    // Displacements of 32 bits become small, so that addresses mostly exist.
    if (in->disp_bytes == 4 && in->len >= in->imm_bytes + 4u && in->has_modrm) {
        uint8_t *disp = out + in->len - in->imm_bytes - 4;
        disp[1] &= 7;
        disp[2] = in->base == REG_NONE && in->index == REG_NONE ? 3 : 0;
        disp[3] = 0;
    }
    if (base)
        move_fields(r, base, in, out);
    if (in->op == OP_JCC) // forward, over a few bytes: into the middle of something
        memset(out + in->len - in->imm_bytes, 0, in->imm_bytes);
    return insn_decode(out, 15, code64 ? 8 : 4, in) == INSN_OK && wanted(in, undefined);
}

// sub byte [COUNTER], 1; jnz to the start. A stream that spoils its counter makes 256 rounds.
static inline void close_loop(struct stream *s)
{
    static const uint8_t count[] = {0x80, 0x2c, 0x25, 0, 0, 0, 0, 1, 0x0f, 0x85};
    memcpy(s->code + s->len, count, sizeof count);
    store_le32(s->code + s->len + 3, COUNTER);
    s->len += sizeof count + 4;
    store_le32(s->code + s->len - 4, -s->len);
    s->undefined = 0;
}

// A jump or a call over a few bytes, so that blocks end and flags pass from one to the next.
static inline void add_branch(struct random *r, struct stream *s)
{
    unsigned skipped = (unsigned)(draw(r) % 6);
    s->code[s->len] = draw(r) % 4 ? 0xe9 : 0xe8;
    store_le32(s->code + s->len + 1, skipped);
    store_le64(s->code + s->len + 5, draw(r));
    s->len += 5 + skipped;
}

// A repeated string instruction with a count that is mostly small: comparisons only where no flag
// is undefined, since those with a count of 0 leave all as they were.
static inline void add_string(struct random *r, bool code64, struct stream *s)
{
    static const uint8_t opcodes[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    uint8_t opcode = opcodes[draw(r) % sizeof opcodes];
    if ((opcode == 0xa6 || opcode == 0xae) && s->undefined)
        return;
    s->code[s->len] = 0xb9; // mov ecx, imm
    store_le32(s->code + s->len + 1, draw(r) % (draw(r) % 8 ? 40 : 6000));
    s->len += 5;
    s->code[s->len++] = draw(r) % 2 ? 0xf2 : 0xf3;
    unsigned size = draw(r) % 4;
    if (size == 2)
        s->code[s->len++] = 0x66;
    if (size == 3 && code64)
        s->code[s->len++] = 0x48;
    s->code[s->len++] = opcode | (size != 0);
}

// PUSH of a number and POPF: all flags are defined after it. Not TF and DF, as above.
static inline void add_popf(struct random *r, struct stream *s)
{
    uint32_t flags = (uint32_t)draw(r) & ~(uint32_t)(FLAG_TF | FLAG_DF);
    if (draw(r) % 2)
        flags &= FLAGS_ARITH | FLAG_IF | FLAG_FIXED;
    s->code[s->len] = 0x68;
    store_le32(s->code + s->len + 1, flags);
    s->code[s->len + 5] = 0x9d;
    s->len += POPF_BYTES;
    s->undefined = 0;
}

// An instruction whose first byte may become another's (ADD, SUB or CMP of EAX with an
// immediate), and a store that makes it so, after it or before: to it alone, or with bytes beside
// it.
static inline void add_patch(struct random *r, struct stream *s)
{
    static const uint8_t opcodes[] = {0x05, 0x2d, 0x3d};
    static const uint8_t store[] = {0xc6, 0x04, 0x25};
    bool before = draw(r) % 2;
    unsigned patched = s->len + (before ? 8 : 0), at = s->len + (before ? 0 : 5);
    s->code[patched] = opcodes[draw(r) % sizeof opcodes];
    store_le32(s->code + patched + 1, (uint32_t)draw(r));
    memcpy(s->code + at, store, sizeof store);
    store_le32(s->code + at + 3, (uint32_t)s->base + GUEST_CODE + patched);
    s->code[at + 7] = opcodes[draw(r) % sizeof opcodes];
    if (draw(r) % 2) { // its immediate instead
        store_le32(s->code + at + 3, (uint32_t)s->base + GUEST_CODE + patched + 1);
        s->code[at + 7] = (uint8_t)draw(r);
    }
    s->len += 13;
    s->undefined = 0;
}

// At base the guest's memory begins for the code. patches: it changes itself, 64-bit code only.
static inline void make_stream(struct random *r, bool code64, uint64_t base, bool patches,
                               struct stream *s)
{
    *s = (struct stream){.base = base};
    for (unsigned n = 0; n < STREAM_INSNS;) {
        struct insn in;
        if (!random_insn(r, code64, base, s->undefined, s->code + s->len, &in))
            continue;
        s->undefined = next_undefined(&in, s->undefined);
        s->ever |= s->undefined;
        s->len += in.len;
        n++;
        if (draw(r) % 6 == 0)
            add_branch(r, s);
        if (draw(r) % 12 == 0)
            add_string(r, code64, s);
        if (draw(r) % 12 == 0)
            add_popf(r, s);
        if (patches && !s->undefined && draw(r) % 6 == 0)
            add_patch(r, s);
    }
    if (draw(r) % 2)
        close_loop(s);
    s->code[s->len++] = 0xf4;
}

// Streams cannot write below their code: tables and handlers stay what they are.
static inline void protect_tables(struct guest *g)
{
    for (uint64_t page = 0; page < GUEST_CODE >> 12; page++)
        store_le64(g->ram + 0x4000 + 8 * page, page << 12 | PTE_P | PTE_U);
}

static inline void load_stream(struct guest *g, const struct stream *s, bool code64, uint64_t seed)
{
    struct random r = {seed};
    memset(g->ram, 0, GUEST_CODE); // the stream before may have written to tables and handlers
    guest_tables(g);
    protect_tables(g);
    engine_translate.written(g->vm, 0, GUEST_CODE);
    guest_registers(g, code64);
    if (seed & 1)
        guest_user(g, code64);
    for (unsigned i = 0; i < 16; i++)
        if (draw(&r) % 4 == 0)
            g->state.gpr[i] = draw(&r) >> (draw(&r) & 63);
        else
            g->state.gpr[i] = GUEST_DATA + 0x8000 + (draw(&r) & 0xfff);
    g->state.gpr[RSP] = GUEST_STACK;
    if (!code64)
        for (unsigned i = 0; i < 16; i++)
            g->state.gpr[i] = (uint32_t)g->state.gpr[i];
    g->state.rflags |= draw(&r) & FLAGS_ARITH;
    for (unsigned i = 0; i < 0x10000; i++)
        g->ram[GUEST_DATA + i] = (uint8_t)draw(&r);
    g->ram[COUNTER] = 1 + (draw(&r) & 3);
    memset(g->ram + GUEST_STACK - 0x4000, 0, 0x8000);
    g->state.rip += s->base;
    guest_code(g, s->code, s->len);
}

// The stream wrote to page tables: what of the old ones a TLB still holds is up to it.
static inline bool changed_tables(const struct guest *g)
{
    for (unsigned at = 0x1000; at < 0x5000; at += 8) {
        uint64_t i = at >= 0x4000 ? (at - 0x4000) / 8 : 0;
        bool table = !(at & 0xfff) || at == 0x1000 + 8 * 511 || at == 0x2000 + 8 * 510 ||
                     at == 0x3000 + 8 * 8 || at == 0x3000 + 8 * 9;
        uint64_t want = at >= 0x4000 ? (i < 448 ? i << 12 : 0x80000000 + (i << 12)) | 7
                        : table      ? ((at & ~0xfffu) + 0x1000) | 7
                                     : 0;
        if ((load_le64(g->ram + at) & ~(uint64_t)(PTE_A | PTE_D)) != want)
            return true;
    }
    return false;
}

static inline bool same(struct guest *want, struct guest *got, const struct stream *s, bool exact)
{
    uint64_t flags = ~(uint64_t)s->undefined;
    bool faulted = want->state.rip != s->base + GUEST_CODE + s->len;
    if (faulted && !exact) { // the frame that the fault pushed holds flags that need not be exact
        uint64_t rsp = want->state.gpr[RSP];
        flags &= ~FLAGS_ARITH;
        for (unsigned back = 0; back < 256; back += 8) {
            uint64_t at = ((rsp >= s->base ? rsp - s->base : rsp) & ~7ull) - 128 + back;
            if (at <= GUEST_BYTES - 8)
                store_le64(want->ram + at, 0), store_le64(got->ram + at, 0);
        }
    } else if (faulted && s->ever) {
        return true;
    }
    for (unsigned i = 0; i < 16; i++) {
        int before = test_failures;
        CHECK_EQ(got->state.gpr[i], want->state.gpr[i]);
        if (test_failures != before)
            printf("# register %u\n", i);
    }
    CHECK_EQ(got->state.rip, want->state.rip);
    CHECK_EQ(got->state.rflags & flags, want->state.rflags & flags);
    CHECK_EQ(got->state.cr2, want->state.cr2);
    for (unsigned i = 0; i < CPU_XSAVE_BYTES; i++)
        if (got->state.xsave[i] != want->state.xsave[i]) {
            printf("# xsave[%u] = %#x, expected %#x\n", i, got->state.xsave[i],
                   want->state.xsave[i]);
            test_failures++;
        }
    for (unsigned i = GUEST_CODE; i < GUEST_BYTES; i++)
        if (got->ram[i] != want->ram[i]) {
            printf("# memory at %#x: %#x, expected %#x\n", i, got->ram[i], want->ram[i]);
            test_failures++;
        }
    return test_failures == 0;
}

static inline void print_stream(const struct stream *s, bool code64)
{
    for (unsigned at = 0; at < s->len;) {
        struct insn in;
        if (insn_decode(s->code + at, s->len - at, code64 ? 8 : 4, &in) != INSN_OK)
            break;
        printf("#   %#" PRIx64 ": %s  ", s->base + GUEST_CODE + at, insn_name(in.op));
        for (unsigned i = 0; i < in.len; i++)
            printf(" %02x", s->code[at + i]);
        printf("\n");
        at += in.len;
        if (in.op == OP_JMP_NEAR || in.op == OP_CALL_NEAR)
            at += (unsigned)in.imm; // of add_branch(): the bytes between are anything
    }
}
