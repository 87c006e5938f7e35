// Copying bytes while a guest's vector registers are in the machine: the C library's memcpy and
// memset would use them, and compilers make calls to those out of plain loops and variable-length
// builtins.
#pragma once

#include "base/types.h"

static inline void copy_bytes(void *to, const void *from, size_t n)
{
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static inline void fill_bytes(void *to, uint8_t value, size_t n)
{
    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
}

// The low size bytes (1..8) of a little-endian integer, zero-extended; and their way back.
static inline uint64_t load_sized(const void *p, unsigned size)
{
    uint64_t value = 0;
    copy_bytes(&value, p, size);
    return value;
}

static inline void store_sized(void *p, unsigned size, uint64_t value)
{
    copy_bytes(p, &value, size);
}
