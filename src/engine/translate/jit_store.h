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

// Fields of the guest's code that differ from page to page (jit_move.c).
enum stored_moves {
    STORED_MOVES, // kept minus the page's address
    STORED_STAYS, // plus
    STORED_MOVE_KINDS,
};

// One block, as if its code, both hot and cold, its page and its records began at 0. It is followed
// by: guest code; spans; their code; fields of both; marks; sites; links; notes by area and kind;
// hot code; cold code. Each part begins at a multiple of four bytes.
struct stored {
    uint32_t bytes;    // of all
    uint32_t state;    // [any] enum stored_state
    uint64_t check[2]; // of what follows, in a file
    uint32_t mode;
    uint32_t key;    // jit_store_key()
    uint64_t inside; // as in struct jit_block
    uint16_t at;     // of the guest's code in its page
    uint16_t source; // bytes of it
    uint16_t spans;  // of code beyond, which decided which flags live
    uint16_t ahead;  // bytes of them
    uint16_t moves;  // fields that move, in order
    uint16_t hot, cold;
    uint16_t entry, stub; // in hot, in cold
    uint16_t sites, links;
    uint8_t insns;
    uint8_t fpu, returns, needs_flags;
    uint16_t notes[2][STORED_NOTES];
};

#define STORED_UNIT 16 // blocks begin at multiples of it

enum stored_state {
    STORED_ROOM,      // not known to anybody
    STORED_MADE,      // by this VM
    STORED_UNCHECKED, // from a file
    STORED_CHECKED,   // from a file, and as we wrote it
    STORED_REFUSED,   // from a file, and something else
};

// Offsets of the parts of a stored block.
struct stored_parts {
    uint32_t source, spans, ahead, moves, marks, sites, links, notes, code[2], end;
};

struct stored_parts stored_parts_of(const struct stored *b); // jit_copy.c

static inline void *stored_part(const struct stored *b, uint32_t part)
{
    return (uint8_t *)(uintptr_t)b + part;
}

struct stored_span { // in the page
    uint16_t at, len;
};

struct stored_move {
    uint16_t at;   // in the guest code, the spans' following the block's: four bytes
    uint16_t kind; // enum stored_moves
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
// first: the first bytes, or what stands for them.
uint32_t jit_store_key(uint32_t mode, unsigned at, uint64_t first);

// Goes through the blocks with a key; *search is zero at first. NULL after the last. One may come
// twice.
struct jit_search {
    uint32_t probe;
    bool begun;
};
const struct stored *jit_store_next(struct jit_store *s, unsigned vcpu, uint32_t key,
                                    struct jit_search *search);

// Room for a block of so many bytes, for jit_store_add() alone; NULL when there is none.
struct stored *jit_store_room(struct jit_store *s, uint32_t bytes, unsigned vcpu);
// Makes the block in it known to all.
void jit_store_add(struct jit_store *s, struct stored *block);

// While no vCPU runs: room for len bytes of blocks from a file; NULL when there is none. Then, when
// they are there: makes them known, and how many bytes are blocks. key is that of their checksums,
// which are looked at when a block is first met.
uint8_t *jit_store_load(struct jit_store *s, uint64_t len, const uint64_t key[2]);
uint64_t jit_store_loaded(struct jit_store *s);
// Blocks in order, those of the file included or not.
void jit_store_each(struct jit_store *s, bool loaded, void (*see)(struct stored *b, void *opaque),
                    void *opaque);

uint64_t jit_store_used(const struct jit_store *s); // bytes of blocks
uint64_t jit_store_size(const struct jit_store *s);
bool jit_store_began_anew(const struct jit_store *s);  // since it was made
uint32_t jit_store_refused(const struct jit_store *s); // blocks from a file
