// Limits of pools in CPU time. What a limit leaves is divided among the VMs below it, and each is
// told the most that it may take, its bound: a VM begins with one, and it holds on without the
// manager. A VM that wants less keeps what it is entitled to, so that nobody waits when it wakes
// up; what all took beyond the limit in such a moment is the pool's debt, which it pays back within
// a second or two.
//
// Not modelled: the time of a VM's process before its first look.
#include "base/bits.h"
#include "manager/coordinator_impl.h"
#include "manager/pools_impl.h"

#define REPAY_NS NS_PER_SEC
#define DEBT_MAX_NS (2 * NS_PER_SEC) // of limits: what can be owed
#define CREDIT_MAX_NS (NS_PER_SEC / 10)
#define LEAST_PART 10 // of a limit is left to who pays back

static struct pool *next_pool(struct pools *pools, const struct pool *p)
{
    return p == &pools->root ? pools->list : p->next;
}

uint64_t cpu_ceiling(const struct tenant *t)
{
    uint64_t least = SLICE_NO_LIMIT;
    for (const struct pool *p = t->pool; p; p = p->parent)
        least = p->a.limit[RES_CPU] ? min_u64(least, p->a.limit[RES_CPU]) : least;
    return least;
}

static bool is_bounded(void *opaque, const struct tenant *t)
{
    return (t->use.pid || t == opaque) && cpu_ceiling(t) != SLICE_NO_LIMIT;
}

static double clamp(double n, double least, double most)
{
    return n < least ? least : n > most ? most : n;
}

static void account(const struct pools *pools, struct pool *pool, uint64_t ns)
{
    double limit = (double)pool->a.limit[RES_CPU] / 1000, spent = 0;
    for (const struct tenant *t = pools->tenants; t; t = t->next)
        spent += pool_within(t->pool, pool) ? (double)t->use.spent_ns : 0;
    pool->debt_ns = clamp(pool->debt_ns + spent - limit * (double)ns,
                          -limit * (double)CREDIT_MAX_NS, limit * (double)DEBT_MAX_NS);
}

// What it may use from now on so that it has used its limit on the average.
static uint64_t limit_now(const struct pool *pool)
{
    double limit = (double)pool->a.limit[RES_CPU];
    double now = limit - pool->debt_ns * 1000 / (double)REPAY_NS;
    return (uint64_t)clamp(now, limit / LEAST_PART, limit);
}

// all: as if each wanted as much as it can use.
static void division(struct pools *pools, const struct tenant *starting, bool all)
{
    pools_slices(pools, RES_CPU, is_bounded, (void *)starting);
    for (struct pool *p = &pools->root; p; p = next_pool(pools, p)) {
        if (p->a.limit[RES_CPU])
            p->slice.limit = max_u64(limit_now(p), 1);
    }
    for (struct tenant *t = pools->tenants; t; t = t->next)
        t->slice.demand = all ? t->vm->vcpus * 1000ull : (uint64_t)t->use.wanted;
    divide(&pools->root.slice, SLICE_NO_LIMIT);
}

bool coordinate_bounds(struct pools *pools, uint64_t ns)
{
    bool busy = false;
    for (struct pool *p = &pools->root; p; p = next_pool(pools, p)) {
        if (p->a.limit[RES_CPU])
            account(pools, p, ns);
        else
            p->debt_ns = 0;
    }
    division(pools, NULL, true);
    for (struct tenant *t = pools->tenants; t; t = t->next)
        t->use.bound = is_bounded(NULL, t) ? max_u64(t->slice.got, 1) : 0;
    division(pools, NULL, false);
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (!t->use.bound)
            continue;
        bool less = t->slice.got < t->slice.demand;
        t->use.bound = less ? max_u64(t->slice.got, 1) : max_u64(t->slice.got, t->use.bound);
        busy |= less;
    }
    return busy;
}

uint32_t coordinator_first_bound(struct pools *pools, struct managed *vm)
{
    const struct tenant *t = pools ? pools_tenant(pools, vm) : NULL;
    if (!t || cpu_ceiling(t) == SLICE_NO_LIMIT)
        return 0;
    division(pools, t, true);
    return (uint32_t)max_u64(t->slice.got, 1);
}
