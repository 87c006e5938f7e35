// Which pages are left open (unrest.h). A page is when writes to it have cost as much as 200 slow
// stores do, in a tenth of a second: that is about what translating all of it anew costs. It is
// open for some milliseconds first, twice as long if it is soon as restless again, and so on up to
// a second or two; then it is protected like any other, and its code may become fast.
#include "engine/translate/unrest.h"

#include "host/clock.h"

#define PATIENCE 200
#define UNIT 20          // since counts the TSC in units of 1 << UNIT ticks
#define WINDOW 256       // of these
#define OPEN BIT(24)     // ticks, for the first time
#define LEVEL_MAX 8      // doubled so often
#define RETURNS_WITHIN 8 // times the last opening

static uint64_t open_ticks(unsigned level)
{
    return OPEN << level;
}

// How long it is to be open this time.
static unsigned next_level(const struct tvm_unrest *u, uint64_t now)
{
    uint64_t until = __atomic_load_n(&u->until, __ATOMIC_RELAXED);
    unsigned level = min_u64(__atomic_load_n(&u->level, __ATOMIC_RELAXED), LEVEL_MAX);
    if (!until || now > until + RETURNS_WITHIN * open_ticks(level))
        return 0;
    return level < LEVEL_MAX ? level + 1 : level;
}

bool unrest_noted(const struct tvm_slot *slot, uint64_t n, unsigned cost)
{
    struct tvm_unrest *u = &slot->unrest[n];
    uint64_t now = host_tsc();
    uint32_t then = __atomic_load_n(&u->since, __ATOMIC_RELAXED), unit = (uint32_t)(now >> UNIT);
    unsigned sum = cost + __atomic_load_n(&u->cost, __ATOMIC_RELAXED);
    if (unit - then > WINDOW) {
        __atomic_store_n(&u->since, unit, __ATOMIC_RELAXED);
        sum = cost;
    }
    bool open = sum >= PATIENCE;
    __atomic_store_n(&u->cost, (uint16_t)(open ? 0 : sum), __ATOMIC_RELAXED);
    if (!open)
        return false;
    unsigned level = next_level(u, now);
    __atomic_store_n(&u->level, (uint8_t)level, __ATOMIC_RELAXED);
    __atomic_store_n(&u->until, now + open_ticks(level), __ATOMIC_RELAXED);
    return true;
}

bool unrest_is_open(const struct tvm *vm, gpa_t page)
{
    const struct tvm_slot *slot = tvm_slot(vm, page);
    if (!slot || slot->rom)
        return false;
    if (vm->config.debug & ENGINE_DEBUG_OPEN_PAGES)
        return true;
    const struct tvm_unrest *u = &slot->unrest[(page - slot->at) >> PAGE_SHIFT];
    uint64_t until = __atomic_load_n(&u->until, __ATOMIC_RELAXED);
    return until && host_tsc() < until;
}
