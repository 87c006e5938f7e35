// Vector and x87 instructions: the conditions under which they fault, their operands in memory and
// general registers, and the run on the host's units. Sources: Intel SDM volume 2 section 2.4
// (exception classes), volume 3 section 13.1 (CR0 and CR4 conditions); AMD APM volume 2 section 11.
// Not modelled: IRQ 13 for x87 exceptions with CR0.NE clear (they are dropped); MXCSR.MM; unmasked
// underflow of an exact tiny result (reported only when it is inexact, too).
#include "engine/translate/simd_impl.h"

#define FORM_VECTOR (FORM_SSE | FORM_AVX | FORM_AVX512)

_Noreturn void raise_simd_exception(struct tcpu *c)
{
    cpu_raise(c, c->s.cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD, 0);
}

// The sanitizers' runtime uses vector registers before every call that does not return, so their
// builds keep the guest's in memory between instructions.
static void settle(struct tcpu *c)
{
    if (BERTH_SANITIZED)
        fpu_to_memory(c);
}

// --- may it run at all? --------------------------------------------------------------------------

static bool is_environment_op(unsigned op) // FXSAVE and FXRSTOR follow x87's rules
{
    return op == OP_FXSAVE || op == OP_FXRSTOR;
}

static void check_undefined(struct tcpu *c, const struct insn *insn, const struct insn_form *form)
{
    bool undefined = form->feature != FEATURE_NONE && !feature_has(&c->features, form->feature);
    undefined |= (insn->prefix & PREFIX_LOCK) != 0;
    if (form->flags & FORM_VL && insn->veclen < 64)
        undefined |= !feature_has(&c->features, FEATURE_AVX512VL);
    if (form->flags & (FORM_AVX | FORM_AVX512))
        undefined |= !(c->mode & (form->flags & FORM_AVX512 ? MODE_AVX512 : MODE_AVX)) ||
                     !(c->mode & MODE_PROTECTED) || c->mode & MODE_V86;
    if (form->flags & FORM_SSE && !is_environment_op(insn->op))
        undefined |= !(c->s.cr4 & CR4_OSFXSR) || c->s.cr0 & CR0_EM;
    if (form->flags & FORM_SYSTEM) // the XSAVE family
        undefined |= !(c->s.cr4 & CR4_OSXSAVE);
    if (form->flags & FORM_MMX)
        undefined |= (c->s.cr0 & CR0_EM) != 0;
    if (undefined)
        cpu_raise(c, VEC_UD, 0);
}

static void check_available(struct tcpu *c, const struct insn *insn, const struct insn_form *form)
{
    bool trap = c->s.cr0 & CR0_TS;
    if (insn->op == OP_FWAIT)
        trap = trap && c->s.cr0 & CR0_MP;
    else if (form->flags & FORM_X87 || is_environment_op(insn->op))
        trap |= (c->s.cr0 & CR0_EM) != 0;
    if (trap)
        cpu_raise(c, VEC_NM, 0);
}

// Instructions that look neither at pending x87 exceptions nor raise them.
static bool is_non_waiting(unsigned op)
{
    switch (op) {
    case OP_FNINIT:
    case OP_FNCLEX:
    case OP_FNSTSW:
    case OP_FNSTCW:
    case OP_FNSTENV:
    case OP_FNSAVE: return true;
    default: return false;
    }
}

// With the state in the machine. What is left pending here would strike the host process.
static void check_pending(struct tcpu *c, const struct insn *insn, const struct insn_form *form)
{
    if (!(form->flags & (FORM_X87 | FORM_MMX)) || is_non_waiting(insn->op))
        return;
    if (!(fsw_read() & FSW_ES))
        return;
    if (c->s.cr0 & CR0_NE) {
        settle(c);
        cpu_raise(c, VEC_MF, 0);
    }
    asm volatile("fnclex");
}

// --- operands ------------------------------------------------------------------------------------

// Guest general registers keep their number where the frame has it (so implicit ones fit), others
// take r8 and r9 in turn.
struct registers {
    uint8_t map[16];
    unsigned others;
};

static void map_register(struct registers *r, const struct operand *op)
{
    if (op->reg <= RDX || r->map[op->reg] != RDI)
        return;
    r->map[op->reg] = (uint8_t)(R8 + (r->others++ & 1));
}

static void load_registers(struct tcpu *c, const struct insn *insn, struct registers *r)
{
    fill_bytes(r->map, RDI, sizeof r->map); // RDI: not an operand
    r->map[RAX] = RAX, r->map[RCX] = RCX, r->map[RDX] = RDX;
    r->others = 0;
    for (unsigned i = 0; i < insn->operands; i++) {
        const struct operand *op = &insn->operand[i];
        if (op->kind != OPND_GPR)
            continue;
        map_register(r, op);
        c->simd->frame.gpr[stub_slot(r->map[op->reg])] = c->s.gpr[op->reg];
    }
    c->simd->frame.flags = flags_pack(c->s.rflags);
}

static void store_registers(struct tcpu *c, const struct insn *insn, const struct registers *r)
{
    for (unsigned i = 0; i < insn->operands; i++) {
        const struct operand *op = &insn->operand[i];
        if (op->kind == OPND_GPR && op->flags & OPERAND_WRITE)
            c->s.gpr[op->reg] = c->simd->frame.gpr[stub_slot(r->map[op->reg])];
    }
    if (insn_form(insn)->flags_written)
        c->s.rflags = flags_unpack(c->s.rflags, c->simd->frame.flags);
}

static const struct operand *memory_operand(const struct insn *insn)
{
    for (unsigned i = 0; i < insn->operands; i++)
        if (insn->operand[i].kind == OPND_MEM)
            return &insn->operand[i];
    return NULL;
}

// Whether a writemask decides which elements of the memory operand are accessed.
static bool is_write_masked(const struct insn *insn)
{
    return insn->evex_aaa && insn->mask_bits;
}

// Alignment rules hold for all of the operand, whatever the mask selects.
static void check_alignment(struct tcpu *c, const struct insn *insn, const struct operand *op)
{
    bool based = insn->mode != 8 || insn->seg >= SEG_FS;
    uint64_t at = insn_offset(c, insn) + (based ? c->s.seg[insn->seg].base : 0);
    if (insn_form(insn)->flags & FORM_ALIGNED && at & (op->size - 1u))
        cpu_raise(c, VEC_GP, 0);
}

// Like load_memory() under a writemask; returns which elements are accessed.
static uint64_t load_elements(struct tcpu *c, const struct insn *insn, const struct operand *op)
{
    bool write = op->flags & OPERAND_WRITE, whole = insn_form(insn)->flags & FORM_WHOLE;
    uint64_t elements = writemask_elements(c, insn, op);
    check_alignment(c, insn, op);
    if (whole && write)
        mem_probe_write(c, insn_linear(c, insn, op->size, ACCESS_WRITE), op->size);
    else if (whole)
        mem_read_block(c, insn_linear(c, insn, op->size, ACCESS_READ), c->simd->frame.mem,
                       op->size);
    else if (write)
        writemask_probe(c, insn, op, elements);
    else
        writemask_load(c, insn, op, elements);
    return elements;
}

// Brings the memory operand into the frame. One that is only written is probed and read, too: an
// x87 store that raises an unmasked exception leaves it as it was.
static gva_t load_memory(struct tcpu *c, const struct insn *insn, const struct operand *op)
{
    bool write = op->flags & OPERAND_WRITE;
    gva_t at = insn_linear(c, insn, op->size, write ? ACCESS_WRITE : ACCESS_READ);
    check_alignment(c, insn, op);
    if (write)
        mem_probe_write(c, at, op->size);
    if (!write || insn_form(insn)->flags & FORM_X87)
        mem_read_block(c, at, c->simd->frame.mem, op->size);
    return at;
}

// --- running -------------------------------------------------------------------------------------

static bool names_mmx(const struct insn *insn)
{
    bool found = false;
    for (unsigned i = 0; i < insn->operands; i++)
        found |= insn->operand[i].kind == OPND_MMX;
    return found;
}

// Some SIMD exception is unmasked. Runs with all masked; when one of those that the guest wants to
// hear of turns up, everything is put back and #XM raised with the flag set.
static void run_guarded(struct tcpu *c, const struct insn *insn, simd_stub *stub, uint32_t mxcsr)
{
    struct simd *simd = c->simd;
    host_xsave(simd->backup, simd->components);
    mxcsr_write((mxcsr | MXCSR_DEFAULT) & ~MXCSR_FLAGS);
    stub(&simd->frame);
    uint32_t raised = mxcsr_read() & MXCSR_FLAGS;
    // An unmasked exception from looking at the operands comes before anything is computed.
    if (raised & ~(mxcsr >> 7) & MXCSR_OPERAND_FLAGS)
        raised &= MXCSR_OPERAND_FLAGS;
    bool unmasked = raised & ~(mxcsr >> 7) & MXCSR_FLAGS;
    if (unmasked)
        host_xrstor(simd->backup, simd->components);
    mxcsr_write(mxcsr | raised);
    if (unmasked && names_mmx(insn)) {
        uint32_t ignored; // the unit has become MMX's all the same
        asm volatile("movd %%mm0, %0" : "=r"(ignored));
    }
    settle(c);
    if (unmasked)
        raise_simd_exception(c);
}

static void run(struct tcpu *c, const struct insn *insn, simd_stub *stub)
{
    uint32_t mxcsr = mxcsr_read();
    bool all_masked = (mxcsr & MXCSR_DEFAULT) == MXCSR_DEFAULT;
    if (all_masked || !(insn_form(insn)->flags & FORM_VECTOR))
        stub(&c->simd->frame);
    else
        run_guarded(c, insn, stub, mxcsr);
}

static void run_on_host(struct tcpu *c, const struct insn *insn)
{
    struct registers registers;
    const struct operand *memory = memory_operand(insn);
    if (memory && (memory->size == 0 || memory->size > sizeof c->simd->frame.mem))
        cpu_raise(c, VEC_UD, 0); // would reach beyond the frame: special() has to know it
    bool masked = memory && is_write_masked(insn);
    uint64_t elements = masked ? load_elements(c, insn, memory) : 0;
    gva_t at = memory && !masked ? load_memory(c, insn, memory) : 0;
    load_registers(c, insn, &registers);
    simd_stub *stub = stub_for(c->simd, insn, registers.map);
    if (!stub)
        cpu_raise(c, VEC_UD, 0);
    fpu_to_machine(c); // an upcall for MMIO may have taken it out
    run(c, insn, stub);
    if (c->simd->refused) {
        c->simd->refused = false;
        settle(c);
        cpu_raise(c, VEC_UD, 0);
    }
    if (masked && memory->flags & OPERAND_WRITE)
        writemask_store(c, insn, memory, elements);
    else if (memory && memory->flags & OPERAND_WRITE)
        mem_write_block(c, at, c->simd->frame.mem, memory->size);
    store_registers(c, insn, &registers);
}

// Instructions that touch memory in parts or hold a picture of the whole unit.
static interp_fn *special(unsigned op)
{
    switch (op) {
    case OP_FXSAVE: return simd_fxsave;
    case OP_FXRSTOR: return simd_fxrstor;
    case OP_LDMXCSR:
    case OP_VLDMXCSR: return simd_ldmxcsr;
    case OP_STMXCSR:
    case OP_VSTMXCSR: return simd_stmxcsr;
    case OP_FNSTENV: return simd_fnstenv;
    case OP_FLDENV: return simd_fldenv;
    case OP_FNSAVE: return simd_fnsave;
    case OP_FRSTOR: return simd_frstor;
    case OP_XSAVE: return simd_xsave;
    case OP_XSAVEOPT: return simd_xsaveopt;
    case OP_XSAVEC: return simd_xsavec;
    case OP_XSAVES: return simd_xsaves;
    case OP_XRSTOR: return simd_xrstor;
    case OP_XRSTORS: return simd_xrstors;
    case OP_MASKMOVQ:
    case OP_MASKMOVDQU:
    case OP_VMASKMOVDQU: return simd_maskmovdqu;
    default: return NULL;
    }
}

// Outside 64-bit code these know eight registers only; the host's would clear sixteen.
static void vzero32(struct tcpu *c, const struct insn *insn)
{
    uint8_t value[VECTOR_MAX];
    unsigned keep = insn->veclen == 32 ? 0 : 16;
    fpu_open(c, 0);
    for (unsigned i = 0; i < 8; i++) {
        vector_get(c, i, value);
        fill_bytes(value + keep, 0, VECTOR_MAX - keep);
        vector_set(c, i, value);
    }
}

static interp_fn *masked_move(const struct insn *insn)
{
    switch (insn->op) {
    case OP_VMASKMOVPS:
    case OP_VMASKMOVPD:
    case OP_VPMASKMOVD:
    case OP_VPMASKMOVQ:
        return insn->operand[0].kind == OPND_MEM ? simd_maskmov_store : simd_maskmov_load;
    default: break;
    }
    if (!(insn_form(insn)->flags & FORM_VSIB))
        return NULL;
    if (insn->encoding != ENC_EVEX)
        return simd_gather;
    return insn->operand[0].kind == OPND_MEM ? simd_scatter : simd_gather_evex;
}

void simd_insn(struct tcpu *c, const struct insn *insn)
{
    const struct insn_form *form = insn_form(insn);
    check_undefined(c, insn, form);
    check_available(c, insn, form);
    fpu_to_machine(c);
    check_pending(c, insn, form);
    settle(c);
    interp_fn *fn = special(insn->op);
    if (!fn)
        fn = masked_move(insn);
    if (insn->mode != 8 && (insn->op == OP_VZEROALL || insn->op == OP_VZEROUPPER))
        fn = vzero32;
    if (fn)
        fn(c, insn);
    else
        run_on_host(c, insn);
    settle(c);
}
