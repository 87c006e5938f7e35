// Vector instructions that access memory element by element under a mask: only elements whose mask
// bit is set can fault. Sources: Intel SDM volume 2 (VMASKMOV, VPMASKMOV, MASKMOVQ, VPGATHER);
// section 2.4 for VSIB. They work on the registers' image in s.xsave. A fault leaves destination
// and mask untouched, which the manual allows (some or none of the elements may have been
// gathered).
#include "engine/translate/simd_impl.h"

#include "base/bytes.h"

gva_t element_linear(struct tcpu *c, const struct insn *insn, uint64_t offset, unsigned size,
                     enum access access)
{
    return seg_linear(c, insn->seg, offset & size_mask(insn->addrsize), size, access);
}

// True when the top bit of element i is set.
static bool selected(const uint8_t *mask, unsigned i, unsigned size)
{
    return mask[(i + 1) * size - 1] & 0x80;
}

// --- VMASKMOVPS and its kin ----------------------------------------------------------------------

static unsigned maskmov_element(const struct insn *insn)
{
    return insn->op == OP_VMASKMOVPD || insn->op == OP_VPMASKMOVQ ? 8 : 4;
}

void simd_maskmov_load(struct tcpu *c, const struct insn *insn)
{
    uint8_t mask[VECTOR_MAX], out[VECTOR_MAX] = {0};
    unsigned size = maskmov_element(insn);
    uint64_t offset = insn_offset(c, insn);
    fpu_open(c, XCR0_VECTORS);
    vector_get(c, insn->operand[1].reg, mask);
    for (unsigned i = 0; i < insn->veclen / size; i++) {
        if (!selected(mask, i, size))
            continue;
        gva_t at = element_linear(c, insn, offset + i * size, size, ACCESS_READ);
        store_sized(out + i * size, size, mem_read(c, at, size));
    }
    vector_set(c, insn->operand[0].reg, out); // VEX clears what is above the vector length
}

// Writes the elements of data that mask selects, after all of them have been checked.
static void store_selected(struct tcpu *c, const struct insn *insn, uint64_t offset,
                           const uint8_t *data, const uint8_t *mask, unsigned size, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (selected(mask, i, size))
            mem_probe_write(c, element_linear(c, insn, offset + i * size, size, ACCESS_WRITE),
                            size);
    for (unsigned i = 0; i < count; i++) {
        if (!selected(mask, i, size))
            continue;
        gva_t at = element_linear(c, insn, offset + i * size, size, ACCESS_WRITE);
        mem_write(c, at, size, load_sized(data + i * size, size));
    }
}

void simd_maskmov_store(struct tcpu *c, const struct insn *insn)
{
    uint8_t mask[VECTOR_MAX], data[VECTOR_MAX];
    unsigned size = maskmov_element(insn);
    fpu_open(c, 0);
    vector_get(c, insn->operand[1].reg, mask);
    vector_get(c, insn->operand[2].reg, data);
    store_selected(c, insn, insn_offset(c, insn), data, mask, size, insn->veclen / size);
}

// --- MASKMOVQ, MASKMOVDQU ------------------------------------------------------------------------

// The effect of any MMX instruction on the x87 state: TOP becomes 0 and all registers valid. The
// image holds registers relative to TOP, so they turn.
static void enter_mmx(struct tcpu *c)
{
    uint8_t old[128], *st = c->s.xsave + AREA_ST;
    unsigned fsw = load_le16(c->s.xsave + AREA_FSW), top = fsw >> 11 & 7;
    copy_bytes(old, st, sizeof old);
    for (unsigned i = 0; i < 8; i++)
        copy_bytes(st + 16 * i, old + 16 * ((i - top) & 7), 16);
    store_le16(c->s.xsave + AREA_FSW, (uint16_t)(fsw & ~(7u << 11)));
    c->s.xsave[AREA_FTW] = 0xff;
}

void simd_maskmovdqu(struct tcpu *c, const struct insn *insn)
{
    uint8_t mask[VECTOR_MAX], data[VECTOR_MAX];
    bool mmx = insn->operand[0].kind == OPND_MMX;
    uint64_t offset = c->s.gpr[RDI];
    fpu_open(c, mmx ? XCR0_X87 : 0);
    if (mmx) {
        enter_mmx(c);
        copy_bytes(data, c->s.xsave + AREA_ST + 16 * insn->operand[0].reg, 8);
        copy_bytes(mask, c->s.xsave + AREA_ST + 16 * insn->operand[1].reg, 8);
    } else {
        vector_get(c, insn->operand[0].reg, data);
        vector_get(c, insn->operand[1].reg, mask);
    }
    store_selected(c, insn, offset, data, mask, 1, mmx ? 8 : 16);
}

// --- gathers -------------------------------------------------------------------------------------

uint64_t gather_base(const struct tcpu *c, const struct insn *insn)
{
    uint64_t base = insn->base == REG_NONE ? 0 : c->s.gpr[insn->base & 15];
    return base + (uint64_t)insn->disp;
}

void simd_gather(struct tcpu *c, const struct insn *insn)
{
    // The decoder has refused registers that are not three different ones.
    unsigned dest = insn->operand[0].reg, mask_reg = insn->operand[2].reg, index_reg = insn->index;
    unsigned size = insn->operand[1].size, index_size = insn->opcode & 1 ? 8 : 4;
    unsigned count = insn->veclen / (size > index_size ? size : index_size);
    uint8_t out[VECTOR_MAX] = {0}, old[VECTOR_MAX], mask[VECTOR_MAX], index[VECTOR_MAX];
    static const uint8_t zero[VECTOR_MAX];
    fpu_open(c, XCR0_VECTORS);
    vector_get(c, dest, old);
    vector_get(c, mask_reg, mask);
    vector_get(c, index_reg, index);
    for (unsigned i = 0; i < count; i++) {
        copy_bytes(out + i * size, old + i * size, size);
        if (!selected(mask, i, size))
            continue;
        uint64_t step = sign_extend(load_sized(index + i * index_size, index_size), index_size);
        uint64_t offset = gather_base(c, insn) + step * insn->scale;
        gva_t at = element_linear(c, insn, offset, size, ACCESS_READ);
        store_sized(out + i * size, size, mem_read(c, at, size));
    }
    vector_set(c, dest, out);
    vector_set(c, mask_reg, zero);
}
