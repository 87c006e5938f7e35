// From a row's operand descriptions and the parsed encoding to struct operand: register numbers,
// sizes, access. Sources: Intel SDM volume 2, chapter 2 (REX, VEX, EVEX register fields).
#include "cpu/insn_impl.h"

// The fields that registers come from.
struct fields {
    const struct insn_row *row;
    unsigned reg;     // ModRM.reg with REX.R
    unsigned rm;      // ModRM.rm with REX.B
    unsigned evex_r2; // fifth bit of a vector in reg
    unsigned evex_x;  // fifth bit of a vector in rm
};

// What the sizes of enum row_size come to in this instruction.
static void resolve_sizes(const struct insn *in, uint8_t size[SIZE_COUNT])
{
    uint8_t v = in->opsize, x = in->veclen;
    bool long_mode = in->mode == 8;
    size[SIZE_V - SIZE_V] = v;
    size[SIZE_Z - SIZE_V] = v == 2 ? 2 : 4;
    size[SIZE_Y - SIZE_V] = long_mode && in->rex & 8 ? 8 : 4;
    size[SIZE_P - SIZE_V] = (uint8_t)(v + 2);
    size[SIZE_S - SIZE_V] = long_mode ? 10 : 6;
    size[SIZE_X - SIZE_V] = x;
    size[SIZE_H - SIZE_V] = x / 2;
    size[SIZE_F - SIZE_V] = x / 4;
    size[SIZE_G - SIZE_V] = x / 8;
    size[SIZE_U - SIZE_V] = x == 16 ? 8 : x;
    size[SIZE_A - SIZE_V] = in->addrsize;
    size[SIZE_M - SIZE_V] = long_mode ? 8 : 4;
    size[SIZE_2V - SIZE_V] = (uint8_t)(v * 2);
}

static void set_memory(struct insn *in, const struct fields *f, struct operand *o)
{
    bool broadcast = in->encoding == ENC_EVEX && in->evex_zb & 1;
    unsigned element = insn_forms[in->form].mask_element;
    o->kind = OPND_MEM;
    if (element)
        in->mask_bits = (uint8_t)((f->row->bits & ROW_SPREAD ? in->veclen : o->size) / element);
    if (broadcast && f->row->bits & (ROW_BCST4 | ROW_BCST8))
        o->size = f->row->bits & ROW_BCST4 ? 4 : 8;
    else if (in->encoding == ENC_EVEX && in->disp_bytes == 1 && f->row->disp_n == 0)
        in->disp *= o->size; // disp8*N with N the operand's size
}

static void set_gpr(const struct insn *in, struct operand *o, unsigned reg)
{
    o->kind = OPND_GPR;
    if (o->size == 1 && !in->rex && reg >= 4) {
        o->flags |= OPERAND_HIGH;
        reg -= 4;
    }
    o->reg = (uint8_t)reg;
}

// A vector register is held whole, however little of it is used.
static void set_vector(struct operand *o, unsigned reg)
{
    o->kind = OPND_VEC;
    o->reg = (uint8_t)reg;
    if (o->size < 16)
        o->size = 16;
}

static bool set_mask(struct operand *o, unsigned reg)
{
    o->kind = OPND_MASK;
    o->reg = (uint8_t)reg;
    o->size = 8;
    return reg < 8;
}

static void set_immediate(struct insn *in, struct operand *o, unsigned place)
{
    o->kind = place == PLACE_I2 ? OPND_IMM2 : place == PLACE_J ? OPND_REL : OPND_IMM;
    if (place != PLACE_I && place != PLACE_I2)
        in->imm = sign_extend(in->imm, in->imm_bytes);
}

// Operands that ModRM.reg, vvvv, the opcode or an immediate names.
static bool set_other(struct insn *in, const struct fields *f, struct operand *o, unsigned place)
{
    switch (place) {
    case PLACE_S:
        o->kind = OPND_SEG;
        o->reg = f->reg & 7;
        // MOV CS is no instruction.
        return o->reg < SEG_COUNT && !(o->flags & OPERAND_WRITE && o->reg == SEG_CS);
    case PLACE_C:
        o->kind = OPND_CR;
        o->reg = (uint8_t)f->reg;
        return o->reg == 0 || (o->reg >= 2 && o->reg <= 4) || o->reg == 8;
    case PLACE_D:
        o->kind = OPND_DR;
        o->reg = (uint8_t)f->reg;
        return o->reg < 8;
    case PLACE_H: set_vector(o, in->vvvv); return true;
    case PLACE_L:
        if (in->mode != 8)
            in->imm &= 0x7f; // there are eight registers
        set_vector(o, in->imm >> 4 & 15);
        return true;
    case PLACE_P:
        o->kind = OPND_MMX;
        o->reg = f->reg & 7;
        return true;
    case PLACE_K: return set_mask(o, f->reg | f->evex_r2 << 4);
    case PLACE_KH: return set_mask(o, in->vvvv);
    case PLACE_KAAA: return set_mask(o, in->evex_aaa);
    case PLACE_ST_RM:
        o->kind = OPND_ST;
        o->reg = in->modrm & 7;
        return true;
    case PLACE_ST: o->kind = OPND_ST; return true;
    case PLACE_VEC: o->kind = OPND_VEC; return true;
    case PLACE_SEG: o->kind = OPND_SEG; return true;
    case PLACE_A: o->kind = OPND_FAR; return true;
    case PLACE_O: o->kind = OPND_MEM; return true;
    case PLACE_ONE: o->kind = OPND_ONE; return true;
    default: return false;
    }
}

static bool set_operand(struct insn *in, const struct fields *f, struct operand *o, unsigned place)
{
    switch (place) {
    case PLACE_E:
        if (in->modrm < 0xc0)
            set_memory(in, f, o);
        else
            set_gpr(in, o, f->rm);
        return true;
    case PLACE_G: set_gpr(in, o, f->reg); return !f->evex_r2;
    case PLACE_Z: set_gpr(in, o, (in->opcode & 7) | (in->rex & 1) << 3); return true;
    case PLACE_B: set_gpr(in, o, in->vvvv); return true;
    case PLACE_GPR: o->kind = OPND_GPR; return true;
    case PLACE_GPR_HIGH:
        o->kind = OPND_GPR;
        o->flags |= OPERAND_HIGH;
        return true;
    case PLACE_I:
    case PLACE_IS:
    case PLACE_I2:
    case PLACE_J: set_immediate(in, o, place); return true;
    case PLACE_V: set_vector(o, f->reg | f->evex_r2 << 4); return true;
    case PLACE_W:
        if (in->modrm < 0xc0)
            set_memory(in, f, o);
        else
            set_vector(o, f->rm | f->evex_x << 4);
        return true;
    case PLACE_Q:
        if (in->modrm < 0xc0)
            set_memory(in, f, o);
        else
            o->kind = OPND_MMX, o->reg = in->modrm & 7;
        return true;
    case PLACE_KE:
        if (in->modrm >= 0xc0)
            return set_mask(o, f->rm & 7);
        set_memory(in, f, o);
        return true;
    default: return set_other(in, f, o, place);
    }
}

// Which field of the encoding names the operand (enum operand_field).
static unsigned field_of(unsigned place)
{
    switch (place) {
    case PLACE_G:
    case PLACE_S:
    case PLACE_C:
    case PLACE_D:
    case PLACE_V:
    case PLACE_P:
    case PLACE_K: return FIELD_REG;
    case PLACE_E:
    case PLACE_W:
    case PLACE_Q:
    case PLACE_KE:
    case PLACE_ST_RM: return FIELD_RM;
    case PLACE_Z: return FIELD_OPCODE;
    case PLACE_B:
    case PLACE_H:
    case PLACE_KH: return FIELD_VVVV;
    case PLACE_L: return FIELD_IS4;
    default: return FIELD_NONE;
    }
}

// REP counts in rCX.
static void add_count(struct insn *in)
{
    in->operand[in->operands++] =
        (struct operand){.kind = OPND_GPR,
                         .reg = RCX,
                         .flags = OPERAND_READ | OPERAND_WRITE | OPERAND_IMPLICIT,
                         .size = in->addrsize};
}

bool insn_operands(struct insn *in, const struct insn_row *row, unsigned evex_r2, unsigned evex_x)
{
    struct fields f = {.row = row,
                       .reg = (in->modrm >> 3 & 7u) | (in->rex & 4u) << 1,
                       .rm = (in->modrm & 7u) | (in->rex & 1u) << 3,
                       .evex_r2 = evex_r2,
                       .evex_x = evex_x};
    uint8_t size[SIZE_COUNT];
    bool legal = true;
    resolve_sizes(in, size);
    in->operands = row->operands;
    for (unsigned i = 0; i < row->operands; i++) {
        const struct row_operand *from = &row->operand[i];
        struct operand *o = &in->operand[i];
        o->reg = from->reg;
        o->flags = from->flags;
        o->field = (uint8_t)field_of(from->place);
        o->size = from->size < SIZE_V ? from->size : size[from->size - SIZE_V];
        legal &= set_operand(in, &f, o, from->place);
        if (from->size == SIZE_Y && in->mode != 8)
            in->rex &= 0xf7; // VEX.W has no effect on general registers
    }
    // Merging leaves part of the destination as it was.
    if (in->evex_aaa && !(in->evex_zb & 2) && in->operands && in->operand[0].kind == OPND_VEC)
        in->operand[0].flags |= OPERAND_READ;
    if (row->bits & ROW_STRING_DST)
        in->seg = SEG_ES;
    if (insn_forms[in->form].flags & FORM_STRING && in->prefix & (PREFIX_REP | PREFIX_REPNE))
        add_count(in);
    return legal;
}
