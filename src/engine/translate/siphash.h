// SipHash-2-4 with 128 bits of output, by Aumasson and Bernstein ("SipHash: a fast short-input
// PRF", 2012): a keyed checksum that nobody without the key can aim at. Uses general registers
// only.
#pragma once

#include "base/types.h"

void siphash128(const uint64_t key[2], const void *data, size_t len, uint64_t out[2]);
