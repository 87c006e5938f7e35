// Dividing memory. Each VM says through its balloon how much of its memory it could do without. A
// pool's limit holds always; the host's memory is divided once it gets short. What VMs need comes
// first, then the rest is divided, both by shares, and nobody gets less than its reservation.
//
// Not modelled: VMs without a balloon driver give nothing back and count in full.
#include "base/bits.h"
#include "host/memory.h"
#include "manager/coordinator_impl.h"

#define SPARE_PART 8 // of what a guest uses: room to grow
#define SPARE_MIN (24 * MIB)
#define GUEST_MIN (32 * MIB) // no guest is asked to do with less
#define STEP_MIN (2 * MIB)   // smaller changes are not worth telling
#define SHORT_PART 16        // of the host: below so much available memory it is short

// Of its memory, as the VM says: never more than it was defined with.
static uint64_t amount_of(const struct tenant *t, const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));
    return value > 0 ? min_u64((uint64_t)value, t->vm->memory_mib * MIB) : 0;
}

static void answered(void *opaque, json_t *result, const struct error *e)
{
    struct manager *manager = ((struct managed *)opaque)->manager;
    struct tenant *t = manager->pools ? pools_tenant(manager->pools, opaque) : NULL;
    if (t && result) {
        struct tenant_use *u = &t->use;
        const json_t *stats = json_object_get(result, "stats");
        u->memory_asked = false;
        u->memory_size = amount_of(t, result, "size");
        u->memory_guest = amount_of(t, result, "guest");
        u->memory_target = amount_of(t, result, "target");
        u->memory_available = amount_of(t, stats, "available");
        u->balloon = json_is_true(json_object_get(result, "balloon"));
    } else if (t) {
        t->use.memory_asked = false;
    }
    json_decref(result);
}

static void ask(struct tenant *t, uint64_t target)
{
    json_t *args = target ? json_pack("{s:I}", "target", (json_int_t)target) : NULL;
    if (!t->use.memory_asked && link_of(t))
        t->use.memory_asked = !link_ask(link_of(t), "memory", args, answered, t->vm, NULL);
    else
        json_decref(args);
}

static bool is_known(void *opaque, const struct tenant *t)
{
    return t->use.pid && t->use.memory_size;
}

static uint64_t most_of(const struct tenant *t)
{
    uint64_t limit = t->a.limit[RES_MEMORY], size = t->use.memory_size;
    return limit ? min_u64(max_u64(limit, GUEST_MIN), size) : size;
}

// What it cannot do without, as far as is known.
static uint64_t needs(const struct tenant *t)
{
    const struct tenant_use *u = &t->use;
    uint64_t most = most_of(t);
    if (!u->balloon)
        return u->memory_size;
    if (!u->memory_available)
        return most;
    uint64_t used = u->memory_guest - min_u64(u->memory_guest, u->memory_available);
    used += max_u64(used / SPARE_PART, SPARE_MIN);
    return min_u64(max_u64(max_u64(used, GUEST_MIN), t->a.reservation[RES_MEMORY]), most);
}

// What all VMs may have together: where the host is short, less than they have.
static uint64_t budget(const struct pools *pools)
{
    struct host_memory host;
    uint64_t have = 0;
    host_memory_read(&host);
    uint64_t enough = host.total / SHORT_PART;
    if (!host.total || host.available >= enough * 2)
        return UINT64_MAX;
    for (const struct tenant *t = pools->tenants; t; t = t->next)
        have += is_known(NULL, t) ? t->use.memory_guest : 0;
    if (host.available >= enough)
        return have; // as it is: no more to anybody
    return have - min_u64(have, enough - host.available);
}

static void division(struct pools *pools, uint64_t amount, bool rest)
{
    pools_slices(pools, RES_MEMORY, is_known, NULL);
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (!is_known(NULL, t))
            continue;
        uint64_t before = t->use.memory_share;
        t->slice.limit = SLICE_NO_LIMIT; // most_of() has it
        t->slice.demand = rest ? most_of(t) : needs(t);
        t->slice.reservation = rest             ? before
                               : t->use.balloon ? max_u64(t->slice.reservation, GUEST_MIN)
                                                : t->use.memory_size;
    }
    divide(&pools->root.slice, amount);
    for (struct tenant *t = pools->tenants; t; t = t->next)
        t->use.memory_share = is_known(NULL, t) ? t->slice.got : 0;
}

static void carry_out(struct tenant *t)
{
    struct tenant_use *u = &t->use;
    uint64_t want = align_down(max_u64(u->memory_share, GUEST_MIN), MIB);
    want = min_u64(want, u->memory_size);
    uint64_t off = want > u->memory_target ? want - u->memory_target : u->memory_target - want;
    bool whole = want == u->memory_size && off;
    ask(t, u->balloon && (off >= STEP_MIN || whole) ? want : 0);
}

void coordinate_memory(struct coordinator *c)
{
    uint64_t amount = budget(c->pools);
    division(c->pools, amount, false);
    division(c->pools, amount, true);
    for (struct tenant *t = c->pools->tenants; t; t = t->next) {
        if (is_known(NULL, t))
            carry_out(t);
        else if (t->use.pid)
            ask(t, 0);
    }
}
