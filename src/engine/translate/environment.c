// The x87 environment in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR. Source: Intel SDM volume 1,
// section 8.1.10. The 16-bit and 32-bit layouts are the host's; those of real mode differ from them
// only in how they pack the instruction and data pointers, which are zero here (see fpu.c).
#include "engine/translate/simd_impl.h"

#define ENVIRONMENT_16 14
#define ENVIRONMENT_32 28
#define REGISTERS 80

static bool short_layout(const struct insn *insn)
{
    return insn->opsize == 2;
}

static unsigned environment_bytes(const struct insn *insn)
{
    return short_layout(insn) ? ENVIRONMENT_16 : ENVIRONMENT_32;
}

// FOP, FIP, FCS, FDP, FDS. The last two bytes of the long layout are reserved and read as ones.
static void clear_pointers(const struct insn *insn, uint8_t *image)
{
    if (short_layout(insn))
        fill_bytes(image + 6, 0, ENVIRONMENT_16 - 6);
    else
        fill_bytes(image + 12, 0, ENVIRONMENT_32 - 12 - 2);
}

// The two layouts of one host instruction.
#define IN_LAYOUT(insn, mnemonic, image)                                               \
    do {                                                                               \
        if (short_layout(insn))                                                        \
            asm volatile(".byte 0x66\n\t" mnemonic " (%0)" : : "r"(image) : "memory"); \
        else                                                                           \
            asm volatile(mnemonic " (%0)" : : "r"(image) : "memory");                  \
    } while (0)

void simd_fnstenv(struct tcpu *c, const struct insn *insn)
{
    uint8_t *image = c->simd->image;
    unsigned len = environment_bytes(insn);
    gva_t at = insn_linear(c, insn, len, ACCESS_WRITE);
    mem_probe_write(c, at, len);
    fpu_to_machine(c);
    IN_LAYOUT(insn, "fnstenv", image);
    clear_pointers(insn, image);
    mem_write_block(c, at, image, len);
}

void simd_fldenv(struct tcpu *c, const struct insn *insn)
{
    uint8_t *image = c->simd->image;
    unsigned len = environment_bytes(insn);
    mem_read_block(c, insn_linear(c, insn, len, ACCESS_READ), image, len);
    fpu_to_machine(c);
    IN_LAYOUT(insn, "fldenv", image);
}

void simd_fnsave(struct tcpu *c, const struct insn *insn)
{
    uint8_t *image = c->simd->image;
    unsigned len = environment_bytes(insn) + REGISTERS;
    gva_t at = insn_linear(c, insn, len, ACCESS_WRITE);
    mem_probe_write(c, at, len);
    fpu_to_machine(c);
    IN_LAYOUT(insn, "fnsave", image);
    clear_pointers(insn, image);
    mem_write_block(c, at, image, len);
}

void simd_frstor(struct tcpu *c, const struct insn *insn)
{
    uint8_t *image = c->simd->image;
    unsigned len = environment_bytes(insn) + REGISTERS;
    mem_read_block(c, insn_linear(c, insn, len, ACCESS_READ), image, len);
    fpu_to_machine(c);
    IN_LAYOUT(insn, "frstor", image);
}
