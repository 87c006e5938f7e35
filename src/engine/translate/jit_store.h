// Translations that the vCPUs of a VM share: blocks of host code that can be copied into a vCPU's
// code cache instead of being made anew. See docs/engine-translate-store.md.
//
// Any vCPU's thread may look and add at any time, without locks. What has been added does not
// change until the store, being full, begins anew, which it does while nobody looks.
#pragma once

#include "base/error.h"

// Kinds of bytes in a stored block that a copy has to adjust (jit_copy.c), in hot and cold code.
enum stored_note {
    STORED_FIXED, // displacements to the cache's fixed code
    STORED_OTHER, // between hot and cold code
    STORED_SITE,  // numbers of records, from the block's first
    STORED_LINK,
    STORED_BLOCK,
    STORED_PAGE,
    STORED_PAGE_MINUS,
    STORED_CTLB,
    STORED_HEAT,
    STORED_TLB,
    STORED_U32, // linear addresses, from the page's
    STORED_S32,
    STORED_64,
    STORED_NOTES,
};

// One block, as if its code, both hot and cold, its page and its records began at 0. It is followed
// by: guest code; spans; their code; marks; sites; links; notes by area and kind; hot code; cold
// code. Each part begins at a multiple of four bytes.
struct stored {
    uint32_t bytes; // of all
    uint32_t mode;
    uint64_t inside; // as in struct jit_block
    uint16_t at;     // of the guest's code in its page
    uint16_t source; // bytes of it
    uint16_t spans;  // of code beyond, which decided which flags live
    uint16_t ahead;  // bytes of them
    uint16_t hot, cold;
    uint16_t entry, stub; // in hot, in cold
    uint16_t sites, links;
    uint8_t insns;
    uint8_t fpu, returns, needs_flags;
    uint16_t notes[2][STORED_NOTES];
};

struct stored_span { // in the page
    uint16_t at, len;
};

struct stored_site { // as struct jit_site
    uint16_t resume; // in hot; STORED_NOWHERE
    uint16_t size, range, lead;
    uint8_t insn, access;
    uint16_t pad;
};
#define STORED_NOWHERE UINT16_MAX

struct stored_link { // as struct jit_link
    int32_t to;      // from the page's start
    uint16_t patch;  // in hot
    uint16_t from;
};

struct jit_store;

// bytes: room for blocks. NULL when there is no memory.
struct jit_store *jit_store_new(uint64_t bytes);
void jit_store_free(struct jit_store *s); // accepts NULL

// Brackets around all that follows, on a vCPU's thread. False: not now.
bool jit_store_enter(struct jit_store *s, unsigned vcpu);
void jit_store_leave(struct jit_store *s, unsigned vcpu);

// What blocks are found by: how they are decoded, where in the page they begin, and how.
uint32_t jit_store_key(uint32_t mode, unsigned at, const uint8_t *code, unsigned len);

// Goes through the blocks with a key; *state is 0 at first. NULL after the last.
const struct stored *jit_store_next(struct jit_store *s, uint32_t key, uint32_t *state);

// Room for a block of so many bytes, for jit_store_add() alone; NULL when there is none.
struct stored *jit_store_room(struct jit_store *s, uint32_t bytes, unsigned vcpu);
// Makes the block in it known to all.
void jit_store_add(struct jit_store *s, uint32_t key, const struct stored *block);

// Bytes of blocks so far.
uint64_t jit_store_used(const struct jit_store *s);
