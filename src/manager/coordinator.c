// The coordinator's heart-beat.
#include "manager/coordinator.h"

#include <stdlib.h>

#include "host/clock.h"
#include "manager/coordinator_impl.h"

// What was known of a VM ends with its process.
static void follow(struct coordinator *c)
{
    for (struct managed *m = c->pools->manager->vms; m; m = m->next) {
        struct tenant *t = pools_tenant(c->pools, m);
        int pid = m->link ? m->pid : 0;
        if (!t || t->use.pid == pid)
            continue;
        t->use = (struct tenant_use){.pid = pid, .group = -1, .bound_told = BOUND_UNKNOWN};
    }
}

static void beat(void *opaque)
{
    struct coordinator *c = opaque;
    uint64_t now = host_now();
    c->beat_at = now;
    follow(c);
    bool busy = coordinate_cpus(c, now);
    if (now - c->slow_at >= SLOW_NS) {
        c->slow_at = now;
        coordinate_memory(c);
        coordinate_disks(c, now);
        coordinate_nets(c, now);
    }
    loop_timer_set(c->pools->manager->loop, &c->timer, now + (busy ? TICK_NS : TICK_QUIET_NS));
}

err_t coordinator_new(struct pools *pools, struct coordinator **out, struct error *e)
{
    struct coordinator *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(e, ERR_NO_MEMORY, "no memory for the coordinator");
    *out = c;
    c->pools = pools;
    c->timer = (struct loop_timer){.fire = beat, .opaque = c};
    groups_open(GROUPS_ROOT, &c->groups);
    beat(c);
    return OK;
}

void coordinator_free(struct coordinator *c)
{
    if (!c)
        return;
    loop_timer_set(c->pools->manager->loop, &c->timer, NS_NEVER);
    coordinator_leave_nets(c);
    groups_close(c->groups);
    free(c);
}

void coordinator_changed(struct coordinator *c)
{
    if (!c)
        return;
    c->slow_at = 0;
    loop_timer_set(c->pools->manager->loop, &c->timer, c->beat_at + TICK_SOONEST_NS);
}

void coordinator_began(struct coordinator *c, struct managed *vm, pid_t pid)
{
    if (c && c->groups)
        groups_join(c->groups, vm->id, pid);
}

void coordinator_ended(struct coordinator *c, struct managed *vm)
{
    if (c && c->groups)
        groups_leave(c->groups, vm->id);
}

bool coordinator_has_groups(const struct coordinator *c)
{
    return c && c->groups;
}
