// Runs one instruction on the host's CPU with given registers: what the handlers are compared with.
#pragma once

#include "cpu/cpu_state.h"

struct host_state {
    uint64_t gpr[16];
    uint64_t rflags;
    uint8_t xsave[CPU_XSAVE_BYTES] __attribute__((aligned(64)));
};

// Changes *s as the CPU does. Returns 0, or the number of the signal that the instruction caused
// (the state is then undefined).
int host_run(struct host_state *s, const uint8_t *code, unsigned len);
void host_run_end(void); // frees what host_run() keeps
