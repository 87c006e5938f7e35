// Memory of a device's own in the guest's address space: a frame buffer that moves with its BAR.
//
// The guest moves it on a vCPU's thread, but an engine's map changes only while no vCPU runs. So
// the device's wish is noted, all vCPUs stop at their next instruction boundary, and the main loop
// carries it out before they go on. A range that overlaps RAM or another one stays unmapped: the
// guest then reaches it through the device's io_ops.
#include "machine/vm_impl.h"

void window_want(struct owned_device *o, gpa_t at, uint64_t len, void *host)
{
    struct vm *vm = o->vm;
    pthread_mutex_lock(&vm->windows);
    o->window.wanted = at;
    o->window.len = len;
    o->window.host = host;
    pthread_mutex_unlock(&vm->windows);
    if (vm->clock.running) // else the resume carries it out
        vm_remap(vm);
}

// Both steps are tried again at the next change: a window may wait for the place of another.
static void unmap(struct vm *vm, struct window *w)
{
    if (w->mapped && w->mapped != w->wanted &&
        vm->engine->unmap(vm->engine_vm, w->mapped, w->len, NULL) == OK)
        w->mapped = 0;
}

static void map(struct vm *vm, struct window *w)
{
    if (!w->mapped && w->wanted &&
        vm->engine->map(vm->engine_vm, w->wanted, w->len, w->host, ENGINE_MAP_LOGGED, NULL) == OK)
        w->mapped = w->wanted;
}

static bool any_change(const struct vm *vm)
{
    for (const struct owned_device *o = vm->devices; o; o = o->next)
        if (o->window.mapped != o->window.wanted)
            return true;
    return false;
}

void windows_apply(struct vm *vm)
{
    if (!any_change(vm))
        return;
    board_drain_disks(vm); // their threads look at the engine's map
    pthread_mutex_lock(&vm->windows);
    for (struct owned_device *o = vm->devices; o; o = o->next)
        unmap(vm, &o->window);
    for (struct owned_device *o = vm->devices; o; o = o->next)
        map(vm, &o->window);
    pthread_mutex_unlock(&vm->windows);
}

bool window_take_dirty(struct owned_device *o, uint64_t *bitmap)
{
    struct vm *vm = o->vm;
    struct window *w = &o->window;
    pthread_mutex_lock(&vm->windows);
    bool known =
        w->mapped && vm->engine->take_dirty(vm->engine_vm, w->mapped, w->len, bitmap) == OK;
    pthread_mutex_unlock(&vm->windows);
    return known;
}
