// SipHash-1-3 with 128 bits of output, by Aumasson and Bernstein ("SipHash: a fast short-input
// PRF", 2012): a keyed checksum that nobody without the key can aim at, with the fewer rounds that
// hash tables use. Uses general registers only.
#pragma once

#include "base/types.h"

void siphash128(const uint64_t key[2], const void *data, size_t len, uint64_t out[2]);
