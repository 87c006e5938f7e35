// The host-CPU oracle: one instruction with all its inputs, and what came out of running it.
//
// Both sides see the same little world at the same linear addresses, at CPL 3: a page of code, two
// pages of data followed by a hole, a read-only page followed by a hole.
#pragma once

#include "cpu/cpu_state.h"
#include "cpu/xsave.h"

#define WORLD_CODE 0x10000000ull
#define WORLD_DATA 0x20000000ull
#define WORLD_DATA_BYTES 8192u
#define WORLD_READ_ONLY 0x20004000ull
#define PAGE 4096u
#define CODE_BYTES 320u // of the code page that a case may use; the rest is INT3 before each case
#define CASE_OFFSET 32u // of the instruction under test: a few that set flags come before it
#define WORLD_CASE (WORLD_CODE + CASE_OFFSET)
#define XSAVE_BYTES CPU_XSAVE_BYTES

#define SELECTOR_CODE32 0x23 // Linux's, which the guest copies
#define SELECTOR_DATA 0x2b
#define SELECTOR_CODE64 0x33

// The components of vector state that both sides have.
static inline uint8_t world_components(bool avx512)
{
    return XCR0_X87 | XCR0_SSE | XCR0_AVX | (avx512 ? XCR0_AVX512 : 0);
}

struct registers {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    uint8_t xsave[XSAVE_BYTES]; // as in cpu_state
};

struct outcome {
    struct registers regs;
    uint32_t vector; // what ended the case: 3 is its INT3
    uint32_t error;
    uint64_t cr2;         // after #PF
    uint16_t selector[6]; // by enum segment
    uint32_t pad;
    uint8_t data[WORLD_DATA_BYTES];
};

struct test_case {
    uint64_t seed;
    uint8_t mode; // 8 or 4
    uint8_t len;  // of the instruction, or of the stream
    uint8_t patch_len;
    bool stream;
    uint32_t patch_at; // in data: bytes set before the run
    uint8_t patch[64];
    uint8_t code[CODE_BYTES];
    uint64_t undefined;          // flags that need not agree
    uint64_t undefined_at_fault; // and more when a stream ends early
    struct registers in;
    struct outcome host;
    struct outcome guest;
};

// generate.c: what there is to test, and cases from it.
struct template;
size_t templates_make(struct template **out);
bool case_make(const struct template *t, unsigned mode, uint64_t seed, struct test_case *out);
// stream.c: several instructions one after the other.
bool stream_make(const struct template *all, size_t count, uint64_t seed, struct test_case *out);
void world_data(uint8_t data[WORLD_DATA_BYTES]); // what data holds before each case
const struct template *template_at(const struct template *all, size_t i);
bool template_is_avx512(const struct template *t);
const char *template_name(const struct template *t);

// host.c: runs cases[0..count) in a child on this machine's CPU. False: no child could be made to.
bool host_run(struct test_case *cases, size_t count);

// guest.c: the same under an engine.
struct guest;
struct engine;
struct guest *guest_new(const struct engine *engine, uint32_t debug);
bool guest_run(struct guest *g, struct test_case *c);
void guest_free(struct guest *g);
