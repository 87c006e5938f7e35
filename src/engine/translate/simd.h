// Runs the guest's x87, MMX, SSE and AVX instructions on the host's own units. See
// docs/engine-translate-simd.md.
//
// The guest's registers of these units are either in memory (s.xsave, the truth when fpu_live is 0)
// or in the machine (fpu_live is 1). Moves between the two are fpu_to_memory() and fpu_to_machine()
// (tcpu.h).
#pragma once

#include "cpu/xsave.h"
#include "engine/translate/tcpu.h"

// Makes c->simd. Fails with ERR_UNSUPPORTED on a host without XSAVE.
err_t simd_init(struct tcpu *c, struct error *e);
void simd_release(struct tcpu *c); // accepts a half-made one
// True when pc is in the code that runs single instructions for the interpreter. One that the host
// refuses there is skipped, and is #UD for the guest.
bool simd_refused(struct tcpu *c, uint64_t pc);
// What the guest's extended state may consist of (bits of XCR0), and where that is in s.xsave.
uint64_t simd_components(const struct tcpu *c);
const struct xsave_layout *simd_layout(const struct tcpu *c);
// Has the guest switched on all the state that programs of the host have (but protection keys)?
bool simd_is_whole(const struct tcpu *c);
bool simd_host_saves_more(const struct tcpu *c); // by XSAVE of all components than the guest has
// Takes the state from an image in standard form, in the host's layout, that the guest may have
// written; `bytes` long. It must not be in the machine.
void simd_take(struct tcpu *c, const uint8_t *image, size_t bytes);
