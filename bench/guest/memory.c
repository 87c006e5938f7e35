// Memory: bulk copies and fills, dependent loads.
#include <stdlib.h>
#include <string.h>

#include "bench.h"

// Both fit a second-level cache many times over: larger ones are as fast as the physical pages that
// they happen to have go with each other.
enum { BLOCK = 64 * 1024 };
static uint8_t from[BLOCK], to[BLOCK];

static uint64_t copy(void)
{
    uint64_t sum = 0;
    memset(from, 1, sizeof from);
    for (int i = 0; i < 8000; i++) {
        from[i % BLOCK]++;
        memcpy(to, from, BLOCK);
        sum += to[(i * 97) % BLOCK];
    }
    return sum;
}

static uint64_t fill(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 12000; i++) {
        memset(to, i, BLOCK);
        sum += to[(i * 97) % BLOCK];
    }
    return sum;
}

static uint64_t chase(void)
{
    enum { N = 1 << 17 };
    static uint32_t next[N];
    for (uint32_t i = 0; i < N; i++)
        next[i] = i;
    uint32_t seed = 3;
    for (uint32_t i = N - 1; i > 0; i--) { // one cycle through all (Sattolo)
        seed = seed * 1664525 + 1013904223;
        uint32_t j = (seed >> 8) % i, t = next[i];
        next[i] = next[j];
        next[j] = t;
    }
    uint32_t at = 0;
    for (int i = 0; i < 10000000; i++)
        at = next[at];
    return at;
}

const struct kernel memory_kernels[] = {
    {"memcpy", "mem", copy}, {"memset", "mem", fill}, {"chase", "int", chase}, {0}};
