// Dividing bandwidths, of whatever kind: among those below a limit, by shares, reservations and by
// what they do. The answers are bounds, beside the limits that things have of their own.
#include "base/bits.h"
#include "manager/coordinator_impl.h"

#define AT_BOUND 0.85 // of its bound: who does so much may want any amount

bool rate_is_limited(const struct tenant *t, enum resource what)
{
    bool limited = t->a.limit[what];
    for (const struct pool *p = t->pool; p; p = p->parent)
        limited |= p->a.limit[what] != 0;
    return limited;
}

static bool takes(void *opaque, const struct tenant *t)
{
    const struct rate_division *d = opaque;
    return d->takes(NULL, t) && rate_is_limited(t, d->what);
}

void rates_divide(struct pools *pools, const struct rate_division *d)
{
    struct rate_division division = *d;
    for (int all = 1; all >= 0; all--) {
        pools_slices(pools, d->what, takes, &division);
        for (struct tenant *t = pools->tenants; t; t = t->next)
            t->slice.demand = all ? SLICE_NO_LIMIT : d->demand(t, d->way);
        divide(&pools->root.slice, SLICE_NO_LIMIT);
        for (struct tenant *t = pools->tenants; t; t = t->next) {
            uint64_t *given = d->given(t, d->way);
            if (!takes(&division, t))
                *given = 0;
            else if (all || t->slice.got < t->slice.demand)
                *given = t->slice.got;
            else
                *given = max_u64(*given, t->slice.got);
        }
    }
}

uint64_t rate_demand(uint64_t rate, uint64_t told, uint64_t least)
{
    if (told && (double)rate >= (double)told * AT_BOUND)
        return SLICE_NO_LIMIT;
    return rate + rate / 2 + least;
}

uint64_t rate_part(uint64_t all, unsigned n, uint64_t rate, uint64_t rates, uint64_t least)
{
    if (!all || n == 1)
        return all ? max_u64(all, least) : 0;
    uint64_t even = all / (2 * n);
    uint64_t by_rate = rates ? (uint64_t)((double)all / 2 * (double)rate / (double)rates) : even;
    return max_u64(even + by_rate, least);
}

bool rate_is_news(uint64_t bound, uint64_t told)
{
    uint64_t off = bound > told ? bound - told : told - bound;
    return bound != told && (!bound || !told || off >= told / 50);
}
