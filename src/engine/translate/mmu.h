// Inside the memory unit: translations from linear to guest-physical pages.
#pragma once

#include "engine/translate/tvm.h"

enum page_rights {
    RIGHT_USER = 1,
    RIGHT_WRITE = 2,
    RIGHT_EXEC = 4,
    RIGHT_DIRTY = 8, // D is set in the guest's entry: writes need not look again
    RIGHT_GLOBAL = 16,
};

// The result of one walk, and an entry of the second-level TLB.
struct translation {
    gva_t page;                  // linear, of this 4 KiB (or 2 MiB fragment's) start
    gpa_t gpa;                   // where it leads
    uint8_t *host;               // the same in host memory; NULL for MMIO (4 KiB entries only)
    const struct tvm_slot *slot; // NULL for MMIO
    uint64_t born;               // value of tlb2.time when it was made
    uint16_t pcid;
    uint8_t rights; // enum page_rights
    uint8_t shift;  // 12, 21, 22 or 30: the guest's page size
    uint8_t pad[4];
};

// Walks the guest's page tables; sets A, and D for a write. False with the page-fault error code in
// *error. Fills page, gpa, rights and shift.
bool walk(struct tcpu *c, gva_t at, enum access access, bool user, struct translation *out,
          uint32_t *error);

// May stores to a page of the slot go unnoticed? While logging, the first one is noticed.
bool page_write_unseen(const struct tvm *vm, const struct tvm_slot *slot, gpa_t gpa);
// Would user code's access succeed now? Sets A and D bits as it would; raises nothing.
bool mem_allows(struct tcpu *c, gva_t at, enum access access);

// True when rights allow the access under the current CR0.WP and CR4.SMEP.
bool rights_allow(const struct tcpu *c, unsigned rights, enum access access, bool user);
