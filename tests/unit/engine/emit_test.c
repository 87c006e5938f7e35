// The emitter: re-encoded instructions decode to the same thing with the new operands; helpers
// write what they say; nothing is written beyond the end.
#include "engine/translate/codebuf.h"
#include "engine/translate/emit.h"
#include "test.h"

static uint64_t seed = 88172645463325252ull;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static unsigned make_code(uint8_t *code)
{
    static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0xf0, 0x48, 0x4d, 0xc4, 0xc5, 0x62, 0x0f};
    unsigned n = 0;
    for (unsigned i = (unsigned)next_random() % 4; i > 0; i--)
        code[n++] = prefixes[(next_random() >> 9) % sizeof prefixes];
    while (n < 16)
        code[n++] = (uint8_t)(next_random() >> 17);
    return n;
}

// Guest register r stands in host register (r + 5) % 16.
static uint8_t rotate(unsigned reg)
{
    return (uint8_t)((reg + 5) % 16);
}

static bool same_operand(const struct operand *old, const struct operand *new, bool rotated)
{
    if (old->kind != new->kind || old->size != new->size)
        return false;
    switch (old->kind) {
    case OPND_GPR:
        if ((old->flags & OPERAND_HIGH) != (new->flags &OPERAND_HIGH))
            return false;
        return new->reg == (rotated && old->field != FIELD_NONE ? rotate(old->reg) : old->reg);
    case OPND_MEM: return true;
    default: return old->reg == new->reg;
    }
}

static bool has_opsize(const struct insn *insn)
{
    return !(insn_form(insn)->flags & (FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512));
}

static bool is_moffs(const struct insn *insn) // whose accumulator is mapped like a named register
{
    return insn->map == MAP_ONE && insn->encoding == ENC_LEGACY && (insn->opcode & 0xfc) == 0xa0;
}

static bool same_insn(const struct insn *old, const struct insn *new, const struct emit_mem *mem,
                      bool rotated)
{
    bool same = old->op == new->op && old->operands == new->operands && old->imm == new->imm &&
                old->imm2 == new->imm2 && old->evex_aaa == new->evex_aaa &&
                old->evex_zb == new->evex_zb && old->veclen == new->veclen &&
                (old->opsize == new->opsize || !has_opsize(old)) &&
                !((old->prefix ^ new->prefix) & PREFIX_LOCK);
    for (unsigned i = 0; same && i < old->operands; i++) {
        same = same_operand(&old->operand[i], &new->operand[i], rotated);
        if (old->operand[i].kind == OPND_MEM)
            same &= new->base == mem->base &&new->index == mem->index &&new->disp == mem->disp &&
                    (mem->index == REG_NONE || new->scale == mem->scale) &&
                    (new->seg == SEG_GS) == mem->gs;
    }
    return same;
}

static struct emit_mem random_mem(void)
{
    struct emit_mem mem = {(uint8_t)(next_random() & 15), (uint8_t)(next_random() & 15),
                           (uint8_t)(1 << (next_random() & 3)), next_random() & 1,
                           (int32_t)(next_random() >> (next_random() & 31))};
    if (next_random() % 3 == 0)
        mem.base = REG_NONE;
    if (mem.index == RSP || next_random() % 3 == 0)
        mem.index = REG_NONE;
    return mem;
}

static void reencode_many(unsigned mode)
{
    unsigned done = 0, wrong = 0;
    uint8_t map[16];
    for (unsigned i = 0; i < 16; i++)
        map[i] = rotate(i);
    for (unsigned i = 0; i < 300000 && wrong < 5; i++) {
        uint8_t code[16], out[32];
        struct insn old, new = {0};
        make_code(code);
        if (insn_decode(code, sizeof code, mode, &old) != INSN_OK ||
            insn_form(&old)->flags & FORM_SYSTEM)
            continue;
        bool rotated = !is_moffs(&old) && next_random() & 1;
        struct emit_operands operands = {random_mem(), rotated ? map : NULL};
        struct emit e = {out, out + sizeof out, 0, false};
        if (!emit_insn(&e, &old, &operands)) {
            wrong += e.at != out; // refuses without writing
            continue;
        }
        size_t len = (size_t)(e.at - out);
        bool ok = insn_decode(out, len, 8, &new) == INSN_OK &&
                  new.len == len &&same_insn(&old, &new, &operands.mem, rotated);
        if (!ok) {
            wrong++;
            printf("# %s:", insn_name(old.op));
            for (unsigned k = 0; k < old.len; k++)
                printf(" %02x", code[k]);
            printf(" became %s:", insn_name(new.op));
            for (size_t k = 0; k < len; k++)
                printf(" %02x", out[k]);
            printf("\n");
        }
        done++;
    }
    printf("# %u instructions\n", done);
    CHECK_EQ(wrong, 0);
    CHECK(done > 5000);
}

static void reencoded_64_bit_instructions_decode_to_the_same(void)
{
    reencode_many(8);
}

static void reencoded_32_bit_instructions_decode_to_the_same(void)
{
    reencode_many(4);
}

static void nothing_is_written_beyond_the_end(void)
{
    uint8_t out[8] = {0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee};
    struct emit e = {out, out + 4, 0, false};
    emit_mov_ri(&e, R15, 0x123456789abcdef0);
    emit_jmp_to(&e, out);
    emit_land(&e, emit_jcc(&e, COND_E));
    CHECK(e.overflow);
    CHECK_EQ(out[4], 0xee);
}

static void branches_beyond_their_reach_overflow(void)
{
    uint8_t out[16];
    struct emit e = {out, out + 16, 0, false};
    emit_jmp_to(&e, (void *)((uintptr_t)out + (1ull << 32)));
    CHECK(e.overflow);
}

static void emitted_code_runs(void)
{
    struct codebuf code;
    struct error error;
    CHECK_EQ(codebuf_init(&code, 100, &error), OK);
    CHECK_EQ(code.len, PAGE_SIZE);
    struct emit e = {code.write, code.write + code.len, codebuf_to_exec(&code), false};
    // sum of i*3 for i = rdi .. 1, kept in memory below the stack pointer
    emit_store_i(&e, 8, emit_at(RSP, -16), 0);
    uint8_t *loop = emit_exec(&e);
    emit_lea(&e, 8, R9, emit_indexed(RDI, RDI, 2, 0));
    emit_alu_mr(&e, ALU_ADD, 8, emit_at(RSP, -16), R9);
    emit_alu_ri(&e, ALU_SUB, 8, RDI, 1);
    emit_jcc_to(&e, COND_NE, loop);
    emit_load(&e, 8, RAX, emit_at(RSP, -16));
    emit_mov_rr(&e, 8, RCX, RAX);
    uint8_t *skip = emit_jrcxz(&e);
    emit_shift_ri(&e, SHIFT_SHL, 8, RAX, 1);
    emit_land_short(&e, skip);
    emit_ret(&e);
    CHECK(!e.overflow);
    CHECK_EQ(((uint64_t(*)(uint64_t))(uintptr_t)code.exec)(10), 330);
    codebuf_release(&code);
    codebuf_release(&code);
}

TEST_MAIN(TEST(reencoded_64_bit_instructions_decode_to_the_same),
          TEST(reencoded_32_bit_instructions_decode_to_the_same),
          TEST(nothing_is_written_beyond_the_end), TEST(branches_beyond_their_reach_overflow),
          TEST(emitted_code_runs))
