// Virtual time counted in a chip's own clock. Counting from virtual time 0 keeps every chip free of
// accumulated rounding.
#pragma once

#include "base/types.h"

// The number of whole ticks of hz (at most 10^9) that have passed at ns.
static inline uint64_t ticks_at(ns_t ns, uint32_t hz)
{
    return ns / NS_PER_SEC * hz + ns % NS_PER_SEC * hz / NS_PER_SEC;
}

// The first moment at which so many ticks have passed; NS_NEVER when that is out of range.
static inline ns_t ticks_to_ns(uint64_t ticks, uint32_t hz)
{
    uint64_t seconds = ticks / hz;
    if (seconds >= NS_NEVER / NS_PER_SEC)
        return NS_NEVER;
    return seconds * NS_PER_SEC + (ticks % hz * NS_PER_SEC + hz - 1) / hz;
}
