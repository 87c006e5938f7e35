// The interpreter as the run loop sees it.
#pragma once

#include "engine/translate/tvm.h"

err_t icache_new(struct tcpu *c, struct error *e);
void icache_free(struct tcpu *c); // accepts a vCPU without one

// Runs instructions, at least one, until something is pending or one of these bits of c->mode
// changes.
void interp_run(struct tcpu *c, uint32_t mode_bits);

// Runs instructions that are not expected to run again soon, up to a branch that is taken: nothing
// of them is kept, and their page needs no protection. At least one; call it only when
// jit_eligible().
void interp_once(struct tcpu *c);
