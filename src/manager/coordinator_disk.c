// Dividing disk bandwidth, where a pool or a VM has a limit of it: what the VM's disks transfer
// together, and each disk's limit a part of the VM's by what it did lately.
//
// Not modelled: how fast the host's disks are; without a limit nothing is divided.
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "host/clock.h"
#include "manager/coordinator_impl.h"

#define RATE_MIN (64 * KIB)

// The least of the limits above it.
static uint64_t ceiling(const struct tenant *t)
{
    uint64_t least = t->a.limit[RES_DISK] ? t->a.limit[RES_DISK] : SLICE_NO_LIMIT;
    for (const struct pool *p = t->pool; p; p = p->parent)
        least = p->a.limit[RES_DISK] ? min_u64(least, p->a.limit[RES_DISK]) : least;
    return least;
}

static bool takes(void *opaque, const struct tenant *t)
{
    return t->use.pid && t->use.disks && ceiling(t) != SLICE_NO_LIMIT;
}

// --- looking

static uint64_t counter(const json_t *counters, unsigned disk, const char *what)
{
    char name[48];
    snprintf(name, sizeof name, "disk%u.%s", disk, what);
    return (uint64_t)json_integer_value(json_object_get(counters, name));
}

static void look(struct tenant_use *u, const json_t *counters, uint64_t now)
{
    uint64_t ns = now - u->disk_at;
    u->disk_rate = 0;
    u->disk_delayed = false;
    u->disks = 0;
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        char name[48];
        snprintf(name, sizeof name, "disk%u.reads", i);
        if (!json_object_get(counters, name))
            continue;
        struct disk_use *d = &u->disk[i];
        uint64_t bytes = counter(counters, i, "read_bytes") + counter(counters, i, "written_bytes");
        uint64_t delayed = counter(counters, i, "delayed");
        bool known = u->disk_at && ns && bytes >= d->bytes;
        d->rate = known ? (uint64_t)((double)(bytes - d->bytes) * NS_PER_SEC / (double)ns) : 0;
        u->disk_delayed |= known && delayed > d->delayed;
        u->disk_rate += d->rate;
        d->bytes = bytes;
        d->delayed = delayed;
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

// --- telling

static void ignore(void *opaque, json_t *result, const struct error *e)
{
    json_decref(result);
}

static void set_limit(struct tenant *t, unsigned disk, uint64_t bps)
{
    struct disk_use *d = &t->use.disk[disk];
    uint64_t off = bps > d->told ? bps - d->told : d->told - bps;
    char name[16];
    if (bps == d->told || (bps && off < d->told / 50))
        return;
    snprintf(name, sizeof name, "disk%u", disk);
    if (!link_ask(link_of(t), "limit",
                  json_pack("{s:s, s:I}", "disk", name, "bps", (json_int_t)bps), ignore, NULL,
                  NULL))
        d->told = bps;
}

// Half of it evenly, half by what each did: a disk that wakes up is not stuck.
static void tell(struct tenant *t, uint64_t all)
{
    struct tenant_use *u = &t->use;
    unsigned disks = (unsigned)__builtin_popcount(u->disks);
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        if (!(u->disks >> i & 1))
            continue;
        uint64_t part = all;
        if (all && disks > 1)
            part =
                all / (2 * disks) +
                (u->disk_rate
                     ? (uint64_t)((double)all / 2 * (double)u->disk[i].rate / (double)u->disk_rate)
                     : all / (2 * disks));
        set_limit(t, i, all ? max_u64(part, RATE_MIN) : 0);
    }
}

void coordinate_disks(struct coordinator *c, uint64_t now)
{
    struct pools *pools = c->pools;
    pools_slices(pools, RES_DISK, takes, NULL);
    for (struct tenant *t = pools->tenants; t; t = t->next)
        t->slice.demand =
            t->use.disk_delayed ? SLICE_NO_LIMIT : t->use.disk_rate * 3 / 2 + RATE_MIN;
    divide(&pools->root.slice, SLICE_NO_LIMIT);
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (!t->use.pid || !link_of(t))
            continue;
        if (takes(NULL, t))
            tell(t,
                 t->slice.got < t->slice.demand || t->use.disk_delayed ? t->slice.got : ceiling(t));
        else if (t->use.disks)
            tell(t, 0);
        if (!t->use.disk_asked && (ceiling(t) != SLICE_NO_LIMIT || t->use.disks))
            t->use.disk_asked = !link_ask(link_of(t), "stats", NULL, answered, t->vm, NULL);
    }
}
