// Between cpuid.c (tables) and cpuid_build.c (what a guest is shown).
#pragma once

#include "cpu/cpuid.h"

struct feature_place {
    const char *name;
    uint32_t function;
    uint8_t index, reg, bit;
};
extern const struct feature_place feature_places[FEATURE_COUNT]; // by enum feature

uint32_t *cpuid_reg(struct cpuid_leaf *leaf, unsigned reg);
// The leaf, or NULL.
const struct cpuid_leaf *cpuid_find(const struct cpuid_table *table, uint32_t function,
                                    uint32_t index);
// A new zeroed leaf; index < 0: the function has no subleaves.
struct cpuid_leaf *cpuid_add(struct cpuid_table *table, uint32_t function, int index);
