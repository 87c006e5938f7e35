// Shared by the files that run vector and x87 instructions.
#pragma once

#include "base/copy.h"
#include "cpu/xsave.h"
#include "engine/translate/codebuf.h"
#include "engine/translate/integer_impl.h"
#include "engine/translate/simd.h"

// What a stub works on; its address is in RDI while the instruction runs.
struct simd_frame {
    uint8_t mem[64]; // the memory operand
    uint64_t gpr[5]; // rax, rcx, rdx, r8, r9
    uint64_t flags;  // as flags_pack() makes them
    uint64_t pad[2];
};

#define STUB_BYTES 144
#define STUB_SLOTS 4096

struct stub_key {
    uint8_t bytes[15]; // the re-encoded instruction
    uint8_t len;       // 0: free slot
};

#define XSAVE_LEGACY 512 // bytes before the header
#define XSAVE_HEADER 64

struct simd {
    struct simd_frame frame __attribute__((aligned(64)));
    uint8_t backup[CPU_XSAVE_BYTES] __attribute__((aligned(64))); // machine state to go back to
    uint8_t image[CPU_XSAVE_BYTES] __attribute__((aligned(64)));  // of a guest's FXSAVE or XSAVE
    uint64_t host_components;                                     // XCR0 of the host
    uint64_t components;        // XCR0 bits that guests can have: saved and restored here
    struct xsave_layout layout; // of the host, and so of s.xsave
    uint32_t mxcsr_mask;        // bits that LDMXCSR accepts
    bool refused;               // the host knows no such instruction: set by the signal handler
    struct codebuf code;
    struct stub_key stub[STUB_SLOTS];
    unsigned stubs; // taken
};

#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_FLAGS 0x3fu
#define MXCSR_ALL 0xffffu      // but MM
#define MXCSR_OPERAND_FLAGS 7u // invalid, denormal, divide by zero
#define FSW_ES 0x80u

// Places in the XSAVE area.
#define AREA_FCW 0
#define AREA_FSW 2
#define AREA_FTW 4
#define AREA_POINTERS 6 // FOP, FIP, FDP up to byte 24
#define AREA_MXCSR 24
#define AREA_MXCSR_MASK 28
#define AREA_ST 32
#define AREA_XMM 160
#define AREA_SOFTWARE 416 // reserved, and what the host's kernel notes there, up to AREA_BV
#define AREA_BV 512
#define AREA_COMPACT 520 // XCOMP_BV
#define AREA_AVX 576     // in the standard and the compacted layout
#define AVX_BYTES 256
#define VECTOR_MAX 64
#define COMPONENT_OPMASK 5
#define COMPONENT_ZMM_HIGH 6 // upper halves of ZMM0..15
#define COMPONENT_HIGH_ZMM 7 // ZMM16..31

static inline uint32_t mxcsr_read(void)
{
    uint32_t value;
    asm volatile("stmxcsr %0" : "=m"(value));
    return value;
}

static inline void mxcsr_write(uint32_t value)
{
    asm volatile("ldmxcsr %0" : : "m"(value));
}

static inline uint16_t fsw_read(void)
{
    uint16_t value;
    asm volatile("fnstsw %0" : "=a"(value));
    return value;
}

// The host's XSAVE and XRSTOR, standard form, of the components in mask. area is 64-byte aligned.
static inline void host_xsave(void *area, uint64_t mask)
{
    asm volatile("xsave64 (%0)"
                 :
                 : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                 : "memory");
}

static inline void host_xrstor(const void *area, uint64_t mask)
{
    asm volatile("xrstor64 (%0)"
                 :
                 : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                 : "memory");
}

// fpu.c
// Puts the state into s.xsave in a form where every byte of every component is meaningful and every
// component's XSTATE_BV bit may be set; marks components as in use.
void fpu_open(struct tcpu *c, uint64_t components);
// What instructions with VEX and EVEX change in vector registers, whole or in parts.
#define XCR0_VECTORS (XCR0_SSE | XCR0_AVX | XCR0_AVX512)
// Vector register n in s.xsave (after fpu_open), all 64 bytes; those that the machine lacks read as
// zero and are dropped.
void vector_get(struct tcpu *c, unsigned n, uint8_t out[VECTOR_MAX]);
void vector_set(struct tcpu *c, unsigned n, const uint8_t in[VECTOR_MAX]);
// Mask register n, likewise.
uint64_t opmask_get(struct tcpu *c, unsigned n);
void opmask_set(struct tcpu *c, unsigned n, uint64_t value);

// stub.c: the code that runs one instruction on a frame, or NULL if it cannot be re-encoded.
typedef void simd_stub(struct simd_frame *f);
simd_stub *stub_for(struct simd *simd, const struct insn *insn, const uint8_t gpr_map[16]);
// Host registers that stand for guest general registers in stubs, and their places in a frame.
unsigned stub_slot(unsigned host_reg);

// simd.c
// Raises #XM (or #UD without OSXMMEXCPT).
_Noreturn void raise_simd_exception(struct tcpu *c);

// writemask.c: memory operands of which a writemask selects elements.
// Which elements of the operand may be touched, a bit for each.
uint64_t writemask_elements(struct tcpu *c, const struct insn *insn, const struct operand *op);
// Reads them into the frame, or raises what writing them would.
void writemask_load(struct tcpu *c, const struct insn *insn, const struct operand *op,
                    uint64_t elements);
void writemask_probe(struct tcpu *c, const struct insn *insn, const struct operand *op,
                     uint64_t elements);
void writemask_store(struct tcpu *c, const struct insn *insn, const struct operand *op,
                     uint64_t elements);
interp_fn simd_gather_evex, simd_scatter;
// The linear address of an element at an effective address.
gva_t element_linear(struct tcpu *c, const struct insn *insn, uint64_t offset, unsigned size,
                     enum access access);
// Base and displacement of a gather or scatter; the index is added per element.
uint64_t gather_base(const struct tcpu *c, const struct insn *insn);

// Instructions that need more than a stub. masked.c
interp_fn simd_gather, simd_maskmov_load, simd_maskmov_store, simd_maskmovdqu;
// environment.c
interp_fn simd_fnstenv, simd_fldenv, simd_fnsave, simd_frstor;
// xsave.c
interp_fn simd_fxsave, simd_fxrstor, simd_ldmxcsr, simd_stmxcsr, simd_xsave, simd_xsaveopt,
    simd_xsavec, simd_xsaves, simd_xrstor, simd_xrstors;
