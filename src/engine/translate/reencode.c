// Re-encodes a decoded guest instruction for the host with other operands (emit_insn() in emit.h).
// Encodings: Intel SDM volume 2, sections 2.1 (legacy and REX), 2.3 (VEX), 2.7 (EVEX).
// Not done: 16-bit address forms (the new memory operand is always a host one), XOP and 3DNow!.
#include "engine/translate/emit_impl.h"

// The registers that will be encoded, with their high bits.
struct fields {
    unsigned reg, rm, vvvv, opcode;
    bool mem;
    bool high; // an AH..BH is among them: no REX possible
    bool low;  // an SPL..DIL is among them: REX needed
    bool failed;
};

static bool is_vector_insn(const struct insn *insn)
{
    return insn_form(insn)->flags & (FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512);
}

// The number that goes into the field for this operand, after mapping.
static unsigned field_number(struct fields *f, const struct operand *op,
                             const struct emit_operands *new)
{
    if (op->kind != OPND_GPR)
        return op->reg;
    unsigned host = new->gpr ? new->gpr[op->reg] : op->reg;
    if (op->flags & OPERAND_HIGH) {
        f->high = true;
        f->failed |= host > RBX;
        return host + 4;
    }
    f->low |= op->size == 1 && host >= RSP && host <= RDI;
    return host;
}

// An operand that is named by the instruction alone (AL of ADD AL, imm) cannot be moved elsewhere.
static bool implicit_moves(const struct operand *op, const struct emit_operands *new)
{
    return op->kind == OPND_GPR && op->field == FIELD_NONE &&
           new->gpr &&new->gpr[op->reg] != op->reg;
}

static void place_operand(struct fields *f, const struct operand *op,
                          const struct emit_operands *new)
{
    if (op->kind == OPND_MEM) {
        f->mem = true;
        f->failed |= op->field != FIELD_RM;
        return;
    }
    if (op->kind == OPND_REL || op->kind == OPND_FAR || implicit_moves(op, new)) {
        f->failed = true;
        return;
    }
    unsigned number = field_number(f, op, new);
    switch (op->field) {
    case FIELD_REG: f->reg = number; break;
    case FIELD_RM: f->rm = number; break;
    case FIELD_OPCODE: f->opcode = number; break;
    case FIELD_VVVV: f->vvvv = number; break;
    default: break;
    }
}

static struct fields place_operands(const struct insn *insn, const struct emit_operands *new)
{
    struct fields f = {.reg = (insn->modrm >> 3 & 7u), .rm = insn->modrm & 7u, .vvvv = insn->vvvv};
    for (unsigned i = 0; i < insn->operands && i < INSN_OPERANDS; i++)
        place_operand(&f, &insn->operand[i], new);
    f.mem |= insn->has_modrm && insn->modrm < 0xc0; // operands without a size: LEA, prefetch, NOP
    return f;
}

static uint8_t *modrm(struct emit *e, uint8_t *at, const struct fields *f,
                      const struct emit_operands *new, bool disp8)
{
    return f->mem ? put_modrm_mem(e, at, f->reg, &new->mem, disp8)
                  : put_modrm_reg(at, f->reg, f->rm);
}

// Bits X and B, for a register or a memory operand in rm.
static unsigned rm_bits(const struct fields *f, const struct emit_operands *new)
{
    return f->mem ? emit_mem_rex(&new->mem) : (f->rm & 8) >> 3;
}

static uint8_t *immediates(struct emit *e, uint8_t *at, const struct insn *insn,
                           const struct emit_operands *new)
{
    unsigned second = 0;
    if (!insn->imm_bytes)
        return at;
    if (new->imm_note)
        emit_note_at(e, new->imm_note, at);
    for (unsigned i = 0; i < insn->operands && i < INSN_OPERANDS; i++)
        if (insn->operand[i].kind == OPND_IMM2)
            second = insn->operand[i].size;
    return put_imm(put_imm(at, insn->imm, insn->imm_bytes - second), insn->imm2, second);
}

// --- legacy --------------------------------------------------------------------------------------

// Opcodes of older code whose place 64-bit code has given to something else.
static bool legacy_opcode(const struct insn *insn, struct fields *f, unsigned *opcode)
{
    *opcode = insn->opcode;
    if (insn->map != MAP_ONE)
        return true;
    if (*opcode >= 0x40 && *opcode <= 0x4f) { // INC and DEC of a register
        *opcode = 0xff;
        f->reg = insn->opcode >> 3 & 1;
        f->rm = f->opcode;
        return true;
    }
    if (*opcode == 0x82) // the alias of 80
        *opcode = 0x80;
    if (*opcode == 0x63 && insn->mode != 8) // ARPL, now MOVSXD
        return false;
    return !(*opcode < 0x40 && (*opcode & 7) >= 6) && !(*opcode >= 0x60 && *opcode <= 0x62) &&
           !(*opcode >= 0xa0 && *opcode <= 0xaf && (*opcode & ~1u) != 0xa8) && *opcode != 0xc4 &&
           *opcode != 0xc5 && !(*opcode >= 0xd4 && *opcode <= 0xd7) && *opcode != 0x9a &&
           *opcode != 0xea && *opcode != 0xce;
}

static bool has_opcode_register(const struct insn *insn)
{
    for (unsigned i = 0; i < insn->operands && i < INSN_OPERANDS; i++)
        if (insn->operand[i].field == FIELD_OPCODE)
            return true;
    return false;
}

static uint8_t *legacy_prefixes(uint8_t *at, const struct insn *insn)
{
    if (insn->prefix & PREFIX_LOCK)
        at = put_u8(at, 0xf0);
    if (insn->mandatory == 0x66 || (!is_vector_insn(insn) && insn->opsize == 2))
        at = put_u8(at, 0x66);
    if (insn->mandatory == 0xf2 || insn->mandatory == 0xf3)
        at = put_u8(at, insn->mandatory);
    return at;
}

static uint8_t *put_legacy(struct emit *e, uint8_t *at, const struct insn *insn, struct fields *f,
                           const struct emit_operands *new)
{
    unsigned opcode;
    if (!legacy_opcode(insn, f, &opcode))
        return NULL;
    bool in_modrm = insn->has_modrm || opcode != insn->opcode;
    unsigned rex = insn->rex & 8u;
    if (in_modrm)
        rex |= (f->reg & 8) >> 1 | rm_bits(f, new);
    if (!in_modrm && has_opcode_register(insn)) {
        rex |= f->opcode >> 3;
        opcode = (opcode & ~7u) | (f->opcode & 7);
    }
    if (f->high && (rex || f->low))
        return NULL;
    at = legacy_prefixes(at, insn);
    if (rex || f->low)
        at = put_u8(at, 0x40 | rex);
    at = put_u8(put_escape(at, insn->map), opcode);
    if (in_modrm)
        at = modrm(e, at, f, new, true);
    return immediates(e, at, insn, new);
}

// MOV between the accumulator and an absolute address: as 88..8b.
static bool emit_moffs(struct emit *e, const struct insn *insn, const struct emit_operands *new)
{
    bool store = insn->opcode & 2;
    unsigned size = insn->opcode & 1 ? insn->opsize : 1;
    unsigned reg = new->gpr ? new->gpr[RAX] : RAX;
    emit_op_rm(e, size, 0, MAP_ONE, 0x88 | (insn->opcode & 1) | (store ? 0 : 2), reg, new->mem);
    return true;
}

// --- VEX and EVEX --------------------------------------------------------------------------------

static unsigned pp_bits(const struct insn *insn)
{
    switch (insn->mandatory) {
    case 0x66: return 1;
    case 0xf3: return 2;
    case 0xf2: return 3;
    default: return 0;
    }
}

static uint8_t *put_vex(struct emit *e, uint8_t *at, const struct insn *insn,
                        const struct fields *f, const struct emit_operands *new)
{
    unsigned rxb = (f->reg & 8) >> 1 | rm_bits(f, new);
    unsigned w = insn->rex & 8u;
    unsigned tail = (~f->vvvv & 15) << 3 | (insn->veclen == 32 ? 4 : 0) | pp_bits(insn);
    if (insn->map == MAP_0F && !w && !(rxb & 3)) {
        at = put_u8(at, 0xc5);
        at = put_u8(at, (rxb & 4 ? 0 : 0x80) | tail);
    } else {
        at = put_u8(at, 0xc4);
        at = put_u8(at, (~rxb & 7) << 5 | insn->map);
        at = put_u8(at, w << 4 | tail);
    }
    at = put_u8(at, insn->opcode);
    if (insn->has_modrm) // not VZEROUPPER
        at = modrm(e, at, f, new, true);
    return immediates(e, at, insn, new);
}

static uint8_t *put_evex(struct emit *e, uint8_t *at, const struct insn *insn,
                         const struct fields *f, const struct emit_operands *new)
{
    unsigned rxb = (f->reg & 8) >> 1 | rm_bits(f, new);
    if (!f->mem)
        rxb |= (f->rm & 16) >> 3; // X extends a register in rm
    unsigned b = insn->evex_zb & 1u, z = insn->evex_zb >> 1 & 1u, ll = insn->evex_zb >> 2 & 3u;
    at = put_u8(at, 0x62);
    at = put_u8(at, (~rxb & 7) << 5 | (f->reg & 16 ? 0 : 0x10) | insn->map);
    at = put_u8(at, (insn->rex & 8u) << 4 | (~f->vvvv & 15) << 3 | 4 | pp_bits(insn));
    at = put_u8(at, z << 7 | ll << 5 | b << 4 | (f->vvvv & 16 ? 0 : 8) | (insn->evex_aaa & 7));
    at = put_u8(at, insn->opcode);
    return immediates(e, modrm(e, at, f, new, false), insn, new);
}

// Instructions with memory operands that the encoding does not hold, branches, and gathers.
static bool cannot_be_moved(const struct insn *insn)
{
    if (insn_form(insn)->flags & (FORM_VSIB | FORM_STRING | FORM_STACK | FORM_BRANCH))
        return true;
    return insn->op == OP_MASKMOVQ || insn->op == OP_MASKMOVDQU || insn->op == OP_VMASKMOVDQU;
}

bool emit_insn(struct emit *e, const struct insn *insn, const struct emit_operands *operands)
{
    if (insn->encoding == ENC_LEGACY && insn->map == MAP_ONE && (insn->opcode & 0xfc) == 0xa0)
        return emit_moffs(e, insn, operands);
    struct fields f = place_operands(insn, operands);
    if (f.failed || cannot_be_moved(insn))
        return false;
    uint8_t *at = emit_room(e);
    if (!at)
        return true;
    if (f.mem && operands->mem.gs)
        at = put_u8(at, 0x65);
    switch (insn->encoding) {
    case ENC_LEGACY: at = put_legacy(e, at, insn, &f, operands); break;
    case ENC_VEX: at = put_vex(e, at, insn, &f, operands); break;
    default: at = put_evex(e, at, insn, &f, operands);
    }
    if (at)
        e->at = at;
    return at;
}
