// The host's own string instructions, on guest memory: what the interpreter and the block
// translator share.
#pragma once

#include "base/types.h"

// What the host instruction works on. It moves all of these as the guest's would its registers.
struct string_run {
    uint8_t *source;
    uint8_t *dest;
    uint64_t count;
    uint64_t acc; // RAX; after a comparison the flags, for flags_unpack()
};

typedef void string_run_fn(struct string_run *r, unsigned size, bool down);

string_run_fn string_movs, string_stos, string_lods;
// The prefix decides when they stop.
string_run_fn string_repe_scas, string_repne_scas, string_repe_cmps, string_repne_cmps;
