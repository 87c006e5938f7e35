// Shared by the integer handlers: running the host's own instruction for exact flags, and
// read-modify-write of an operand.
//
// The guest is of the host's architecture, so a result and its flags (those that manuals leave
// undefined too) come from executing the very instruction. The flags travel through AH and AL,
// because a push in inline assembly would overwrite the compiler's red zone.
#pragma once

#include "engine/translate/interp_impl.h"

// rflags -> AX: AH as SAHF wants it, AL = OF; FLAGS_IN puts it into the machine, FLAGS_OUT takes it
// out.
#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

static inline uint64_t flags_pack(uint64_t rflags)
{
    return (rflags & 0xff) << 8 | (rflags >> 11 & 1);
}

static inline uint64_t flags_unpack(uint64_t rflags, uint64_t ax)
{
    return (rflags & ~FLAGS_ARITH) | (ax >> 8 & 0xff & FLAGS_ARITH) | (ax & 1) << 11;
}

// A read-modify-write in progress.
struct modify {
    // New value of the operand; may look at and change flags. Called again when another vCPU was
    // faster.
    uint64_t (*fn)(struct modify *m, unsigned size, uint64_t old);
    uint64_t with;        // second operand
    uint64_t accumulator; // of CMPXCHG
    uint64_t flags_before;
    uint64_t flags; // RFLAGS after
    bool locked;
};

typedef uint64_t modify_fn(struct modify *m, unsigned size, uint64_t old);

// Replaces operand n (register or memory), atomically if m->locked, and RFLAGS by m->flags. Memory
// must be writable even where nothing changes, as on the CPU. Returns the old value.
uint64_t operand_modify(struct tcpu *c, const struct insn *insn, unsigned n, struct modify *m);
// The same for memory at a linear address whose segment checks are done; m->flags is left to the
// caller.
uint64_t mem_modify(struct tcpu *c, gva_t at, unsigned size, struct modify *m);

static inline struct modify modify_init(const struct tcpu *c, const struct insn *insn,
                                        modify_fn *fn, uint64_t with)
{
    return (struct modify){.fn = fn,
                           .with = with,
                           .flags_before = c->s.rflags,
                           .flags = c->s.rflags,
                           .locked = insn->prefix & PREFIX_LOCK};
}

// A modify_fn for operands of 2, 4 and 8 bytes: RUN(insn, suffix, operand modifier) is the host's
// instruction on `a`, with m's other operands, and the flags in ax.
#define MODIFY_WORDS(name, insn, RUN)                                 \
    static uint64_t name(struct modify *m, unsigned size, uint64_t a) \
    {                                                                 \
        uint64_t ax = flags_pack(m->flags);                           \
        switch (size) {                                               \
        case 2: RUN(insn, "w", "w"); break;                           \
        case 4: RUN(insn, "l", "k"); break;                           \
        default: RUN(insn, "q", "q"); break;                          \
        }                                                             \
        m->flags = flags_unpack(m->flags, ax);                        \
        return a;                                                     \
    }

// Locks that page-crossing LOCKed accesses of one VM take in turn (a host instruction cannot span
// two pages that are not neighbours in host memory).
void split_lock(struct tcpu *c);
void split_unlock(struct tcpu *c);

// Bits of RSP that take part in stack addresses (stack.c).
uint64_t stack_mask(const struct tcpu *c);

// Handlers, by file. alu.c
interp_fn op_add, op_or, op_adc, op_sbb, op_and, op_sub, op_xor, op_cmp, op_test, op_inc, op_dec,
    op_neg, op_not, op_clc, op_stc, op_cmc, op_cld, op_std;
// shift.c
interp_fn op_rol, op_ror, op_rcl, op_rcr, op_shl, op_shr, op_sar, op_shld, op_shrd;
// muldiv.c
interp_fn op_mul, op_imul, op_div, op_idiv, op_cbw, op_cwd;
// bits.c
interp_fn op_bt, op_bts, op_btr, op_btc, op_bsf, op_bsr, op_tzcnt, op_lzcnt, op_popcnt, op_crc32;
// bmi.c
interp_fn op_andn, op_bextr, op_blsi, op_blsmsk, op_blsr, op_bzhi, op_mulx, op_pdep, op_pext,
    op_rorx, op_sarx, op_shlx, op_shrx, op_adcx, op_adox;
// move.c
interp_fn op_mov, op_movsx, op_lea, op_bswap, op_movbe, op_cmov, op_xlat, op_salc, op_lahf, op_sahf,
    op_setcc, op_nop, op_touch, op_fence;
// exchange.c
interp_fn op_xchg, op_xadd, op_cmpxchg, op_cmpxchg8b, op_cmpxchg16b;
// pushpop.c
interp_fn op_push, op_pop, op_pop_sreg, op_pusha, op_popa, op_enter, op_leave;
// flow.c
interp_fn op_jcc, op_jmp_near, op_call_near, op_ret_near, op_loop, op_loope, op_loopne, op_jcxz;
// bcd.c
interp_fn op_aaa, op_aas, op_aam, op_aad, op_daa, op_das;
// string.c
interp_fn op_movs, op_stos, op_lods, op_scas, op_cmps;
// random.c
interp_fn op_rdrand, op_rdseed;
