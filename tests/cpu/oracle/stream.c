// Streams: up to sixteen instructions one after the other, so that what one leaves behind is what
// the next begins with, and a block of translated code is more than its ends. Some registers hold
// pointers and are seldom written, so that most accesses hit the world.
//
// Left out: branches, system instructions, REP, gathers and scatters (whose indices would be wild),
// loads of control words, and what would read flags that are undefined.
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "generate.h"

#define STREAM_MAX 16
#define TRIES 200

static const uint8_t pointers[] = {RBX, RBP, RSI, RDI, RSP, R8, R9, R10, R11};

static bool is_pointer(unsigned reg)
{
    return reg < 16 && memchr(pointers, (int)reg, sizeof pointers);
}

static bool streamable(const struct insn *in, unsigned undefined)
{
    const struct insn_form *form = insn_form(in);
    if (form->flags & (FORM_SYSTEM | FORM_BRANCH | FORM_VSIB) || form->flags_read & undefined)
        return false;
    if (form->flags & FORM_STRING && in->prefix & (PREFIX_REP | PREFIX_REPNE))
        return false;
    switch (in->op) {
    case OP_FLDCW:
    case OP_LDMXCSR:
    case OP_VLDMXCSR:
    case OP_PUSHF:
    case OP_ENTER: return false;
    // How much it has written before a fault is the processor's choice.
    case OP_PUSHA: return false;
    // So is whether these mind misalignment.
    case OP_MASKMOVQ:
    case OP_MASKMOVDQU:
    case OP_VMASKMOVDQU: return false;
    default: return true;
    }
}

static bool loses_pointer(const struct insn *in)
{
    for (unsigned i = 0; i < in->operands; i++) {
        const struct operand *o = &in->operand[i];
        if (o->kind == OPND_GPR && o->flags & OPERAND_WRITE && !(o->flags & OPERAND_IMPLICIT) &&
            is_pointer(o->reg))
            return true;
    }
    return false;
}

// Makes the memory operand lie in the world as long as pointers point there. code: the
// instruction, which will be at `at`.
static bool aim_operand(struct random *r, struct insn *in, uint8_t *code, uint64_t at)
{
    if (!in->has_modrm && in->disp_bytes >= 4) { // MOV of the accumulator, by address alone
        uint64_t to = WORLD_DATA + below(r, 4096);
        memcpy(code + in->len - in->disp_bytes, &to, in->disp_bytes);
        return true;
    }
    if (!in->has_modrm || in->modrm >= 0xc0 || in->op == OP_NOP || in->op == OP_LEA)
        return true;
    if (in->index != REG_NONE && (is_pointer(in->index) || percent(r, 60)))
        return false;
    if (in->base < 16 && !is_pointer(in->base))
        return false;
    int64_t to = percent(r, 75) ? 16 * below(r, 64) : (int64_t)below(r, 1024);
    if (in->base == REG_RIP)
        to += (int64_t)(WORLD_DATA - (at + in->len));
    else if (in->base == REG_NONE)
        to += WORLD_DATA;
    if (in->disp_bytes == 4)
        memcpy(code + in->len - in->imm_bytes - 4, &to, 4);
    else if (in->disp_bytes == 1 && percent(r, 50))
        code[in->len - in->imm_bytes - 1] &= 0xf0;
    return true;
}

static void stream_registers(struct random *r, struct test_case *c, unsigned components)
{
    random_registers(r, c, components);
    for (unsigned i = 0; i < 16; i++) {
        if (c->mode == 4 && i >= 8)
            c->in.gpr[i] = 0;
        else if (is_pointer(i))
            c->in.gpr[i] = WORLD_DATA + 2048 + 64 * below(r, 32);
        else if (percent(r, 50))
            c->in.gpr[i] = 16 * below(r, 32);
    }
    c->in.xsave[0] |= 0x3f; // what is unmasked is the single instructions' matter
    store_le32(c->in.xsave + 24, load_le32(c->in.xsave + 24) | 0x1f80);
}

static bool add_insn(const struct template *all, size_t count, struct random *r,
                     struct test_case *c, unsigned *at, unsigned *undefined)
{
    const struct template *t = &all[draw(r) % count];
    uint8_t code[ENCODED_MAX];
    struct insn in;
    if (t->mode != c->mode || !encode(t, r, code, &in) || !streamable(&in, *undefined) ||
        (loses_pointer(&in) && percent(r, 95)) || !aim_operand(r, &in, code, WORLD_CODE + *at))
        return false;
    const struct insn_form *form = insn_form(&in);
    // Shifts leave flags as they are or undefined, by their count: taken as undefined.
    bool maybe = form->flags_read & form->flags_undefined;
    *undefined = (*undefined & ~(maybe ? 0u : form->flags_written)) | form->flags_undefined;
    c->undefined_at_fault |= form->flags_undefined;
    memcpy(c->code + *at, code, in.len);
    *at += in.len;
    return true;
}

bool stream_make(const struct template *all, size_t count, uint64_t seed, struct test_case *c)
{
    struct random r = {seed};
    unsigned undefined = 0, at = CASE_OFFSET, insns = 2 + below(&r, STREAM_MAX - 1);
    memset(c, 0, offsetof(struct test_case, host));
    memset(c->code, 0xcc, CODE_BYTES);
    c->seed = seed;
    c->stream = true;
    c->mode = percent(&r, 75) ? 8 : 4;
    stream_registers(&r, c, all[0].components);
    for (unsigned tries = 0; insns && tries < TRIES; tries++)
        insns -= add_insn(all, count, &r, c, &at, &undefined);
    c->len = (uint8_t)(at - CASE_OFFSET);
    c->undefined = undefined;
    return at > CASE_OFFSET;
}
