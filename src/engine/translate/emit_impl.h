// Inside the emitter: the pieces that single-instruction helpers and re-encoding share.
#pragma once

#include "engine/translate/emit.h"

// ModRM, SIB and displacement. EVEX scales its 8-bit displacements, so re-encoding does without
// them.
void emit_modrm_mem(struct emit *e, unsigned reg, struct emit_mem mem, bool allow_disp8);
unsigned emit_mem_rex(struct emit_mem mem);     // its X and B bits
void emit_escape(struct emit *e, unsigned map); // 0f, 0f 38, 0f 3a
