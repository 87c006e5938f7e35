// Guest memory as KVM's slots, and the dirty log: what vCPUs changed comes from KVM (from its
// bitmaps, or from the rings of ring.c where the kernel has them), what devices changed from
// written(). Source: Linux Documentation/virt/kvm/api.rst, sections 4.8 and 4.35. Ranges are
// unmapped as they were mapped, whole.
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/checked.h"
#include "engine/kvm/kvm_impl.h"

// System management mode sees the same memory, but KVM wants to be told so.
static err_t tell(struct engine_vm *vm, const struct slot *slot, const char *what, struct error *e)
{
    struct kvm_userspace_memory_region region = {.slot = (uint32_t)(slot - vm->slot),
                                                 .flags = slot->flags,
                                                 .guest_phys_addr = slot->at,
                                                 .memory_size = slot->len,
                                                 .userspace_addr = (uintptr_t)slot->host};
    for (unsigned space = 0; space < vm->spaces; space++, region.slot += KVM_SPACE)
        if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
            return kvm_failed(e, errno, what);
    return OK;
}

static size_t bitmap_bytes(const struct slot *slot)
{
    return align_up(slot->len / PAGE_SIZE, 64) / 8;
}

static err_t set_logging(struct engine_vm *vm, struct slot *slot, bool on, struct error *e)
{
    uint64_t *dirty = on ? calloc(1, bitmap_bytes(slot)) : NULL;
    if (on && !dirty)
        return error_set(e, ERR_NO_MEMORY, "no memory for a log of changed pages");
    pthread_mutex_lock(&vm->dirty_lock);
    err_t err = kvm_ring_harvest_locked(vm); // what is left of a log that ends
    if (err)
        err = kvm_failed(e, errno, "empty its log of changed pages");
    free(slot->dirty);
    slot->dirty = dirty;
    pthread_mutex_unlock(&vm->dirty_lock);
    slot->flags =
        (uint32_t)(slot->flags & ~KVM_MEM_LOG_DIRTY_PAGES) | (on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    return err ? err : tell(vm, slot, "log changed pages", e);
}

err_t kvm_map(struct engine_vm *vm, gpa_t at, uint64_t len, void *host, enum engine_map_flags flags,
              struct error *e)
{
    struct slot *slot = vm->slot;
    while (slot < vm->slot + KVM_SLOTS && slot->len)
        slot++;
    if (slot == vm->slot + KVM_SLOTS)
        return error_set(e, ERR_NO_MEMORY, "more than %d ranges of memory", KVM_SLOTS);
    *slot = (struct slot){.at = at,
                          .len = len,
                          .host = host,
                          .flags = flags & ENGINE_MAP_ROM ? KVM_MEM_READONLY : 0,
                          .logged = flags & ENGINE_MAP_LOGGED};
    err_t err = tell(vm, slot, "map guest memory", e);
    if (!err && (vm->logging || slot->logged))
        err = set_logging(vm, slot, true, e);
    if (err) {
        struct error ignored;
        slot->len = 0;
        (void)!tell(vm, slot, "unmap guest memory", &ignored);
    }
    return err;
}

err_t kvm_unmap(struct engine_vm *vm, gpa_t at, uint64_t len, struct error *e)
{
    for (struct slot *slot = vm->slot; slot < vm->slot + KVM_SLOTS; slot++) {
        if (!slot->len || slot->at != at || slot->len != len)
            continue;
        pthread_mutex_lock(&vm->dirty_lock);
        (void)!kvm_ring_harvest_locked(vm); // its entries must not be taken for a later slot's
        slot->len = 0;
        free(slot->dirty);
        slot->dirty = NULL;
        pthread_mutex_unlock(&vm->dirty_lock);
        return tell(vm, slot, "unmap guest memory", e);
    }
    return error_set(e, ERR_NOT_FOUND, "no range of memory was mapped at %#llx",
                     (unsigned long long)at);
}

static void set_page(uint64_t *bitmap, uint64_t page)
{
    bitmap[page / 64] |= BIT(page % 64);
}

// The part of [at, at + len) that lies in the slot, in pages from the slot's start.
static bool pages_in(const struct slot *slot, gpa_t at, uint64_t len, uint64_t *first,
                     uint64_t *end)
{
    gpa_t from = max_u64(at, slot->at), to = min_u64(at + len, slot->at + slot->len);
    if (!slot->len || from >= to)
        return false;
    *first = (from - slot->at) / PAGE_SIZE;
    *end = (to - slot->at + PAGE_SIZE - 1) / PAGE_SIZE;
    return true;
}

void kvm_written(struct engine_vm *vm, gpa_t at, uint64_t len)
{
    if (!__atomic_load_n(&vm->logging, __ATOMIC_SEQ_CST))
        return; // no DMA reaches a range that is always logged
    pthread_mutex_lock(&vm->dirty_lock);
    for (struct slot *slot = vm->slot; slot < vm->slot + KVM_SLOTS; slot++) {
        uint64_t first, end;
        if (!slot->dirty || !pages_in(slot, at, len, &first, &end))
            continue;
        for (uint64_t page = first; page < end; page++)
            set_page(slot->dirty, page);
    }
    pthread_mutex_unlock(&vm->dirty_lock);
}

err_t kvm_log_dirty(struct engine_vm *vm, bool on, struct error *e)
{
    err_t err = OK;
    for (struct slot *slot = vm->slot; !err && slot < vm->slot + KVM_SLOTS; slot++)
        if (slot->len && !slot->logged)
            err = set_logging(vm, slot, on, e);
    __atomic_store_n(&vm->logging, on && !err, __ATOMIC_SEQ_CST);
    return err;
}

// KVM's log of a slot is read and cleared as a whole: what the caller did not ask for is kept.
static err_t fetch(struct engine_vm *vm, struct slot *slot)
{
    if (vm->ring_entries)
        return OK;
    uint64_t *fresh = calloc(1, bitmap_bytes(slot));
    if (!fresh)
        return ERR_NO_MEMORY;
    struct kvm_dirty_log log = {.slot = (uint32_t)(slot - vm->slot), .dirty_bitmap = fresh};
    err_t err = OK;
    for (unsigned space = 0; !err && space < vm->spaces; space++, log.slot += KVM_SPACE) {
        err = ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0 ? err_from_errno(errno) : OK;
        for (size_t i = 0; !err && i < bitmap_bytes(slot) / 8; i++)
            slot->dirty[i] |= fresh[i];
    }
    free(fresh);
    return err;
}

static void move_pages(struct slot *slot, gpa_t at, uint64_t first, uint64_t end, uint64_t *bitmap)
{
    for (uint64_t page = first; page < end; page++) {
        if (!(slot->dirty[page / 64] >> (page % 64) & 1))
            continue;
        slot->dirty[page / 64] &= ~BIT(page % 64);
        set_page(bitmap, (slot->at + page * PAGE_SIZE - at) / PAGE_SIZE);
    }
}

err_t kvm_take_dirty(struct engine_vm *vm, gpa_t at, uint64_t len, uint64_t *bitmap)
{
    if ((at | len) & PAGE_MASK)
        return ERR_INVALID;
    pthread_mutex_lock(&vm->dirty_lock);
    err_t err = kvm_ring_harvest_locked(vm);
    for (struct slot *slot = vm->slot; !err && slot < vm->slot + KVM_SLOTS; slot++) {
        uint64_t first, end;
        if (!slot->dirty || !pages_in(slot, at, len, &first, &end))
            continue;
        err = fetch(vm, slot);
        if (!err)
            move_pages(slot, at, first, end, bitmap);
    }
    pthread_mutex_unlock(&vm->dirty_lock);
    return err;
}
