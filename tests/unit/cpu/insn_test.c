// The decoder: properties of its table, and the rules that only bytes can show.
#include "cpu/insn.h"

#include <stdlib.h>

#include "test.h"

static enum insn_status decode(struct insn *in, unsigned mode, const char *bytes)
{
    uint8_t code[INSN_MAX + 1];
    size_t len = 0;
    unsigned byte;
    for (int used; sscanf(bytes, "%2x%n", &byte, &used) == 1 && len < sizeof code; bytes += used)
        code[len++] = (uint8_t)byte;
    return insn_decode(code, len, mode, in);
}

#define CHECK_INSN(mode, bytes, want_op, want_len)       \
    do {                                                 \
        CHECK_EQ(decode(&in, mode, bytes), INSN_OK);     \
        CHECK_STR(insn_name(in.op), insn_name(want_op)); \
        CHECK_EQ(in.len, want_len);                      \
    } while (0)

static void every_row_is_consistent(void)
{
    struct insn in;
    unsigned forms = 0;
    for (unsigned at = 0; at < 0x10000; at++) { // every opcode with every modrm
        const uint8_t code[INSN_MAX] = {(uint8_t)(at >> 8), (uint8_t)at};
        if (insn_decode(code, sizeof code, 8, &in) != INSN_OK)
            continue;
        const struct insn_form *form = insn_form(&in);
        forms++;
        CHECK_EQ(form->op, in.op);
        CHECK_EQ(form->flags_undefined & ~form->flags_written, 0);
        CHECK(!(form->flags & FORM_LOCKABLE) || in.operand[0].flags & OPERAND_WRITE);
        CHECK(in.len >= 1 && in.len <= INSN_MAX && in.operands <= INSN_OPERANDS);
        CHECK(form->feature < FEATURE_COUNT && in.op > OP_NONE && in.op < OP_COUNT);
    }
    CHECK(forms > 30000);
}

static void operand_size_follows_mode_prefix_and_rex(void)
{
    struct insn in;
    CHECK_INSN(8, "01d8", OP_ADD, 2);
    CHECK_EQ(in.opsize, 4);
    CHECK_INSN(8, "4801d8", OP_ADD, 3);
    CHECK_EQ(in.opsize, 8);
    CHECK_INSN(8, "664801d8", OP_ADD, 4);
    CHECK_EQ(in.opsize, 8);
    CHECK_INSN(8, "486601d8", OP_ADD, 4); // REX counts only directly before the opcode
    CHECK_EQ(in.opsize, 2);
    CHECK_INSN(2, "01d8", OP_ADD, 2);
    CHECK_EQ(in.opsize, 2);
    CHECK_INSN(8, "00d8", OP_ADD, 2);
    CHECK_EQ(in.opsize, 1);
    CHECK_INSN(8, "50", OP_PUSH, 1);
    CHECK_EQ(in.opsize, 8);
    CHECK_INSN(8, "6650", OP_PUSH, 2);
    CHECK_EQ(in.opsize, 2);
}

static void high_bytes_exist_only_without_rex(void)
{
    struct insn in;
    CHECK_INSN(8, "00e3", OP_ADD, 2); // add bl, ah
    CHECK_EQ(in.operand[1].reg, RAX);
    CHECK(in.operand[1].flags & OPERAND_HIGH);
    CHECK_INSN(8, "4000e3", OP_ADD, 3); // add bl, spl
    CHECK_EQ(in.operand[1].reg, RSP);
    CHECK(!(in.operand[1].flags & OPERAND_HIGH));
}

static void lock_needs_a_lockable_memory_destination(void)
{
    struct insn in;
    CHECK_INSN(8, "f00100", OP_ADD, 3);
    CHECK_EQ(decode(&in, 8, "f001c0"), INSN_INVALID);     // register
    CHECK_EQ(decode(&in, 8, "f00300"), INSN_INVALID);     // memory is the source
    CHECK_EQ(decode(&in, 8, "f03900"), INSN_INVALID);     // cmp
    CHECK_EQ(decode(&in, 8, "f00fba2000"), INSN_INVALID); // bt
    CHECK_INSN(8, "f00fba2800", OP_BTS, 5);
}

static void memory_operands_name_base_index_and_segment(void)
{
    struct insn in;
    CHECK_INSN(8, "8b0500000001", OP_MOV, 6);
    CHECK_EQ(in.base, REG_RIP);
    CHECK_EQ(in.disp, 0x01000000);
    CHECK_INSN(8, "438b44a5fc", OP_MOV, 5); // r13 + r12 * 4 - 4
    CHECK_EQ(in.base, R13);
    CHECK_EQ(in.index, R12);
    CHECK_EQ(in.scale, 4);
    CHECK_EQ(in.disp, (uint64_t)-4);
    CHECK_EQ(in.seg, SEG_DS);
    CHECK_INSN(8, "8b0424", OP_MOV, 3);
    CHECK_EQ(in.base, RSP);
    CHECK_EQ(in.index, REG_NONE);
    CHECK_EQ(in.seg, SEG_SS);
    CHECK_INSN(8, "2e648b0424", OP_MOV, 5); // cs is a null prefix
    CHECK_EQ(in.seg, SEG_FS);
    CHECK_INSN(2, "8b4310", OP_MOV, 3); // bp + di + 16
    CHECK_EQ(in.base, RBP);
    CHECK_EQ(in.index, RDI);
    CHECK_EQ(in.seg, SEG_SS);
    CHECK_INSN(2, "8b063412", OP_MOV, 4);
    CHECK_EQ(in.base, REG_NONE);
    CHECK_EQ(in.disp, 0x1234);
    CHECK_INSN(4, "a10e45a49d", OP_MOV, 5);
    CHECK_EQ(in.disp, 0x9da4450e);
}

static void mandatory_prefixes_select_rows(void)
{
    struct insn in;
    CHECK_INSN(8, "0f58c1", OP_ADDPS, 3);
    CHECK_INSN(8, "660f58c1", OP_ADDPD, 4);
    CHECK_INSN(8, "f30f58c1", OP_ADDSS, 4);
    CHECK_INSN(8, "66f20f58c1", OP_ADDSD, 5); // f2 and f3 go before 66
    CHECK_EQ(in.mandatory, 0xf2);
    CHECK_INSN(8, "f20f38f0c1", OP_CRC32, 5);
    CHECK_INSN(8, "66f20f38f1c1", OP_CRC32, 6);
    CHECK_EQ(in.operand[1].size, 2);
    CHECK_INSN(8, "f30fbcc1", OP_TZCNT, 4);
    CHECK_INSN(8, "660fbcc1", OP_BSF, 4);
    CHECK_EQ(in.opsize, 2);
    CHECK_EQ(decode(&in, 8, "f30ffcc1"), INSN_INVALID);
}

static void vex_shares_its_opcodes_with_les_and_lds(void)
{
    struct insn in;
    CHECK_INSN(4, "c5f058c2", OP_VADDPS, 4);
    CHECK_INSN(4, "c506", OP_LDS, 2);
    CHECK_INSN(4, "c406", OP_LES, 2);
    CHECK_INSN(4, "6206", OP_BOUND, 2);
    CHECK_INSN(8, "c5f058c2", OP_VADDPS, 4);
    CHECK_EQ(in.operand[1].reg, 1);
    CHECK_EQ(decode(&in, 8, "66c5f058c2"), INSN_INVALID);
    CHECK_EQ(decode(&in, 8, "48c5f058c2"), INSN_INVALID);
    CHECK_EQ(decode(&in, 8, "f0c5f058c2"), INSN_INVALID);
    CHECK_EQ(decode(&in, 8, "c5f010c2"), INSN_INVALID); // movups has no second source
}

static void evex_scales_short_displacements(void)
{
    struct insn in;
    CHECK_INSN(8, "62f17c48584001", OP_VADDPS, 7);
    CHECK_EQ(in.disp, 64);
    CHECK_EQ(in.veclen, 64);
    CHECK_INSN(8, "62f17c58584001", OP_VADDPS, 7); // broadcast
    CHECK_EQ(in.disp, 4);
    CHECK_EQ(in.operand[2].size, 4);
    CHECK_INSN(8, "62f27d48880001", OP_VEXPANDPS, 6);
    CHECK_INSN(8, "62f27d48884001", OP_VEXPANDPS, 7);
    CHECK_EQ(in.disp, 4);
}

static void stale_64_bit_opcodes_are_invalid(void)
{
    struct insn in;
    static const char *const gone[] = {"06", "27", "37",   "60", "61", "8200",
                                       "9a", "ce", "d40a", "d6", "ea"};
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
        CHECK(decode(&in, 8, gone[i]) != INSN_OK);
    CHECK_INSN(4, "82c001", OP_ADD, 3);
    CHECK_INSN(4, "d6", OP_SALC, 1);
    CHECK_INSN(4, "9a0000000010 00", OP_CALL_FAR, 7);
    CHECK_INSN(8, "f1", OP_INT1, 1);
    CHECK_INSN(8, "c1f001", OP_SHL, 3);
    CHECK_INSN(8, "f7c801000000", OP_TEST, 6);
}

static void length_is_judged_before_validity(void)
{
    struct insn in;
    CHECK_EQ(decode(&in, 8, "0f"), INSN_TRUNCATED);
    CHECK_EQ(decode(&in, 8, "66"), INSN_TRUNCATED);
    CHECK_EQ(decode(&in, 8, "e8000000"), INSN_TRUNCATED);
    CHECK_EQ(decode(&in, 8, "f001"), INSN_TRUNCATED);
    CHECK_EQ(decode(&in, 8, "666666666666666666666666666690"), INSN_OK);
    CHECK_EQ(decode(&in, 8, "66666666666666666666666666666690"), INSN_TOO_LONG);
}

static void control_registers_ignore_mod(void)
{
    struct insn in;
    CHECK_INSN(8, "0f2000", OP_MOV_CR, 3);
    CHECK_EQ(in.operand[0].kind, OPND_GPR);
    CHECK_EQ(in.operand[1].kind, OPND_CR);
    CHECK_EQ(in.operand[0].size, 8);
    CHECK_INSN(8, "440f20c0", OP_MOV_CR, 4);
    CHECK_EQ(in.operand[1].reg, 8);
    CHECK_EQ(decode(&in, 8, "0f20c8"), INSN_INVALID);
}

static void repeated_strings_count_in_rcx(void)
{
    struct insn in;
    CHECK_INSN(8, "f348ab", OP_STOS, 3);
    CHECK_EQ(in.opsize, 8);
    CHECK_EQ(in.seg, SEG_ES);
    CHECK_EQ(in.operands, 3);
    CHECK_EQ(in.operand[2].reg, RCX);
    CHECK_INSN(8, "64a4", OP_MOVS, 2);
    CHECK_EQ(in.seg, SEG_FS);
    CHECK_EQ(in.operands, 2);
}

// Every head, twice with other bytes after it; the second is often one that is remembered.
static void remembered_instructions_decode_alike(void)
{
    struct insn_memo *memo = calloc(1, sizeof *memo);
    static const char *const starts[] = {"",   "48", "4d", "66", "0f",   "480f", "f30f",
                                         "65", "f0", "f2", "67", "6648", "4866"};
    uint64_t random = 1;
    insn_memo_init(memo);
    for (unsigned i = 0; i < ARRAY_LEN(starts) * 0x20000; i++) {
        uint8_t code[32];
        const char *start = starts[i >> 17];
        unsigned n = 0, byte;
        for (unsigned k = 0; k < sizeof code; k++)
            code[k] = (uint8_t)((random = random * 6364136223846793005u + 1) >> 56);
        for (; sscanf(start + 2 * n, "%2x", &byte) == 1; n++)
            code[n] = (uint8_t)byte;
        code[n] = (uint8_t)(i >> 9);
        code[n + 1] = (uint8_t)(i >> 1);
        code[n + 2] &= 0x8f; // SIB bytes that come again
        struct insn want = {0}, got = {0};
        enum insn_status status = insn_decode(code, sizeof code, 8, &want);
        if (insn_decode_memo(memo, code, sizeof code, &got) != status ||
            (status == INSN_OK && memcmp(&want, &got, sizeof got) != 0)) {
            printf("# differs: %s%02x%02x%02x\n", start, code[n], code[n + 1], code[n + 2]);
            CHECK(false);
        }
    }
    free(memo);
}

TEST_MAIN(TEST(every_row_is_consistent), TEST(operand_size_follows_mode_prefix_and_rex),
          TEST(high_bytes_exist_only_without_rex), TEST(lock_needs_a_lockable_memory_destination),
          TEST(memory_operands_name_base_index_and_segment), TEST(mandatory_prefixes_select_rows),
          TEST(vex_shares_its_opcodes_with_les_and_lds), TEST(evex_scales_short_displacements),
          TEST(stale_64_bit_opcodes_are_invalid), TEST(length_is_judged_before_validity),
          TEST(control_registers_ignore_mod), TEST(repeated_strings_count_in_rcx),
          TEST(remembered_instructions_decode_alike))
