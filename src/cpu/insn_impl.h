// Between the decoder and its generated tables: how a row's operands are found in the encoding, and
// the trees that lead from an opcode byte to a row. Private to insn.c and opcodes_gen.c.
#pragma once

#include "cpu/insn.h"

// Where an operand is.
enum row_place {
    PLACE_NONE,
    PLACE_E,        // ModRM.rm: GPR or memory
    PLACE_G,        // ModRM.reg
    PLACE_Z,        // low opcode bits and REX.B
    PLACE_B,        // vvvv
    PLACE_I,        // immediate, zero-extended
    PLACE_IS,       // immediate, sign-extended
    PLACE_I2,       // second immediate
    PLACE_J,        // branch displacement
    PLACE_O,        // moffs
    PLACE_A,        // far pointer
    PLACE_S,        // segment register in ModRM.reg
    PLACE_C,        // control register
    PLACE_D,        // debug register
    PLACE_V,        // vector in ModRM.reg
    PLACE_W,        // vector or memory in ModRM.rm
    PLACE_H,        // vector in vvvv
    PLACE_L,        // vector in imm8[7:4]
    PLACE_P,        // MMX in ModRM.reg
    PLACE_Q,        // MMX or memory
    PLACE_K,        // mask in ModRM.reg
    PLACE_KH,       // mask in vvvv
    PLACE_KE,       // mask or memory in ModRM.rm
    PLACE_KAAA,     // mask in EVEX.aaa
    PLACE_ST_RM,    // x87 register in ModRM.rm
    PLACE_ONE,      // the constant 1
    PLACE_GPR,      // implicit register row_operand.reg
    PLACE_GPR_HIGH, // AH
    PLACE_SEG,      // implicit segment register
    PLACE_ST,       // implicit x87 register
    PLACE_VEC,      // implicit vector register
};

// How large it is: bytes below 64 stand for themselves.
enum row_size {
    SIZE_V = 64, // operand size
    SIZE_Z,      // operand size, at most 4
    SIZE_Y,      // 8 with W, else 4
    SIZE_P,      // far pointer: operand size + 2
    SIZE_S,      // descriptor-table register: 6 or 10
    SIZE_X,      // vector length
    SIZE_H,      // half of it
    SIZE_F,      // a quarter
    SIZE_G,      // an eighth
    SIZE_U,      // VMOVDDUP: 8, 32, 64
    SIZE_A,      // address size
    SIZE_M,      // 8 in 64-bit code, else 4: also the stack's registers
    SIZE_2V,     // BOUND: twice the operand size
};
#define SIZE_COUNT (SIZE_2V - SIZE_V + 1)

enum row_bits {
    ROW_MODRM = 1 << 0,
    ROW_D64 = 1 << 1,          // operand size 64 by default in 64-bit code, 16 with 66
    ROW_F64 = 1 << 2,          // always 64 there
    ROW_BYTE = 1 << 3,         // operand size 1
    ROW_NOMEM = 1 << 4,        // ModRM.mod ignored
    ROW_66_MANDATORY = 1 << 5, // 66 selected the row and is no operand size
    ROW_VVVV = 1 << 6,         // uses vvvv
    ROW_LIG = 1 << 7,          // vector length ignored
    ROW_BCST4 = 1 << 8,
    ROW_BCST8 = 1 << 9,
    ROW_ROUNDING = 1 << 10,  // EVEX.b with registers: rounding or exceptions off, 512 bits implied
    ROW_PP = 1 << 11,        // F2 or F3 selected the row
    ROW_MASKABLE = 1 << 12,  // EVEX.aaa may be given
    ROW_MASK_MUST = 1 << 13, // ... and must (gathers)
    ROW_ZEROING = 1 << 14,
    ROW_STRING_DST = 1 << 15, // string instruction that accesses memory only through ES:rDI
    ROW_SPREAD = 1 << 17,     // what is in memory is repeated over the whole vector
    ROW_MAX4 = 1 << 16,       // IN, OUT, INS, OUTS: operand size at most 4
};

struct row_operand {
    uint8_t place; // enum row_place
    uint8_t size;  // bytes or enum row_size
    uint8_t flags; // enum operand_flags
    uint8_t reg;   // of implicit ones
};

struct insn_row {
    uint32_t bits;  // enum row_bits
    uint8_t imm;    // size of the immediate: 0, 1, 2, SIZE_V, SIZE_Z, SIZE_A (moffs), SIZE_P (far)
    uint8_t imm2;   // of the second
    uint8_t disp_n; // EVEX disp8 scale, 0: the memory operand's size
    uint8_t operands;
    struct row_operand operand[INSN_OPERANDS];
};

// Trees. An entry is 0 (no instruction), 1 + row, or TREE_NODE | node.
#define TREE_NODE 0x8000u

enum tree_select {
    SELECT_MODE,   // 0: 16- and 32-bit code, 1: 64-bit code
    SELECT_PP,     // 0 none, 1 66, 2 f3, 3 f2
    SELECT_MOD,    // 0 memory, 1 register
    SELECT_REG,    // ModRM.reg
    SELECT_RM,     // ModRM.rm
    SELECT_OPSIZE, // 0: operand size below 64, 1: 64
    SELECT_W,      // VEX.W, EVEX.W (always 0 in legacy encodings)
    SELECT_L,      // 0..2: 128, 256, 512
    SELECT_REXB,   // REX.B
};

struct tree_node {
    uint16_t select; // enum tree_select
    uint16_t first;  // of its children in tree_children
};

extern const struct insn_row insn_rows[];
extern const struct tree_node tree_nodes[];
extern const uint16_t tree_children[];
// Roots by encoding and map; NULL where there are none.
extern const uint16_t *const tree_roots[3][4];
extern const char *const insn_names[];

// Fills in out's operands from what has been parsed. False: a register that does not exist.
// evex_r2 and evex_x: the fifth bits of ModRM.reg and of a vector in ModRM.rm.
bool insn_operands(struct insn *out, const struct insn_row *row, unsigned evex_r2, unsigned evex_x);
