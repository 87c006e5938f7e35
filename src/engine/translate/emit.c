// The host-code emitter: helpers that write one x86-64 instruction each (see emit.h). Encodings:
// Intel SDM volume 2, chapter 2. Branches always take their 32-bit form, except JRCXZ which has
// none.
#include "engine/translate/emit_impl.h"

#include "base/bytes.h"

// The translator spends much of its time here: a constant length makes one store.
static inline void append(struct emit *e, const void *bytes, size_t n)
{
    if ((size_t)(e->end - e->at) < n) {
        e->overflow = true;
        return;
    }
    __builtin_memcpy(e->at, bytes, n);
    e->at += n;
}

void emit_u8(struct emit *e, uint8_t v)
{
    append(e, &v, 1);
}

void emit_u32(struct emit *e, uint32_t v)
{
    append(e, &v, 4);
}

void emit_u64(struct emit *e, uint64_t v)
{
    append(e, &v, 8);
}

void emit_bytes(struct emit *e, const void *bytes, size_t n)
{
    if ((size_t)(e->end - e->at) < n) {
        e->overflow = true;
        return;
    }
    for (size_t i = 0; i < n; i++) // few: a string instruction would take longer to start
        e->at[i] = ((const uint8_t *)bytes)[i];
    e->at += n;
}

void emit_note_kept(struct emit *e, unsigned kind, const uint8_t *at)
{
    if (e->notes < e->max_notes)
        e->note[e->notes] = (struct emit_note){.at = at, .kind = kind};
    if (e->notes <= e->max_notes)
        e->notes++;
}

void emit_change(struct emit *e, unsigned back, uint32_t v)
{
    if (!e->overflow)
        store_le32(e->at - back, v);
}

void emit_align(struct emit *e, size_t align)
{
    while ((uintptr_t)emit_exec(e) % align && !e->overflow)
        emit_u8(e, 0xcc);
}

// The SIB byte, where the base or the lack of one needs it: RSP and R12 share their number with the
// escape to SIB.
static bool needs_sib(const struct emit_mem *mem)
{
    return mem->index != REG_NONE || mem->base == REG_NONE || (mem->base & 7) == RSP;
}

static unsigned sib_byte(const struct emit_mem *mem)
{
    unsigned index = mem->index == REG_NONE ? 4 : mem->index & 7u;
    unsigned base = mem->base == REG_NONE ? 5 : mem->base & 7u;
    return (unsigned)__builtin_ctz(mem->scale) << 6 | index << 3 | base;
}

uint8_t *put_modrm_mem(struct emit *e, uint8_t *at, unsigned reg, const struct emit_mem *mem,
                       bool allow_disp8)
{
    // RBP and R13 as base without displacement mean something else, so they take a zero disp8.
    unsigned mod = 2;
    if (mem->base == REG_NONE || (mem->disp == 0 && !mem->note && (mem->base & 7) != RBP))
        mod = 0;
    else if (allow_disp8 && !mem->note && mem->disp >= -128 && mem->disp < 128)
        mod = 1;
    bool sib = needs_sib(mem);
    at = put_u8(at, mod << 6 | (reg & 7) << 3 | (sib ? 4 : mem->base & 7u));
    if (sib)
        at = put_u8(at, sib_byte(mem));
    if (mod == 1)
        at = put_u8(at, (unsigned)mem->disp);
    else if (mod == 2 || mem->base == REG_NONE)
        at = put_u32(at, (uint32_t)mem->disp);
    if (mem->note)
        emit_note_at(e, mem->note, at - 4);
    return at;
}

// Everything before ModRM. rex: WRXB without the 0x40, which `force` adds even if they are zero.
static inline uint8_t *put_head(uint8_t *at, unsigned size, unsigned prefix, unsigned rex,
                                bool force, unsigned map, unsigned opcode)
{
    if (size == 2)
        at = put_u8(at, 0x66);
    if (prefix)
        at = put_u8(at, prefix);
    if (size == 8)
        rex |= 8;
    if (rex || force)
        at = put_u8(at, 0x40 | rex);
    at = put_escape(at, map);
    return put_u8(at, opcode);
}

static inline uint8_t *put_op_rr(uint8_t *at, unsigned size, unsigned prefix, unsigned map,
                                 unsigned opcode, unsigned reg, unsigned rm)
{
    unsigned rex = (reg & 8) >> 1 | (rm & 8) >> 3;
    at = put_head(at, size, prefix, rex, size == 1 && (reg >= 4 || rm >= 4), map, opcode);
    return put_modrm_reg(at, reg, rm);
}

static inline uint8_t *put_op_rm(struct emit *e, uint8_t *at, unsigned size, unsigned prefix,
                                 unsigned map, unsigned opcode, unsigned reg,
                                 const struct emit_mem *mem)
{
    if (mem->gs)
        at = put_u8(at, 0x65);
    at = put_head(at, size, prefix, (reg & 8) >> 1 | emit_mem_rex(mem), size == 1 && reg >= 4, map,
                  opcode);
    return put_modrm_mem(e, at, reg, mem, true);
}

void emit_op_rr(struct emit *e, unsigned size, unsigned prefix, unsigned map, unsigned opcode,
                unsigned reg, unsigned rm)
{
    uint8_t *at = emit_room(e);
    if (at)
        e->at = put_op_rr(at, size, prefix, map, opcode, reg, rm);
}

void emit_op_rm(struct emit *e, unsigned size, unsigned prefix, unsigned map, unsigned opcode,
                unsigned reg, struct emit_mem mem)
{
    uint8_t *at = emit_room(e);
    if (at)
        e->at = put_op_rm(e, at, size, prefix, map, opcode, reg, &mem);
}

// The same, for one-byte opcodes with an immediate of n bytes.
static void op_rr_imm(struct emit *e, unsigned size, unsigned opcode, unsigned reg, unsigned rm,
                      uint64_t imm, unsigned n)
{
    uint8_t *at = emit_room(e);
    if (at)
        e->at = put_imm(put_op_rr(at, size, 0, MAP_ONE, opcode, reg, rm), imm, n);
}

static void op_rm_imm(struct emit *e, unsigned size, unsigned opcode, unsigned reg,
                      struct emit_mem mem, uint64_t imm, unsigned n)
{
    uint8_t *at = emit_room(e);
    if (at)
        e->at = put_imm(put_op_rm(e, at, size, 0, MAP_ONE, opcode, reg, &mem), imm, n);
}

// --- moves ---------------------------------------------------------------------------------------

void emit_mov_rr(struct emit *e, unsigned size, unsigned dst, unsigned src)
{
    if (dst == src && size == 8)
        return;
    emit_op_rr(e, size, 0, MAP_ONE, 0x8b, dst, src);
}

// The opcode holds the register.
static void op_z_imm(struct emit *e, unsigned size, unsigned opcode, unsigned reg, uint64_t imm,
                     unsigned n)
{
    uint8_t *at = emit_room(e);
    if (at)
        e->at =
            put_imm(put_head(at, size, 0, reg >> 3, false, MAP_ONE, opcode | (reg & 7)), imm, n);
}

void emit_mov_ri(struct emit *e, unsigned dst, uint64_t value)
{
    if (value <= UINT32_MAX)
        op_z_imm(e, 4, 0xb8, dst, value, 4);
    else if ((int64_t)value == (int32_t)value)
        op_rr_imm(e, 8, 0xc7, 0, dst, value, 4);
    else
        op_z_imm(e, 8, 0xb8, dst, value, 8);
}

void emit_load(struct emit *e, unsigned size, unsigned dst, struct emit_mem mem)
{
    if (size >= 4)
        emit_op_rm(e, size, 0, MAP_ONE, 0x8b, dst, mem);
    else
        emit_op_rm(e, 4, 0, MAP_0F, size == 1 ? 0xb6 : 0xb7, dst, mem);
}

void emit_store(struct emit *e, unsigned size, struct emit_mem mem, unsigned src)
{
    emit_op_rm(e, size, 0, MAP_ONE, size == 1 ? 0x88 : 0x89, src, mem);
}

static unsigned imm_bytes(unsigned size)
{
    return size < 4 ? size : 4;
}

void emit_store_i(struct emit *e, unsigned size, struct emit_mem mem, int32_t value)
{
    op_rm_imm(e, size, size == 1 ? 0xc6 : 0xc7, 0, mem, (uint32_t)value, imm_bytes(size));
}

void emit_lea(struct emit *e, unsigned size, unsigned dst, struct emit_mem mem)
{
    emit_op_rm(e, size, 0, MAP_ONE, 0x8d, dst, mem);
}

void emit_movzx(struct emit *e, unsigned dst, unsigned src, unsigned src_size)
{
    bool byte = src_size == 1;
    uint8_t *at = emit_room(e);
    if (!at)
        return;
    at = put_head(at, 4, 0, (dst & 8) >> 1 | (src & 8) >> 3, byte && src >= 4, MAP_0F,
                  byte ? 0xb6 : 0xb7);
    e->at = put_modrm_reg(at, dst, src);
}

void emit_push(struct emit *e, unsigned reg)
{
    op_z_imm(e, 4, 0x50, reg, 0, 0);
}

void emit_pop(struct emit *e, unsigned reg)
{
    op_z_imm(e, 4, 0x58, reg, 0, 0);
}

// --- arithmetic ----------------------------------------------------------------------------------

void emit_alu_rr(struct emit *e, enum emit_alu op, unsigned size, unsigned dst, unsigned src)
{
    emit_op_rr(e, size, 0, MAP_ONE, op << 3 | (size == 1 ? 2 : 3), dst, src);
}

static bool fits_i8(int32_t value)
{
    return value >= -128 && value < 128;
}

void emit_alu_ri(struct emit *e, enum emit_alu op, unsigned size, unsigned dst, int32_t value)
{
    bool small = size > 1 && fits_i8(value);
    op_rr_imm(e, size,
              size == 1 ? 0x80
              : small   ? 0x83
                        : 0x81,
              op, dst, (uint32_t)value, imm_bytes(small ? 1 : size));
}

void emit_alu_rm(struct emit *e, enum emit_alu op, unsigned size, unsigned dst, struct emit_mem mem)
{
    emit_op_rm(e, size, 0, MAP_ONE, op << 3 | (size == 1 ? 2 : 3), dst, mem);
}

void emit_alu_mr(struct emit *e, enum emit_alu op, unsigned size, struct emit_mem mem, unsigned src)
{
    emit_op_rm(e, size, 0, MAP_ONE, op << 3 | (size == 1 ? 0 : 1), src, mem);
}

void emit_alu_mi(struct emit *e, enum emit_alu op, unsigned size, struct emit_mem mem,
                 int32_t value)
{
    bool small = size > 1 && fits_i8(value);
    op_rm_imm(e, size,
              size == 1 ? 0x80
              : small   ? 0x83
                        : 0x81,
              op, mem, (uint32_t)value, imm_bytes(small ? 1 : size));
}

void emit_test_rr(struct emit *e, unsigned size, unsigned a, unsigned b)
{
    emit_op_rr(e, size, 0, MAP_ONE, size == 1 ? 0x84 : 0x85, a, b);
}

void emit_test_ri(struct emit *e, unsigned size, unsigned reg, int32_t value)
{
    op_rr_imm(e, size, size == 1 ? 0xf6 : 0xf7, 0, reg, (uint32_t)value, imm_bytes(size));
}

void emit_test_mi(struct emit *e, unsigned size, struct emit_mem mem, int32_t value)
{
    op_rm_imm(e, size, size == 1 ? 0xf6 : 0xf7, 0, mem, (uint32_t)value, imm_bytes(size));
}

void emit_shift_ri(struct emit *e, enum emit_shift op, unsigned size, unsigned reg, unsigned count)
{
    op_rr_imm(e, size, size == 1 ? 0xc0 : 0xc1, op, reg, count, 1);
}

// Three-byte VEX for two general registers, and an immediate of n bytes. pp: 1 = 66, 2 = f3, 3 =
// f2.
static void emit_vex_rr(struct emit *e, unsigned size, unsigned pp, unsigned map, unsigned opcode,
                        unsigned reg, unsigned vvvv, unsigned rm, unsigned imm, unsigned n)
{
    uint8_t *at = emit_room(e);
    if (!at)
        return;
    at = put_u8(at, 0xc4);
    at = put_u8(at, (reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | map);
    at = put_u8(at, (size == 8 ? 0x80u : 0) | (~vvvv & 15) << 3 | pp);
    at = put_u8(at, opcode);
    e->at = put_imm(put_modrm_reg(at, reg, rm), imm, n);
}

void emit_rorx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count)
{
    emit_vex_rr(e, size, 3, MAP_0F3A, 0xf0, dst, 0, src, count, 1);
}

void emit_shrx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg)
{
    emit_vex_rr(e, size, 3, MAP_0F38, 0xf7, dst, count_reg, src, 0, 0);
}

void emit_pext(struct emit *e, unsigned dst, unsigned src, unsigned mask)
{
    emit_vex_rr(e, 4, 2, MAP_0F38, 0xf5, dst, src, mask, 0, 0);
}

void emit_pdep(struct emit *e, unsigned dst, unsigned src, unsigned mask)
{
    emit_vex_rr(e, 4, 3, MAP_0F38, 0xf5, dst, src, mask, 0, 0);
}

void emit_sarx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg)
{
    emit_vex_rr(e, size, 2, MAP_0F38, 0xf7, dst, count_reg, src, 0, 0);
}

void emit_shlx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg)
{
    emit_vex_rr(e, size, 1, MAP_0F38, 0xf7, dst, count_reg, src, 0, 0);
}

void emit_setcc_m(struct emit *e, enum condition cond, struct emit_mem mem)
{
    emit_op_rm(e, 1, 0, MAP_0F, 0x90 | cond, 0, mem);
}

void emit_setcc_r(struct emit *e, enum condition cond, unsigned reg)
{
    emit_op_rr(e, 1, 0, MAP_0F, 0x90 | cond, 0, reg);
}

// --- branches ------------------------------------------------------------------------------------

uint8_t *emit_jcc(struct emit *e, enum condition cond)
{
    emit_bytes(e, (const uint8_t[]){0x0f, (uint8_t)(0x80 | cond), 0, 0, 0, 0}, 6);
    return e->at - 4;
}

uint8_t *emit_jmp(struct emit *e)
{
    emit_bytes(e, (const uint8_t[]){0xe9, 0, 0, 0, 0}, 5);
    return e->at - 4;
}

void emit_land(struct emit *e, uint8_t *displacement)
{
    int32_t distance = (int32_t)(e->at - (displacement + 4));
    if (!e->overflow)
        store_le32(displacement, (uint32_t)distance);
}

// The displacement to a place that runs at target, as the instruction's last four bytes.
static void emit_rel32(struct emit *e, uint8_t *at, const void *target)
{
    intptr_t distance = (intptr_t)target - (intptr_t)(at + e->to_exec + 4);
    if (distance != (int32_t)distance)
        e->overflow = true;
    e->at = put_u32(at, (uint32_t)distance);
    emit_note(e, EMIT_BRANCH, 4);
}

void emit_jcc_to(struct emit *e, enum condition cond, const void *target)
{
    uint8_t *at = emit_room(e);
    if (at)
        emit_rel32(e, put_u8(put_u8(at, 0x0f), 0x80 | cond), target);
}

void emit_jmp_to(struct emit *e, const void *target)
{
    uint8_t *at = emit_room(e);
    if (at)
        emit_rel32(e, put_u8(at, 0xe9), target);
}

void emit_call_to(struct emit *e, const void *target)
{
    uint8_t *at = emit_room(e);
    if (at)
        emit_rel32(e, put_u8(at, 0xe8), target);
}

void emit_call_abs(struct emit *e, unsigned scratch, const void *target)
{
    emit_mov_ri(e, scratch, (uintptr_t)target);
    emit_call_r(e, scratch);
}

void emit_jmp_abs(struct emit *e, unsigned scratch, const void *target)
{
    emit_mov_ri(e, scratch, (uintptr_t)target);
    emit_jmp_r(e, scratch);
}

uint8_t *emit_jrcxz(struct emit *e)
{
    emit_bytes(e, "\xe3", 2);
    return e->at - 1;
}

void emit_land_short(struct emit *e, uint8_t *displacement)
{
    ptrdiff_t distance = e->at - (displacement + 1);
    if (distance > 127)
        e->overflow = true;
    if (!e->overflow)
        *displacement = (uint8_t)distance;
}

void emit_jmp_r(struct emit *e, unsigned reg)
{
    emit_op_rr(e, 4, 0, MAP_ONE, 0xff, 4, reg);
}

void emit_jmp_m(struct emit *e, struct emit_mem mem)
{
    emit_op_rm(e, 4, 0, MAP_ONE, 0xff, 4, mem);
}

void emit_call_r(struct emit *e, unsigned reg)
{
    emit_op_rr(e, 4, 0, MAP_ONE, 0xff, 2, reg);
}

void emit_call_m(struct emit *e, struct emit_mem mem)
{
    emit_op_rm(e, 4, 0, MAP_ONE, 0xff, 2, mem);
}

void emit_ret(struct emit *e)
{
    emit_u8(e, 0xc3);
}
