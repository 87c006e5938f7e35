// The translator's side of a VM: guest-physical memory and what its vCPUs share.
#pragma once

#include "engine/translate/tcpu.h"

#define TVM_SLOTS 32
#define TVM_VCPUS 64
#define TVM_LINE_SHIFT 6 // writes are compared with translated code by lines of 64 bytes
#define TVM_INBOX 32
#define TVM_CODES 256

// Flags of one guest-physical RAM page. [any], changed with atomic or/and.
enum page_flags {
    PAGE_CODE = 1,       // some vCPU may hold translations of bytes in this page: no write tags
    PAGE_DIRTY = 2,      // written since the log was last taken (kept only while logging)
    PAGE_CODE_READY = 4, // PAGE_CODE, and every vCPU is known to have no write tag
};

// How much writes to a page with code have cost lately (unrest.c). [any], about
struct tvm_unrest {
    uint64_t until; // TSC: the page is open until then; 0: it never was
    uint32_t since; // when `cost` was first counted
    uint16_t cost;
    uint8_t level; // the last opening was so many times doubled
    uint8_t pad;
};

struct tvm_slot { // immutable while vCPUs run
    gpa_t at;
    uint64_t len;
    uint8_t *host;
    uint8_t *flags;  // [any] one byte a page, owned
    uint64_t *lines; // [any] one bit for each 64 bytes that some vCPU holds translations of, owned
    struct tvm_unrest *unrest; // owned
    uint64_t *holders;         // [any] vCPUs that may hold translations of bytes in a page, owned
    uint32_t map_flags;        // enum engine_map_flags
    bool rom;
    uint8_t pad[3];
};

// What other threads want a vCPU to forget. Guarded by lock; see tvm.c for the protocol.
struct tvm_inbox {
    uint32_t lock;
    uint32_t pages; // entries in page; more than TVM_INBOX: all pages
    uint32_t codes; // entries in code; more than TVM_CODES: all code
    uint32_t pad;
    uint64_t asked; // requests about pages so far
    uint64_t done;  // of these, carried out
    gpa_t page[TVM_INBOX];
    gpa_t code[TVM_CODES]; // pages
};

struct tvm {
    struct tvm_slot slot[TVM_SLOTS];
    unsigned slots;
    uint32_t map_changes; // grows with every change of the map or of logging
    uint32_t code_lock;   // [any] guards holders and lines; held for moments
    uint32_t split_lock;  // [any] held by a LOCKed access that crosses pages
    bool logging;         // dirty log is on
    const struct engine_upcalls *up;
    void *opaque;
    struct engine_vm_config config;
    struct cpuid_table cpuid;
    struct perf_map *perf;   // NULL: nobody wants it
    struct jit_file *file;   // where these come from and go to; NULL: nowhere
    struct cage **cage;      // DIRECT_SPACES for each vCPU; NULL: there are none
    struct jit_store *store; // translations that vCPUs share; NULL: none are
    struct tcpu *vcpu[TVM_VCPUS];
    struct tvm_inbox inbox[TVM_VCPUS];
};

// Are pages of the slot marked dirty?
static inline bool tvm_logs(const struct tvm *vm, const struct tvm_slot *slot)
{
    return vm->logging || (slot->map_flags & ENGINE_MAP_LOGGED);
}

// The slot that holds gpa, or NULL (MMIO).
const struct tvm_slot *tvm_slot(const struct tvm *vm, gpa_t gpa);

// The host address of len bytes of RAM or ROM at gpa, within one page; NULL when it is anything
// else.
uint8_t *tvm_host(const struct tvm *vm, gpa_t gpa, unsigned len, const struct tvm_slot **slot);

err_t tvm_map(struct tvm *vm, gpa_t at, uint64_t len, void *host, enum engine_map_flags flags,
              struct error *e);
err_t tvm_unmap(struct tvm *vm, gpa_t at, uint64_t len, struct error *e);
void tvm_release(struct tvm *vm); // frees the slots

// Bytes of guest memory changed: marks pages dirty while logging and drops translations of them.
// self is the calling vCPU, or NULL from other threads. Call it after the bytes are in place.
void tvm_written(struct tvm *vm, struct tcpu *self, gpa_t at, uint64_t len);

void tvm_take_dirty(struct tvm *vm, gpa_t at, uint64_t len, uint64_t *bitmap);

// A write of len bytes at gpa has happened, and the page has PAGE_CODE: every vCPU drops
// translations that overlap (others those of the whole page); the calling vCPU (or NULL from other
// threads) at once, others before they next see an interrupt or finish their current block. Costs
// little when no translation overlaps.
void tvm_code_written(struct tvm *vm, struct tcpu *self, gpa_t gpa, uint64_t len);

// Announces that self is about to read len bytes at gpa, within one page, in order to hold
// translations of them: sets PAGE_CODE and withdraws write tags for the page from every vCPU before
// returning. Read the bytes after it. Never invalidates translations of self on the way. False when
// gpa is not RAM or ROM: such code must not be cached.
bool tvm_protect_code(struct tvm *vm, struct tcpu *self, gpa_t gpa, unsigned len);

// Brackets around whatever may block or take long on a vCPU's thread (upcalls, leaving run()): in
// between, requests to this vCPU count as carried out, and tvm_enter() catches up with them.
// Nestable. The guest's memory and TLBs must not be touched in between.
void tvm_leave(struct tcpu *c);
void tvm_enter(struct tcpu *c);

// Carries out what has arrived in the inbox, translations included. At instruction boundaries.
void tvm_catch_up(struct tcpu *c);
