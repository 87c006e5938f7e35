// FXSAVE, the XSAVE family and MXCSR. Source: Intel SDM volume 1, chapters 10.5 and 13. The guest's
// images are taken apart here: nothing that a guest wrote reaches the host's XRSTOR unchecked. Not
// modelled: supervisor components (IA32_XSS is 0); the modified optimization of XSAVEOPT.
#include "engine/translate/simd_impl.h"

#include "base/bytes.h"

#define COMPACT BIT(63)

// --- MXCSR ---------------------------------------------------------------------------------------

static void check_mxcsr(struct tcpu *c, uint32_t value)
{
    if (value & ~c->simd->mxcsr_mask)
        cpu_raise(c, VEC_GP, 0);
}

void simd_ldmxcsr(struct tcpu *c, const struct insn *insn)
{
    uint32_t value = (uint32_t)mem_read(c, insn_linear(c, insn, 4, ACCESS_READ), 4);
    check_mxcsr(c, value);
    fpu_to_machine(c);
    mxcsr_write(value);
}

void simd_stmxcsr(struct tcpu *c, const struct insn *insn)
{
    gva_t at = insn_linear(c, insn, 4, ACCESS_WRITE);
    fpu_to_machine(c);
    mem_write(c, at, 4, mxcsr_read());
}

// --- pieces of an image --------------------------------------------------------------------------

static unsigned vector_registers(const struct tcpu *c)
{
    return (c->mode & MODE_CODE_SIZE) == MODE_CODE64 ? 16 : 8;
}

struct piece {
    unsigned offset, len;
};

// The bytes that hold a component in s.xsave: two pieces for x87, of which MXCSR is no part.
// Outside 64-bit code half of the registers are not there, and none of ZMM16..31.
static unsigned component_pieces(const struct tcpu *c, unsigned component, struct piece out[2])
{
    unsigned registers = vector_registers(c), at = c->simd->layout.at[component];
    switch (component) {
    case 0:
        out[0] = (struct piece){AREA_FCW, AREA_MXCSR};
        out[1] = (struct piece){AREA_ST, AREA_XMM - AREA_ST};
        return 2;
    case 1: out[0] = (struct piece){AREA_XMM, 16 * registers}; return 1;
    case COMPONENT_ZMM_HIGH: out[0] = (struct piece){at, 32 * registers}; return 1;
    case COMPONENT_HIGH_ZMM:
        out[0] = (struct piece){at, xsave_component_bytes(component)};
        return registers == 16 ? 1 : 0;
    case COMPONENT_OPMASK: out[0] = (struct piece){at, xsave_component_bytes(component)}; return 1;
    default: out[0] = (struct piece){at, 16 * registers}; return 1;
    }
}

// Where a component begins in a guest's image, in the standard form or, with compact holding the
// components that it has room for, in the compacted one.
static unsigned image_at(const struct tcpu *c, unsigned component, uint64_t compact)
{
    if (component < 2)
        return 0;
    if (!compact)
        return c->simd->layout.at[component];
    unsigned at = AREA_AVX;
    for (unsigned i = 2; i < component; i++)
        at += compact >> i & 1 ? xsave_component_bytes(i) : 0;
    return at;
}

// How far a piece of s.xsave is moved in a guest's image.
static gva_t piece_at(const struct tcpu *c, gva_t area, unsigned component, uint64_t compact,
                      const struct piece *piece)
{
    unsigned from = component < 2 ? 0 : c->simd->layout.at[component];
    return area + image_at(c, component, compact) + piece->offset - from;
}

static gva_t aligned_linear(struct tcpu *c, const struct insn *insn, unsigned len, unsigned align,
                            enum access access)
{
    gva_t at = insn_linear(c, insn, len, access);
    if (at & (align - 1))
        cpu_raise(c, VEC_GP, 0);
    return at;
}

// --- FXSAVE, FXRSTOR -----------------------------------------------------------------------------

// EFER.FFXSR: the kernel's fast variant leaves the vector registers alone.
static uint64_t fxsave_components(const struct tcpu *c)
{
    bool fast = c->s.efer & EFER_FFXSR && cpl(c) == 0 && (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
    return fast ? XCR0_X87 : XCR0_X87 | XCR0_SSE;
}

static void write_components(struct tcpu *c, gva_t at, uint64_t components, uint64_t compact)
{
    for (unsigned i = 0; i < XSAVE_COMPONENTS; i++) {
        struct piece piece[2];
        unsigned n = components >> i & 1 ? component_pieces(c, i, piece) : 0;
        for (unsigned k = 0; k < n; k++)
            mem_write_block(c, piece_at(c, at, i, compact, &piece[k]), c->s.xsave + piece[k].offset,
                            piece[k].len);
    }
}

// Brings components of a guest's image to where s.xsave has them.
static void read_components(struct tcpu *c, gva_t at, uint64_t components, uint64_t compact)
{
    for (unsigned i = 2; i < XSAVE_COMPONENTS; i++) {
        struct piece piece[2];
        unsigned n = components >> i & 1 ? component_pieces(c, i, piece) : 0;
        for (unsigned k = 0; k < n; k++)
            mem_read_block(c, piece_at(c, at, i, compact, &piece[k]),
                           c->simd->image + piece[k].offset, piece[k].len);
    }
}

static void write_mxcsr(struct tcpu *c, gva_t at)
{
    mem_write(c, at + AREA_MXCSR, 4, load_le32(c->s.xsave + AREA_MXCSR));
    mem_write(c, at + AREA_MXCSR_MASK, 4, c->simd->mxcsr_mask);
}

void simd_fxsave(struct tcpu *c, const struct insn *insn)
{
    gva_t at = aligned_linear(c, insn, XSAVE_LEGACY, 16, ACCESS_WRITE);
    mem_probe_write(c, at, XSAVE_LEGACY);
    fpu_open(c, 0);
    write_components(c, at, fxsave_components(c), 0);
    write_mxcsr(c, at);
}

// Takes over a component from an image; pointers are not kept.
static void load_component(struct tcpu *c, unsigned component, const uint8_t *image)
{
    struct piece piece[2];
    unsigned n = component_pieces(c, component, piece);
    for (unsigned k = 0; k < n; k++)
        copy_bytes(c->s.xsave + piece[k].offset, image + piece[k].offset, piece[k].len);
    if (component == 0)
        fill_bytes(c->s.xsave + AREA_POINTERS, 0, AREA_MXCSR - AREA_POINTERS);
}

void simd_fxrstor(struct tcpu *c, const struct insn *insn)
{
    uint8_t *image = c->simd->image;
    gva_t at = aligned_linear(c, insn, XSAVE_LEGACY, 16, ACCESS_READ);
    mem_read_block(c, at, image, XSAVE_LEGACY);
    uint32_t mxcsr = load_le32(image + AREA_MXCSR);
    check_mxcsr(c, mxcsr);
    uint64_t components = fxsave_components(c);
    fpu_open(c, components);
    for (unsigned i = 0; i < 2; i++)
        if (components >> i & 1)
            load_component(c, i, image);
    store_le32(c->s.xsave + AREA_MXCSR, mxcsr);
    fpu_to_machine(c); // which has its own mind about reserved bits, ES and B
}

// --- XSAVE and its variants ----------------------------------------------------------------------

// The requested-feature bitmap: EDX:EAX within what XCR0 enables.
static uint64_t requested(const struct tcpu *c)
{
    uint64_t bitmap = c->s.gpr[RDX] << 32 | (uint32_t)c->s.gpr[RAX];
    return bitmap & c->s.xcr0 & c->simd->components;
}

static unsigned area_bytes(const struct tcpu *c, uint64_t components, bool compact)
{
    unsigned end = AREA_AVX;
    for (unsigned i = 2; i < XSAVE_COMPONENTS; i++) {
        if (!(components >> i & 1))
            continue;
        unsigned after = image_at(c, i, compact ? components : 0) + xsave_component_bytes(i);
        end = after > end ? after : end;
    }
    return end;
}

// skip_initial: components in their initial state are not written (XSAVEOPT, XSAVEC).
static void save(struct tcpu *c, const struct insn *insn, bool skip_initial, bool compact)
{
    uint64_t components = requested(c);
    unsigned len = area_bytes(c, components, compact);
    gva_t at = aligned_linear(c, insn, len, 64, ACCESS_WRITE);
    mem_probe_write(c, at, len);
    uint64_t header = compact ? 0 : mem_read(c, at + AREA_BV, 8);
    fpu_open(c, 0);
    uint64_t in_use = load_le64(c->s.xsave + AREA_BV);
    if (compact && load_le32(c->s.xsave + AREA_MXCSR) != MXCSR_DEFAULT)
        in_use |= XCR0_SSE;
    if (vector_registers(c) < 16)
        in_use &= ~BIT(COMPONENT_HIGH_ZMM);
    write_components(c, at, skip_initial ? components & in_use : components,
                     compact ? components : 0);
    if (components & (compact ? XCR0_SSE : XCR0_SSE | XCR0_AVX))
        write_mxcsr(c, at);
    mem_write(c, at + AREA_BV, 8, (header & ~components) | (in_use & components));
    if (compact)
        mem_write(c, at + AREA_COMPACT, 8, components | COMPACT);
}

void simd_xsave(struct tcpu *c, const struct insn *insn)
{
    save(c, insn, false, false);
}

void simd_xsaveopt(struct tcpu *c, const struct insn *insn)
{
    save(c, insn, true, false);
}

void simd_xsavec(struct tcpu *c, const struct insn *insn)
{
    save(c, insn, true, true);
}

void simd_xsaves(struct tcpu *c, const struct insn *insn)
{
    if (cpl(c) != 0)
        cpu_raise(c, VEC_GP, 0);
    save(c, insn, true, true);
}

// --- XRSTOR --------------------------------------------------------------------------------------

static bool all_zero(const uint8_t *bytes, unsigned len)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < len; i++)
        sum |= bytes[i];
    return sum == 0;
}

static bool header_valid(const struct tcpu *c, const uint8_t *image, bool compact_only)
{
    uint64_t bv = load_le64(image + AREA_BV), xcomp = load_le64(image + AREA_COMPACT);
    uint64_t enabled = c->s.xcr0 & c->simd->components;
    if (!(xcomp & COMPACT))
        return !compact_only && xcomp == 0 && !(bv & ~enabled) && all_zero(image + AREA_BV + 16, 8);
    return feature_has(&c->features, FEATURE_XSAVEC) && !(xcomp & ~(enabled | COMPACT)) &&
           !(bv & ~xcomp) && all_zero(image + AREA_BV + 16, XSAVE_HEADER - 16);
}

static void load_initial(struct tcpu *c, unsigned component)
{
    struct piece piece[2];
    unsigned n = component_pieces(c, component, piece);
    for (unsigned k = 0; k < n; k++)
        fill_bytes(c->s.xsave + piece[k].offset, 0, piece[k].len);
    if (component == 0)
        store_le16(c->s.xsave + AREA_FCW, 0x37f);
}

// Components in their initial state are marked so, except where XRSTOR saw but half of the
// registers.
static void load_components(struct tcpu *c, const uint8_t *image, uint64_t components, uint64_t bv)
{
    uint64_t initial = components & ~bv;
    for (unsigned i = 0; i < XSAVE_COMPONENTS; i++) {
        if (components & bv & BIT(i))
            load_component(c, i, image);
        else if (initial & BIT(i))
            load_initial(c, i);
    }
    if (vector_registers(c) == 16)
        store_le64(c->s.xsave + AREA_BV, load_le64(c->s.xsave + AREA_BV) & ~initial);
}

// MXCSR goes with SSE or AVX in the standard form, whatever XSTATE_BV says; with SSE alone in the
// other.
static bool loads_mxcsr(uint64_t components, uint64_t bv, bool compact)
{
    return compact ? components & bv & XCR0_SSE : components & (XCR0_SSE | XCR0_AVX);
}

static void restore(struct tcpu *c, const struct insn *insn, bool compact_only)
{
    uint8_t *image = c->simd->image;
    uint64_t components = requested(c);
    gva_t at = aligned_linear(c, insn, AREA_AVX, 64, ACCESS_READ);
    mem_read_block(c, at, image, AREA_AVX);
    if (!header_valid(c, image, compact_only))
        cpu_raise(c, VEC_GP, 0);
    uint64_t bv = load_le64(image + AREA_BV);
    bool compact = load_le64(image + AREA_COMPACT) & COMPACT;
    read_components(c, at, components & bv,
                    compact ? load_le64(image + AREA_COMPACT) & ~COMPACT : 0);
    uint32_t mxcsr = load_le32(image + AREA_MXCSR);
    if (loads_mxcsr(components, bv, compact))
        check_mxcsr(c, mxcsr);
    else
        mxcsr = MXCSR_DEFAULT;

    fpu_open(c, components);
    load_components(c, image, components, bv);
    if (components & XCR0_SSE || loads_mxcsr(components, bv, compact))
        store_le32(c->s.xsave + AREA_MXCSR, mxcsr);
    fpu_to_machine(c); // which has its own mind about reserved bits, ES and B
}

void simd_xrstor(struct tcpu *c, const struct insn *insn)
{
    restore(c, insn, false);
}

void simd_xrstors(struct tcpu *c, const struct insn *insn)
{
    if (cpl(c) != 0)
        cpu_raise(c, VEC_GP, 0);
    restore(c, insn, true);
}
