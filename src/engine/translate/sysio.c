// IN, OUT, INS, OUTS with repetition, and I/O breakpoints. A repeated instruction stops at an
// instruction boundary whenever something is pending, with its registers as far as it got. Source:
// Intel SDM vol. 2 and vol. 1 chapter 19.
#include "engine/translate/system_impl.h"

static void io_watch(struct tcpu *c, uint16_t port, unsigned size)
{
    uint64_t dr7 = points_dr7(c);
    if (!(c->s.cr4 & CR4_DE) || !(dr7 & 0xff))
        return;
    static const uint8_t bytes[4] = {1, 2, 8, 4};
    for (unsigned i = 0; i < 4; i++) {
        uint64_t len = bytes[bits_get(dr7, 19 + 4 * i, 18 + 4 * i)],
                 start = points_at(c, i) & ~(len - 1);
        if (bits_get(dr7, 17 + 4 * i, 16 + 4 * i) == 2 && (dr7 >> (2 * i) & 3) &&
            port < start + len && start < (uint64_t)port + size)
            debug_hit(c, i);
    }
}

static uint64_t port_read(struct tcpu *c, uint16_t port, unsigned size)
{
    c->counter[COUNTER_UPCALLS]++;
    io_watch(c, port, size);
    fpu_to_memory(c);
    tvm_leave(c);
    uint64_t value = c->vm->up->pio_read(c->vm->opaque, c->index, port, size);
    tvm_enter(c);
    return value & size_mask(size);
}

static void port_write(struct tcpu *c, uint16_t port, unsigned size, uint64_t value)
{
    c->counter[COUNTER_UPCALLS]++;
    io_watch(c, port, size);
    fpu_to_memory(c);
    tvm_leave(c);
    c->vm->up->pio_write(c->vm->opaque, c->index, port, size, value & size_mask(size));
    tvm_enter(c);
}

static uint16_t port_operand(const struct tcpu *c, const struct insn *insn, unsigned n)
{
    return insn->operand[n].kind == OPND_IMM ? insn->imm & 0xff : (uint16_t)c->s.gpr[RDX];
}

void sys_in(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint16_t port = port_operand(c, insn, 1);
    io_check(c, port, size);
    gpr_write(c, RAX, size, false, port_read(c, port, size));
}

void sys_out(struct tcpu *c, const struct insn *insn)
{
    unsigned size = insn->operand[1].size;
    uint16_t port = port_operand(c, insn, 0);
    io_check(c, port, size);
    port_write(c, port, size, c->s.gpr[RAX]);
}

static void advance(struct tcpu *c, const struct insn *insn, unsigned reg, unsigned size)
{
    uint64_t by = c->s.rflags & FLAG_DF ? -(uint64_t)size : size;
    gpr_write(c, reg, insn->addrsize, false, c->s.gpr[reg] + by);
}

static void one_in(struct tcpu *c, const struct insn *insn, unsigned size)
{
    uint64_t offset = c->s.gpr[RDI] & size_mask(insn->addrsize);
    gva_t at = seg_linear(c, SEG_ES, offset, size, ACCESS_WRITE);
    mem_probe_write(c, at, size); // the port is read only if its value can be kept
    mem_write(c, at, size, port_read(c, (uint16_t)c->s.gpr[RDX], size));
    advance(c, insn, RDI, size);
}

static void one_out(struct tcpu *c, const struct insn *insn, unsigned size)
{
    uint64_t offset = c->s.gpr[RSI] & size_mask(insn->addrsize);
    gva_t at = seg_linear(c, insn->seg, offset, size, ACCESS_READ);
    port_write(c, (uint16_t)c->s.gpr[RDX], size, mem_read(c, at, size));
    advance(c, insn, RSI, size);
}

static void repeat(struct tcpu *c, const struct insn *insn, unsigned size,
                   void (*one)(struct tcpu *, const struct insn *, unsigned))
{
    io_check(c, (uint16_t)c->s.gpr[RDX], size);
    if (!(insn->prefix & (PREFIX_REP | PREFIX_REPNE))) {
        one(c, insn, size);
        return;
    }
    uint64_t mask = size_mask(insn->addrsize);
    while (c->s.gpr[RCX] & mask) {
        one(c, insn, size);
        gpr_write(c, RCX, insn->addrsize, false, c->s.gpr[RCX] - 1);
        if ((c->s.gpr[RCX] & mask) && __atomic_load_n(&c->pending, __ATOMIC_RELAXED)) {
            c->s.rip = c->insn_rip;
            return;
        }
    }
}

static unsigned string_size(const struct insn *insn)
{
    return insn->opcode & 1 ? (insn->opsize == 2 ? 2 : 4) : 1;
}

void sys_ins(struct tcpu *c, const struct insn *insn)
{
    repeat(c, insn, string_size(insn), one_in);
}

void sys_outs(struct tcpu *c, const struct insn *insn)
{
    repeat(c, insn, string_size(insn), one_out);
}
