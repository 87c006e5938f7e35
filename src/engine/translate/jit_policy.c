// Which instructions the host may run for the guest. This is a list of what is allowed: an
// instruction that reaches host state (segment bases, XSAVE areas, time, identity) must never get
// through here.
#include "engine/translate/jit_trans.h"

#define FORM_VECTOR (FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512)

static bool integer_allowed(unsigned op)
{
    switch (op) {
    case OP_ADD:
    case OP_OR:
    case OP_ADC:
    case OP_SBB:
    case OP_AND:
    case OP_SUB:
    case OP_XOR:
    case OP_CMP:
    case OP_INC:
    case OP_DEC:
    case OP_TEST:
    case OP_NOT:
    case OP_NEG:
    case OP_MUL:
    case OP_IMUL:
    case OP_DIV:
    case OP_IDIV:
    case OP_CBW:
    case OP_CWD:
    case OP_ROL:
    case OP_ROR:
    case OP_RCL:
    case OP_RCR:
    case OP_SHL:
    case OP_SHR:
    case OP_SAR:
    case OP_SHLD:
    case OP_SHRD:
    case OP_BT:
    case OP_BTS:
    case OP_BTR:
    case OP_BTC:
    case OP_BSF:
    case OP_BSR:
    case OP_TZCNT:
    case OP_LZCNT:
    case OP_POPCNT:
    case OP_BSWAP:
    case OP_ANDN:
    case OP_BLSR:
    case OP_BLSMSK:
    case OP_BLSI:
    case OP_BEXTR:
    case OP_BZHI:
    case OP_PEXT:
    case OP_PDEP:
    case OP_MULX:
    case OP_SHLX:
    case OP_SARX:
    case OP_SHRX:
    case OP_RORX:
    case OP_ADCX:
    case OP_ADOX:
    case OP_CRC32:
    case OP_MOVBE:
    case OP_MOV:
    case OP_MOVSXD:
    case OP_XCHG:
    case OP_PAUSE:
    case OP_MOVZX:
    case OP_MOVSX:
    case OP_CMOVCC:
    case OP_SETCC:
    case OP_XADD:
    case OP_CMPXCHG:
    case OP_CMPXCHG8B:
    case OP_CMPXCHG16B:
    case OP_MOVNTI:
    case OP_SAHF:
    case OP_LAHF:
    case OP_CMC:
    case OP_CLC:
    case OP_STC:
    case OP_LFENCE:
    case OP_MFENCE:
    case OP_SFENCE: return true;
    default: return false;
    }
}

static const struct operand *memory_operand(const struct insn *in)
{
    for (unsigned i = 0; i < in->operands; i++)
        if (in->operand[i].kind == OPND_MEM)
            return &in->operand[i];
    return NULL;
}

// Vector instructions all qualify, except those whose operand is state (FXSAVE: no size), depends
// on a mask in a vector register, or is addressed otherwise than by ModRM.
static bool vector_allowed(const struct trans *t, const struct insn *in, uint32_t flags)
{
    unsigned mode = t->c->mode;
    if (mode & MODE_FPU_TRAP || flags & FORM_VSIB)
        return false;
    if ((flags & FORM_SSE && !(mode & MODE_SSE)) || (flags & FORM_AVX && !(mode & MODE_AVX)) ||
        (flags & FORM_AVX512 && !(mode & MODE_AVX512)))
        return false;
    if (flags & FORM_VL && in->veclen < 64 && !feature_has(&t->c->features, FEATURE_AVX512VL))
        return false;
    const struct operand *mem = memory_operand(in);
    if (mem && (mem->size == 0 || mem->field != FIELD_RM))
        return false;
    switch (in->op) {
    case OP_MASKMOVQ:
    case OP_MASKMOVDQU:
    case OP_VMASKMOVDQU:
    case OP_VMASKMOVPS:
    case OP_VMASKMOVPD:
    case OP_VPMASKMOVD:
    case OP_VPMASKMOVQ:
    case OP_FXSAVE:
    case OP_FXRSTOR: return false;
    case OP_VZEROALL:
    case OP_VZEROUPPER: return in->mode == 8; // elsewhere they know eight registers only
    default: return true;
    }
}

// BT and friends with a register as bit number reach beyond their operand.
static bool is_bit_string(const struct insn *in)
{
    return (in->op == OP_BT || in->op == OP_BTS || in->op == OP_BTR || in->op == OP_BTC) &&
           in->map == MAP_0F && in->opcode != 0xba && memory_operand(in);
}

bool trans_allowed(const struct trans *t, const struct insn *in)
{
    const struct insn_form *form = insn_form(in);
    if (form->flags & (FORM_SYSTEM | FORM_BRANCH | FORM_STACK | FORM_STRING) ||
        !feature_has(&t->c->features, form->feature))
        return false;
    if (in->prefix & PREFIX_LOCK && !(form->flags & FORM_LOCKABLE && memory_operand(in)))
        return false;
    if (form->flags & FORM_VECTOR)
        return vector_allowed(t, in, form->flags);
    return integer_allowed(in->op) && !is_bit_string(in);
}

bool trans_continues(const struct insn *in)
{
    uint32_t flags = insn_form(in)->flags;
    if (flags & FORM_BRANCH)
        return false;
    if (!(flags & FORM_SYSTEM))
        return true;
    switch (in->op) {
    case OP_MOV_CR: return in->operand[0].kind == OPND_GPR;
    case OP_STI:
    case OP_CLI:
    case OP_RDTSC:
    case OP_RDTSCP:
    case OP_CPUID:
    case OP_IN:
    case OP_OUT:
    case OP_RDMSR:
    case OP_SWAPGS:
    case OP_POPF:
    case OP_CLAC:
    case OP_STAC:
    case OP_XGETBV:
    case OP_RDFSBASE:
    case OP_RDGSBASE:
    case OP_WRFSBASE:
    case OP_WRGSBASE:
    case OP_RDRAND:
    case OP_RDPID:
    case OP_VERW:
    case OP_RDSEED: return true;
    default: return false;
    }
}
