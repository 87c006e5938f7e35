// The second-level TLB.
#pragma once

#include "engine/translate/mmu.h"

#define TLB2_SMALL 4096
#define TLB2_LARGE 512

// Entries of an inline TLB that are in use are listed, those of global pages apart.
enum inline_flags {
    INLINE_LISTED = 1, // bit n: in list[n]
    INLINE_GLOBAL = 4, // what it holds is global
    INLINE_LARGE = 8,  // a fragment of a large page
};

struct inline_use {
    uint8_t flags[TLB_ENTRIES]; // enum inline_flags
    gva_t page[TLB_ENTRIES];
    uint16_t list[2][TLB_ENTRIES]; // [1]: global pages
    uint32_t listed[2];
};

#define TLB2_REGIONS 4096
#define TLB2_WRITABLE (1u << 19) // pages, by their numbers' lower bits

struct tlb2 {
    // Entries born at or before these times are dead: O(1) flushes.
    uint64_t time;
    uint64_t dead_all; // global ones too
    bool large_seen;   // something of a large page has been kept since the last full flush
    uint8_t pad[7];
    // By hash: which 4 MiB and which 1 GiB of linear addresses may have fragments of pages above 4
    // KiB, and above 4 MiB, anywhere.
    uint8_t large_region[TLB2_REGIONS];
    uint8_t huge_region[TLB2_REGIONS];
    uint64_t writable[TLB2_WRITABLE / 64]; // [any] see tlb_may_write(); changed by the vCPU only
    struct inline_use use[2];              // [1]: user accesses
    uint64_t dead[4096];                   // per PCID
    struct translation small[TLB2_SMALL];
    struct translation large[TLB2_LARGE]; // 2 MiB fragments; host and slot are not kept
};

err_t tlb2_new(struct tcpu *c, struct error *e);
void tlb2_free(struct tcpu *c); // accepts a vCPU without one

unsigned tlb2_pcid(const struct tcpu *c); // the current one; 0 without CR4.PCIDE

// The entry for the page of `at` in the current address space. host and slot are filled in.
bool tlb2_find(const struct tcpu *c, gva_t at, struct translation *out);
// Remembers a walk's result and fills in its host and slot.
void tlb2_insert(struct tcpu *c, struct translation *e);
// INVLPG and INVPCID: drops what maps `at` in pcid; global entries too if asked.
void tlb2_drop(struct tcpu *c, gva_t at, unsigned pcid, bool globals);
// Forgets the inline tags, those of global pages only if asked (second-level entries stay).
void tlb_flush_inline(struct tcpu *c, bool globals);
// A write tag is about to lead to a guest-physical page.
void tlb_note_writable(struct tcpu *c, gpa_t page);
// Takes inline entry i for a translation to RAM: clears tags that mean anything else.
void tlb_claim(struct tcpu *c, unsigned i, bool user, const struct translation *t);
