// Bit arithmetic on unsigned integers.
#pragma once

#include "base/types.h"

#define BIT(n) (1ull << (n))
// Bits lo..hi, both included (0 <= lo <= hi <= 63).
#define BITS(hi, lo) ((~0ull >> (63 - (hi))) & (~0ull << (lo)))

static inline uint64_t bits_get(uint64_t value, unsigned hi, unsigned lo)
{
    return (value & BITS(hi, lo)) >> lo;
}

static inline uint64_t bits_set(uint64_t value, unsigned hi, unsigned lo, uint64_t field)
{
    return (value & ~BITS(hi, lo)) | ((field << lo) & BITS(hi, lo));
}

// align must be a power of two; align_up wraps to 0 when the result does not fit.
static inline uint64_t align_down(uint64_t value, uint64_t align)
{
    return value & ~(align - 1);
}

static inline uint64_t align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

static inline bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

// The low size bytes of all ones; size is 1..8.
static inline uint64_t size_mask(unsigned size)
{
    return ~0ull >> (64 - 8 * size);
}

// value (size bytes, 1..8) sign-extended to 64 bits.
static inline uint64_t sign_extend(uint64_t value, unsigned size)
{
    unsigned shift = 64 - 8 * size;
    return (uint64_t)((int64_t)(value << shift) >> shift);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
