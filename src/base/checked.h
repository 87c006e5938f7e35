// Arithmetic on values that come from outside: every function reports overflow instead of wrapping.
#pragma once

#include "base/types.h"

// Each returns true and stores the result when it is representable; else returns false.
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

// True when [start, start + len) lies inside [0, limit).
static inline bool range_within(uint64_t start, uint64_t len, uint64_t limit)
{
    return start <= limit && len <= limit - start;
}

// True when the two ranges share a byte. Ranges must not wrap; empty ranges overlap nothing.
static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a_len && b_len && (a < b ? b - a < a_len : a - b < b_len);
}
