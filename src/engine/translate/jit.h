// The block translator as the run loop sees it: one code cache for each vCPU, used only by its
// thread. See docs/engine-translate-jit.md.
#pragma once

#include "engine/translate/tcpu.h"

struct jit *jit_new(struct tcpu *c); // NULL when the host refuses executable memory: interpret only
void jit_free(struct jit *jit);      // accepts NULL

// True when code of the current mode is for the translator: 64-bit or flat 32-bit, and nothing that
// has to be looked at after each instruction.
bool jit_eligible(const struct tcpu *c);

// Runs the guest from s.rip, at least one instruction unless something is pending. Call it only
// when jit_eligible(). A guest fault unwinds through it.
void jit_run(struct tcpu *c);

// How many instructions the block at rip has, which is translated if need be; 0: none.
unsigned jit_block_insns(struct tcpu *c, uint64_t rip);

// Drops every block made of bytes in the range; the running block ends after its current
// instruction.
void jit_invalidate(struct tcpu *c, gpa_t at, uint64_t len);
// Drops everything: the meaning of code bytes may have changed (features, memory map).
void jit_flush(struct tcpu *c);

// No slot holds a page any more. Call it whenever tags of the inline TLB are withdrawn. Accepts a
// vCPU without a translator.
void jit_forget_slots(struct tcpu *c);
void jit_forget_slots_of(struct tcpu *c, gva_t at); // the page of one address only

// The translation of code addresses may have changed: of the page, or of the aligned 4 MiB, around
// one; or of all, or all but those in global pages. Translated code asks mem_code_gpa() again
// before it next enters such a page from elsewhere. Both accept a vCPU without a translator.
void jit_forget_page(struct tcpu *c, gva_t at, bool large);
void jit_forget_pages(struct tcpu *c, bool globals);
