// Random instructions in 64-bit code, run by the handlers and by the host's CPU: registers, flags,
// vector state and memory must come out the same, and faults where the host faults.
#include <signal.h>
#include <stdlib.h>
#undef REG_RIP // of <ucontext.h>; cpu/insn.h has its own

#include "fake_cpu.h"
#include "host_run.h"
#include "test.h"

static uint64_t seed = 0x9e3779b97f4a7c15ull;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static unsigned pick(unsigned n)
{
    return (unsigned)(next_random() >> 20) % n;
}

// Bytes of an instruction whose memory operand, if any, is [rbx + small].
static unsigned make_code(uint8_t *code, bool vector)
{
    static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0xf0};
    unsigned n = 0;
    if (pick(vector ? 2 : 4) == 0) {
        code[n++] = 0xc4;
        code[n++] = (uint8_t)((next_random() & 0xe0) | (1 + pick(3)));
        code[n++] = (uint8_t)next_random();
    } else {
        if (pick(3) == 0)
            code[n++] = prefixes[pick(4)];
        if (pick(2))
            code[n++] = (uint8_t)(0x40 | pick(16));
        unsigned map = vector ? 1 + pick(3) : pick(4);
        if (map)
            code[n++] = 0x0f;
        if (map > 1)
            code[n++] = map == 2 ? 0x38 : 0x3a;
    }
    code[n++] = (uint8_t)next_random();
    code[n++] = (uint8_t)(pick(3) ? 0xc0 | pick(64) : 0x43 | pick(8) << 3);
    for (unsigned i = 0; i < 9; i++)
        code[n++] = (uint8_t)(pick(4) ? next_random() & 0x1f : next_random());
    return n;
}

static bool is_vector(const struct insn *insn)
{
    return insn_form(insn)->flags & (FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512);
}

// Left out: what leaves the little world of the test, or differs by design (FIP, random numbers).
static bool comparable(const struct tcpu *c, const struct insn *insn)
{
    const struct insn_form *form = insn_form(insn);
    if (form->flags & (FORM_SYSTEM | FORM_BRANCH | FORM_STACK | FORM_AVX512))
        return false;
    if (!is_vector(insn) && !interp_integer[insn->op])
        return false;
    if (form->feature != FEATURE_NONE && !feature_has(&c->features, form->feature))
        return false;
    bool memory = insn->has_modrm && insn->modrm < 0xc0;
    if (insn->seg >= SEG_FS || (memory && (insn->base != RBX || insn->index != REG_NONE)))
        return false;
    switch (insn->op) {
    case OP_SHA1MSG1: // AMD processors do not ask for alignment
    case OP_SHA1MSG2:
    case OP_SHA1NEXTE:
    case OP_SHA1RNDS4:
    case OP_SHA256MSG1:
    case OP_SHA256MSG2:
    case OP_SHA256RNDS2: return insn->modrm >= 0xc0;
    case OP_XLAT: // addresses memory by other registers than RBX
    case OP_MASKMOVQ:
    case OP_MASKMOVDQU:
    case OP_VMASKMOVDQU:
    case OP_FXSAVE:
    case OP_FXRSTOR:
    case OP_FNSAVE:
    case OP_FNSTENV:
    case OP_FLDENV:
    case OP_FRSTOR:
    case OP_CMPXCHG16B: return false;
    case OP_BT:
    case OP_BTS:
    case OP_BTR:
    case OP_BTC: return insn->operand[0].kind != OPND_MEM || insn->operand[1].kind == OPND_IMM;
    case OP_NOP: return insn->opcode != 0x0d; // undefined on AMD processors
    case OP_MOV: return insn->map != MAP_ONE || (insn->opcode & 0xfc) != 0xa0;
    default: return !(form->flags & (FORM_STRING | FORM_VSIB));
    }
}

static void make_state(struct tcpu *c, struct host_state *h)
{
    static const uint64_t special[] = {0,      1,          ~0ull,      0x80,
                                       0x8000, 0x80000000, 1ull << 63, 0x7fffffff};
    for (unsigned i = 0; i < 16; i++)
        c->s.gpr[i] = pick(2) ? next_random() : special[pick(8)];
    c->s.gpr[RBX] = FAKE_BASE + PAGE_SIZE + 64 * pick(8);
    c->s.rflags = FLAG_FIXED | FLAG_IF | (next_random() & FLAGS_ARITH);
    for (unsigned i = 32; i < 832; i++)
        c->s.xsave[i] = i >= 416 && i < 576 ? 0 : (uint8_t)next_random();
    for (unsigned i = 0; i < 8; i++) // valid numbers on the x87 stack
        c->s.xsave[32 + 16 * i + 7] |= 0x80, c->s.xsave[32 + 16 * i + 9] = 0x3f;
    memset(c->s.xsave, 0, 32);
    c->s.xsave[0] = 0x7f, c->s.xsave[1] = 3, c->s.xsave[4] = (uint8_t)next_random();
    c->s.xsave[24] = 0x80, c->s.xsave[25] = 0x1f;
    memset(c->s.xsave + 512, 0, 64);
    c->s.xsave[512] = 7;
    memcpy(h->gpr, c->s.gpr, sizeof h->gpr);
    memcpy(h->xsave, c->s.xsave, sizeof h->xsave);
    h->rflags = c->s.rflags;
    for (unsigned i = 0; i < FAKE_BYTES; i += 8)
        if (i < 2 * PAGE_SIZE)
            memcpy(fake_memory() + i, &(uint64_t){next_random()}, 8);
}

static bool signal_fits(int number, const struct fake_fault *fault)
{
    switch (number) {
    case 0: return !fault->raised;
    case SIGILL: return fault->raised && fault->vector == VEC_UD;
    case SIGFPE:
        return fault->raised &&
               (fault->vector == VEC_DE || fault->vector == VEC_XM || fault->vector == VEC_MF);
    default:
        return fault->raised &&
               (fault->vector == VEC_GP || fault->vector == VEC_PF || fault->vector == VEC_SS);
    }
}

// Offset of the first byte in which two images differ, or -1. Not compared: pointers, MXCSR's mask,
// what lies between ten-byte registers.
static int first_difference(const uint8_t *a, const uint8_t *b)
{
    for (int i = 0; i < 832; i++) {
        bool counts = i < 6 || (i >= 24 && i < 28) || (i >= 32 && i < 160 && i % 16 < 10) ||
                      (i >= 160 && i < 416) || i >= 576;
        if (counts && a[i] != b[i])
            return i;
    }
    return -1;
}

static void describe(const struct insn *insn, const uint8_t *code)
{
    printf("# %s:", insn_name(insn->op));
    for (unsigned i = 0; i < insn->len; i++)
        printf(" %02x", code[i]);
    printf("\n");
}

static bool compare_one(struct tcpu *c, const uint8_t *code, const struct insn *insn)
{
    static uint8_t before[2 * PAGE_SIZE], after[2 * PAGE_SIZE];
    struct host_state h, start;
    struct fake_fault fault;
    make_state(c, &h);
    start = h;
    memcpy(before, fake_memory(), sizeof before);
    fake_run(c, code, insn->len, &fault);
    fpu_to_memory(c);
    memcpy(after, fake_memory(), sizeof after);
    memcpy(fake_memory(), before, sizeof before);
    int number = host_run(&h, code, insn->len);
    uint64_t mask = FLAGS_ARITH & ~insn_form(insn)->flags_undefined;
    bool same = signal_fits(number, &fault);
    if (same && number == 0)
        same = !memcmp(h.gpr, c->s.gpr, sizeof h.gpr) && !((h.rflags ^ c->s.rflags) & mask) &&
               first_difference(h.xsave, c->s.xsave) < 0 &&
               !memcmp(fake_memory(), after, sizeof after);
    if (same)
        return true;
    describe(insn, code);
    printf("# signal %d, fault %d vector %u error %#x at %#" PRIx64 "\n", number, fault.raised,
           fault.vector, fault.error, fault.address);
    for (unsigned i = 0; i < 16 && !number; i++)
        if (h.gpr[i] != c->s.gpr[i])
            printf("# r%u was %" PRIx64 ": %" PRIx64 ", host %" PRIx64 "\n", i, start.gpr[i],
                   c->s.gpr[i], h.gpr[i]);
    printf("# flags were %" PRIx64 ": %" PRIx64 ", host %" PRIx64 "\n", start.rflags, c->s.rflags,
           h.rflags);
    int at = number ? -1 : first_difference(h.xsave, c->s.xsave);
    if (at >= 0)
        printf("# image at %d was %x: %x, host %x\n", at, start.xsave[at], c->s.xsave[at],
               h.xsave[at]);
    return false;
}

static void compare_many(bool vector, unsigned wanted)
{
    struct tcpu *c = fake_cpu_new(8);
    unsigned done = 0, wrong = 0;
    static uint8_t seen[OP_COUNT];
    for (unsigned i = 0; done < wanted && i < wanted * 200 && wrong < 10; i++) {
        uint8_t code[32];
        struct insn insn;
        unsigned len = make_code(code, vector);
        if (insn_decode(code, len, 8, &insn) != INSN_OK || is_vector(&insn) != vector ||
            !comparable(c, &insn))
            continue;
        seen[insn.op] = 1;
        wrong += !compare_one(c, code, &insn);
        done++;
    }
    unsigned kinds = 0;
    for (unsigned i = 0; i < OP_COUNT; i++)
        kinds += seen[i];
    printf("# %u instructions of %u kinds\n", done, kinds);
    CHECK_EQ(wrong, 0);
    CHECK_EQ(done, wanted);
    fake_cpu_free(c);
}

static void integer_instructions_compute_what_the_host_computes(void)
{
    compare_many(false, getenv("LONG") ? 400000 : 20000);
}

static void vector_instructions_compute_what_the_host_computes(void)
{
    compare_many(true, getenv("LONG") ? 400000 : 20000);
    host_run_end();
}

TEST_MAIN(TEST(integer_instructions_compute_what_the_host_computes),
          TEST(vector_instructions_compute_what_the_host_computes))
