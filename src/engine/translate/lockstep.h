// Checks translated blocks against the interpreter while a guest runs (ENGINE_DEBUG_LOCKSTEP).
#pragma once

#include "engine/translate/tcpu.h"

#define LOCKSTEP_BYTES 4096

// Memory as the interpreter would leave it: guest RAM with these bytes over it.
struct lockstep {
    uint8_t *host[LOCKSTEP_BYTES];
    uint8_t value[LOCKSTEP_BYTES];
    unsigned bytes;
    bool trying;          // the interpreter's stores go here, not to RAM
    bool expecting;       // translated code is running what the interpreter has tried
    uint64_t seen;        // blocks that came by
    uint64_t undefined;   // flags that mean nothing after the block
    uint64_t invalidated; // the counter before the block ran
    jmp_buf give_up;      // the try needs what cannot be undone
    struct cpu_state before;
    struct cpu_state want;
};

err_t lockstep_new(struct tcpu *c, struct error *e);
void lockstep_free(struct tcpu *c);

// True when this block is to be checked and the interpreter could try it: c->s is as it was, and
// lockstep_compare() after the block says whether translated code did the same.
bool lockstep_try(struct tcpu *c);
// On a difference run() ends with ENGINE_FAILED and words.
void lockstep_compare(struct tcpu *c);
// The block ended by a fault that the interpreter did not see.
_Noreturn void lockstep_unexpected(struct tcpu *c);

// mmu.c, while trying: bytes in RAM within one page.
uint64_t lockstep_read(struct lockstep *l, uint8_t *host, unsigned size);
void lockstep_write(struct lockstep *l, uint8_t *host, unsigned size, uint64_t value);
_Noreturn void lockstep_give_up(struct lockstep *l);
