// Inside the interpreter: operand access, segmentation, stack, and the two dispatch tables.
#pragma once

#include "engine/translate/tcpu.h"

typedef void interp_fn(struct tcpu *c, const struct insn *insn);

// op -> handler; NULL where the table has none. Integer and data movement; system and control.
// interp_insn() looks at form flags first (vector instructions go to simd_insn), then at these.
extern interp_fn *const interp_integer[];
extern interp_fn *const interp_system[];

// rip after the instruction, truncated to the code size. Handlers that do not branch leave s.rip
// alone: interp_insn() has already advanced s.rip when it calls them (c->insn_rip is the start).
static inline unsigned cpl(const struct tcpu *c)
{
    return (unsigned)bits_get(c->s.seg[SEG_SS].attr, 6, 5);
}

static inline bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

// interp.c: the decoded-instruction cache. Bytes within one page have changed.
void icache_invalidate(struct tcpu *c, gpa_t at, uint64_t len);
void icache_flush(struct tcpu *c);

// segment.c
// Linear address of offset in segment, after the limit, type and canonical checks: #GP(0) or
// #SS(0).
gva_t seg_linear(struct tcpu *c, unsigned seg, uint64_t offset, unsigned size, enum access access);
// Loads a segment register as MOV, POP and LxS do (checks, descriptor fetch, accessed bit).
void seg_load(struct tcpu *c, unsigned seg, uint16_t selector);

// operand.c
uint64_t insn_offset(const struct tcpu *c,
                     const struct insn *insn); // effective address, no segment
gva_t insn_linear(struct tcpu *c, const struct insn *insn, unsigned size, enum access access);
uint64_t operand_read_other(struct tcpu *c, const struct insn *insn, unsigned n);
void operand_write_memory(struct tcpu *c, const struct insn *insn, unsigned n, uint64_t value);

static inline uint64_t gpr_read(const struct tcpu *c, unsigned reg, unsigned size, bool high)
{
    uint64_t value = c->s.gpr[reg & 15];
    if (high)
        value >>= 8;
    return value & size_mask(size);
}

// Writes as the CPU does: 4-byte writes clear the upper half, 1- and 2-byte ones keep the rest.
static inline void gpr_write(struct tcpu *c, unsigned reg, unsigned size, bool high, uint64_t value)
{
    uint64_t *gpr = &c->s.gpr[reg & 15];
    if (high)
        *gpr = bits_set(*gpr, 15, 8, value);
    else if (size >= 4)
        *gpr = value & size_mask(size);
    else
        *gpr = bits_set(*gpr, size * 8 - 1, 0, value);
}

// Zero-extended.
static inline uint64_t operand_read(struct tcpu *c, const struct insn *insn, unsigned n)
{
    const struct operand *op = &insn->operand[n];
    if (op->kind == OPND_GPR)
        return gpr_read(c, op->reg, op->size, op->flags & OPERAND_HIGH);
    return operand_read_other(c, insn, n);
}

static inline void operand_write(struct tcpu *c, const struct insn *insn, unsigned n,
                                 uint64_t value)
{
    const struct operand *op = &insn->operand[n];
    if (op->kind == OPND_GPR)
        gpr_write(c, op->reg, op->size, op->flags & OPERAND_HIGH, value);
    else
        operand_write_memory(c, insn, n, value);
}

// stack.c: through SS, with the stack pointer's width (2, 4, 8) and limit checks. rsp changes only
// after the access succeeded.
void stack_push(struct tcpu *c, unsigned size, uint64_t value);
uint64_t stack_pop(struct tcpu *c, unsigned size);
uint64_t stack_peek(struct tcpu *c, unsigned size,
                    unsigned offset);          // at rsp + offset, rsp unchanged
void stack_add(struct tcpu *c, int64_t bytes); // rsp += bytes in the stack's width

// control.c
void jump_near(struct tcpu *c, uint64_t target,
               unsigned opsize); // canonical and limit checks; sets rip
// #GP(0) unless the port access is allowed (CPL, IOPL, I/O permission bitmap).
void io_check(struct tcpu *c, uint16_t port, unsigned size);
bool condition_holds(uint64_t rflags, unsigned condition); // Jcc condition code
