// What the drawing of single instructions and of streams share.
#pragma once

#include "cpu/insn.h"
#include "oracle.h"

// How an encoding is drawn: fixed parts, with the rest left to chance.
struct template
{
    uint16_t form, op;
    uint8_t encoding, map, pp, opcode;
    uint8_t reg; // of ModRM; others are tried first
    bool memory; // operand in ModRM.rm
    uint8_t w, l, opsize, mode;
    uint8_t components; // of vector state that the guest has: bits of XCR0
};

struct random {
    uint64_t state;
};

static inline uint64_t draw(struct random *r)
{
    r->state += 0x9e3779b97f4a7c15;
    uint64_t z = r->state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static inline unsigned below(struct random *r, unsigned n)
{
    return (unsigned)((draw(r) >> 32) % n);
}

static inline bool percent(struct random *r, unsigned p)
{
    return below(r, 100) < p;
}

// Registers, flags and vector state of a case whose mode is set.
void random_registers(struct random *r, struct test_case *c, unsigned components);

#define ENCODED_MAX 32u // bytes that encode() may write; those behind the instruction are INT3
// Draws encodings until one decodes to the template's form; the later ones leave less to chance.
bool encode(const struct template *t, struct random *r, uint8_t *code, struct insn *in);
