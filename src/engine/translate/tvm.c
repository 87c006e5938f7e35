// Guest-physical memory of the translator: slots, page flags, the dirty log, and the agreement
// between vCPUs about pages that hold code.
//
// The agreement. Each vCPU has its own TLBs and translations. Before one of them reads bytes in
// order to keep a translation, no vCPU may be able to write these bytes unnoticed:
//   reader: sets the line bits and PAGE_CODE; asks every other vCPU that may have write tags for
//           the page to drop them and waits until each has done so; sets PAGE_CODE_READY; reads
//           the bytes.
//   writer: sees no tag, takes the slow path: stores, then (full barrier) looks at the line bits
//   and
//           tells every holder to drop its translations.
// Of a reader and a writer that race, one sees the other: both have a full barrier between their
// own store and the load of the other's. Requests lie in an inbox for each vCPU. Page requests are
// carried out at every poll and while waiting oneself, so two readers cannot wait for each other; a
// vCPU that is outside guest code counts as having done them and catches up in tvm_enter() before
// it touches guest memory. Code requests need no answer: they are carried out at the next
// instruction boundary.
//
// A page stops being code when nobody holds translations of it any more: a writer tells the other
// holders to drop the whole page, and each then takes its bit out of the page's holders; a writer
// who is the only holder drops line by line. A holder's bit is set before it reads and cleared only
// by itself or while it is not in run(), so a page that a vCPU is about to read cannot be given
// back under it.
// Not modelled: more than TVM_SLOTS ranges.
#include "engine/translate/tvm.h"

#include <sched.h>
#include <stdlib.h>

#include "base/checked.h"
#include "engine/translate/direct.h"
#include "engine/translate/interp_impl.h"
#include "engine/translate/jit.h"
#include "engine/translate/unrest.h"

const struct tvm_slot *tvm_slot(const struct tvm *vm, gpa_t gpa)
{
    for (unsigned i = 0; i < vm->slots; i++) {
        const struct tvm_slot *slot = &vm->slot[i];
        if (gpa - slot->at < slot->len)
            return slot;
    }
    return NULL;
}

uint8_t *tvm_host(const struct tvm *vm, gpa_t gpa, unsigned len, const struct tvm_slot **slot)
{
    const struct tvm_slot *s = tvm_slot(vm, gpa);
    if (slot)
        *slot = s;
    if (!s || len > s->len - (gpa - s->at))
        return NULL;
    return s->host + (gpa - s->at);
}

static void slot_release(struct tvm_slot *slot)
{
    free(slot->flags);
    free(slot->lines);
    free(slot->holders);
    free(slot->unrest);
    *slot = (struct tvm_slot){0};
}

static err_t slot_add(struct tvm *vm, gpa_t at, uint64_t len, uint8_t *host, uint32_t map_flags,
                      struct error *e)
{
    if (vm->slots == TVM_SLOTS)
        return error_set(e, ERR_UNSUPPORTED, "more than %d memory ranges", TVM_SLOTS);
    struct tvm_slot slot = {.at = at,
                            .len = len,
                            .host = host,
                            .map_flags = map_flags,
                            .rom = map_flags & ENGINE_MAP_ROM};
    slot.flags = calloc(len >> PAGE_SHIFT, sizeof *slot.flags);
    slot.lines = calloc(len >> PAGE_SHIFT, sizeof *slot.lines);
    slot.unrest = calloc(len >> PAGE_SHIFT, sizeof *slot.unrest);
    slot.holders = calloc(len >> PAGE_SHIFT, sizeof *slot.holders);
    if (!slot.flags || !slot.lines || !slot.holders || !slot.unrest) {
        slot_release(&slot);
        return error_set(e, ERR_NO_MEMORY, "no memory for the page flags of a memory range");
    }
    vm->slot[vm->slots++] = slot;
    vm->map_changes++;
    return OK;
}

static err_t range_check(gpa_t at, uint64_t len, struct error *e)
{
    uint64_t end;
    if (len == 0 || ((at | len) & PAGE_MASK) || !checked_add(at, len, &end))
        return error_set(e, ERR_INVALID, "memory ranges are whole pages");
    return OK;
}

err_t tvm_map(struct tvm *vm, gpa_t at, uint64_t len, void *host, enum engine_map_flags flags,
              struct error *e)
{
    err_t err = range_check(at, len, e);
    if (err)
        return err;
    if (!host || ((uintptr_t)host & PAGE_MASK))
        return error_set(e, ERR_INVALID, "host memory of a range is whole pages");
    for (unsigned i = 0; i < vm->slots; i++) {
        if (ranges_overlap(at, len, vm->slot[i].at, vm->slot[i].len))
            return error_set(e, ERR_EXISTS, "memory ranges overlap at %#llx",
                             (unsigned long long)at);
    }
    return slot_add(vm, at, len, host, flags, e);
}

err_t tvm_unmap(struct tvm *vm, gpa_t at, uint64_t len, struct error *e)
{
    err_t err = range_check(at, len, e);
    if (err)
        return err;
    for (unsigned i = 0; i < vm->slots;) {
        struct tvm_slot old = vm->slot[i];
        if (!ranges_overlap(at, len, old.at, old.len)) {
            i++;
            continue;
        }
        gpa_t end = at + len, old_end = old.at + old.len;
        if (vm->slots + 2 > TVM_SLOTS && (at > old.at || end < old_end))
            return error_set(e, ERR_UNSUPPORTED, "more than %d memory ranges", TVM_SLOTS);
        if (at > old.at)
            err = slot_add(vm, old.at, at - old.at, old.host, old.map_flags, e);
        if (!err && end < old_end)
            err = slot_add(vm, end, old_end - end, old.host + (end - old.at), old.map_flags, e);
        if (err)
            return err;
        slot_release(&vm->slot[i]);
        vm->slot[i] = vm->slot[--vm->slots];
        i = 0;
    }
    vm->map_changes++;
    return OK;
}

void tvm_release(struct tvm *vm)
{
    while (vm->slots)
        slot_release(&vm->slot[--vm->slots]);
}

// --- inboxes -------------------------------------------------------------------------------------

static void inbox_lock(struct tvm_inbox *in)
{
    while (__atomic_exchange_n(&in->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void inbox_unlock(struct tvm_inbox *in)
{
    __atomic_store_n(&in->lock, 0, __ATOMIC_RELEASE);
}

// Asks vCPU i to drop write tags for a page, or for all with page == ~0. Returns the number to wait
// for.
static uint64_t ask_page(struct tvm *vm, unsigned i, gpa_t page)
{
    struct tvm_inbox *in = &vm->inbox[i];
    inbox_lock(in);
    if (page == ~0ull)
        in->pages = TVM_INBOX + 1;
    else if (in->pages < TVM_INBOX)
        in->page[in->pages++] = page;
    else
        in->pages = TVM_INBOX + 1;
    uint64_t ticket = __atomic_add_fetch(&in->asked, 1, __ATOMIC_SEQ_CST);
    inbox_unlock(in);
    tcpu_pend(vm->vcpu[i], PENDING_INVALIDATE);
    return ticket;
}

static void ask_code(struct tvm *vm, unsigned i, gpa_t page)
{
    struct tvm_inbox *in = &vm->inbox[i];
    inbox_lock(in);
    bool known = in->codes && in->codes <= TVM_CODES && in->code[in->codes - 1] == page;
    if (!known && in->codes < TVM_CODES)
        in->code[in->codes] = page;
    if (!known && in->codes <= TVM_CODES)
        in->codes++;
    inbox_unlock(in);
    tcpu_pend(vm->vcpu[i], PENDING_INVALIDATE);
}

// The page requests: always safe to carry out between two guest memory accesses.
static void do_pages(struct tcpu *c)
{
    struct tvm_inbox *in = &c->vm->inbox[c->index];
    if (__atomic_load_n(&in->asked, __ATOMIC_SEQ_CST) == in->done)
        return;
    inbox_lock(in);
    if (in->pages > TVM_INBOX) {
        tlb_protect_page(c, ~0ull);
    } else {
        for (uint32_t i = 0; i < in->pages; i++)
            tlb_protect_page(c, in->page[i]);
    }
    in->pages = 0;
    __atomic_store_n(&in->done, in->asked, __ATOMIC_SEQ_CST);
    inbox_unlock(in);
}

static void code_lock(struct tvm *vm)
{
    while (__atomic_exchange_n(&vm->code_lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void code_unlock(struct tvm *vm)
{
    __atomic_store_n(&vm->code_lock, 0, __ATOMIC_RELEASE);
}

// The page has no code any more: stores to it may go unseen again. Under the lock.
static void page_is_plain(const struct tvm_slot *slot, uint64_t n)
{
    __atomic_store_n(&slot->holders[n], 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->lines[n], 0, __ATOMIC_SEQ_CST);
    __atomic_fetch_and(&slot->flags[n], ~(PAGE_CODE | PAGE_CODE_READY), __ATOMIC_SEQ_CST);
}

static void drop_code(struct tcpu *c, gpa_t at, uint64_t len)
{
    icache_invalidate(c, at, len);
    direct_code_changed(c, at, len);
    if (c->jit)
        jit_invalidate(c, at, len);
}

// c has dropped all translations of the page.
static void release_page(struct tcpu *c, gpa_t page)
{
    const struct tvm_slot *slot = tvm_slot(c->vm, page);
    if (!slot)
        return;
    uint64_t n = (page - slot->at) >> PAGE_SHIFT;
    code_lock(c->vm);
    if (!__atomic_and_fetch(&slot->holders[n], ~BIT(c->index), __ATOMIC_SEQ_CST))
        page_is_plain(slot, n);
    code_unlock(c->vm);
}

static void do_codes(struct tcpu *c)
{
    struct tvm_inbox *in = &c->vm->inbox[c->index];
    gpa_t code[TVM_CODES];
    inbox_lock(in);
    uint32_t codes = in->codes;
    for (uint32_t i = 0; i < codes && codes <= TVM_CODES; i++)
        code[i] = in->code[i];
    in->codes = 0;
    inbox_unlock(in);
    if (codes > TVM_CODES) {
        icache_flush(c);
        direct_all_code_changed(c);
        if (c->jit)
            jit_flush(c);
        return;
    }
    for (uint32_t i = 0; i < codes; i++) {
        drop_code(c, code[i], PAGE_SIZE);
        release_page(c, code[i]);
    }
}

void tvm_leave(struct tcpu *c)
{
    if (c->outside_depth++ == 0)
        __atomic_store_n(&c->outside, 1, __ATOMIC_SEQ_CST);
}

void tvm_enter(struct tcpu *c)
{
    if (--c->outside_depth)
        return;
    __atomic_store_n(&c->outside, 0, __ATOMIC_SEQ_CST); // pairs with the load in all_done()
    do_pages(c);
}

void tvm_catch_up(struct tcpu *c)
{
    tcpu_unpend(c, PENDING_INVALIDATE);
    do_pages(c);
    do_codes(c);
    if (c->rmw_len) {
        unsigned len = c->rmw_len;
        c->rmw_len = 0;
        tvm_code_written(c->vm, c, c->rmw_at, len);
    }
}

// Withdraws write tags for page (or all) from every vCPU but self that may have one. Self waits as
// one that is outside.
static void withdraw(struct tvm *vm, struct tcpu *self, gpa_t page)
{
    uint64_t ticket[TVM_VCPUS];
    for (unsigned i = 0; i < vm->config.vcpus; i++) {
        ticket[i] = 0;
        if (vm->vcpu[i] && vm->vcpu[i] != self &&
            (page == ~0ull || tlb_may_write(vm->vcpu[i], page)))
            ticket[i] = ask_page(vm, i, page);
    }
    if (self)
        tvm_leave(self);
    for (unsigned i = 0; i < vm->config.vcpus; i++) {
        struct tcpu *other = vm->vcpu[i];
        if (!other || other == self)
            continue;
        while (!__atomic_load_n(&other->outside, __ATOMIC_SEQ_CST) &&
               __atomic_load_n(&vm->inbox[i].done, __ATOMIC_SEQ_CST) < ticket[i])
            sched_yield();
    }
    if (self)
        tvm_enter(self);
}

// --- code ----------------------------------------------------------------------------------------

static uint64_t lines_of(gpa_t gpa, uint64_t len) // within one page, len > 0
{
    unsigned first = (gpa & PAGE_MASK) >> TVM_LINE_SHIFT;
    unsigned last = ((gpa & PAGE_MASK) + len - 1) >> TVM_LINE_SHIFT;
    return BITS(last, first);
}

bool tvm_protect_code(struct tvm *vm, struct tcpu *self, gpa_t gpa, unsigned len)
{
    const struct tvm_slot *slot;
    if (len == 0 || (gpa & PAGE_MASK) + len > PAGE_SIZE || !tvm_host(vm, gpa, len, &slot))
        return false;
    uint64_t n = (gpa - slot->at) >> PAGE_SHIFT, want = lines_of(gpa, len);
    uint8_t flags = __atomic_load_n(&slot->flags[n], __ATOMIC_ACQUIRE);
    if ((__atomic_load_n(&slot->holders[n], __ATOMIC_RELAXED) & BIT(self->index)) &&
        (__atomic_load_n(&slot->lines[n], __ATOMIC_RELAXED) & want) == want &&
        (flags & PAGE_CODE_READY)) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return true;
    }
    code_lock(vm);
    __atomic_fetch_or(&slot->holders[n], BIT(self->index), __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&slot->lines[n], want, __ATOMIC_SEQ_CST);
    flags = __atomic_fetch_or(&slot->flags[n], PAGE_CODE, __ATOMIC_SEQ_CST);
    code_unlock(vm);
    if (flags & PAGE_CODE_READY)
        return true;
    tlb_protect_page(self, align_down(gpa, PAGE_SIZE));
    withdraw(vm, self, align_down(gpa, PAGE_SIZE));
    __atomic_fetch_or(&slot->flags[n], PAGE_CODE_READY, __ATOMIC_SEQ_CST);
    return true;
}

// Nobody but self holds translations: lines that were written lose their code entirely, and a page
// without code becomes writable at full speed again. Under the lock.
static void reclaim(const struct tvm_slot *slot, struct tcpu *self, uint64_t n, uint64_t lines)
{
    unsigned first = (unsigned)__builtin_ctzll(lines), last = 63 - (unsigned)__builtin_clzll(lines);
    gpa_t page = slot->at + (n << PAGE_SHIFT);
    drop_code(self, page + (first << TVM_LINE_SHIFT),
              (uint64_t)(last - first + 1) << TVM_LINE_SHIFT);
    if (!__atomic_and_fetch(&slot->lines[n], ~BITS(last, first), __ATOMIC_SEQ_CST))
        page_is_plain(slot, n);
}

// True when self is the only holder, and the lines are dealt with.
static bool reclaim_own(struct tvm *vm, const struct tvm_slot *slot, struct tcpu *self, uint64_t n,
                        uint64_t lines)
{
    code_lock(vm);
    bool alone = __atomic_load_n(&slot->holders[n], __ATOMIC_SEQ_CST) == BIT(self->index);
    if (alone)
        reclaim(slot, self, n, lines);
    code_unlock(vm);
    return alone;
}

// Has the holders drop the page. For those that are not in run() that is as good as done, since
// they look into their inboxes before anything else: with the lock held, none of them can have
// looked and announced the page anew in between.
static void ask_holders(struct tvm *vm, const struct tvm_slot *slot, uint64_t n, uint64_t holders)
{
    uint64_t resting = 0;
    for (unsigned i = 0; i < vm->config.vcpus; i++)
        if ((holders & BIT(i)) && vm->vcpu[i])
            ask_code(vm, i, slot->at + (n << PAGE_SHIFT));
    code_lock(vm);
    for (unsigned i = 0; i < vm->config.vcpus; i++)
        if ((holders & BIT(i)) && vm->vcpu[i] &&
            !__atomic_load_n(&vm->vcpu[i]->running, __ATOMIC_SEQ_CST))
            resting |= BIT(i);
    if (resting && !__atomic_and_fetch(&slot->holders[n], ~resting, __ATOMIC_SEQ_CST))
        page_is_plain(slot, n);
    code_unlock(vm);
}

static void code_written_page(struct tvm *vm, struct tcpu *self, gpa_t gpa, uint64_t len)
{
    const struct tvm_slot *slot = tvm_slot(vm, gpa);
    if (!slot)
        return;
    uint64_t n = (gpa - slot->at) >> PAGE_SHIFT;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); // pairs with the one in tvm_protect_code
    uint64_t hit = __atomic_load_n(&slot->lines[n], __ATOMIC_SEQ_CST) & lines_of(gpa, len);
    if (self && unrest_noted(slot, n, hit ? UNREST_STRIKE : 1))
        hit = __atomic_load_n(&slot->lines[n], __ATOMIC_SEQ_CST); // all count as written
    if (!hit)
        return;
    if (self && direct_holds_code(self, align_down(gpa, PAGE_SIZE)))
        hit = slot->lines[n]; // it is gone at one go, not line by line
    if (self && reclaim_own(vm, slot, self, n, hit))
        return;
    if (self)
        drop_code(self, gpa, len);
    uint64_t holders = __atomic_load_n(&slot->holders[n], __ATOMIC_SEQ_CST);
    if (self)
        holders &= ~BIT(self->index);
    if (holders)
        ask_holders(vm, slot, n, holders);
}

void tvm_code_written(struct tvm *vm, struct tcpu *self, gpa_t gpa, uint64_t len)
{
    while (len) {
        uint64_t chunk = min_u64(len, PAGE_SIZE - (gpa & PAGE_MASK));
        code_written_page(vm, self, gpa, chunk);
        gpa += chunk;
        len -= chunk;
    }
}

// --- the dirty log -------------------------------------------------------------------------------

void tvm_written(struct tvm *vm, struct tcpu *self, gpa_t at, uint64_t len)
{
    while (len) {
        uint64_t chunk = min_u64(len, PAGE_SIZE - (at & PAGE_MASK));
        const struct tvm_slot *slot = tvm_slot(vm, at);
        if (slot) {
            uint8_t *flags = &slot->flags[(at - slot->at) >> PAGE_SHIFT];
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            uint8_t now = __atomic_load_n(flags, __ATOMIC_SEQ_CST);
            if (tvm_logs(vm, slot) && !(now & PAGE_DIRTY))
                __atomic_fetch_or(flags, PAGE_DIRTY, __ATOMIC_SEQ_CST);
            if (now & PAGE_CODE)
                code_written_page(vm, self, at, chunk);
        }
        at += chunk;
        len -= chunk;
    }
}

void tvm_take_dirty(struct tvm *vm, gpa_t at, uint64_t len, uint64_t *bitmap)
{
    for (uint64_t i = 0; i < len >> PAGE_SHIFT; i++) {
        gpa_t page = at + (i << PAGE_SHIFT);
        const struct tvm_slot *slot = tvm_slot(vm, page);
        if (!slot)
            continue;
        uint8_t *flags = &slot->flags[(page - slot->at) >> PAGE_SHIFT];
        if (!(__atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_DIRTY))
            continue;
        __atomic_fetch_and(flags, ~PAGE_DIRTY, __ATOMIC_SEQ_CST);
        bitmap[i / 64] |= BIT(i % 64);
    }
    // A write through an old tag until now is in a page already reported, and whoever copies the
    // page does so after this returns.
    withdraw(vm, NULL, ~0ull);
}
