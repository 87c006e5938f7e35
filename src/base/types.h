// The integer types that carry an address space or a unit in their name.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t; // guest-physical address
typedef uint64_t gva_t; // guest-virtual (linear) address
typedef uint64_t ns_t;  // nanoseconds of virtual time unless a name says otherwise

#define NS_NEVER UINT64_MAX // no deadline
#define NS_PER_SEC 1000000000ull
#define NS_PER_MS 1000000ull
#define NS_PER_US 1000ull

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ull
#define PAGE_MASK (PAGE_SIZE - 1) // the offset bits

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
