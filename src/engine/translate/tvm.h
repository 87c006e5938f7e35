// The translator's side of a VM: guest-physical memory and what its vCPUs share.
#pragma once

#include "engine/translate/tcpu.h"

#define TVM_SLOTS 32
#define TVM_VCPUS 64

// Flags of one guest-physical RAM page. [any], changed with atomic or/and.
enum page_flags {
    PAGE_CODE = 1,  // some vCPU may hold translations of bytes in this page
    PAGE_DIRTY = 2, // written since the log was last taken (kept only while logging)
};

struct tvm_slot { // immutable while vCPUs run
    gpa_t at;
    uint64_t len;
    uint8_t *host;
    uint8_t *flags; // one byte a page, owned
    bool rom;
};

struct tvm {
    struct tvm_slot slot[TVM_SLOTS];
    unsigned slots;
    bool logging; // dirty log is on
    const struct engine_upcalls *up;
    void *opaque;
    struct engine_vm_config config;
    struct cpuid_table cpuid;
    struct tcpu *vcpu[TVM_VCPUS];
};

// The slot that holds gpa, or NULL (MMIO).
const struct tvm_slot *tvm_slot(const struct tvm *vm, gpa_t gpa);

// A write of len bytes at gpa has happened or is about to happen, and the page has PAGE_CODE: every
// vCPU drops translations that overlap; the calling vCPU (or NULL from other threads) at once, others
// before they next see an interrupt or finish their current block.
void tvm_code_written(struct tvm *vm, struct tcpu *self, gpa_t gpa, uint64_t len);

// Announces that self holds translations from this page: sets PAGE_CODE and withdraws write tags for
// it from every vCPU before returning.
void tvm_protect_code(struct tvm *vm, struct tcpu *self, gpa_t page);
