// What instruction handlers stand on, in its simplest form: memory that is a few host pages at
// their own addresses, flat segments, faults that are recorded.
#pragma once

#include "engine/translate/interp_impl.h"
#include "engine/translate/simd.h"

#define FAKE_BASE 0x10000000ull
#define FAKE_PAGES 8
#define FAKE_BYTES (FAKE_PAGES * PAGE_SIZE)

struct fake_fault {
    bool raised;
    unsigned vector;
    uint32_t error;
    uint64_t address; // of a page fault
};

// The memory, mapped on first use. Pages can be made to fault.
uint8_t *fake_memory(void);
void fake_protect(unsigned page, bool readable, bool writable);
// Plain memory is hidden from mem_host() and mem_host_rmw(), as MMIO is.
void fake_hide_host(bool hide);
// All as it was at first: readable, writable, not hidden, zeros.
void fake_memory_reset(void);

// A vCPU in 64-bit code at CPL 0 with every feature the host has; mode: 8, 4 (flat 32-bit) or 2.
struct tcpu *fake_cpu_new(unsigned mode);
void fake_cpu_free(struct tcpu *c);

// Decodes and runs one instruction as the interpreter does. False: it does not decode.
bool fake_run(struct tcpu *c, const uint8_t *code, unsigned len, struct fake_fault *fault);

// The same, of the bytes of a string; it must decode.
struct fake_fault fake_run_bytes(struct tcpu *c, const char *code, unsigned len);
#define RUN(c, code) fake_run_bytes(c, code, sizeof(code) - 1)
