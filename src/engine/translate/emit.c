// The host-code emitter: helpers that write one x86-64 instruction each (see emit.h). Encodings:
// Intel SDM volume 2, chapter 2. Branches always take their 32-bit form, except JRCXZ which has
// none.
#include "engine/translate/emit_impl.h"

#include "base/bytes.h"
#include "base/copy.h"

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
    const uint8_t *p = bytes;
    if ((size_t)(e->end - e->at) < n) {
        e->overflow = true;
        return;
    }
    for (size_t i = 0; i < n && i < 16; i++)
        *e->at++ = p[i];
    if (n > 16) {
        copy_bytes(e->at, p + 16, n - 16);
        e->at += n - 16;
    }
}

void emit_align(struct emit *e, size_t align)
{
    while ((uintptr_t)emit_exec(e) % align && !e->overflow)
        emit_u8(e, 0xcc);
}

// The SIB byte, where the base or the lack of one needs it: RSP and R12 share their number with the
// escape to SIB.
static bool needs_sib(struct emit_mem mem)
{
    return mem.index != REG_NONE || mem.base == REG_NONE || (mem.base & 7) == RSP;
}

static uint8_t sib_byte(struct emit_mem mem)
{
    unsigned index = mem.index == REG_NONE ? 4 : mem.index & 7u;
    unsigned base = mem.base == REG_NONE ? 5 : mem.base & 7u;
    return (uint8_t)(__builtin_ctz(mem.scale) << 6 | index << 3 | base);
}

void emit_modrm_mem(struct emit *e, unsigned reg, struct emit_mem mem, bool allow_disp8)
{
    // RBP and R13 as base without displacement mean something else, so they take a zero disp8.
    unsigned mod = 2;
    if (mem.base == REG_NONE || (mem.disp == 0 && (mem.base & 7) != RBP))
        mod = 0;
    else if (allow_disp8 && mem.disp >= -128 && mem.disp < 128)
        mod = 1;
    bool sib = needs_sib(mem);
    emit_u8(e, (uint8_t)(mod << 6 | (reg & 7) << 3 | (sib ? 4 : mem.base & 7u)));
    if (sib)
        emit_u8(e, sib_byte(mem));
    if (mod == 1)
        emit_u8(e, (uint8_t)mem.disp);
    else if (mod == 2 || mem.base == REG_NONE)
        emit_u32(e, (uint32_t)mem.disp);
}

unsigned emit_mem_rex(struct emit_mem mem)
{
    unsigned rex = 0;
    if (mem.index != REG_NONE && mem.index & 8)
        rex |= 2;
    if (mem.base != REG_NONE && mem.base & 8)
        rex |= 1;
    return rex;
}

void emit_escape(struct emit *e, unsigned map)
{
    if (map != MAP_ONE)
        emit_u8(e, 0x0f);
    if (map == MAP_0F38)
        emit_u8(e, 0x38);
    if (map == MAP_0F3A)
        emit_u8(e, 0x3a);
}

// Everything before ModRM. rex: WRXB without the 0x40, which `force` adds even if they are zero.
static void emit_head(struct emit *e, unsigned size, unsigned prefix, unsigned rex, bool force,
                      unsigned map, unsigned opcode)
{
    if (size == 2)
        emit_u8(e, 0x66);
    if (prefix)
        emit_u8(e, (uint8_t)prefix);
    if (size == 8)
        rex |= 8;
    if (rex || force)
        emit_u8(e, (uint8_t)(0x40 | rex));
    emit_escape(e, map);
    emit_u8(e, (uint8_t)opcode);
}

void emit_op_rr(struct emit *e, unsigned size, unsigned prefix, unsigned map, unsigned opcode,
                unsigned reg, unsigned rm)
{
    unsigned rex = (reg & 8) >> 1 | (rm & 8) >> 3;
    emit_head(e, size, prefix, rex, size == 1 && (reg >= 4 || rm >= 4), map, opcode);
    emit_u8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void emit_op_rm(struct emit *e, unsigned size, unsigned prefix, unsigned map, unsigned opcode,
                unsigned reg, struct emit_mem mem)
{
    if (mem.gs)
        emit_u8(e, 0x65);
    emit_head(e, size, prefix, (reg & 8) >> 1 | emit_mem_rex(mem), size == 1 && reg >= 4, map,
              opcode);
    emit_modrm_mem(e, reg, mem, true);
}

// --- moves ---------------------------------------------------------------------------------------

void emit_mov_rr(struct emit *e, unsigned size, unsigned dst, unsigned src)
{
    if (dst == src && size == 8)
        return;
    emit_op_rr(e, size, 0, MAP_ONE, 0x8b, dst, src);
}

void emit_mov_ri(struct emit *e, unsigned dst, uint64_t value)
{
    if (value <= UINT32_MAX) {
        emit_head(e, 4, 0, dst >> 3, false, MAP_ONE, 0xb8 | (dst & 7));
        emit_u32(e, (uint32_t)value);
    } else if ((int64_t)value == (int32_t)value) {
        emit_op_rr(e, 8, 0, MAP_ONE, 0xc7, 0, dst);
        emit_u32(e, (uint32_t)value);
    } else {
        emit_head(e, 8, 0, dst >> 3, false, MAP_ONE, 0xb8 | (dst & 7));
        emit_u64(e, value);
    }
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

static void emit_imm(struct emit *e, unsigned size, int32_t value)
{
    emit_bytes(e, &value, size < 4 ? size : 4);
}

void emit_store_i(struct emit *e, unsigned size, struct emit_mem mem, int32_t value)
{
    emit_op_rm(e, size, 0, MAP_ONE, size == 1 ? 0xc6 : 0xc7, 0, mem);
    emit_imm(e, size, value);
}

void emit_lea(struct emit *e, unsigned size, unsigned dst, struct emit_mem mem)
{
    emit_op_rm(e, size, 0, MAP_ONE, 0x8d, dst, mem);
}

void emit_movzx(struct emit *e, unsigned dst, unsigned src, unsigned src_size)
{
    bool byte = src_size == 1;
    emit_head(e, 4, 0, (dst & 8) >> 1 | (src & 8) >> 3, byte && src >= 4, MAP_0F,
              byte ? 0xb6 : 0xb7);
    emit_u8(e, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void emit_push(struct emit *e, unsigned reg)
{
    emit_head(e, 4, 0, reg >> 3, false, MAP_ONE, 0x50 | (reg & 7));
}

void emit_pop(struct emit *e, unsigned reg)
{
    emit_head(e, 4, 0, reg >> 3, false, MAP_ONE, 0x58 | (reg & 7));
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
    emit_op_rr(e, size, 0, MAP_ONE, size == 1 ? 0x80 : small ? 0x83 : 0x81, op, dst);
    emit_imm(e, small ? 1 : size, value);
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
    emit_op_rm(e, size, 0, MAP_ONE, size == 1 ? 0x80 : small ? 0x83 : 0x81, op, mem);
    emit_imm(e, small ? 1 : size, value);
}

void emit_test_rr(struct emit *e, unsigned size, unsigned a, unsigned b)
{
    emit_op_rr(e, size, 0, MAP_ONE, size == 1 ? 0x84 : 0x85, a, b);
}

void emit_test_ri(struct emit *e, unsigned size, unsigned reg, int32_t value)
{
    emit_op_rr(e, size, 0, MAP_ONE, size == 1 ? 0xf6 : 0xf7, 0, reg);
    emit_imm(e, size, value);
}

void emit_test_mi(struct emit *e, unsigned size, struct emit_mem mem, int32_t value)
{
    emit_op_rm(e, size, 0, MAP_ONE, size == 1 ? 0xf6 : 0xf7, 0, mem);
    emit_imm(e, size, value);
}

void emit_shift_ri(struct emit *e, enum emit_shift op, unsigned size, unsigned reg, unsigned count)
{
    emit_op_rr(e, size, 0, MAP_ONE, size == 1 ? 0xc0 : 0xc1, op, reg);
    emit_u8(e, (uint8_t)count);
}

// Three-byte VEX for two general registers. pp: 1 = 66, 2 = f3, 3 = f2.
static void emit_vex_rr(struct emit *e, unsigned size, unsigned pp, unsigned map, unsigned opcode,
                        unsigned reg, unsigned vvvv, unsigned rm)
{
    emit_u8(e, 0xc4);
    emit_u8(e, (uint8_t)((reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | map));
    emit_u8(e, (uint8_t)((size == 8 ? 0x80 : 0) | (~vvvv & 15) << 3 | pp));
    emit_u8(e, (uint8_t)opcode);
    emit_u8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void emit_rorx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count)
{
    emit_vex_rr(e, size, 3, MAP_0F3A, 0xf0, dst, 0, src);
    emit_u8(e, (uint8_t)count);
}

void emit_shrx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg)
{
    emit_vex_rr(e, size, 3, MAP_0F38, 0xf7, dst, count_reg, src);
}

void emit_pext(struct emit *e, unsigned dst, unsigned src, unsigned mask)
{
    emit_vex_rr(e, 4, 2, MAP_0F38, 0xf5, dst, src, mask);
}

void emit_pdep(struct emit *e, unsigned dst, unsigned src, unsigned mask)
{
    emit_vex_rr(e, 4, 3, MAP_0F38, 0xf5, dst, src, mask);
}

void emit_sarx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg)
{
    emit_vex_rr(e, size, 2, MAP_0F38, 0xf7, dst, count_reg, src);
}

void emit_shlx(struct emit *e, unsigned size, unsigned dst, unsigned src, unsigned count_reg)
{
    emit_vex_rr(e, size, 1, MAP_0F38, 0xf7, dst, count_reg, src);
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
    emit_u8(e, 0x0f);
    emit_u8(e, 0x80 | cond);
    uint8_t *displacement = e->at;
    emit_u32(e, 0);
    return displacement;
}

uint8_t *emit_jmp(struct emit *e)
{
    emit_u8(e, 0xe9);
    uint8_t *displacement = e->at;
    emit_u32(e, 0);
    return displacement;
}

void emit_land(struct emit *e, uint8_t *displacement)
{
    int32_t distance = (int32_t)(e->at - (displacement + 4));
    if (!e->overflow)
        store_le32(displacement, (uint32_t)distance);
}

static void emit_rel32(struct emit *e, const void *target)
{
    intptr_t distance = (intptr_t)target - (intptr_t)(emit_exec(e) + 4);
    if (distance != (int32_t)distance)
        e->overflow = true;
    emit_u32(e, (uint32_t)distance);
}

void emit_jcc_to(struct emit *e, enum condition cond, const void *target)
{
    emit_u8(e, 0x0f);
    emit_u8(e, 0x80 | cond);
    emit_rel32(e, target);
}

void emit_jmp_to(struct emit *e, const void *target)
{
    emit_u8(e, 0xe9);
    emit_rel32(e, target);
}

void emit_call_to(struct emit *e, const void *target)
{
    emit_u8(e, 0xe8);
    emit_rel32(e, target);
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
    emit_u8(e, 0xe3);
    uint8_t *displacement = e->at;
    emit_u8(e, 0);
    return displacement;
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
