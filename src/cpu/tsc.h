// A guest's time-stamp counter that runs at another frequency than its host's: guest = host * mult
// >> shift, as the CPU's own scaling computes it (SDM vol. 3 section 26.6.5; AMD APM vol. 2 section
// 15.30.5).
#pragma once

#include "base/types.h"

struct tsc_ratio {
    uint64_t mult; // 0: the same frequency
    uint32_t shift;
    uint32_t pad;
};

static inline uint64_t tsc_scaled(const struct tsc_ratio *ratio, uint64_t host)
{
    return ratio->mult ? (uint64_t)((unsigned __int128)host * ratio->mult >> ratio->shift) : host;
}
