// Read-modify-write of operands, LOCKed or not. Other vCPUs are host threads on the same memory, so
// a LOCKed one is a host compare-and-exchange. Source: Intel SDM volume 3, section 9.1. Not
// modelled: atomicity of a page-crossing LOCKed access against accesses that are not page-crossing
// (the two pages are rarely neighbours on the host); bus locks on MMIO.
#include "engine/translate/integer_impl.h"
#include "engine/translate/tvm.h"

#include "base/copy.h"

// Explicit instructions: __atomic builtins on unaligned objects are undefined, the CPU's are not.
#define COMPARE_EXCHANGE(suffix, modifier, type)                                     \
    asm volatile("lock cmpxchg" suffix " %" modifier "[new], %[mem]\n\tsete %[same]" \
                 : [mem] "+m"(*(type *)at), "+a"(*old), [same] "=q"(same)            \
                 : [new] "q"(new)                                                    \
                 : "cc", "memory")

// Stores new if memory still holds *old; else updates *old.
static bool compare_exchange(void *at, unsigned size, uint64_t *old, uint64_t new)
{
    bool same;
    switch (size) {
    case 1: COMPARE_EXCHANGE("b", "b", uint8_t); break;
    case 2: COMPARE_EXCHANGE("w", "w", uint16_t); break;
    case 4: COMPARE_EXCHANGE("l", "k", uint32_t); break;
    default: COMPARE_EXCHANGE("q", "q", uint64_t); break;
    }
    *old &= size_mask(size);
    return same;
}

void split_lock(struct tcpu *c)
{
    while (__atomic_exchange_n(&c->vm->split_lock, 1, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

void split_unlock(struct tcpu *c)
{
    __atomic_store_n(&c->vm->split_lock, 0, __ATOMIC_RELEASE);
}

static uint64_t apply(struct modify *m, unsigned size, uint64_t old)
{
    m->flags = m->flags_before;
    return m->fn(m, size, old) & size_mask(size);
}

static uint64_t modify_atomic(void *host, unsigned size, struct modify *m)
{
    uint64_t old = load_sized(host, size);
    while (!compare_exchange(host, size, &old, apply(m, size, old)))
        ;
    return old;
}

// The probe has raised what there is to raise, so nothing leaves this function early with the lock
// held.
static uint64_t modify_slow(struct tcpu *c, gva_t at, unsigned size, struct modify *m)
{
    mem_probe_write(c, at, size);
    if (m->locked)
        split_lock(c);
    uint64_t old = mem_read(c, at, size);
    mem_write(c, at, size, apply(m, size, old));
    if (m->locked)
        split_unlock(c);
    return old;
}

uint64_t mem_modify(struct tcpu *c, gva_t at, unsigned size, struct modify *m)
{
    bool one_page = (at & PAGE_MASK) + size <= PAGE_SIZE;
    if (m->locked && one_page) {
        void *host = mem_host_rmw(c, at, size);
        if (host)
            return modify_atomic(host, size, m);
    }
    return modify_slow(c, at, size, m);
}

uint64_t operand_modify(struct tcpu *c, const struct insn *insn, unsigned n, struct modify *m)
{
    const struct operand *op = &insn->operand[n];
    uint64_t old;
    if (op->kind == OPND_MEM) {
        old = mem_modify(c, insn_linear(c, insn, op->size, ACCESS_WRITE), op->size, m);
    } else {
        old = operand_read(c, insn, n);
        operand_write(c, insn, n, apply(m, op->size, old));
    }
    c->s.rflags = m->flags;
    return old;
}
