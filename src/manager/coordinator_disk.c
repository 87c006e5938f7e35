// Dividing disk bandwidth, where a pool or a VM has a limit of it: bytes and operations a second,
// each for itself, among the VMs below by shares and reservations and by what they do, once a
// second. What a VM is given becomes bounds of its disks, beside limits of their own.
//
// Not modelled: how fast the host's disks are; without a limit nothing is divided.
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "host/clock.h"
#include "manager/coordinator_impl.h"

enum way { WAY_BYTES, WAY_OPERATIONS, WAYS };

static const enum resource resource_of[WAYS] = {RES_DISK, RES_IOPS};
static const uint64_t least[WAYS] = {64 * KIB, 10};

static bool has_disk(void *opaque, const struct tenant *t)
{
    return t->use.pid && t->use.disks;
}

// --- looking

static uint64_t counter(const json_t *counters, unsigned disk, const char *what)
{
    char name[48];
    snprintf(name, sizeof name, "disk%u.%s", disk, what);
    return (uint64_t)json_integer_value(json_object_get(counters, name));
}

// What the throttle of a disk counts, the same way.
static void look_at(struct disk_use *d, unsigned disk, const json_t *counters, uint64_t ns)
{
    const uint64_t count[WAYS] = {
        counter(counters, disk, "read_bytes") + counter(counters, disk, "written_bytes"),
        counter(counters, disk, "reads") + counter(counters, disk, "writes") +
            counter(counters, disk, "flushes") + counter(counters, disk, "discards")};
    for (int way = 0; way < WAYS; way++) {
        bool known = ns && count[way] >= d->count[way];
        double done = known ? (double)(count[way] - d->count[way]) : 0;
        d->rate[way] = known ? (uint64_t)(done * NS_PER_SEC / (double)ns) : 0;
        d->count[way] = count[way];
    }
}

static void look(struct tenant_use *u, const json_t *counters, uint64_t now)
{
    uint64_t ns = u->disk_at ? now - u->disk_at : 0;
    u->disk_rate[WAY_BYTES] = u->disk_rate[WAY_OPERATIONS] = 0;
    u->disks = 0;
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        char name[48];
        snprintf(name, sizeof name, "disk%u.reads", i);
        if (!json_object_get(counters, name))
            continue;
        look_at(&u->disk[i], i, counters, ns);
        for (int way = 0; way < WAYS; way++)
            u->disk_rate[way] += u->disk[i].rate[way];
        u->disks |= 1u << i;
    }
    u->disk_at = now;
}

static void answered(void *opaque, json_t *result, const struct error *e)
{
    struct manager *manager = ((struct managed *)opaque)->manager;
    struct tenant *t = manager->pools ? pools_tenant(manager->pools, opaque) : NULL;
    if (t) {
        t->use.disk_asked = false;
        if (result)
            look(&t->use, json_object_get(result, "counters"), host_now());
    }
    json_decref(result);
}

// --- dividing

static uint64_t demand(const struct tenant *t, unsigned way)
{
    uint64_t told = 0;
    for (unsigned i = 0; i < VM_DISKS_MAX; i++)
        told += t->use.disks >> i & 1 ? t->use.disk[i].told[way] : 0;
    return rate_demand(t->use.disk_rate[way], told, least[way]);
}

static uint64_t *given(struct tenant *t, unsigned way)
{
    return &t->use.disk_given[way];
}

// --- telling

static void ignore(void *opaque, json_t *result, const struct error *e)
{
    json_decref(result);
}

// At first whatever it is: an earlier manager may have told it something.
static void tell_disk(struct tenant *t, unsigned disk, const uint64_t bounds[WAYS])
{
    struct disk_use *d = &t->use.disk[disk];
    char name[16];
    if (d->heard && !rate_is_news(bounds[WAY_BYTES], d->told[WAY_BYTES]) &&
        !rate_is_news(bounds[WAY_OPERATIONS], d->told[WAY_OPERATIONS]))
        return;
    snprintf(name, sizeof name, "disk%u", disk);
    d->heard = !link_ask(link_of(t), "limit",
                         json_pack("{s:s, s:I, s:I}", "disk", name, "bps_bound",
                                   (json_int_t)bounds[WAY_BYTES], "iops_bound",
                                   (json_int_t)bounds[WAY_OPERATIONS]),
                         ignore, NULL, NULL);
    memcpy(d->told, bounds, sizeof d->told);
}

static void tell(struct tenant *t)
{
    const struct tenant_use *u = &t->use;
    unsigned disks = (unsigned)__builtin_popcount(u->disks);
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        uint64_t bounds[WAYS];
        for (int way = 0; way < WAYS; way++)
            bounds[way] = rate_part(u->disk_given[way], disks, u->disk[i].rate[way],
                                    u->disk_rate[way], least[way]);
        if (u->disks >> i & 1)
            tell_disk(t, i, bounds);
    }
}

// Who has no limit is looked at once, and as long as bounds hold.
static bool is_of_interest(const struct tenant *t)
{
    const struct tenant_use *u = &t->use;
    bool any = !u->disk_at;
    for (int way = 0; way < WAYS; way++)
        any |= rate_is_limited(t, resource_of[way]) || u->disk_given[way];
    return any;
}

void coordinate_disks(struct coordinator *c, uint64_t now)
{
    struct pools *pools = c->pools;
    for (int way = 0; way < WAYS; way++)
        rates_divide(pools, &(struct rate_division){resource_of[way], has_disk, demand, given,
                                                    (unsigned)way});
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (!t->use.pid || !link_of(t))
            continue;
        if (t->use.disks)
            tell(t);
        if (!t->use.disk_asked && is_of_interest(t))
            t->use.disk_asked = !link_ask(link_of(t), "stats", NULL, answered, t->vm, NULL);
    }
}
