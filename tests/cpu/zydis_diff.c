// Our decoder against Zydis: length, validity, mnemonic, memory operand, flags. The bytes are the
// code of ELF files on this machine (swept linearly) and random strings in all three modes.
//
// usage: zydis_diff [--all] [--random N] [--seed S] [--verbose] [FILE...]
// Known differences are listed in known_difference() with their reasons.
#include "cpu/insn.h"

#include <Zydis/Zydis.h>
#include <elf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SAMPLE_BYTES (3u << 20) // of each file, unless --all
#define SHOWN 40                // mismatches printed

struct run {
    ZydisDecoder decoder[9]; // by mode
    uint64_t seed;
    size_t limit;
    unsigned long long compared, differences, known;
    unsigned shown;
    bool verbose;
};

// --- names ---------------------------------------------------------------------------------------

// Zydis's name (or ours) -> the name both are compared under.
static const struct {
    const char *name, *common;
} aliases[] = {
    {"cwde", "cbw"},
    {"cdqe", "cbw"},
    {"cdq", "cwd"},
    {"cqo", "cwd"},
    {"pushad", "pusha"},
    {"popad", "popa"},
    {"pushfd", "pushf"},
    {"pushfq", "pushf"},
    {"popfd", "popf"},
    {"popfq", "popf"},
    {"iretd", "iret"},
    {"iretq", "iret"},
    {"jecxz", "jcxz"},
    {"jrcxz", "jcxz"},
    {"mov_cr", "mov"},
    {"mov_dr", "mov"},
    {"mov_sreg", "mov"},
    {"push_sreg", "push"},
    {"pop_sreg", "pop"},
    {"call_near", "call"},
    {"call_far", "call"},
    {"jmp_near", "jmp"},
    {"jmp_far", "jmp"},
    {"ret_near", "ret"},
    {"ret_far", "ret"},
    {"movq", "movd"},
    {"vmovq", "vmovd"},
    {"pinsrq", "pinsrd"},
    {"vpinsrq", "vpinsrd"},
    {"pextrq", "pextrd"},
    {"vpextrq", "vpextrd"},
    {"vpbroadcastq", "vpbroadcastd"},
    {"kmovq", "kmovd"},
    {"fxsave64", "fxsave"},
    {"fxrstor64", "fxrstor"},
    {"xsave64", "xsave"},
    {"xrstor64", "xrstor"},
    {"xsaveopt64", "xsaveopt"},
    {"xsavec64", "xsavec"},
    {"xsaves64", "xsaves"},
    {"xrstors64", "xrstors"},
    {"prefetchnta", "prefetch"},
    {"prefetcht0", "prefetch"},
    {"prefetcht1", "prefetch"},
    {"prefetcht2", "prefetch"},
    {"prefetchw", "prefetch"},
    {"prefetchwt1", "prefetch"},
    {"fsetpm287_nop", "fnop"},
    {"feni8087_nop", "fnop"},
    {"fdisi8087_nop", "fnop"},
    {"fstpnce", "fstp"},
    {"cldemote", "nop"},
    {"bndldx", "nop"},
    {"bndstx", "nop"},
    {"bndmov", "nop"},
    {"bndcl", "nop"},
    {"bndcu", "nop"},
    {"bndcn", "nop"},
    {"bndmk", "nop"},
    {"rdsspd", "nop"},
    {"rdsspq", "nop"},
    {"sysretq", "sysret"},
};

static const char *common_name(const char *name)
{
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++) {
        if (strcmp(name, aliases[i].name) == 0)
            return aliases[i].common;
    }
    return name;
}

static bool same_name(const ZydisDecodedInstruction *z, unsigned op)
{
    const char *theirs = ZydisMnemonicGetString(z->mnemonic), *ours = insn_name(op);
    char stem[32];
    if (strcmp(theirs, ours) == 0)
        return true;
    // REX.B makes 90 an exchange with R8, whatever F3 says.
    if (z->mnemonic == ZYDIS_MNEMONIC_PAUSE && op == OP_XCHG)
        return true;
    switch (z->meta.category) {
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_IOSTRINGOP:
        snprintf(stem, sizeof stem, "%.*s", (int)strlen(theirs) - 1, theirs);
        return strcmp(stem, ours) == 0;
    case ZYDIS_CATEGORY_SETCC: return op == OP_SETCC;
    case ZYDIS_CATEGORY_CMOV: return op == OP_CMOVCC;
    case ZYDIS_CATEGORY_COND_BR:
        if (op == OP_JCC)
            return theirs[0] == 'j' && !strstr(theirs, "cxz");
        break;
    default: break;
    }
    return strcmp(common_name(theirs), common_name(ours)) == 0;
}

// --- what is allowed to differ -------------------------------------------------------------------

static bool absent_extension(ZydisISAExt ext)
{
    switch (ext) {
    // Never shown to a guest: opcodes.tab has no rows, so they are #UD.
    case ZYDIS_ISA_EXT_AMD3DNOW:
    case ZYDIS_ISA_EXT_AMD_INVLPGB:
    case ZYDIS_ISA_EXT_AMX_BF16:
    case ZYDIS_ISA_EXT_AMX_INT8:
    case ZYDIS_ISA_EXT_AMX_TILE:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_CET:
    case ZYDIS_ISA_EXT_CLZERO:
    case ZYDIS_ISA_EXT_ENQCMD:
    case ZYDIS_ISA_EXT_FMA4:
    case ZYDIS_ISA_EXT_HRESET:
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
    case ZYDIS_ISA_EXT_KNC:
    case ZYDIS_ISA_EXT_KNCE:
    case ZYDIS_ISA_EXT_KNCV:
    case ZYDIS_ISA_EXT_MCOMMIT:
    case ZYDIS_ISA_EXT_MONITORX:
    case ZYDIS_ISA_EXT_MOVDIR:
    case ZYDIS_ISA_EXT_PADLOCK:
    case ZYDIS_ISA_EXT_PCONFIG:
    case ZYDIS_ISA_EXT_PKU:
    case ZYDIS_ISA_EXT_PT:
    case ZYDIS_ISA_EXT_RDPRU:
    case ZYDIS_ISA_EXT_RTM:
    case ZYDIS_ISA_EXT_SERIALIZE:
    case ZYDIS_ISA_EXT_SGX:
    case ZYDIS_ISA_EXT_SGX_ENCLV:
    case ZYDIS_ISA_EXT_SMX:
    case ZYDIS_ISA_EXT_SNP:
    case ZYDIS_ISA_EXT_SVM:
    case ZYDIS_ISA_EXT_TBM:
    case ZYDIS_ISA_EXT_TDX:
    case ZYDIS_ISA_EXT_TSX_LDTRK:
    case ZYDIS_ISA_EXT_UINTR:
    case ZYDIS_ISA_EXT_VMFUNC:
    case ZYDIS_ISA_EXT_VTX:
    case ZYDIS_ISA_EXT_WAITPKG:
    case ZYDIS_ISA_EXT_XOP: return true;
    default: return false;
    }
}

static bool absent_isa_set(ZydisISASet set)
{
    const char *name = ZydisISASetGetString(set);
    static const char *const absent[] = {"FP16",   "AVX512ER", "AVX512PF",    "4FMAPS",
                                         "4VNNIW", "BF16",     "VP2INTERSECT"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        if (name && strstr(name, absent[i]))
            return true;
    }
    return false;
}

static bool known_difference(bool z_ok, const ZydisDecodedInstruction *z, enum insn_status status,
                             const struct insn *in)
{
    if (z_ok && status == INSN_INVALID) {
        if (absent_extension(z->meta.isa_ext) || absent_isa_set(z->meta.isa_set))
            return true;
        // RSM outside system-management mode is #UD; nothing here runs inside it.
        return z->mnemonic == ZYDIS_MNEMONIC_RSM;
    }
    // The bound instructions are no-ops where MPX is absent, also with operands that MPX refuses.
    if (!z_ok && in->op == OP_NOP && (in->opcode == 0x1a || in->opcode == 0x1b))
        return true;
    return false;
}

// Instructions whose operand names no data, or a cache line; and MOVSXD, which reads two bytes with
// an operand size of two (as processors do), four according to Zydis.
static bool no_data_access(unsigned op)
{
    return op == OP_MOVSXD || op == OP_UD0 || op == OP_UD1 || op == OP_CLFLUSH ||
           op == OP_CLFLUSHOPT || op == OP_CLWB;
}

// --- comparing one instruction -------------------------------------------------------------------

static void report(struct run *r, const uint8_t *code, size_t len, unsigned mode, const char *what,
                   const ZydisDecodedInstruction *z, const struct insn *in)
{
    r->differences++;
    if (r->shown++ >= SHOWN && !r->verbose)
        return;
    printf("# %u-bit %-14s", mode * 8, what);
    for (size_t i = 0; i < len && i < INSN_MAX; i++)
        printf(" %02x", code[i]);
    printf("  ours %s %u", insn_name(in->op), in->len);
    if (z)
        printf(", zydis %s %u (%s)", ZydisMnemonicGetString(z->mnemonic), z->length,
               ZydisISASetGetString(z->meta.isa_set));
    printf("\n");
}

static unsigned zydis_gpr(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return REG_NONE;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return REG_RIP;
    return (unsigned)ZydisRegisterGetId(reg);
}

static const char *compare_memory(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
                                  const struct insn *in)
{
    const ZydisDecodedOperand *zm = NULL;
    const struct operand *m = NULL;
    for (unsigned i = 0; i < z->operand_count_visible; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            ops[i].encoding != ZYDIS_OPERAND_ENCODING_NONE)
            zm = &ops[i];
    }
    for (unsigned i = 0; i < in->operands; i++) {
        if (in->operand[i].kind == OPND_MEM)
            m = &in->operand[i];
    }
    if (!zm || !m)
        return !zm == !m || insn_form(in)->flags & FORM_STRING ? NULL : "memory operand";
    // With a 67 prefix Zydis takes SIB base 5 for R13 where ModRM says that there is no base.
    bool zydis_r13 = in->has_sib && in->modrm < 0x40 && zm->mem.base == ZYDIS_REGISTER_R13D;
    if (zydis_gpr(zm->mem.base) != in->base && !zydis_r13)
        return "base";
    if (zydis_gpr(zm->mem.index) != in->index)
        return "index";
    if (zm->mem.index != ZYDIS_REGISTER_NONE && zm->mem.scale != in->scale)
        return "scale";
    uint64_t mask = size_mask(in->addrsize);
    if (!zydis_r13 && (zm->mem.disp.has_displacement ? zm->mem.disp.value & mask : 0) !=
                          ((uint64_t)in->disp & mask))
        return "displacement";
    if (no_data_access(in->op))
        return NULL;
    if (m->size && zm->size / 8 != m->size && !(insn_form(in)->flags & FORM_VSIB))
        return "memory size";
    bool reads = zm->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    bool writes = zm->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (m->size &&
        (reads != (bool)(m->flags & OPERAND_READ) || writes != (bool)(m->flags & OPERAND_WRITE)))
        return "memory access";
    return NULL;
}

static const char *compare_flags(const ZydisDecodedInstruction *z, const struct insn *in)
{
    const uint32_t arith = FLAGS_ARITH | FLAG_DF;
    const struct insn_form *form = insn_form(in);
    const ZydisAccessedFlags *f = z->cpu_flags;
    if (!f || form->flags & FORM_SYSTEM)
        return NULL;
    // Zydis knows no flags of VPTEST's 256-bit form, and not all of VTESTPS's.
    if (in->op == OP_VPTEST || in->op == OP_VTESTPS || in->op == OP_VTESTPD)
        return NULL;
    uint32_t written = (f->modified | f->set_0 | f->set_1 | f->undefined) & arith;
    if (written != (form->flags_written & arith))
        return "flags written";
    if (f->tested & arith & ~(uint32_t)form->flags_read)
        return "flags read";
    // Zydis has one answer for all shifts, and calls AF undefined after SBB of a register and
    // itself. It has BEXTR leave undefined what the SDM says is cleared.
    if (in->op == OP_SBB || in->op == OP_BEXTR || (in->opcode & 0xfc) == 0xd0)
        return NULL;
    if (f->undefined & arith & ~(uint32_t)form->flags_undefined)
        return "flags undefined";
    return NULL;
}

static const char *compare_valid(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
                                 const struct insn *in)
{
    if (z->length != in->len)
        return "length";
    if (!same_name(z, in->op))
        return "name";
    if (in->op == OP_NOP || in->op == OP_PREFETCH)
        return NULL;
    const char *what = compare_memory(z, ops, in);
    return what ? what : compare_flags(z, in);
}

// Returns how many bytes to go on by.
static unsigned compare(struct run *r, const uint8_t *code, size_t len, unsigned mode)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    struct insn in;
    ZyanStatus zs = ZydisDecoderDecodeFull(&r->decoder[mode], code, len, &z, ops);
    enum insn_status status = insn_decode(code, len, mode, &in);
    bool z_ok = ZYAN_SUCCESS(zs);
    r->compared++;
    if (z_ok && status == INSN_OK) {
        const char *what = compare_valid(&z, ops, &in);
        if (what)
            report(r, code, len < z.length ? len : z.length, mode, what, &z, &in);
    } else if (z_ok != (status == INSN_OK)) {
        bool truncated = zs == ZYDIS_STATUS_NO_MORE_DATA || status == INSN_TRUNCATED;
        if (truncated || known_difference(z_ok, &z, status, &in))
            r->known++;
        else
            report(r, code,
                   z_ok             ? z.length
                   : len < INSN_MAX ? len
                                    : INSN_MAX,
                   mode, z_ok ? "we refuse" : "we accept", z_ok ? &z : NULL, &in);
    }
    return z_ok ? z.length : 1;
}

// --- where bytes come from -----------------------------------------------------------------------

static void sweep(struct run *r, const uint8_t *code, size_t len, unsigned mode)
{
    if (len > r->limit)
        len = r->limit;
    for (size_t at = 0; at < len;)
        at += compare(r, code + at, len - at, mode);
}

static void sweep_elf(struct run *r, const uint8_t *image, size_t len)
{
    Elf64_Ehdr header;
    if (len < sizeof header)
        return;
    memcpy(&header, image, sizeof header);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
        return;
    for (unsigned i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr s;
        uint64_t at = header.e_shoff + (uint64_t)i * sizeof s;
        if (at > len || len - at < sizeof s)
            return;
        memcpy(&s, image + at, sizeof s);
        if (!(s.sh_flags & SHF_EXECINSTR) || s.sh_type != SHT_PROGBITS)
            continue;
        if (s.sh_offset > len || len - s.sh_offset < s.sh_size)
            return;
        sweep(r, image + s.sh_offset, s.sh_size, 8);
    }
}

static bool sweep_file(struct run *r, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    unsigned long long before = r->compared, differences = r->differences;
    fseek(f, 0, SEEK_END);
    size_t len = (size_t)ftell(f);
    rewind(f);
    uint8_t *image = malloc(len + 1);
    if (image && fread(image, 1, len, f) == len)
        sweep_elf(r, image, len);
    free(image);
    fclose(f);
    printf("# %s: %llu instructions, %llu differences\n", path, r->compared - before,
           r->differences - differences);
    return true;
}

static uint64_t next_random(struct run *r)
{
    r->seed ^= r->seed << 13;
    r->seed ^= r->seed >> 7;
    r->seed ^= r->seed << 17;
    return r->seed;
}

// An opcode escape: 0F maps, VEX or EVEX with mostly legal fields. Returns where the opcode goes.
static unsigned random_escape(struct run *r, uint8_t *code, unsigned at)
{
    static const uint8_t escapes[] = {0x0f, 0x0f, 0xc4, 0xc5, 0x62};
    uint64_t how = next_random(r) >> 20;
    uint8_t escape = escapes[how % 5];
    how >>= 8;
    code[at++] = escape;
    if (escape == 0x0f) {
        if ((how & 3) == 0)
            code[at++] = how & 4 ? 0x38 : 0x3a;
        return at;
    }
    if (escape != 0xc5)
        code[at] = (code[at] & (escape == 0x62 ? 0xf0 : 0xe0)) | (1 + how % 3), at++;
    how >>= 8;
    if (how & 1)
        code[at] |= 0x78; // no vvvv
    if (escape == 0x62) {
        code[at++] |= 4;
        if (how & 2)
            code[at] = (code[at] & 0x68) | 8; // no mask, no broadcast
    }
    return at + 1;
}

// Random bytes, steered so that prefixes, escapes and VEX appear often.
static void random_bytes(struct run *r, uint8_t *code)
{
    static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x64, 0x36};
    unsigned at = 0;
    for (unsigned i = 0; i < INSN_MAX; i++)
        code[i] = (uint8_t)(next_random(r) >> 24);
    uint64_t how = next_random(r) >> 20;
    while ((how & 3) == 0 && at < 3) {
        code[at++] = prefixes[how >> 2 & 7];
        how >>= 5;
    }
    how >>= 5;
    if ((how & 3) == 0)
        code[at++] = 0x40 | (how >> 2 & 15);
    if (how >> 6 & 3)
        random_escape(r, code, at);
}

static void compare_random(struct run *r, unsigned long count)
{
    static const unsigned modes[] = {8, 4, 2};
    unsigned long long differences = r->differences;
    for (unsigned long i = 0; i < count; i++) {
        uint8_t code[INSN_MAX];
        random_bytes(r, code);
        compare(r, code, sizeof code, modes[i % 3]);
    }
    printf("# random: %lu strings, %llu differences\n", count, r->differences - differences);
}

static const char *const default_files[] = {
    "/proc/self/exe",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libm.so.6",
    "/lib/x86_64-linux-gnu/libmvec.so.1",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/lib/x86_64-linux-gnu/libdav1d.so.6",
    "/usr/lib/x86_64-linux-gnu/libx265.so.199",
};

int main(int argc, char **argv)
{
    struct run r = {.seed = 88172645463325252ull, .limit = SAMPLE_BYTES};
    unsigned long randoms = 300000;
    unsigned files = 0;
    ZydisDecoderInit(&r.decoder[8], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderInit(&r.decoder[4], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&r.decoder[2], ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0)
            r.limit = SIZE_MAX;
        else if (strcmp(argv[i], "--verbose") == 0)
            r.verbose = true;
        else if (strcmp(argv[i], "--random") == 0 && i + 1 < argc)
            randoms = strtoul(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            r.seed = strtoull(argv[++i], NULL, 0) * 2654435761u + 1;
        else
            files += sweep_file(&r, argv[i]);
    }
    for (size_t i = 0; files == 0 && i < sizeof default_files / sizeof default_files[0]; i++)
        sweep_file(&r, default_files[i]);
    compare_random(&r, randoms);
    printf("1..1\n%sok 1 - decoder_agrees_with_zydis # %llu compared, %llu differ, %llu known\n",
           r.differences ? "not " : "", r.compared, r.differences, r.known);
    return r.differences != 0;
}
