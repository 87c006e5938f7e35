// The instruction decoder: bytes to struct insn, for 16-, 32- and 64-bit code.
//
// Everything about an opcode comes from one table, src/cpu/opcodes.tab, from which
// tools/gen-opcodes.py makes enum x86_op, the form rows and the lookup tables at build time.
// Sources: Intel SDM volume 2 (encodings, appendix A), AMD APM volume 3. Undocumented but real
// encodings (salc, icebp, /6 aliases of shifts, the 0x82 group) are decoded as processors do.
#pragma once

#include "cpu/features.h"
#include "cpu/opcodes_gen.h" // enum x86_op: OP_ADD, OP_JCC, OP_VADDPS, ...
#include "cpu/x86.h"

#define INSN_MAX 15

enum insn_encoding { ENC_LEGACY, ENC_VEX, ENC_EVEX };
enum insn_map { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A }; // values equal VEX.mmmmm

enum insn_prefix {
    PREFIX_LOCK = 1,
    PREFIX_REP = 2,   // F3 seen (last of F2/F3 wins), whether mandatory or not
    PREFIX_REPNE = 4, // F2 seen
    PREFIX_OPSIZE = 8,
    PREFIX_ADDRSIZE = 16,
    PREFIX_SEGMENT = 32, // an override that has effect
};

// Registers in base and index beside enum gpr.
#define REG_RIP 16
#define REG_NONE 0xff

enum operand_kind {
    OPND_NONE,
    OPND_GPR,  // reg 0..15; OPERAND_HIGH: ah, ch, dh, bh are reg 0..3
    OPND_MEM,  // address in the insn's base/index/scale/disp/seg
    OPND_IMM,  // value in imm (sign-extended to opsize where the instruction does)
    OPND_IMM2, // value in imm2 (ENTER's level, far pointer's selector is in imm2 too)
    OPND_REL,  // branch displacement in imm, sign-extended; target = next rip + imm
    OPND_FAR,  // ptr16:16 or ptr16:32: imm2:imm
    OPND_SEG,  // reg: enum segment
    OPND_CR,
    OPND_DR,
    OPND_VEC,  // xmm, ymm, zmm by size 16, 32, 64; reg 0..31
    OPND_MMX,  // reg 0..7
    OPND_ST,   // reg 0..7, relative to the top of stack
    OPND_MASK, // k0..k7
    OPND_ONE,  // the constant 1 of D0/D1 shifts
};

enum operand_flags {
    OPERAND_READ = 1,
    OPERAND_WRITE = 2,
    OPERAND_HIGH = 4,     // second byte of a legacy register
    OPERAND_IMPLICIT = 8, // not in the encoding (rax of MUL, rcx of shifts by CL, rdi of STOS)
};

// Where an operand's register number is encoded; what re-encoding an instruction needs to know.
enum operand_field {
    FIELD_NONE,   // implicit, or no register
    FIELD_REG,    // ModRM.reg with REX.R
    FIELD_RM,     // ModRM.rm with REX.B (also the memory operand)
    FIELD_OPCODE, // low three bits of the opcode with REX.B
    FIELD_VVVV,   // VEX.vvvv
    FIELD_IS4,    // bits 7..4 of the last immediate byte (which is in imm too)
};

struct operand {
    uint8_t kind; // enum operand_kind
    uint8_t reg;
    uint8_t flags; // enum operand_flags
    uint8_t field; // enum operand_field
    uint16_t
        size; // bytes accessed or held; 0 where it depends on state (FSAVE, XSAVE) or is none (LEA)
};

// What a form does beyond its operands.
enum form_flags {
    FORM_LOCKABLE = 1 << 0, // LOCK is legal with a memory destination
    FORM_BRANCH = 1 << 1,   // may change rip otherwise than by falling through
    FORM_STACK = 1 << 2,    // pushes or pops: default operand size 64 in 64-bit mode
    FORM_STRING = 1 << 3,   // INS OUTS MOVS CMPS STOS LODS SCAS: REP applies
    FORM_X87 = 1 << 4,
    FORM_MMX = 1 << 5,
    FORM_SSE = 1 << 6, // legacy-encoded vector instruction (FXSAVE, LDMXCSR too)
    FORM_AVX = 1 << 7, // VEX vector
    FORM_AVX512 = 1 << 8,
    FORM_SYSTEM = 1 << 9, // touches system state: always the interpreter's
    FORM_ALIGNED =
        1 << 10,          // memory operand must be aligned to its size (MOVAPS, legacy SSE 16-byte)
    FORM_COND = 1 << 11,  // condition code in opcode bits 3..0 (Jcc, SETcc, CMOVcc)
    FORM_VSIB = 1 << 12,  // gathers: index is a vector register
    FORM_VL = 1 << 13,    // lengths below 64 need AVX512VL
    FORM_WHOLE = 1 << 14, // all of the memory operand is accessed, whatever the writemask
    FORM_PACKED = 1 << 15, // only selected elements are in memory, one after the other
};

// A row of the table.
struct insn_form {
    uint16_t op;              // enum x86_op
    uint16_t feature;         // enum feature that must be shown to the guest, or FEATURE_NONE
    uint32_t flags;           // enum form_flags
    uint16_t flags_read;      // arithmetic flags (FLAGS_ARITH bits) and DF that it may read
    uint16_t flags_written;   // that it may change, undefined ones included
    uint16_t flags_undefined; // of the written ones
    uint8_t mask_element;     // bytes in memory that a bit of the writemask stands for, or 0
    uint8_t pad;
};
extern const struct insn_form insn_forms[];

// Explicit operands come first, in Intel's order; implicit ones (rax of MUL, rsp of PUSH, rcx of a
// REP prefix) follow. PUSHA and POPA list only rsp.
#define INSN_OPERANDS 6

struct insn {
    uint16_t op;      // enum x86_op
    uint16_t form;    // index into insn_forms
    uint8_t len;      // bytes, 1..15
    uint8_t opsize;   // 2, 4, 8 (1 for byte forms)
    uint8_t addrsize; // 2, 4, 8
    uint8_t mode;     // 2, 4, 8: default code size it was decoded for
    uint8_t prefix;   // enum insn_prefix
    uint8_t encoding; // enum insn_encoding
    uint8_t map;      // enum insn_map
    uint8_t opcode;
    uint8_t mandatory; // 0, 0x66, 0xf3, 0xf2: the prefix that selected the row (VEX.pp too)
    uint8_t rex;       // 0x40|WRXB as given, also from VEX and EVEX; 0 when absent
    bool has_modrm;
    uint8_t modrm;
    bool has_sib;
    uint8_t sib;
    uint8_t vvvv;       // VEX/EVEX register number, 0..31
    uint8_t veclen;     // 16, 32, 64 for vector encodings, else 0
    uint8_t evex_aaa;   // mask register
    uint8_t mask_bits;  // with a mask_element: how many bits of the writemask concern memory
    uint8_t evex_zb;    // bit 0: b (broadcast or rounding), bit 1: z, bits 3..2: L'L as encoded
    uint8_t disp_bytes; // as encoded: 0, 1, 2, 4, 8
    uint8_t imm_bytes;  // as encoded, both immediates together
    // The memory operand.
    uint8_t seg;   // enum segment in effect
    uint8_t base;  // enum gpr, REG_RIP, REG_NONE
    uint8_t index; // enum gpr (vector register with FORM_VSIB), REG_NONE
    uint8_t scale; // 1, 2, 4, 8
    uint8_t operands;
    int64_t disp;
    uint64_t imm;
    uint64_t imm2;
    struct operand operand[INSN_OPERANDS]; // [0] is the destination where there is one
};

enum insn_status {
    INSN_OK,
    INSN_INVALID,   // #UD: no such instruction in this mode; len is set
    INSN_TRUNCATED, // the bytes given end inside the instruction
    INSN_TOO_LONG,  // more than 15 bytes: #GP(0)
};

// Decodes one instruction. code: len bytes (only the first 15 matter), which nobody may change
// meanwhile. mode: 2, 4 or 8, the code segment's default size in bytes. Pure; does not look at
// features.
enum insn_status insn_decode(const uint8_t *code, size_t len, unsigned mode, struct insn *out);

// Instructions met before, by the bytes that are not displacement or immediate (insn_memo.c).
#define INSN_MEMO_BITS 11
struct insn_memo_entry {
    uint64_t key; // 0: free
    struct insn insn;
    bool extends; // the immediate is sign-extended
};
struct insn_memo {
    struct insn_memo_entry entry[1 << INSN_MEMO_BITS];
    uint8_t head[2][256]; // what an opcode byte is, by map
};
void insn_memo_init(struct insn_memo *m); // zeroed before
// insn_decode() of 64-bit code.
enum insn_status insn_decode_memo(struct insn_memo *m, const uint8_t *code, size_t len,
                                  struct insn *out);

static inline const struct insn_form *insn_form(const struct insn *insn)
{
    return &insn_forms[insn->form];
}

// The condition (0..15) of a FORM_COND instruction.
static inline unsigned insn_condition(const struct insn *insn)
{
    return insn->opcode & 15;
}

// Mnemonic in lower case ("add"); for logs and tests.
const char *insn_name(unsigned op);
