// Test cases from the decoder's own table: every opcode in every form that has an outcome worth
// comparing, with random registers, addressing and values.
//
// Left out: system instructions that act, FS and GS overrides (the host's FS is the thread's),
// features that the host lacks, instructions that store x87 pointers, 16-bit addressing.
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cpu/cpuid.h"
#include "cpu/insn.h"
#include "generate.h"

// --- values --------------------------------------------------------------------------------------

static uint64_t integer(struct random *r)
{
    static const uint64_t special[] = {
        0,      1,          2,          0x7f,       0x80,       0xff,       0x7fff,     0x8000,
        0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32, ~0ull >> 1, 1ull << 63, ~0ull};
    uint64_t v = draw(r);
    switch (below(r, 4)) {
    case 0: return special[v & 15];
    case 1: return v & 0xff;
    case 2: return v >> below(r, 64);
    default: return v;
    }
}

// A double, or two floats.
static uint64_t floating(struct random *r)
{
    static const uint64_t special[] = {0,
                                       0x8000000000000000,
                                       0x3ff0000000000000,
                                       0xbff0000000000000,
                                       0x7ff0000000000000,
                                       0xfff0000000000000,
                                       0x7ff8000000000000,
                                       0x7ff0000000000001,
                                       0x0000000000000001,
                                       0x000fffffffffffff,
                                       0x41dfffffffc00000,
                                       0x43e0000000000000,
                                       0x3f8000003f800000,
                                       0x7f800000bf800000,
                                       0x7fc0000000000001,
                                       0x4f0000004effffff};
    uint64_t v = draw(r);
    switch (below(r, 4)) {
    case 0: return special[v & 15];
    case 1: // a double near 1
        return (v & 0x800fffffffffffff) | (uint64_t)(0x3f0 + below(r, 32)) << 52;
    case 2: // two floats near 1
        return (v & 0x807fffff807fffff) | (uint64_t)(0x78 + below(r, 16)) << 55 |
               (uint64_t)(0x78 + below(r, 16)) << 23;
    default: return v;
    }
}

static uint64_t vector_half(struct random *r)
{
    return percent(r, 50) ? floating(r) : integer(r);
}

void world_data(uint8_t data[WORLD_DATA_BYTES])
{
    struct random r = {1};
    for (unsigned i = 0; i < WORLD_DATA_BYTES; i += 8)
        store_le64(data + i, vector_half(&r));
}

static uint64_t opmask(struct random *r)
{
    unsigned how = below(r, 10);
    return how == 0 ? 0 : how == 1 ? ~0ull : draw(r);
}

static void random_avx512(struct random *r, uint8_t *x)
{
    for (unsigned i = 0; i < 8; i++)
        store_le64(x + xsave_layout_state.at[5] + 8 * i, opmask(r));
    for (unsigned at = xsave_layout_state.at[6]; at < xsave_layout_state.at[7] + 1024u; at += 8)
        store_le64(x + at, vector_half(r));
}

static void random_fpu(struct random *r, uint8_t *x, unsigned components)
{
    memset(x, 0, XSAVE_BYTES);
    store_le16(x, (uint16_t)(0x7f | below(r, 4) << 8 | below(r, 4) << 10 | 0x40));
    if (percent(r, 10))
        x[0] = 0x40 | below(r, 64); // some exceptions unmasked
    store_le16(x + 2, (uint16_t)(below(r, 8) << 11 | below(r, 16) << 8 | (draw(r) & 0x4000)));
    x[4] = percent(r, 60) ? 0xff : (uint8_t)draw(r);
    store_le32(x + 24, 0x1f80 | below(r, 4) << 13 | (percent(r, 20) ? 0x8000 : 0) |
                           (percent(r, 20) ? 0x40 : 0));
    // Overflow and underflow stay masked: unmasked they judge the result before it is rounded to
    // its range, which cannot be had by running the instruction masked, as Berth does.
    if (percent(r, 5))
        store_le32(x + 24, 0x1f80 & ~((below(r, 64) & 0x27) << 7));
    for (unsigned i = 0; i < 8; i++) {
        store_le64(x + 32 + 16 * i, percent(r, 80) ? draw(r) | 1ull << 63 : integer(r));
        uint16_t exponent = percent(r, 70) ? 0x3ff0 + below(r, 40) : (uint16_t)draw(r);
        store_le16(x + 40 + 16 * i, exponent | (draw(r) & 0x8000));
    }
    for (unsigned i = 0; i < 32; i++)
        store_le64(x + 160 + 8 * i, vector_half(r));
    for (unsigned i = 0; i < 32; i++)
        store_le64(x + 576 + 8 * i, vector_half(r));
    if (components & XCR0_AVX512)
        random_avx512(r, x);
    x[512] = (uint8_t)components;
}

void random_registers(struct random *r, struct test_case *c, unsigned components)
{
    for (unsigned i = 0; i < 16; i++)
        c->in.gpr[i] = c->mode == 8 || i < 8 ? integer(r) : 0;
    for (unsigned i = 0; i < 16 && c->mode == 4; i++)
        c->in.gpr[i] &= 0xffffffff;
    c->in.rip = WORLD_CASE;
    c->in.rflags = FLAG_FIXED | FLAG_IF | (draw(r) & (FLAGS_ARITH | FLAG_DF));
    random_fpu(r, c->in.xsave, components);
}

// --- encodings -----------------------------------------------------------------------------------

static unsigned put_legacy(const struct template *t, struct random *r, uint8_t *code, bool plain)
{
    static const uint8_t prefix_of[4] = {0, 0x66, 0xf3, 0xf2};
    static const uint8_t escape_of[4] = {0, 0, 0x38, 0x3a};
    unsigned at = 0;
    if (!plain && t->memory && percent(r, 25))
        code[at++] = 0xf0;
    if (t->pp >= 2 && t->opsize == 2)
        code[at++] = 0x66;
    if (t->pp)
        code[at++] = prefix_of[t->pp];
    uint8_t rex = (uint8_t)(0x40 | t->w << 3 | (plain ? 0 : draw(r) & 7));
    if (t->mode == 8 && (t->w || (!plain && percent(r, 50))))
        code[at++] = rex;
    if (t->map)
        code[at++] = 0x0f;
    if (escape_of[t->map])
        code[at++] = escape_of[t->map];
    code[at++] = t->opcode;
    return at;
}

static unsigned put_vex(const struct template *t, struct random *r, uint8_t *code, bool plain,
                        bool vvvv)
{
    uint8_t rxb = plain || t->mode == 4 ? 7 : draw(r) & 7;
    uint8_t v = vvvv ? draw(r) & 15 : 15;
    if (t->mode == 4)
        v |= 8;
    code[0] = 0xc4;
    code[1] = (uint8_t)(rxb << 5 | t->map);
    code[2] = (uint8_t)(t->w << 7 | v << 3 | t->l << 2 | t->pp);
    code[3] = t->opcode;
    return 4;
}

// Broadcast or rounding, zeroing and the writemask are left to chance.
static unsigned put_evex(const struct template *t, struct random *r, uint8_t *code, bool plain,
                         bool vvvv)
{
    uint8_t rxbr = plain || t->mode == 4 ? 15 : draw(r) & 15;
    uint8_t v = vvvv ? draw(r) & 31 : 31, b = percent(r, 35), z = percent(r, 35);
    uint8_t aaa = percent(r, 60) ? (uint8_t)below(r, 8) : 0;
    if (t->mode == 4)
        v |= 0x18;
    code[0] = 0x62;
    code[1] = (uint8_t)(rxbr << 4 | t->map);
    code[2] = (uint8_t)(t->w << 7 | (v & 15) << 3 | 4 | t->pp);
    code[3] = (uint8_t)(z << 7 | t->l << 5 | b << 4 | (v & 16) >> 1 | aaa);
    code[4] = t->opcode;
    return 5;
}

static unsigned put_code(const struct template *t, struct random *r, uint8_t *code, bool plain,
                         bool vvvv)
{
    switch (t->encoding) {
    case ENC_LEGACY: return put_legacy(t, r, code, plain);
    case ENC_VEX: return put_vex(t, r, code, plain, vvvv);
    default: return put_evex(t, r, code, plain, vvvv);
    }
}

static uint8_t random_modrm(const struct template *t, struct random *r, bool plain)
{
    uint8_t reg = plain ? t->reg : below(r, 8);
    uint8_t rm = (uint8_t)below(r, 8), mod = t->memory ? (uint8_t)below(r, 3) : 3;
    return (uint8_t)(mod << 6 | reg << 3 | rm);
}

// An emulated processor takes EVEX.X for part of a general register's number.
static bool disputed(const struct insn *in, const uint8_t *code)
{
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *o = &in->operand[i];
        if (in->encoding == ENC_EVEX && o->kind == OPND_GPR && o->field == FIELD_RM)
            return !(code[1] & 0x40);
    }
    return false;
}

bool encode(const struct template *t, struct random *r, uint8_t *code, struct insn *in)
{
    for (unsigned attempt = 0; attempt < 60; attempt++) {
        bool plain = attempt >= 20;
        memset(code, 0xcc, ENCODED_MAX);
        unsigned at = put_code(t, r, code, plain, attempt % 4 != 3);
        code[at++] = random_modrm(t, r, plain && attempt % 8 < 6);
        uint64_t rest[2] = {draw(r), percent(r, 50) ? draw(r) : below(r, 64)};
        memcpy(code + at, rest, sizeof rest);
        if (insn_decode(code, INSN_MAX, t->mode, in) != INSN_OK || in->form != t->form ||
            in->opcode != t->opcode || in->opsize != t->opsize || disputed(in, code))
            continue;
        bool memory = in->has_modrm && in->modrm < 0xc0;
        if (memory != t->memory || in->addrsize != t->mode)
            continue;
        memset(code + in->len, 0xcc, ENCODED_MAX - in->len);
        return true;
    }
    return false;
}

// --- addresses -----------------------------------------------------------------------------------

static uint64_t mask_of(const struct test_case *c)
{
    return c->mode == 8 ? ~0ull : 0xffffffff;
}

// Where an operand of size bytes goes: mostly somewhere harmless, sometimes over an edge.
static uint64_t target_at(struct random *r, unsigned size, unsigned how)
{
    if (how < 4)
        return WORLD_DATA + WORLD_DATA_BYTES - below(r, size + 2);
    if (how < 8)
        return WORLD_DATA + PAGE - below(r, size + 1);
    if (how < 10)
        return WORLD_READ_ONLY + below(r, PAGE - 64);
    if (how < 11)
        return WORLD_READ_ONLY + PAGE - below(r, size + 2);
    uint64_t at = WORLD_DATA + 1024 + below(r, WORLD_DATA_BYTES - 3072);
    return percent(r, 70) ? at & ~63ull : at;
}

static uint64_t target(struct random *r, unsigned size)
{
    return target_at(r, size, below(r, 100));
}

// Under a writemask edges are where the difference is.
static uint64_t target_of(struct random *r, const struct insn *in, unsigned size)
{
    return target_at(r, size, below(r, in->evex_aaa ? 16 : 100));
}

// Just behind the instruction under test.
static uint8_t *case_end(struct test_case *c, const struct insn *in)
{
    return c->code + CASE_OFFSET + in->len;
}

static void set_disp(struct test_case *c, struct insn *in, int64_t disp)
{
    memcpy(case_end(c, in) - in->imm_bytes - in->disp_bytes, &disp, in->disp_bytes);
    in->disp = disp;
}

// Makes ModRM's operand lie at `at`, or nearby where the registers do not allow more.
static void aim(struct test_case *c, struct insn *in, struct random *r, uint64_t at)
{
    uint64_t *gpr = c->in.gpr;
    bool vsib = insn_form(in)->flags & FORM_VSIB;
    uint64_t index = 0;
    if (in->index != REG_NONE && !vsib) {
        if (in->index == in->base) {
            gpr[in->base] = (at - (uint64_t)in->disp) / (1u + in->scale) & mask_of(c);
            return;
        }
        gpr[in->index] = (uint64_t)(int64_t)((int)below(r, 33) - 16) & mask_of(c);
        index = gpr[in->index] * in->scale;
    }
    if (in->base == REG_RIP)
        set_disp(c, in, (int64_t)(at - (WORLD_CASE + in->len)));
    else if (in->base == REG_NONE)
        set_disp(c, in, (int64_t)(int32_t)(at - index));
    else
        gpr[in->base] = (at - index - (uint64_t)in->disp) & mask_of(c);
    if (c->mode == 8 && in->base < 16 && percent(r, 1))
        gpr[in->base] ^= 1ull << 50; // not canonical
}

static unsigned memory_size(const struct insn *in)
{
    for (unsigned i = 0; i < in->operands; i++) {
        if (in->operand[i].kind == OPND_MEM && in->operand[i].size)
            return in->operand[i].size;
    }
    return 16;
}

// Eight bytes of a vector register.
static void set_vector(struct test_case *c, unsigned reg, unsigned n, uint64_t value)
{
    const uint16_t *at = xsave_layout_state.at;
    unsigned offset = reg >= 16 ? at[7] + 64 * (reg - 16) + 8 * n
                      : n < 2   ? 160 + 16 * reg + 8 * n
                      : n < 4   ? at[2] + 16 * reg + 8 * (n - 2)
                                : at[6] + 32 * reg + 8 * (n - 4);
    store_le64(c->in.xsave + offset, value);
}

// Gathers and scatters: small indices; masks with some bits clear.
static void aim_gather(struct test_case *c, const struct insn *in, struct random *r)
{
    bool evex = in->encoding == ENC_EVEX;
    for (unsigned n = 0; n < (evex ? 8 : 4); n++) {
        uint64_t small = below(r, 64) | (uint64_t)below(r, 64) << 32;
        bool qwords = in->opcode & 1;
        set_vector(c, in->index, n, qwords ? below(r, 64) : small);
        if (!evex)
            set_vector(c, in->vvvv, n, draw(r));
    }
}

static void patch_data(struct test_case *c, uint64_t at, const void *bytes, unsigned len)
{
    if (at < WORLD_DATA || at + len > WORLD_DATA + WORLD_DATA_BYTES)
        return;
    c->patch_at = (uint32_t)(at - WORLD_DATA);
    c->patch_len = (uint8_t)len;
    memcpy(c->patch, bytes, len);
}

static bool uses(const struct insn *in, unsigned reg)
{
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *o = &in->operand[i];
        if (o->kind == OPND_GPR && o->reg == reg && !(o->flags & OPERAND_IMPLICIT))
            return true;
    }
    return in->base == reg || in->index == reg;
}

static void aim_string(struct test_case *c, const struct insn *in, struct random *r)
{
    c->in.gpr[RDI] = target(r, in->opsize);
    c->in.gpr[RSI] = target(r, in->opsize);
    if (percent(r, 15)) // overlapping
        c->in.gpr[RDI] = c->in.gpr[RSI] + below(r, 32) - 16;
    if (in->prefix & (PREFIX_REP | PREFIX_REPNE))
        c->in.gpr[RCX] = percent(r, 20) ? 0 : percent(r, 90) ? below(r, 20) : below(r, 120);
    if ((in->op == OP_CMPS || in->op == OP_SCAS) && percent(r, 60)) {
        uint8_t same[32];
        memset(same, percent(r, 50) ? 0 : 0xff, sizeof same);
        patch_data(c, in->op == OP_CMPS ? c->in.gpr[RSI] : c->in.gpr[RDI], same, sizeof same);
        if (in->op == OP_CMPS)
            c->in.gpr[RDI] = c->in.gpr[RSI] + below(r, 8);
        else
            c->in.gpr[RAX] = same[0] ? mask_of(c) : 0;
    }
}

static void aim_stack(struct test_case *c, const struct insn *in, struct random *r)
{
    uint64_t sp = percent(r, 90) ? WORLD_DATA + 2048 + 8 * below(r, 512) : target(r, 8);
    if (percent(r, 10))
        sp += below(r, 8);
    if (in->base != RSP && in->index != RSP)
        c->in.gpr[RSP] = sp & mask_of(c);
    if ((in->op == OP_ENTER || in->op == OP_LEAVE) && percent(r, 95))
        c->in.gpr[RBP] = WORLD_DATA + 4096 + 8 * below(r, 256);
}

static uint64_t effective(const struct test_case *c, const struct insn *in)
{
    uint64_t at = in->base == REG_RIP ? WORLD_CASE + in->len
                  : in->base < 16     ? c->in.gpr[in->base]
                                      : 0;
    if (in->index != REG_NONE)
        at += c->in.gpr[in->index] * in->scale;
    return (at + (uint64_t)in->disp) & mask_of(c);
}

static uint16_t some_selector(struct random *r, bool code)
{
    static const uint16_t selectors[] = {0, 3, 0x23, 0x2b, 0x33, 0x18, 0x2a, 0x30};
    if (percent(r, 70))
        return code ? (percent(r, 50) ? 0x33 : 0x23) : 0x2b;
    return selectors[below(r, 8)];
}

// Selectors and far pointers that have a chance of being accepted.
static bool steer_selectors(struct test_case *c, struct insn *in, struct random *r)
{
    bool memory = in->has_modrm && in->modrm < 0xc0;
    bool jump = insn_form(in)->flags & FORM_BRANCH, iret = in->op == OP_IRET;
    uint64_t to = WORLD_CASE + 32 + below(r, 32), flags = draw(r) & (FLAGS_ARITH | FLAG_IF);
    uint16_t selector = some_selector(r, jump);
    uint64_t frame[5] = {to, selector, flags | FLAG_FIXED, c->in.gpr[RSP], SELECTOR_DATA};
    uint8_t bytes[64];
    unsigned size = in->opsize, words = iret ? 5 : 2;
    switch (in->op) {
    case OP_RET_FAR:
    case OP_IRET:
    case OP_POP_SREG:
    case OP_POPF:
        if (in->op == OP_POPF || in->op == OP_POP_SREG)
            frame[0] = in->op == OP_POPF ? frame[2] | (draw(r) & (FLAG_IOPL | FLAG_DF)) : selector;
        for (unsigned i = 0; i < words; i++)
            store_le(bytes + i * size, size, frame[i]);
        patch_data(c, c->in.gpr[RSP], bytes, words * size);
        break;
    case OP_JMP_FAR:
    case OP_CALL_FAR:
        if (in->operand[0].kind == OPND_FAR) {
            store_le(case_end(c, in) - 2 - size, size, to);
            store_le16(case_end(c, in) - 2, selector);
            break;
        }
        [[fallthrough]];
    case OP_LDS:
    case OP_LES:
    case OP_LSS:
    case OP_LFS:
    case OP_LGS:
        store_le(bytes, size, to);
        store_le16(bytes + size, selector);
        patch_data(c, effective(c, in), bytes, size + 2);
        break;
    default: // MOV Sreg, LAR, LSL, VERR, VERW
        store_le16(bytes, selector);
        if (memory)
            patch_data(c, effective(c, in), bytes, 2);
        else
            c->in.gpr[in->operand[in->operands - 1].reg] = selector;
        return memory || in->operand[in->operands - 1].reg != RSP;
    }
    return true;
}

static bool takes_selectors(const struct insn *in)
{
    switch (in->op) {
    case OP_MOV_SREG: return in->opcode == 0x8e;
    case OP_RET_FAR:
    case OP_IRET:
    case OP_POP_SREG:
    case OP_POPF:
    case OP_JMP_FAR:
    case OP_CALL_FAR:
    case OP_LDS:
    case OP_LES:
    case OP_LSS:
    case OP_LFS:
    case OP_LGS:
    case OP_LAR:
    case OP_LSL:
    case OP_VERR:
    case OP_VERW: return true;
    default: return false;
    }
}

// Branches go a few bytes ahead, into INT3s.
static bool aim_branch(struct test_case *c, const struct insn *in, struct random *r)
{
    uint64_t to = WORLD_CASE + 32 + below(r, 32);
    uint64_t place = c->in.gpr[RSP];
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *o = &in->operand[i];
        if (o->kind == OPND_REL) {
            int64_t rel = (int64_t)(to - WORLD_CASE - in->len);
            memcpy(case_end(c, in) - in->imm_bytes, &rel, in->imm_bytes);
        } else if (o->kind == OPND_GPR && !(o->flags & OPERAND_IMPLICIT)) {
            if (o->reg == RSP)
                return false;
            c->in.gpr[o->reg] = to;
        }
    }
    if (in->has_modrm && in->modrm < 0xc0) {
        if (in->base == RSP || in->index == RSP)
            return false;
        place = effective(c, in);
    }
    if (in->op == OP_RET_NEAR || (in->has_modrm && in->modrm < 0xc0))
        patch_data(c, place, &to, in->opsize);
    if (in->op == OP_JCXZ && percent(r, 50))
        c->in.gpr[RCX] = 0;
    return true;
}

// An aligned place with room for the area, and a header that XRSTOR accepts.
static void steer_xsave(struct test_case *c, const struct insn *in, struct random *r)
{
    unsigned all = c->in.xsave[512];
    uint8_t header[64] = {(uint8_t)(below(r, 256) & all)};
    if (in->base >= 16 || in->index != REG_NONE || in->base == RAX || in->base == RDX)
        return;
    c->in.gpr[in->base] -= effective(c, in) & 63;
    c->in.gpr[RDX] = 0;
    c->in.gpr[RAX] = below(r, 256) & all;
    if (in->op == OP_XRSTOR && percent(r, 90))
        patch_data(c, effective(c, in) + 512, header, sizeof header);
}

// Values without which an instruction would always take the same way.
static void steer(struct test_case *c, const struct insn *in, struct random *r)
{
    uint64_t *gpr = c->in.gpr;
    switch (in->op) {
    case OP_DIV:
    case OP_IDIV:
        if (percent(r, 70) && in->base != RDX && in->index != RDX)
            gpr[RDX] = in->op == OP_IDIV && gpr[RAX] >> 63 ? mask_of(c) : below(r, 16);
        break;
    case OP_BT:
    case OP_BTS:
    case OP_BTR:
    case OP_BTC: // a bit offset in a register reaches beyond the operand
        if (in->operand[1].kind == OPND_GPR && !(in->base == in->operand[1].reg) &&
            in->index != in->operand[1].reg)
            gpr[in->operand[1].reg] = (uint64_t)(int64_t)((int)below(r, 4096) - 2048) & mask_of(c);
        break;
    case OP_XGETBV: // the other register there is tells what is in use, which varies
        gpr[RCX] = percent(r, 50) ? 0 : integer(r) | 2;
        break;
    case OP_XSAVE:
    case OP_XSAVEC:
    case OP_XRSTOR: steer_xsave(c, in, r); break;
    case OP_XLAT: gpr[RBX] = target(r, 256) - (gpr[RAX] & 0xff); break;
    case OP_MASKMOVQ:
    case OP_MASKMOVDQU:
    case OP_VMASKMOVDQU: gpr[RDI] = target(r, 16); break;
    case OP_CMPXCHG:
        if (percent(r, 40) && in->operand[0].kind == OPND_GPR)
            gpr[RAX] = gpr[in->operand[0].reg];
        break;
    default: break;
    }
}

// Accesses of a bit test with its offset in a register must stay inside the world.
static bool bit_test_wild(const struct test_case *c, const struct insn *in)
{
    if (in->op != OP_BT && in->op != OP_BTS && in->op != OP_BTR && in->op != OP_BTC)
        return false;
    unsigned reg = in->operand[1].reg;
    return in->operand[1].kind == OPND_GPR && in->has_modrm && in->modrm < 0xc0 &&
           (in->base == reg || in->index == reg);
}

// --- neighbours: the flags that a block of code passes on ----------------------------------------

// Instructions that set flags and nothing else, right before the one under test.
static void put_before(struct test_case *c, struct random *r)
{
    for (unsigned n = below(r, 4); n; n--) {
        uint8_t modrm = (uint8_t)(0xc0 | below(r, 64)), bytes[2];
        unsigned len = 2;
        switch (below(r, 4)) {
        case 0: // CMP
            bytes[0] = 0x39, bytes[1] = modrm;
            break;
        case 1: // TEST
            bytes[0] = 0x85, bytes[1] = modrm;
            break;
        default: // CMC, CLC, STC
            bytes[0] = (uint8_t[]){0xf5, 0xf8, 0xf9}[below(r, 3)];
            len = 1;
        }
        c->in.rip -= len;
        memcpy(c->code + (c->in.rip - WORLD_CODE), bytes, len);
    }
}

// Instructions that use flags, right behind it: not those that it leaves undefined.
static void put_behind(struct test_case *c, const struct insn *in, struct random *r)
{
    uint8_t *at = case_end(c, in);
    for (unsigned n = below(r, 3); n; n--) {
        uint8_t code[INSN_MAX] = {0x0f, (uint8_t)(below(r, 16) | 0x90),
                                  (uint8_t)(0xc0 | below(r, 64))};
        struct insn user;
        if (percent(r, 30)) // CMOVcc
            code[1] ^= 0xd0;
        if (percent(r, 30)) // ADC r32, imm8
            code[0] = 0x83, code[1] = (uint8_t)(0xd0 | below(r, 8));
        if (insn_decode(code, sizeof code, c->mode, &user) != INSN_OK ||
            insn_form(&user)->flags_read & c->undefined)
            continue;
        memcpy(at, code, user.len);
        at += user.len;
        c->undefined &= ~(uint64_t)insn_form(&user)->flags_written;
    }
}

// Dot products report what their first step raised before they take the second.
static bool several_steps(unsigned op)
{
    return op == OP_DPPS || op == OP_DPPD || op == OP_VDPPS || op == OP_VDPPD;
}

bool case_make(const struct template *t, unsigned mode, uint64_t seed, struct test_case *c)
{
    struct random r = {seed};
    struct insn in;
    memset(c, 0, offsetof(struct test_case, host));
    c->seed = seed;
    c->mode = t->mode;
    random_registers(&r, c, t->components);
    memset(c->code, 0xcc, CODE_BYTES);
    if (!encode(t, &r, c->code + CASE_OFFSET, &in))
        return false;
    c->len = in.len;
    const struct insn_form *form = insn_form(&in);
    if (several_steps(in.op))
        store_le32(c->in.xsave + 24, load_le32(c->in.xsave + 24) | 0x1f80);
    c->undefined = form->flags_undefined;
    // Processors differ in which vector instructions and far pointers heed AC.
    const uint32_t without_ac =
        FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512 | FORM_SYSTEM;
    if (!(form->flags & without_ac) && percent(&r, 3))
        c->in.rflags |= FLAG_AC;
    if (form->flags & FORM_STACK)
        aim_stack(c, &in, &r);
    if (in.has_modrm && in.modrm < 0xc0 && in.op != OP_NOP)
        aim(c, &in, &r, target_of(&r, &in, memory_size(&in)));
    else if (in.operand[0].kind == OPND_MEM || in.operand[1].kind == OPND_MEM)
        set_disp(c, &in, (int64_t)target(&r, in.opsize)); // moffs
    if (form->flags & FORM_VSIB)
        aim_gather(c, &in, &r);
    if (form->flags & FORM_STRING)
        aim_string(c, &in, &r);
    if (in.op == OP_ENTER) { // a small frame, most often without levels
        case_end(c, &in)[-3] &= 0xfc;
        case_end(c, &in)[-2] &= 1;
        case_end(c, &in)[-1] = below(&r, 4) ? 0 : (uint8_t)draw(&r);
    }
    steer(c, &in, &r);
    if (in.op == OP_RET_FAR && in.imm_bytes) { // less than would reach the hole
        case_end(c, &in)[-2] &= 0xf8;
        case_end(c, &in)[-1] = 0;
    }
    if (takes_selectors(&in) && !steer_selectors(c, &in, &r))
        return false;
    if (form->flags & FORM_BRANCH && !(form->flags & FORM_SYSTEM) && !aim_branch(c, &in, &r))
        return false;
    if (form->flags & FORM_STACK && in.op != OP_LEAVE && uses(&in, RSP) && in.base != RSP)
        c->in.gpr[RSP] = WORLD_DATA + 4096;
    if (bit_test_wild(c, &in))
        return false;
    put_before(c, &r);
    if (!(form->flags & FORM_BRANCH))
        put_behind(c, &in, &r);
    return true;
}

// --- what there is -------------------------------------------------------------------------------

// System instructions that do the same at CPL 3 whatever system is above, most of them by refusing.
static bool system_wanted(unsigned op)
{
    static const uint16_t some[] = {
        OP_MOV_SREG, OP_POP_SREG, OP_LDS,     OP_LES,     OP_LSS,      OP_LFS,     OP_LGS,
        OP_ARPL,     OP_BOUND,    OP_POPF,    OP_JMP_FAR, OP_CALL_FAR, OP_RET_FAR, OP_IRET,
        OP_INTO,     OP_INT3,     OP_LAR,     OP_LSL,     OP_VERR,     OP_VERW,    OP_IN,
        OP_OUT,      OP_INS,      OP_OUTS,    OP_HLT,     OP_CLI,      OP_STI,     OP_CLTS,
        OP_INVD,     OP_WBINVD,   OP_INVLPG,  OP_LGDT,    OP_LIDT,     OP_LLDT,    OP_LTR,
        OP_LMSW,     OP_MOV_CR,   OP_MOV_DR,  OP_WRMSR,   OP_RDMSR,    OP_RDPMC,   OP_SWAPGS,
        OP_XSETBV,   OP_SYSRET,   OP_INVPCID, OP_XGETBV,  OP_WRGSBASE, OP_UD0,     OP_UD1,
        OP_UD2,      OP_XSAVE,    OP_XRSTOR,  OP_XSAVEC,
    };
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        if (some[i] == op)
            return true;
    }
    return false;
}

static bool wanted(const struct insn *in, const struct feature_set *features)
{
    const struct insn_form *form = insn_form(in);
    if (form->flags & FORM_SYSTEM && !system_wanted(in->op))
        return false;
    if (form->flags & FORM_AVX512 && !feature_has(features, FEATURE_AVX512F))
        return false;
    if (form->flags & FORM_VL && in->veclen < 64 && !feature_has(features, FEATURE_AVX512VL))
        return false;
    if (form->feature != FEATURE_NONE && !feature_has(features, form->feature))
        return false;
    // AMD truncates near branches with 66, and takes LOOPE for LOOPNE with F2, and the reverse.
    if (form->flags & FORM_BRANCH && in->prefix & (PREFIX_OPSIZE | PREFIX_REP | PREFIX_REPNE))
        return false;
    // AMD has no far pointers with 64-bit offsets.
    if (in->opsize == 8 && (in->op == OP_LSS || in->op == OP_LFS || in->op == OP_LGS ||
                            in->op == OP_JMP_FAR || in->op == OP_CALL_FAR))
        return false;
    // Also #UD with registers on AMD, a no-op on Intel.
    if (in->op == OP_NOP && in->map == MAP_0F && in->opcode == 0x0d)
        return false;
    switch (in->op) {
    case OP_FXSAVE: // these store pointers that differ by when they were last written
    case OP_FXRSTOR:
    case OP_FNSAVE:
    case OP_FRSTOR:
    case OP_FNSTENV:
    case OP_FLDENV: return false;
    default: return true;
    }
}

static bool known_template(const struct template *all, size_t count, const struct template *t)
{
    size_t from = count > 400 ? count - 400 : 0; // duplicates come close together
    for (size_t i = from; i < count; i++) {
        if (all[i].form == t->form && all[i].opcode == t->opcode && all[i].memory == t->memory &&
            all[i].opsize == t->opsize && all[i].l == t->l && all[i].mode == t->mode &&
            all[i].map == t->map && all[i].pp == t->pp)
            return true;
    }
    return false;
}

#define TEMPLATES_MAX 30000

static void try_template(struct template *all, size_t *count, struct template t,
                         const struct feature_set *features)
{
    struct random r = {1};
    struct insn in;
    uint8_t code[INSN_MAX + 8] = {0};
    // Some EVEX forms need a writemask, gathers a SIB.
    for (unsigned attempt = 0; attempt < (t.encoding == ENC_EVEX ? 8 : 2); attempt++) {
        bool sib = attempt & 2;
        unsigned at = put_code(&t, &r, code, true, attempt & 1);
        if (t.encoding == ENC_EVEX)
            code[3] = (uint8_t)((code[3] & 0x68) | attempt >> 2);
        code[at] = (uint8_t)((t.memory ? 0 : 0xc0) | t.reg << 3 | (sib ? 4 : 1));
        code[at + 1] = sib ? 0x11 : 0;
        if (insn_decode(code, INSN_MAX, t.mode, &in) != INSN_OK || !wanted(&in, features))
            continue;
        if (in.opcode != t.opcode || in.map != t.map || (t.memory && !in.has_modrm))
            return;
        t.memory = in.has_modrm && in.modrm < 0xc0;
        t.form = in.form;
        t.op = in.op;
        t.opsize = in.opsize;
        if (!known_template(all, *count, &t) && *count < TEMPLATES_MAX)
            all[(*count)++] = t;
        return;
    }
}

static void try_opcode(struct template *all, size_t *count, struct template t,
                       const struct feature_set *features)
{
    unsigned lengths = t.encoding == ENC_EVEX ? 3 : t.encoding == ENC_VEX ? 2 : 1;
    for (t.pp = 0; t.pp < 4; t.pp++) {
        for (unsigned w = 0; w < (t.mode == 8 || t.encoding != ENC_LEGACY ? 2u : 1u); w++) {
            for (unsigned n = 0; n < 16 * lengths; n++) {
                t.w = (uint8_t)w;
                t.reg = n & 7;
                t.memory = n >> 3 & 1;
                t.l = (uint8_t)(n >> 4);
                t.opsize = 0;
                try_template(all, count, t, features);
            }
        }
    }
}

size_t templates_make(struct template **out)
{
    struct cpuid_table host, table;
    struct cpuid_request request = {.vcpus = 1, .tsc_khz = 1000000};
    struct feature_set features;
    struct error e;
    size_t count = 0;
    cpuid_read_host(&host);
    *out = calloc(TEMPLATES_MAX, sizeof **out);
    if (!*out || cpuid_build(&request, &host, &table, &e) != OK)
        return 0;
    cpuid_features(&table, &features);
    bool avx512 = feature_has(&features, FEATURE_AVX512F);
    for (unsigned at = 0; at < 3 * 2 * 4 * 256; at++) {
        struct template t = {.mode = at & 1024 ? 4 : 8,
                             .encoding = (uint8_t[]){ENC_LEGACY, ENC_VEX, ENC_EVEX}[at >> 11],
                             .map = at >> 8 & 3,
                             .opcode = (uint8_t)at,
                             .components = world_components(avx512)};
        if (t.encoding == ENC_LEGACY || t.map)
            try_opcode(*out, &count, t, &features);
    }
    return count;
}

const struct template *template_at(const struct template *all, size_t i)
{
    return &all[i];
}

bool template_is_avx512(const struct template *t)
{
    return insn_forms[t->form].flags & FORM_AVX512;
}

const char *template_name(const struct template *t)
{
    return insn_name(t->op);
}
