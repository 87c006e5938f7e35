// The host-CPU oracle: every instruction of the decoder's table with random operands, after some
// that set flags and before some that use them, run on this machine's CPU and under Berth's engine;
// registers, flags, vector state, memory and faults must be equal byte for byte, but for flags that
// the architecture leaves undefined.
//
// usage: oracle [--count N] [--streams N] [--seed S] [--seconds T] [--op NAME] [--stream SEED]
//               [--engine interpret|translate|cramped|both|kvm] [--integer] [--avx512] [--bochs]
//               [--qemu]
//               [--verbose]
//   --count: cases per template (a form of an opcode). A failing case prints what reproduces it.
//   --streams: so many streams, each several instructions (stream.c); --stream: the one that
//   failed.
//   --seconds: rounds with one seed after the other for so long, with a line for each.
//   --integer: no x87, MMX, SSE, AVX, at some of which an emulated host CPU aborts
//   --avx512: only what is AVX-512's; skipped where the host has none.
//   --bochs: the host is emulated by Bochs; what that does in its own way is counted, not shown.
//   --qemu: the same for QEMU.
//   cramped: translated, with a TLB of one entry and the slowest way of every choice.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/bytes.h"
#include "cpu/insn.h"
#include "engine/engine.h"
#include "oracle.h"

#define BATCH 512
#define SHOWN_PER_OP 2
#define FLAGS_COMPARED (FLAGS_ARITH | FLAG_DF | FLAG_AC | FLAG_TF)

// Of what there is in a round.
struct amount {
    unsigned long cases; // of each template
    unsigned long streams;
};

struct run {
    struct template *templates;
    size_t template_count;
    struct test_case *batch; // shared with the child
    size_t batched;
    struct guest *guest[2];
    const char *guest_name[2];
    const char *only;
    bool verbose;
    bool integer;
    bool avx512;
    bool bochs, qemu;
    uint64_t forms; // that had cases
    unsigned shown[OP_COUNT];
    unsigned failed_ops;
    unsigned long long compared, differences, emulators_own, lost, faults;
};

// --- comparing -----------------------------------------------------------------------------------

// What an XSAVE area has, in words that are compared one by one.
static const struct part {
    const char *name;
    uint8_t component;
    uint8_t words; // of eight bytes, in one register
    uint16_t at, registers;
} parts[] = {{"xmm", 1, 2, 160, 16},
             {"ymmh", 2, 2, 576, 16},
             {"k", 5, 1, 1088, 8},
             {"zmmh", 6, 4, 1152, 16},
             {"zmm16+", 7, 8, 1664, 16}};

// A component that XSTATE_BV leaves out has its initial value.
static void normalize(uint8_t *x)
{
    if (!(x[512] & 1)) {
        memset(x, 0, 24);
        memset(x + 32, 0, 128);
        store_le16(x, 0x37f);
    }
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        if (!(x[512] >> parts[i].component & 1))
            memset(x + parts[i].at, 0, 8u * parts[i].words * parts[i].registers);
    }
    store_le16(x, load_le16(x) & 0x1f3f); // reserved bits are as the register was loaded last
    memset(x + 6, 0, 18);                 // opcode and pointers of the last x87 instruction
}

static bool differ_vectors(const uint8_t *a, const uint8_t *b, char *why, size_t size)
{
    for (const struct part *p = parts; p < parts + ARRAY_LEN(parts); p++) {
        for (unsigned i = 0; i < (unsigned)p->words * p->registers; i++) {
            unsigned at = p->at + 8 * i;
            if (load_le64(a + at) == load_le64(b + at))
                continue;
            snprintf(why, size, "%s%u word %u %016" PRIx64 ", host %016" PRIx64, p->name,
                     i / p->words, i % p->words, load_le64(b + at), load_le64(a + at));
            return true;
        }
    }
    return false;
}

static bool differ_fpu(uint8_t *a, uint8_t *b, char *why, size_t size)
{
    normalize(a);
    normalize(b);
    if (memcmp(a, b, 6) != 0) {
        snprintf(why, size, "x87 control %04x status %04x tags %02x, host %04x %04x %02x",
                 load_le16(b), load_le16(b + 2), b[4], load_le16(a), load_le16(a + 2), a[4]);
        return true;
    }
    if (load_le32(a + 24) != load_le32(b + 24)) {
        snprintf(why, size, "mxcsr %#x, host %#x", load_le32(b + 24), load_le32(a + 24));
        return true;
    }
    for (unsigned i = 0; i < 8; i++) {
        if (memcmp(a + 32 + 16 * i, b + 32 + 16 * i, 10) != 0) {
            snprintf(why, size, "st%u %04x:%016" PRIx64 ", host %04x:%016" PRIx64, i,
                     load_le16(b + 40 + 16 * i), load_le64(b + 32 + 16 * i),
                     load_le16(a + 40 + 16 * i), load_le64(a + 32 + 16 * i));
            return true;
        }
    }
    return differ_vectors(a, b, why, size);
}

// Faults that processors report in their own way: where masked stores touch nothing, which byte of
// a repeated string's chunk or of an XSAVE area; and addresses outside the world, which either
// system may use for itself.
static bool fault_exact(const struct test_case *c, const struct outcome *h, unsigned op)
{
    return h->cr2 >= WORLD_CODE && !(h->cr2 >> 63) && op != OP_MASKMOVQ && op != OP_MASKMOVDQU &&
           op != OP_VMASKMOVDQU;
}

// The instruction that faulted, or the first.
static void decode_culprit(const struct test_case *c, const struct outcome *o, struct insn *in)
{
    uint64_t at = o->regs.rip - WORLD_CODE;
    if (o->vector == VEC_BP || at >= CODE_BYTES - INSN_MAX)
        at = CASE_OFFSET;
    (void)insn_decode(c->code + at, INSN_MAX, c->mode, in);
}

static bool differ_fault(const struct test_case *c, const struct outcome *h,
                         const struct outcome *g, char *why, size_t size)
{
    struct insn in;
    decode_culprit(c, h, &in);
    bool exact = h->vector != VEC_PF || fault_exact(c, h, in.op);
    if (c->stream && in.op == OP_CMPS) // both operands may fault; which is first is not said
        exact = false;
    // An address both misaligned and, through RSP, not canonical: #GP or #SS.
    if (insn_form(&in)->flags & FORM_ALIGNED && h->vector == VEC_GP && g->vector == VEC_SS)
        return false;
    if (exact && (h->vector != g->vector || (h->vector != 3 && h->error != g->error))) {
        snprintf(why, size, "vector %u error %#x, host %u error %#x (cr2 %#" PRIx64 ")", g->vector,
                 g->error, h->vector, h->error, h->cr2);
        return true;
    }
    bool in_parts = insn_form(&in)->flags & FORM_STRING || in.op == OP_XRSTOR ||
                    in.op == OP_XSAVE || in.op == OP_XSAVEC || in.evex_aaa;
    uint64_t mask = in_parts ? ~4095ull : ~0ull;
    if (exact && h->vector == VEC_PF && (h->cr2 ^ g->cr2) & mask) {
        snprintf(why, size, "cr2 %#" PRIx64 ", host %#" PRIx64, g->cr2, h->cr2);
        return true;
    }
    return false;
}

static bool differ(const struct test_case *c, struct outcome *h, struct outcome *g, bool translated,
                   char *why, size_t size)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"};
    if (differ_fault(c, h, g, why, size))
        return true;
    if (h->vector != g->vector)
        return false;
    // 32-bit code leaves the upper halves undefined.
    if (h->selector[SEG_CS] == SELECTOR_CODE32 && c->mode == 8)
        h->regs.gpr[RSP] = g->regs.gpr[RSP] &= 0xffffffff;
    for (unsigned i = 0; i < 16; i++) {
        if (h->regs.gpr[i] != g->regs.gpr[i] && (c->mode == 8 || i < 8)) {
            snprintf(why, size, "%s%.0u %#" PRIx64 ", host %#" PRIx64 ", before %#" PRIx64,
                     i < 8 ? names[i] : "r", i < 8 ? 0 : i, g->regs.gpr[i], h->regs.gpr[i],
                     c->in.gpr[i]);
            return true;
        }
    }
    if (h->regs.rip != g->regs.rip) {
        snprintf(why, size, "rip %#" PRIx64 ", host %#" PRIx64, g->regs.rip, h->regs.rip);
        return true;
    }
    uint64_t may_differ = c->undefined | (h->vector != 3 ? c->undefined_at_fault : 0);
    if (h->vector != 3 && translated) // lost where they are overwritten unread after the restart
        may_differ |= FLAGS_ARITH;
    uint64_t flags = (h->regs.rflags ^ g->regs.rflags) & FLAGS_COMPARED & ~may_differ;
    if (flags) {
        snprintf(why, size, "flags %#" PRIx64 ", host %#" PRIx64 ", before %#" PRIx64,
                 g->regs.rflags, h->regs.rflags, c->in.rflags);
        return true;
    }
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        // A null selector's low bits are lost on the way out of the host's kernel.
        if (h->selector[i] != g->selector[i] && (h->selector[i] | g->selector[i]) > 3) {
            snprintf(why, size, "segment %u %#x, host %#x", i, g->selector[i], h->selector[i]);
            return true;
        }
    }
    for (unsigned i = 0; i < WORLD_DATA_BYTES; i++) {
        if (h->data[i] != g->data[i]) {
            snprintf(why, size, "data[%#x] %02x, host %02x", i, g->data[i], h->data[i]);
            return true;
        }
    }
    return differ_fpu(h->regs.xsave, g->regs.xsave, why, size);
}

// Differences that are Bochs's, where it is the host. It wants W clear in two instructions that
// ignore it; loads some operands whole in spite of a writemask; keeps the upper half of a gather of
// dwords by quadwords; does not scale VPEXTRW's displacement; and reports another address of an
// access of several bad pages or elements. Intel SDM volume 2: those instructions; section 2.8,
// exception types E4.nb, E5 and E6.
static bool is_bochs_own(const struct test_case *c, const struct outcome *h,
                         const struct outcome *g)
{
    static const char *const whole[] = {"vpmovsx", "vpmovzx", "vexpand", "vpexpand", "vbroadcast"};
    struct insn in;
    decode_culprit(c, h, &in);
    if (in.encoding != ENC_EVEX)
        return false;
    if (h->vector == VEC_UD)
        return in.rex & 8 && (in.op == OP_VPACKSSWB || in.op == OP_VEXTRACTPS);
    if (in.op == OP_VPEXTRW && in.disp_bytes == 1)
        return true;
    if (h->vector == VEC_BP)
        return in.veclen == 64 && (in.op == OP_VPGATHERQD || in.op == OP_VGATHERQPS);
    bool is_whole = false;
    for (unsigned i = 0; i < ARRAY_LEN(whole); i++)
        is_whole |= strncmp(insn_name(in.op), whole[i], strlen(whole[i])) == 0;
    return h->vector == VEC_PF && (g->vector == VEC_PF || (in.evex_aaa && is_whole));
}

// Those that are QEMU's: a rotation through carry has changed the flags when its store faults, so
// that it begins again with other ones. Under KVM the first store to a page faults.
static bool is_qemus_own(const struct test_case *c, const struct outcome *h)
{
    struct insn in;
    decode_culprit(c, h, &in);
    return (in.op == OP_RCL || in.op == OP_RCR) && in.operand[0].kind == OPND_MEM;
}

static void show(struct run *run, const struct test_case *c, const char *engine, const char *why)
{
    struct insn in;
    decode_culprit(c, &c->host, &in);
    if ((run->bochs && is_bochs_own(c, &c->host, &c->guest)) ||
        (run->qemu && is_qemus_own(c, &c->host))) {
        run->emulators_own++;
        return;
    }
    run->differences++;
    if (run->shown[in.op] == 0)
        run->failed_ops++;
    if (run->shown[in.op]++ >= SHOWN_PER_OP && !run->verbose)
        return;
    printf("# %s %u-bit %s", engine, c->mode * 8, c->stream ? "stream" : insn_name(in.op));
    for (unsigned i = 0; i < c->len; i++)
        printf(" %02x", c->code[CASE_OFFSET + i]);
    printf(" (%s %#" PRIx64 "): %s\n", c->stream ? "--stream" : "case", c->seed, why);
    if (!run->verbose)
        return;
    printf("#  ");
    for (uint64_t i = c->in.rip - WORLD_CODE; i < CASE_OFFSET + c->len + 8; i++)
        printf(" %02x", c->code[i]);
    printf("\n");
    for (unsigned i = 0; i < 16; i++)
        printf("#   r%u %016" PRIx64 " -> %016" PRIx64 "%s", i, c->in.gpr[i], c->host.regs.gpr[i],
               i % 2 ? "\n" : "");
    printf("#   flags %#" PRIx64 "\n", c->in.rflags);
}

// Whether an engine would give it to the host. Elsewhere than in AVX-512, #UD may be what the
// instruction does.
static bool taken(const struct test_case *c)
{
    struct insn in;
    return insn_decode(c->code + CASE_OFFSET, INSN_MAX, c->mode, &in) == INSN_OK && !c->stream &&
           insn_form(&in)->flags & FORM_AVX512;
}

static void flush(struct run *run)
{
    char why[200];
    if (run->batched == 0)
        return;
    if (!host_run(run->batch, run->batched)) {
        printf("1..0 # SKIP no child process can be locked in and run code here\n");
        exit(77);
    }
    for (size_t i = 0; i < run->batched; i++) {
        struct test_case *c = &run->batch[i];
        if (c->host.vector == UINT32_MAX) {
            run->lost++;
            continue;
        }
        run->faults += c->host.vector != VEC_BP;
        if (c->host.vector == VEC_UD && taken(c)) {
            show(run, c, "decoder", "the host knows no such instruction");
            continue;
        }
        for (unsigned g = 0; g < 2; g++) {
            if (!run->guest[g])
                continue;
            run->compared++;
            memset(&c->guest, 0, offsetof(struct outcome, data));
            if (!guest_run(run->guest[g], c))
                show(run, c, run->guest_name[g], "the engine gave up");
            else if (differ(c, &c->host, &c->guest, g == 1, why, sizeof why))
                show(run, c, run->guest_name[g], why);
        }
    }
    run->batched = 0;
}

static bool is_vector(const struct test_case *c)
{
    struct insn in;
    (void)insn_decode(c->code + CASE_OFFSET, INSN_MAX, c->mode, &in);
    return insn_form(&in)->flags & (FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512) ||
           in.op == OP_XSAVE || in.op == OP_XRSTOR || in.op == OP_XSAVEC;
}

static void run_template(struct run *run, size_t n, unsigned long count, uint64_t seed)
{
    const struct template *t = template_at(run->templates, n);
    if ((run->only && strcmp(run->only, template_name(t)) != 0) ||
        (run->avx512 && !template_is_avx512(t)))
        return;
    run->forms++;
    for (unsigned long i = 0; i < count; i++) {
        uint64_t case_seed = seed * 0x9e3779b97f4a7c15 + n * 1000003 + i;
        if (!case_make(t, 8, case_seed, &run->batch[run->batched]))
            continue;
        if (run->integer && is_vector(&run->batch[run->batched]))
            continue;
        if (++run->batched == BATCH)
            flush(run);
    }
}

static bool make_kvm_guest(struct run *run)
{
    struct engine_probe probe;
    engine_kvm.probe(0, false, &probe);
    if (!probe.usable) {
        printf("1..0 # SKIP %s\n", probe.why);
        exit(77);
    }
    run->guest_name[0] = "kvm";
    run->guest[0] = guest_new(&engine_kvm, 0);
    return run->guest[0] != NULL;
}

static bool make_guests(struct run *run, const char *which)
{
    if (strcmp(which, "kvm") == 0)
        return make_kvm_guest(run);
    run->guest_name[0] = "interpret";
    run->guest_name[1] = "translate";
    bool cramped = strcmp(which, "cramped") == 0;
    if (strcmp(which, "both") == 0 || strcmp(which, "interpret") == 0)
        run->guest[0] = guest_new(&engine_translate, ENGINE_DEBUG_INTERPRET);
    if (strcmp(which, "interpret") != 0)
        run->guest[1] = guest_new(
            &engine_translate, cramped ? ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_TINY_CACHE |
                                             ENGINE_DEBUG_POLL_EVERY_BLOCK | ENGINE_DEBUG_FLAGS_LIVE
                                       : 0);
    return run->guest[0] || run->guest[1];
}

static void run_stream(struct run *run, uint64_t seed)
{
    if (!stream_make(run->templates, run->template_count, seed, &run->batch[run->batched]))
        return;
    if (++run->batched == BATCH)
        flush(run);
}

static void run_round(struct run *run, const struct amount *amount, uint64_t seed)
{
    run->forms = 0;
    for (size_t n = 0; n < run->template_count; n++)
        run_template(run, n, amount->cases, seed);
    for (unsigned long i = 0; i < amount->streams; i++)
        run_stream(run, seed * 0x9e3779b97f4a7c15 + i);
    flush(run);
}

static uint64_t seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec;
}

// One seed after the other until the time is up, at least one.
static void soak(struct run *run, const struct amount *amount, uint64_t seed, uint64_t seconds)
{
    uint64_t start = seconds_now(), passed = 0;
    do {
        run_round(run, amount, seed);
        passed = seconds_now() - start;
        printf("# %" PRIu64 " of %" PRIu64 " s: --count %lu --streams %lu --seed %" PRIu64
               " done, in all %llu compared, %llu differ\n",
               passed, seconds, amount->cases, amount->streams, seed++, run->compared,
               run->differences);
        fflush(stdout);
    } while (passed < seconds);
}

int main(int argc, char **argv)
{
    struct run run = {0};
    struct amount amount = {.cases = 4};
    uint64_t seed = 1, seconds = 0, stream = 0;
    // A sanitizer's runtime overwrites vector registers while translated code has its guest's in
    // them.
    const char *which = BERTH_SANITIZED ? "interpret" : "both";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0)
            run.verbose = true;
        else if (strcmp(argv[i], "--integer") == 0)
            run.integer = true;
        else if (strcmp(argv[i], "--avx512") == 0)
            run.avx512 = true;
        else if (strcmp(argv[i], "--bochs") == 0)
            run.bochs = true;
        else if (strcmp(argv[i], "--qemu") == 0)
            run.qemu = true;
        else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc)
            amount.cases = strtoul(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--streams") == 0 && i + 1 < argc)
            amount.streams = strtoul(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--stream") == 0 && i + 1 < argc)
            stream = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            seconds = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--op") == 0 && i + 1 < argc)
            run.only = argv[++i];
        else if (strcmp(argv[i], "--engine") == 0 && i + 1 < argc)
            which = argv[++i];
    }
    run.batch = mmap(NULL, BATCH * sizeof *run.batch, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    run.template_count = templates_make(&run.templates);
    if (run.batch == MAP_FAILED || !run.template_count || !make_guests(&run, which))
        return 1;
    if (stream) {
        run_stream(&run, stream);
        flush(&run);
    } else if (seconds) {
        soak(&run, &amount, seed, seconds);
    } else {
        run_round(&run, &amount, seed);
    }
    if (run.avx512 && !run.forms) {
        printf("1..0 # SKIP this machine has no AVX-512\n");
        return 77;
    }
    printf(
        "1..1\n%sok 1 - engine_agrees_with_the_host_cpu # %" PRIu64 " forms, %llu compared, "
        "%llu differ in %u instructions, %llu are the emulator's own, %llu ended in a fault, %llu "
        "without outcome\n",
        run.differences ? "not " : "", run.forms, run.compared, run.differences, run.failed_ops,
        run.emulators_own, run.faults, run.lost);
    guest_free(run.guest[0]);
    guest_free(run.guest[1]);
    free(run.templates);
    return run.differences != 0;
}
