// Writes x86-64 host code: single instructions by helper, and guest instructions re-encoded with
// another memory operand or other registers. Encodings: Intel SDM volume 2, chapter 2.
//
// Code is written at `at` (a codebuf's writable view) and will run at `at + to_exec`. Nothing is
// ever written past `end`: `overflow` is set instead, and the caller throws away what it began.
// That may be so as soon as less than EMIT_ROOM bytes are left.
#pragma once

#include "cpu/insn.h"

#define EMIT_ROOM 32 // more than any instruction takes

// The bytes at `at`, of what has been written, mean something else when the same code is written
// elsewhere. Kinds are the caller's, but EMIT_BRANCH: a displacement of 32 bits to a known address.
struct emit_note {
    const uint8_t *at;
    uint32_t kind;
    uint32_t stored; // the caller's
};
enum { EMIT_BRANCH };

struct emit {
    uint8_t *at;
    uint8_t *end;
    ptrdiff_t to_exec;
    bool overflow;
    uint16_t notes, max_notes; // of note[]; more than the latter: not all are there
    struct emit_note *note;    // NULL, with max_notes 0: nobody wants them
};

// A host memory operand: [gs:][base + index * scale + disp]. base REG_NONE means absolute (disp
// alone, sign-extended), index REG_NONE none; index may not be RSP.
struct emit_mem {
    uint8_t base;  // enum gpr or REG_NONE
    uint8_t index; // enum gpr or REG_NONE
    uint8_t scale; // 1, 2, 4, 8
    bool gs;
    uint8_t note; // the displacement takes four bytes and gets a note of this kind; 0: it does not
    int32_t disp;
};

static inline struct emit_mem emit_at(unsigned base, int32_t disp)
{
    return (struct emit_mem){.base = (uint8_t)base, .index = REG_NONE, .scale = 1, .disp = disp};
}

static inline struct emit_mem emit_gs(size_t offset) // gs:[offset]
{
    return (struct emit_mem){
        .base = REG_NONE, .index = REG_NONE, .scale = 1, .gs = true, .disp = (int32_t)offset};
}

static inline struct emit_mem emit_indexed(unsigned base, unsigned index, unsigned scale,
                                           int32_t disp)
{
    return (struct emit_mem){
        .base = (uint8_t)base, .index = (uint8_t)index, .scale = (uint8_t)scale, .disp = disp};
}

// What replaces the operands of a re-encoded instruction.
struct emit_operands {
    struct emit_mem mem; // in place of its memory operand, if it has one
    const uint8_t *gpr;  // 16 entries, guest register -> host register; NULL: the same
    uint8_t imm_note;    // of its immediate of four bytes; 0: none
};

// Appends the instruction with the given operands, as 64-bit code. Legacy, REX, VEX and EVEX
// encodings; prefixes, immediates and LOCK are kept, segment and address-size prefixes belong to
// the old memory operand and go. Returns false, with nothing written, where there is no such
// encoding: implicit memory operands (strings, push), branches, gathers, instructions gone from
// 64-bit code, high-byte registers beside something that needs REX or mapped to other than
// RAX..RBX. Registers that operands name implicitly (RAX of MUL, CL of shifts) are the caller's
// concern. The flag-setting INC and DEC of 32-bit code (40..4f) and moffs MOVs are given their
// ModRM forms.
bool emit_insn(struct emit *e, const struct insn *insn, const struct emit_operands *operands);

void emit_u8(struct emit *e, uint8_t v);
void emit_u32(struct emit *e, uint32_t v);
void emit_u64(struct emit *e, uint64_t v);
void emit_bytes(struct emit *e, const void *bytes, size_t n);
void emit_note_kept(struct emit *e, unsigned kind, const uint8_t *at);
static inline void emit_note_at(struct emit *e, unsigned kind, const uint8_t *at)
{
    if (e->max_notes)
        emit_note_kept(e, kind, at);
}
// Of the bytes `back` from here.
static inline void emit_note(struct emit *e, unsigned kind, unsigned back)
{
    emit_note_at(e, kind, e->at - back);
}
void emit_change(struct emit *e, unsigned back, uint32_t v); // four bytes already written
void emit_align(struct emit *e, size_t align); // with INT3, in terms of the address it runs at

// What has been written since is taken back; that it was too much is not.
struct emit_place {
    uint8_t *at;
    uint16_t notes;
};
static inline struct emit_place emit_here(const struct emit *e)
{
    return (struct emit_place){e->at, e->notes};
}
static inline void emit_back_to(struct emit *e, struct emit_place place)
{
    e->at = place.at;
    e->notes = place.notes;
}

static inline uint8_t *emit_exec(const struct emit *e) // where the next byte will run
{
    return e->at + e->to_exec;
}

// The general form: [66] [prefix] [REX] [0f [38|3a]] opcode ModRM. size 1, 2, 4, 8; map: enum
// insn_map; prefix 0, 0xf2, 0xf3, 0x66; reg: register number or opcode extension. Byte
// registers 4..7 are spl..dil. The caller appends an immediate.
void emit_op_rr(struct emit *e, unsigned size, unsigned prefix, unsigned map, unsigned opcode,
                unsigned reg, unsigned rm);
void emit_op_rm(struct emit *e, unsigned size, unsigned prefix, unsigned map, unsigned opcode,
                unsigned reg, struct emit_mem mem);

// Moves. Sizes 4 and 8 unless told otherwise; 4 clears the upper half.
void emit_mov_rr(struct emit *e, unsigned size, unsigned dst,
                 unsigned src);                                 // nothing for dst==src, 8
void emit_mov_ri(struct emit *e, unsigned dst, uint64_t value); // shortest form; leaves the flags
void emit_load(struct emit *e, unsigned size, unsigned dst,
               struct emit_mem mem); // 1..8, zero-extends
void emit_store(struct emit *e, unsigned size, struct emit_mem mem, unsigned src); // 1, 2, 4, 8
void emit_store_i(struct emit *e, unsigned size, struct emit_mem mem, int32_t value);
void emit_lea(struct emit *e, unsigned size, unsigned dst,
              struct emit_mem mem); // mem.gs must be false
void emit_movzx(struct emit *e, unsigned dst, unsigned src, unsigned src_size); // 1, 2 -> 4 (8)
void emit_push(struct emit *e, unsigned reg);
void emit_pop(struct emit *e, unsigned reg);

enum emit_alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };
void emit_alu_rr(struct emit *e, enum emit_alu op, unsigned size, unsigned dst, unsigned src);
void emit_alu_ri(struct emit *e, enum emit_alu op, unsigned size, unsigned dst, int32_t value);
void emit_alu_rm(struct emit *e, enum emit_alu op, unsigned size, unsigned dst,
                 struct emit_mem mem);
void emit_alu_mr(struct emit *e, enum emit_alu op, unsigned size, struct emit_mem mem,
                 unsigned src);
void emit_alu_mi(struct emit *e, enum emit_alu op, unsigned size, struct emit_mem mem,
                 int32_t value);
void emit_test_rr(struct emit *e, unsigned size, unsigned a, unsigned b);
void emit_test_ri(struct emit *e, unsigned size, unsigned reg, int32_t value);
void emit_test_mi(struct emit *e, unsigned size, struct emit_mem mem, int32_t value);

enum emit_shift { SHIFT_ROL, SHIFT_ROR, SHIFT_RCL, SHIFT_RCR, SHIFT_SHL, SHIFT_SHR, SHIFT_SAR = 7 };
void emit_shift_ri(struct emit *e, enum emit_shift op, unsigned size, unsigned reg, unsigned count);
void emit_rorx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count); // BMI2
void emit_shrx(struct emit *e, unsigned size, unsigned dst, unsigned src,
               unsigned count_reg); // BMI2

void emit_sarx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg);
void emit_shlx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg);
// 32-bit, BMI2. Together they are an AND that leaves the flags alone.
void emit_pext(struct emit *e, unsigned dst, unsigned src, unsigned mask);
void emit_pdep(struct emit *e, unsigned dst, unsigned src, unsigned mask);

enum condition {
    COND_O,
    COND_NO,
    COND_B,
    COND_AE,
    COND_E,
    COND_NE,
    COND_BE,
    COND_A,
    COND_S,
    COND_NS,
    COND_P,
    COND_NP,
    COND_L,
    COND_GE,
    COND_LE,
    COND_G,
};
void emit_setcc_m(struct emit *e, enum condition cond, struct emit_mem mem);
void emit_setcc_r(struct emit *e, enum condition cond, unsigned reg); // low byte only

// Branches. Forward ones return where their 4-byte displacement is, for emit_land(); the ones to a
// known place take the address at which the target runs, which must be within 2 GiB (else
// `overflow`).
uint8_t *emit_jcc(struct emit *e, enum condition cond);
uint8_t *emit_jmp(struct emit *e);
void emit_land(struct emit *e, uint8_t *displacement); // the branch lands here
void emit_jcc_to(struct emit *e, enum condition cond, const void *target);
void emit_jmp_to(struct emit *e, const void *target);
void emit_call_to(struct emit *e, const void *target);
void emit_call_abs(struct emit *e, unsigned scratch, const void *target); // any distance
void emit_jmp_abs(struct emit *e, unsigned scratch, const void *target);
// jrcxz over a short distance; lands with emit_land_short().
uint8_t *emit_jrcxz(struct emit *e);
void emit_land_short(struct emit *e, uint8_t *displacement);
void emit_jmp_r(struct emit *e, unsigned reg);
void emit_jmp_m(struct emit *e, struct emit_mem mem);
void emit_call_r(struct emit *e, unsigned reg);
void emit_call_m(struct emit *e, struct emit_mem mem);
void emit_ret(struct emit *e);
