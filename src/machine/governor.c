#include "machine/governor.h"

#include "host/clock.h"
#include "machine/vm_impl.h"

static void look(void *opaque)
{
    struct governor *g = opaque;
    bool held = g->duty.held;
    // Of all threads and processes: what a guest makes its devices do counts, too.
    uint64_t next = duty_look(&g->duty, host_now(), vm_cpu_ns(g->vm), g->vm->vcpus);
    if (g->duty.held != held)
        vcpus_hold(g->vm, g->duty.held);
    loop_timer_set(g->vm->loop, &g->timer, next);
}

void governor_init(struct governor *g, struct vm *vm)
{
    *g = (struct governor){.vm = vm, .timer = {.fire = look, .opaque = g}};
}

void governor_changed(struct governor *g)
{
    look(g);
}

void governor_release(struct governor *g)
{
    if (!g->vm)
        return;
    loop_timer_set(g->vm->loop, &g->timer, NS_NEVER);
    if (g->duty.held)
        vcpus_hold(g->vm, false);
    g->duty.held = false;
}
