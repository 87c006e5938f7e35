// The second-level TLB.
#pragma once

#include "engine/translate/mmu.h"

#define TLB2_SMALL 4096
#define TLB2_LARGE 512

struct tlb2 {
    // Entries born at or before these times are dead: O(1) flushes.
    uint64_t time;
    uint64_t dead_all; // global ones too
    bool large_inline; // the inline TLBs may hold fragments of large pages
    bool huge_seen;    // large[] may hold fragments of pages above 2 MiB
    bool large_seen;   // large[] may hold anything
    bool filled[2];    // the inline TLB has tags
    uint8_t pad[3];
    uint8_t inline_shift[2][TLB_ENTRIES]; // the guest's page size behind each inline entry
    gva_t inline_page[2][TLB_ENTRIES];
    uint64_t dead[4096]; // per PCID
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
// Forgets the inline tags (the address space changes; second-level entries stay).
void tlb_flush_inline(struct tcpu *c);
