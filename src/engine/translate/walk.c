// The page walk: 32-bit, PAE and 4-level paging, with accessed and dirty bits set by
// compare-and-swap in the guest's own entries. Sources: Intel SDM vol. 3 chapter 4, AMD APM vol. 2
// chapter 5. Not modelled: 5-level paging, protection keys, SMAP (not exposed); page tables outside
// RAM read as not present.
#include "engine/translate/interp_impl.h"
#include "engine/translate/mmu.h"

bool rights_allow(const struct tcpu *c, unsigned rights, enum access access, bool user)
{
    if (access == ACCESS_EXEC) {
        if (!(rights & RIGHT_EXEC) || (user && !(rights & RIGHT_USER)))
            return false;
        return user || !(rights & RIGHT_USER) || !(c->s.cr4 & CR4_SMEP);
    }
    if (user && !(rights & RIGHT_USER))
        return false;
    if (access == ACCESS_WRITE && !(rights & RIGHT_WRITE))
        return !user && !(c->s.cr0 & CR0_WP);
    return true;
}

struct entry {
    void *at; // in host memory
    gpa_t gpa;
    uint64_t value;
    const struct tvm_slot *slot;
    unsigned size; // 4 or 8
};

static bool entry_read(struct tcpu *c, gpa_t gpa, unsigned size, struct entry *e)
{
    e->gpa = gpa;
    e->size = size;
    e->value = 0;
    e->at = tvm_host(c->vm, gpa, size, &e->slot);
    if (!e->at)
        return false;
    e->value = size == 8 ? __atomic_load_n((uint64_t *)e->at, __ATOMIC_ACQUIRE)
                         : __atomic_load_n((uint32_t *)e->at, __ATOMIC_ACQUIRE);
    return e->value & PTE_P;
}

// Sets bits unless they are set. False when the entry changed meanwhile: walk again.
static bool entry_mark(struct tcpu *c, struct entry *e, uint64_t bits)
{
    if ((e->value & bits) == bits || e->slot->rom)
        return true;
    bool done;
    if (e->size == 8) {
        uint64_t old = e->value;
        done = __atomic_compare_exchange_n((uint64_t *)e->at, &old, old | bits, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        uint32_t old = (uint32_t)e->value;
        done = __atomic_compare_exchange_n((uint32_t *)e->at, &old, old | (uint32_t)bits, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (done)
        tvm_written(c->vm, c, e->gpa, e->size);
    return done;
}

enum walk_result { WALK_OK, WALK_FAULT, WALK_AGAIN };

// What the last entry and the collected rights say. *reason gets PF_PRESENT.
static enum walk_result finish(struct tcpu *c, struct entry *e, enum access access, bool user,
                               struct translation *out, uint32_t *reason)
{
    if (!rights_allow(c, out->rights, access, user)) {
        *reason = PF_PRESENT;
        return WALK_FAULT;
    }
    if (!entry_mark(c, e, access == ACCESS_WRITE ? PTE_A | PTE_D : PTE_A))
        return WALK_AGAIN;
    if (access == ACCESS_WRITE || (e->value & PTE_D))
        out->rights |= RIGHT_DIRTY;
    if ((e->value & PTE_G) && (c->s.cr4 & CR4_PGE))
        out->rights |= RIGHT_GLOBAL;
    return WALK_OK;
}

static unsigned narrow(unsigned rights, uint64_t entry)
{
    if (!(entry & PTE_U))
        rights &= ~(unsigned)RIGHT_USER;
    if (!(entry & PTE_W))
        rights &= ~(unsigned)RIGHT_WRITE;
    return rights;
}

// Bits that must be clear in an 8-byte entry of a level (1 = page table).
static uint64_t reserved_bits(const struct tcpu *c, unsigned level, uint64_t value)
{
    uint64_t bits = BITS(51, 12) & ~c->phys_mask;
    if (!(c->s.efer & EFER_NXE))
        bits |= PTE_NX;
    if (!(c->s.efer & EFER_LMA))
        bits |= BITS(62, 52);
    if (level == 4 || (level == 3 && !feature_has(&c->features, FEATURE_PDPE1GB)))
        bits |= PTE_PS;
    else if (level == 3 && (value & PTE_PS))
        bits |= BITS(29, 13);
    else if (level == 2 && (value & PTE_PS))
        bits |= BITS(20, 13);
    return bits;
}

// 8-byte entries: PAE and 4-level paging.
static enum walk_result walk8(struct tcpu *c, gva_t at, enum access access, bool user,
                              struct translation *out, uint32_t *reason)
{
    uint64_t address = BITS(51, 12) & c->phys_mask;
    gpa_t table = c->s.cr3 & address;
    unsigned level = 4;
    if (!(c->s.efer & EFER_LMA)) {
        uint64_t top = c->s.pdpte[at >> 30 & 3];
        if (!(top & PTE_P))
            return WALK_FAULT;
        table = top & address;
        level = 2;
    }
    for (;; level--) {
        unsigned shift = 3 + 9 * level;
        struct entry e;
        if (!entry_read(c, table + (at >> shift & 511) * 8, 8, &e))
            return WALK_FAULT;
        if (e.value & reserved_bits(c, level, e.value)) {
            *reason = PF_PRESENT | PF_RESERVED;
            return WALK_FAULT;
        }
        out->rights = (uint8_t)narrow(out->rights, e.value);
        if (e.value & PTE_NX)
            out->rights &= (uint8_t)~RIGHT_EXEC;
        if (level == 1 || (e.value & PTE_PS)) {
            out->shift = (uint8_t)shift;
            out->gpa =
                (e.value & address & ~(BIT(shift) - 1)) | (at & (BIT(shift) - 1) & ~PAGE_MASK);
            return finish(c, &e, access, user, out, reason);
        }
        if (!entry_mark(c, &e, PTE_A))
            return WALK_AGAIN;
        table = e.value & address;
    }
}

// 4 MiB pages: address bits 39..32 stand in entry bits 20..13 (PSE-36).
static bool large4_address(const struct tcpu *c, uint64_t entry, gpa_t *gpa)
{
    uint64_t high = feature_has(&c->features, FEATURE_PSE36) ? bits_get(entry, 20, 13) << 32 : 0;
    uint64_t unused = feature_has(&c->features, FEATURE_PSE36) ? BIT(21) : BITS(21, 13);
    *gpa = high | (entry & BITS(31, 22));
    return !(entry & unused) && !(high & ~c->phys_mask);
}

// 4-byte entries: 32-bit paging.
static enum walk_result walk4(struct tcpu *c, gva_t at, enum access access, bool user,
                              struct translation *out, uint32_t *reason)
{
    struct entry e;
    if (!entry_read(c, (c->s.cr3 & BITS(31, 12)) + (at >> 22 & 1023) * 4, 4, &e))
        return WALK_FAULT;
    out->rights = (uint8_t)narrow(out->rights, e.value);
    if ((e.value & PTE_PS) && (c->s.cr4 & CR4_PSE)) {
        gpa_t base;
        if (!large4_address(c, e.value, &base)) {
            *reason = PF_PRESENT | PF_RESERVED;
            return WALK_FAULT;
        }
        out->shift = 22;
        out->gpa = base | (at & BITS(21, 12));
        return finish(c, &e, access, user, out, reason);
    }
    if (!entry_mark(c, &e, PTE_A))
        return WALK_AGAIN;
    if (!entry_read(c, (e.value & BITS(31, 12)) + (at >> 12 & 1023) * 4, 4, &e))
        return WALK_FAULT;
    out->rights = (uint8_t)narrow(out->rights, e.value);
    out->shift = 12;
    out->gpa = e.value & BITS(31, 12);
    return finish(c, &e, access, user, out, reason);
}

bool walk(struct tcpu *c, gva_t at, enum access access, bool user, struct translation *out,
          uint32_t *error)
{
    out->page = align_down(at, PAGE_SIZE);
    if (!(c->s.cr0 & CR0_PG)) {
        out->gpa = out->page & c->phys_mask;
        out->rights = RIGHT_USER | RIGHT_WRITE | RIGHT_EXEC | RIGHT_DIRTY;
        out->shift = 12;
        return true;
    }
    uint32_t reason = 0;
    enum walk_result result = WALK_AGAIN;
    // Another vCPU that keeps changing the entry must not hold this thread for ever.
    for (unsigned tries = 0; result == WALK_AGAIN; tries++) {
        if (tries == 1000)
            cpu_restart(c);
        reason = 0;
        out->rights = RIGHT_USER | RIGHT_WRITE | RIGHT_EXEC;
        result = (c->s.cr4 & CR4_PAE ? walk8 : walk4)(c, at, access, user, out, &reason);
    }
    if (result == WALK_OK)
        return true;
    bool fetch_shown = ((c->s.efer & EFER_NXE) && (c->s.cr4 & CR4_PAE)) || (c->s.cr4 & CR4_SMEP);
    *error = reason | (access == ACCESS_WRITE ? PF_WRITE : 0) | (user ? PF_USER : 0) |
             (access == ACCESS_EXEC && fetch_shown ? PF_FETCH : 0);
    return false;
}
