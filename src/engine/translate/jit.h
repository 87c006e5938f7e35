// The block translator as the run loop sees it: one code cache for each vCPU, used only by its thread.
#pragma once

#include "engine/translate/tcpu.h"

struct jit *jit_new(struct tcpu *c); // NULL when the host refuses executable memory: interpret only
void jit_free(struct jit *jit);      // accepts NULL

// Runs translated code from s.rip until something is pending or the interpreter must take one
// instruction (the run loop calls interp_step() next).
void jit_run(struct tcpu *c);

// Drops every block made of bytes in the range; the running block ends after its current instruction.
void jit_invalidate(struct tcpu *c, gpa_t at, uint64_t len);
void jit_flush(struct tcpu *c);
