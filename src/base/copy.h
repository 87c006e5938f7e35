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

// For a few dozen bytes whose number, a multiple of 8, is a constant: string instructions start
// slowly.
static inline __attribute__((always_inline)) void clear_words(void *p, size_t n)
{
    char *at = p;
#pragma GCC unroll 32
    for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
        __builtin_memcpy(at + i, &(uint64_t){0}, sizeof(uint64_t));
        asm("" : "+r"(at)); // or compilers put one in its place
    }
}

static inline __attribute__((always_inline)) void copy_words(void *to, const void *from, size_t n)
{
    char *at = to;
#pragma GCC unroll 32
    for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
        __builtin_memcpy(at + i, (const char *)from + i, sizeof(uint64_t));
        asm("" : "+r"(at));
    }
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
