// Inside the emitter: the pieces that single-instruction helpers and re-encoding share. Room is
// asked for once, for a whole instruction; its pieces are then written at a pointer and return the
// next.
#pragma once

#include "engine/translate/emit.h"

// Where EMIT_ROOM bytes may be written, or NULL. The caller sets e->at to where it has come.
static inline uint8_t *emit_room(struct emit *e)
{
    if (e->end - e->at < EMIT_ROOM) {
        e->overflow = true;
        return NULL;
    }
    return e->at;
}

static inline uint8_t *put_u8(uint8_t *at, unsigned v)
{
    *at = (uint8_t)v;
    return at + 1;
}

static inline uint8_t *put_u32(uint8_t *at, uint32_t v)
{
    __builtin_memcpy(at, &v, 4);
    return at + 4;
}

// The first n bytes of v, at most 8.
static inline uint8_t *put_imm(uint8_t *at, uint64_t v, unsigned n)
{
    __builtin_memcpy(at, &v, 8);
    return at + n;
}

// 0f, 0f 38, 0f 3a
static inline uint8_t *put_escape(uint8_t *at, unsigned map)
{
    if (map == MAP_ONE)
        return at;
    at = put_u8(at, 0x0f);
    if (map == MAP_0F38)
        at = put_u8(at, 0x38);
    if (map == MAP_0F3A)
        at = put_u8(at, 0x3a);
    return at;
}

static inline uint8_t *put_modrm_reg(uint8_t *at, unsigned reg, unsigned rm)
{
    return put_u8(at, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

// ModRM, SIB and displacement. EVEX scales its 8-bit displacements, so re-encoding does without
// them. e gets the displacement's note.
uint8_t *put_modrm_mem(struct emit *e, uint8_t *at, unsigned reg, const struct emit_mem *mem,
                       bool allow_disp8);

// Its X and B bits.
static inline unsigned emit_mem_rex(const struct emit_mem *mem)
{
    unsigned rex = 0;
    if (mem->index != REG_NONE && mem->index & 8)
        rex |= 2;
    if (mem->base != REG_NONE && mem->base & 8)
        rex |= 1;
    return rex;
}
