// What translated code reads and writes in the vCPU's struct through %gs, beside the architectural
// state and the TLB: lookup tables of the block translator and its spill room.
#pragma once

#include "base/types.h"

#define IBTC_ENTRIES 16384   // indirect-branch targets, by ibtc_index()
#define TARGET_ENTRIES 65536 // the same by their lowest bits alone, which one instruction cuts out
#define CTLB_ENTRIES 4096    // code pages, indexed by the low bits of the page number

struct tcpu;

// One known target of indirect branches; host is the block's entry for those that may be wrong.
struct ibtc_entry {
    uint64_t rip;
    const void *host;
};
#define SEGMENT_BARRIER (1ull << 62)
#define IBTC_FREE (1ull << 63) // rip of a free entry: not canonical

static inline unsigned target_index(uint64_t rip)
{
    return rip & (TARGET_ENTRIES - 1);
}

// Translated code computes the same, without touching the flags.
static inline unsigned ibtc_index(uint64_t rip)
{
    uint32_t low = (uint32_t)rip;
    return (low + (low >> 12 | low << 20)) >> 2 & (IBTC_ENTRIES - 1);
}

// A vCPU waits for another that has no CPU of the host: some 20 microseconds of spinning.
#define PAUSES_BEFORE_YIELD 512

// A slot remembers the page that one memory access of hot user code last went to: an access within
// it needs no more than a comparison. The first half is for reads, the second for writes.
#define SLOTS 4096
#define SLOT_CHUNK 64 // slots whose use is noted together
struct slot {
    uint64_t tag; // the page, or SLOT_EMPTY
    uint64_t addend;
};
// The only addresses that match are not canonical, and no addend (a host address minus a canonical
// one) makes them so: the host objects.
#define SLOT_EMPTY (1ull << 63)

// Of a loop whose checks are made for many iterations at once (jit_stretch.c), in the units of the
// register that counts them.
#define STREAMS_MAX 6
#define STRETCH_ACCOUNTS 1024
struct stretch_account {
    int64_t balance;   // what stretches have brought, less what they should have
    uint64_t from, to; // the register when the last one began, and when it was left
};

#define HEAT_COUNTERS 65536 // by a link's number
#define GROUPS_MAX 32       // in a block

struct jit_hot {
    struct tcpu *self;
    // FS and GS as seen by 32-bit code: 0, or what makes every address non-canonical because the
    // segment has checks to be made.
    uint64_t barrier[2];
    uint64_t spill[2];  // a value between two memory checks of one instruction
    uint64_t repeat[4]; // what jit_repeat.c keeps
    // The shadow stack of return addresses, on which translated code runs, and C's stack meanwhile.
    uint64_t shadow_rsp;
    uint64_t shadow_base; // where it is empty
    uint64_t host_rsp;
    uint64_t trap_pc;   // where a host signal struck translated code
    uint32_t trap_no;   // the host's exception vector
    uint32_t pauses;    // of several vCPUs: PAUSEs until the thread yields
    uint32_t site;      // of a branch that did not arrive where it should
    uint32_t exchanged; // registers, by the loop that runs: jit_block.exchange; else 0
    // [1] for user code. A handle names (linear page, guest-physical page, mode); 0 is none. A code
    // page whose handle is here may be entered without asking the page tables.
    uint32_t ctlb[2][CTLB_ENTRIES];
    // Where indirect branches go first, and where they go when that was another's target.
    const void *target[2][TARGET_ENTRIES];
    struct ibtc_entry ibtc[2][IBTC_ENTRIES];
    uint32_t heat[HEAT_COUNTERS]; // how often a backward branch may yet be taken before C looks
    uint64_t group_addend[GROUPS_MAX];   // of the groups of the running block
    uint64_t stream_addend[STREAMS_MAX]; // of the running stretch
    uint64_t stretch_room;               // how far its register may move
    uint64_t stretch_last;               // the last value with which it goes on
    struct stretch_account stretch_account[STRETCH_ACCOUNTS];
    uint32_t slot_left[SLOTS];             // misses until C looks at how fast they come
    uint8_t slot_used[SLOTS / SLOT_CHUNK]; // something in the chunk may be filled
    struct slot slot[SLOTS];
};
