// AVX-512 memory operands under a writemask: elements whose mask bit is clear are not touched and
// cannot fault; gathers and scatters, which clear the mask bit of each element that is done.
// Sources: Intel SDM volume 2, sections 2.7.10 (fault suppression), 2.7.12 (VSIB), VCOMPRESS,
// VEXPAND, VGATHER, VSCATTER. Which instructions suppress faults and how large their elements are
// is in opcodes.tab (m1..m8).
#include "engine/translate/simd_impl.h"

#include "base/bytes.h"

static uint64_t low_bits(unsigned count)
{
    return count < 64 ? BIT(count) - 1 : ~0ull;
}

// With the registers in the machine, as they are before most instructions.
static uint64_t opmask_in_machine(struct tcpu *c, unsigned n)
{
#define READ(k, mnemonic, cast)                                        \
    case k:                                                            \
        asm volatile(mnemonic " %%k" #k ", %" cast "0" : "=r"(value)); \
        break
#define READ_ANY(mnemonic, cast) \
    switch (n & 7) {             \
        READ(1, mnemonic, cast); \
        READ(2, mnemonic, cast); \
        READ(3, mnemonic, cast); \
        READ(4, mnemonic, cast); \
        READ(5, mnemonic, cast); \
        READ(6, mnemonic, cast); \
        READ(7, mnemonic, cast); \
    default: break;              \
    }
    uint64_t value = ~0ull; // k0 selects all
    if (feature_has(&c->features, FEATURE_AVX512BW))
        READ_ANY("kmovq", "q")
    else
        READ_ANY("kmovw", "k")
    return value;
#undef READ
#undef READ_ANY
}

uint64_t writemask_elements(struct tcpu *c, const struct insn *insn, const struct operand *op)
{
    unsigned count = op->size / insn_form(insn)->mask_element;
    fpu_to_machine(c);
    uint64_t mask = opmask_in_machine(c, insn->evex_aaa) & low_bits(insn->mask_bits);
    if (insn_form(insn)->flags & FORM_PACKED)
        return low_bits((unsigned)__builtin_popcountll(mask));
    uint64_t elements = 0;
    for (unsigned i = 0; i < insn->mask_bits; i += count) // an element may stand for several
        elements |= mask >> i;
    return elements & low_bits(count);
}

static gva_t element_at(struct tcpu *c, const struct insn *insn, unsigned i, enum access access)
{
    unsigned size = insn_form(insn)->mask_element;
    return element_linear(c, insn, insn_offset(c, insn) + i * size, size, access);
}

void writemask_load(struct tcpu *c, const struct insn *insn, const struct operand *op,
                    uint64_t elements)
{
    unsigned size = insn_form(insn)->mask_element;
    uint8_t *out = c->simd->frame.mem;
    fill_bytes(out, 0, op->size);
    for (unsigned i = 0; i < op->size / size; i++)
        if (elements >> i & 1)
            store_sized(out + i * size, size,
                        mem_read(c, element_at(c, insn, i, ACCESS_READ), size));
}

void writemask_probe(struct tcpu *c, const struct insn *insn, const struct operand *op,
                     uint64_t elements)
{
    unsigned size = insn_form(insn)->mask_element;
    for (unsigned i = 0; i < op->size / size; i++)
        if (elements >> i & 1)
            mem_probe_write(c, element_at(c, insn, i, ACCESS_WRITE), size);
}

void writemask_store(struct tcpu *c, const struct insn *insn, const struct operand *op,
                     uint64_t elements)
{
    unsigned size = insn_form(insn)->mask_element;
    for (unsigned i = 0; i < op->size / size; i++)
        if (elements >> i & 1)
            mem_write(c, element_at(c, insn, i, ACCESS_WRITE), size,
                      load_sized(c->simd->frame.mem + i * size, size));
}

// --- gathers and scatters ------------------------------------------------------------------------

struct vsib {
    unsigned size, count; // of the elements
    unsigned index_size;
    uint8_t index[VECTOR_MAX];
    uint64_t mask;
};

static struct vsib vsib_of(struct tcpu *c, const struct insn *insn, unsigned size)
{
    struct vsib v = {.size = size, .index_size = insn->opcode & 1 ? 8 : 4};
    v.count = insn->veclen / (size > v.index_size ? size : v.index_size);
    fpu_open(c, XCR0_VECTORS);
    vector_get(c, insn->index, v.index);
    v.mask = opmask_get(c, insn->evex_aaa) & low_bits(v.count);
    return v;
}

static gva_t vsib_linear(struct tcpu *c, const struct insn *insn, const struct vsib *v, unsigned i,
                         enum access access)
{
    uint64_t step =
        sign_extend(load_sized(v->index + i * v->index_size, v->index_size), v->index_size);
    return element_linear(c, insn, gather_base(c, insn) + step * insn->scale, v->size, access);
}

// A fault leaves the elements before it done and their mask bits clear.
static void element_done(struct tcpu *c, const struct insn *insn, struct vsib *v, unsigned i)
{
    v->mask &= ~BIT(i);
    opmask_set(c, insn->evex_aaa, v->mask);
}

void simd_gather_evex(struct tcpu *c, const struct insn *insn)
{
    uint8_t out[VECTOR_MAX];
    unsigned dest = insn->operand[0].reg;
    struct vsib v = vsib_of(c, insn, insn->operand[1].size);
    vector_get(c, dest, out);
    for (unsigned i = 0; i < v.count; i++) {
        if (!(v.mask >> i & 1))
            continue;
        uint64_t value = mem_read(c, vsib_linear(c, insn, &v, i, ACCESS_READ), v.size);
        store_sized(out + i * v.size, v.size, value);
        vector_set(c, dest, out);
        element_done(c, insn, &v, i);
    }
    fill_bytes(out + v.count * v.size, 0, VECTOR_MAX - v.count * v.size);
    vector_set(c, dest, out);
    opmask_set(c, insn->evex_aaa, 0);
}

void simd_scatter(struct tcpu *c, const struct insn *insn)
{
    uint8_t data[VECTOR_MAX];
    struct vsib v = vsib_of(c, insn, insn->operand[0].size);
    vector_get(c, insn->operand[1].reg, data);
    for (unsigned i = 0; i < v.count; i++) {
        if (!(v.mask >> i & 1))
            continue;
        mem_write(c, vsib_linear(c, insn, &v, i, ACCESS_WRITE), v.size,
                  load_sized(data + i * v.size, v.size));
        element_done(c, insn, &v, i);
    }
    opmask_set(c, insn->evex_aaa, 0);
}
