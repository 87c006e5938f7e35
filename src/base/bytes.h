// Little-endian and big-endian integers in byte buffers of any alignment.
#pragma once

#include "base/types.h"

static inline uint16_t load_le16(const void *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t load_le32(const void *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load_le64(const void *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline void store_le16(void *p, uint16_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

static inline void store_le32(void *p, uint32_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

static inline void store_le64(void *p, uint64_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

static inline uint16_t load_be16(const void *p)
{
    return __builtin_bswap16(load_le16(p));
}

static inline uint32_t load_be32(const void *p)
{
    return __builtin_bswap32(load_le32(p));
}

static inline uint64_t load_be64(const void *p)
{
    return __builtin_bswap64(load_le64(p));
}

static inline void store_be16(void *p, uint16_t v)
{
    store_le16(p, __builtin_bswap16(v));
}

static inline void store_be32(void *p, uint32_t v)
{
    store_le32(p, __builtin_bswap32(v));
}

static inline void store_be64(void *p, uint64_t v)
{
    store_le64(p, __builtin_bswap64(v));
}

// The low size bytes (1..8) of a little-endian integer.
static inline uint64_t load_le(const void *p, unsigned size)
{
    uint64_t v = 0;
    __builtin_memcpy(&v, p, size <= 8 ? size : 8);
    return v;
}

static inline void store_le(void *p, unsigned size, uint64_t v)
{
    __builtin_memcpy(p, &v, size <= 8 ? size : 8);
}
