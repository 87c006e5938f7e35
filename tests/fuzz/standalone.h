// A fuzz target without a fuzzer: deterministic random inputs. Arguments: rounds, seed.
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
