// Copying bytes while the guest's vector registers are in the machine: the C library's memcpy and
// memset would use them, and compilers make calls to those out of plain loops.
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
