// The fixed part of the code cache: how C enters translated code and how translated code calls C.
//
// A gate is reached by a jump with an id in T0 and a value in T1. It leaves the return-address
// predictor alone: every call from here returns. Not saved: vector registers, which C of this
// folder does not touch.
#include "engine/translate/jit_impl.h"

const uint8_t jit_host_reg[16] = {
    [RAX] = RAX, [RCX] = R11, [RDX] = RDX,    [RBX] = RBX,    [RSP] = R10,     [RBP] = RBP,
    [RSI] = RSI, [RDI] = RDI, [R8] = NO_HOST, [R9] = NO_HOST, [R10] = NO_HOST, [R11] = NO_HOST,
    [R12] = R12, [R13] = R13, [R14] = R14,    [R15] = R15,
};

static const uint8_t callee_saved[] = {RBX, RBP, R12, R13, R14, R15};

#define GS(field) emit_gs(offsetof(struct tcpu, field))

static struct emit_mem gpr_slot(unsigned guest)
{
    return emit_gs(offsetof(struct tcpu, s.gpr) + 8 * guest);
}

static void save_registers(struct emit *e)
{
    for (unsigned i = 0; i < 16; i++)
        if (jit_host_reg[i] != NO_HOST)
            emit_store(e, 8, gpr_slot(i), jit_host_reg[i]);
}

// The arithmetic flags into s.rflags. LAHF and SETO are much cheaper than PUSHF.
static void save_flags(struct emit *e)
{
    emit_u8(e, 0x9f); // lahf
    emit_setcc_r(e, COND_O, RAX);
    emit_bytes(e, "\x0f\xb6\xd4", 3); // movzx edx, ah
    emit_movzx(e, RAX, RAX, 1);
    emit_shift_ri(e, SHIFT_SHL, 4, RAX, 11);
    emit_alu_ri(e, ALU_AND, 4, RDX, (int32_t)(FLAGS_ARITH & 0xff));
    emit_alu_rr(e, ALU_OR, 4, RAX, RDX);
    emit_alu_mr(e, ALU_OR, 4, GS(s.rflags), RAX);
}

// Back from s.rflags; uses RAX and RDX. 127 + OF overflows exactly when OF is one.
static void load_flags(struct emit *e)
{
    emit_load(e, 4, RAX, GS(s.rflags));
    emit_alu_mi(e, ALU_AND, 4, GS(s.rflags), ~(int32_t)FLAGS_ARITH);
    emit_mov_rr(e, 4, RDX, RAX);
    emit_shift_ri(e, SHIFT_SHR, 4, RDX, 11);
    emit_alu_ri(e, ALU_AND, 4, RDX, 1);
    emit_bytes(e, "\x88\xc4", 2); // mov ah, al
    emit_alu_ri(e, ALU_ADD, 1, RDX, 127);
    emit_u8(e, 0x9e); // sahf
}

// Loads the guest's state and goes to the address in T0.
static void emit_resume(struct emit *e)
{
    load_flags(e);
    for (unsigned i = 0; i < 16; i++)
        if (jit_host_reg[i] != NO_HOST)
            emit_load(e, 8, jit_host_reg[i], gpr_slot(i));
    emit_jmp_r(e, T0);
}

static void to_host_stack(struct emit *e)
{
    emit_store(e, 8, GS(hot.shadow_rsp), RSP);
    emit_load(e, 8, RSP, GS(hot.host_rsp));
}

static void to_shadow_stack(struct emit *e)
{
    emit_store(e, 8, GS(hot.host_rsp), RSP);
    emit_load(e, 8, RSP, GS(hot.shadow_rsp));
}

// void enter(struct tcpu *c, const void *host)
static void emit_enter(struct jit *jit, struct emit *e)
{
    const uint8_t *at = emit_exec(e);
    __builtin_memcpy(&jit->enter, &at, sizeof at);
    for (unsigned i = 0; i < ARRAY_LEN(callee_saved); i++)
        emit_push(e, callee_saved[i]);
    emit_lea(e, 8, RSP, emit_at(RSP, -8));
    to_shadow_stack(e);
    emit_mov_rr(e, 8, T0, RSI);
    emit_resume(e);
}

static void emit_leave(struct jit *jit, struct emit *e)
{
    jit->leave = emit_exec(e);
    save_flags(e); // emit_resume() has just taken them out of s.rflags
    to_host_stack(e);
    emit_lea(e, 8, RSP, emit_at(RSP, 8));
    for (unsigned i = ARRAY_LEN(callee_saved); i-- > 0;)
        emit_pop(e, callee_saved[i]);
    emit_ret(e);
}

// Calls a function before the gate's own. All of the guest's general registers are saved, so the
// gate's arguments can wait in those that C preserves.
static void emit_first(struct emit *e, void (*first)(struct tcpu *))
{
    emit_mov_rr(e, 8, RBX, RSI);
    emit_mov_rr(e, 8, RBP, RDX);
    emit_mov_rr(e, 8, R12, T2);
    emit_mov_ri(e, RAX, (uint64_t)(uintptr_t)first);
    emit_call_r(e, RAX);
    emit_load(e, 8, RDI, GS(hot.self));
    emit_mov_rr(e, 8, RSI, RBX);
    emit_mov_rr(e, 8, RDX, RBP);
    emit_mov_rr(e, 8, T2, R12);
}

// Expects the C function in T2.
static void emit_common_gate(struct emit *e)
{
    save_registers(e);
    save_flags(e);
    emit_load(e, 8, RDI, GS(hot.self));
    emit_mov_rr(e, 4, RSI, T0);
    emit_mov_rr(e, 8, RDX, T1);
    to_host_stack(e);
    emit_alu_mi(e, ALU_CMP, 4, GS(hot.exchanged), 0);
    uint8_t *in_place = emit_jcc(e, COND_E);
    emit_first(e, jit_exchange_back);
    emit_land(e, in_place);
    if (BERTH_SANITIZED) // its runtime may use vector registers in any call
        emit_first(e, fpu_to_memory);
    emit_call_r(e, T2);
    to_shadow_stack(e);
    emit_mov_rr(e, 8, T0, RAX);
    emit_resume(e);
}

// Also where the shadow stack's last entry leads to.
static void emit_shared_lookup(struct jit *jit, struct emit *e, unsigned user)
{
    const void *miss = emit_exec(e);
    emit_load(e, 4, T0, GS(hot.site));
    emit_jmp_to(e, jit->gate[GATE_INDIRECT]);
    jit->astray[user] = emit_exec(e);
    emit_load(e, 8, RSP, GS(hot.shadow_base));
    jit->lookup[user] = emit_exec(e);
    emit_store(e, 4, GS(hot.site), T2);
    jit_emit_lookup(jit, e, user, miss);
    emit_jmp_r(e, T2);
}

void jit_emit_gates(struct jit *jit)
{
    struct emit *e = &jit->hot;
    emit_enter(jit, e);
    emit_leave(jit, e);
    const void *common = emit_exec(e);
    emit_common_gate(e);
    for (unsigned i = 0; i < GATE_COUNT; i++) {
        jit->gate[i] = emit_exec(e);
        emit_mov_ri(e, T2, (uint64_t)(uintptr_t)jit_gate_fns[i]);
        emit_jmp_to(e, common);
    }
    emit_shared_lookup(jit, e, 0);
    emit_shared_lookup(jit, e, 1);
    if (jit->bmi2 && jit->full_tlb)
        jit_emit_repeats(jit);
    emit_align(e, 64);
}
