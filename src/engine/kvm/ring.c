// The dirty ring: KVM notes each page that a vCPU is the first to change in that vCPU's ring, which
// is shared with it, so the log costs what was changed and not what there is. Source: Linux
// Documentation/virt/kvm/api.rst, section 8.29 (KVM_CAP_DIRTY_LOG_RING).
//
// What is found goes to the slots' bitmaps, where take_dirty() gets it. Kernels without rings have
// only the bitmap log (memory.c). Which of the two a VM has is settled when it is made.
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "engine/kvm/kvm_impl.h"

#define ENTRIES 4096 // a full one costs an exit

void kvm_ring_choose(struct engine_vm *vm)
{
    static const int capabilities[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};
    const uint64_t bytes = ENTRIES * sizeof(struct kvm_dirty_gfn);
    for (size_t i = 0; i < ARRAY_LEN(capabilities) && !vm->ring_entries; i++) {
        const struct kvm_enable_cap enable = {.cap = (uint32_t)capabilities[i], .args = {bytes}};
        int most = ioctl(vm->fd, KVM_CHECK_EXTENSION, capabilities[i]);
        if (most >= (int)bytes && ioctl(vm->fd, KVM_ENABLE_CAP, &enable) == 0)
            vm->ring_entries = ENTRIES;
    }
}

static size_t ring_bytes(const struct engine_vm *vm)
{
    return vm->ring_entries * sizeof(struct kvm_dirty_gfn);
}

err_t kvm_ring_map(struct engine_vcpu *v, struct error *e)
{
    if (!v->vm->ring_entries)
        return OK;
    void *ring = mmap(NULL, ring_bytes(v->vm), PROT_READ | PROT_WRITE, MAP_SHARED, v->fd,
                      (off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE));
    if (ring == MAP_FAILED)
        return kvm_failed(e, errno, "share a vCPU's log of changed pages");
    v->ring = ring;
    return OK;
}

void kvm_ring_unmap(struct engine_vcpu *v)
{
    if (v->ring)
        munmap(v->ring, ring_bytes(v->vm));
    v->ring = NULL;
}

// An entry of a slot whose log is off by now is dropped.
static void note(struct engine_vm *vm, uint32_t id, uint64_t page)
{
    struct slot *slot = id < KVM_SLOTS ? &vm->slot[id] : NULL;
    if (slot && slot->dirty && page < slot->len / PAGE_SIZE)
        slot->dirty[page / 64] |= BIT(page % 64);
}

// Entries are taken in their order. KVM fills none anew before it is told to, so this ends.
static bool empty(struct engine_vcpu *v)
{
    bool any = false;
    for (;; v->ring_next++) {
        struct kvm_dirty_gfn *gfn = &v->ring[v->ring_next % v->vm->ring_entries];
        if (__atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
            return any;
        note(v->vm, gfn->slot % KVM_SPACE, gfn->offset);
        __atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        any = true;
    }
}

// A write between the note and the reset is not noted again: whoever takes the bit reads the page
// only after both.
err_t kvm_ring_harvest_locked(struct engine_vm *vm)
{
    bool any = false;
    for (unsigned i = 0; vm->ring_entries && i < vm->config.vcpus; i++)
        any |= vm->vcpu[i] && empty(vm->vcpu[i]);
    return any && ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, 0) < 0 ? err_from_errno(errno) : OK;
}

err_t kvm_ring_harvest(struct engine_vm *vm)
{
    pthread_mutex_lock(&vm->dirty_lock);
    err_t err = kvm_ring_harvest_locked(vm);
    pthread_mutex_unlock(&vm->dirty_lock);
    return err;
}
