// The guest's stack: accesses through SS with the stack pointer's width. Source: Intel SDM volume
// 1, section 6.2. Switches to another privilege level's stack are control.c's.
#include "engine/translate/integer_impl.h"

// All in 64-bit code, else ESP or SP by SS.B.
uint64_t stack_mask(const struct tcpu *c)
{
    if ((c->mode & MODE_CODE_SIZE) == MODE_CODE64)
        return ~0ull;
    return c->mode & MODE_STACK32 ? 0xffffffffu : 0xffffu;
}

static gva_t stack_linear(struct tcpu *c, int64_t offset, unsigned size, enum access access)
{
    uint64_t at = (c->s.gpr[RSP] + (uint64_t)offset) & stack_mask(c);
    return seg_linear(c, SEG_SS, at, size, access);
}

void stack_add(struct tcpu *c, int64_t bytes)
{
    uint64_t mask = stack_mask(c);
    uint64_t rsp = c->s.gpr[RSP] + (uint64_t)bytes;
    uint64_t keep = mask == 0xffff ? c->s.gpr[RSP] & ~mask : 0;
    c->s.gpr[RSP] = keep | (rsp & mask);
}

void stack_push(struct tcpu *c, unsigned size, uint64_t value)
{
    mem_write(c, stack_linear(c, -(int64_t)size, size, ACCESS_WRITE), size,
              value & size_mask(size));
    stack_add(c, -(int64_t)size);
}

uint64_t stack_pop(struct tcpu *c, unsigned size)
{
    uint64_t value = stack_peek(c, size, 0);
    stack_add(c, size);
    return value;
}

uint64_t stack_peek(struct tcpu *c, unsigned size, unsigned offset)
{
    return mem_read(c, stack_linear(c, offset, size, ACCESS_READ), size);
}
