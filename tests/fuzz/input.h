// A fuzzer's bytes, taken from the front as numbers.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

struct input {
    const uint8_t *at, *end;
};

static inline bool input_left(const struct input *in)
{
    return in->at < in->end;
}

// The next size (at most 8) bytes, little-endian. Zeros follow the end of the input.
static inline uint64_t take(struct input *in, unsigned size)
{
    uint8_t raw[8] = {0};
    size_t left = (size_t)(in->end - in->at), len = left < size ? left : size;

    memcpy(raw, in->at, len);
    in->at += len;
    return load_le64(raw);
}

// What must hold for any input.
static inline void require(bool holds)
{
    if (!holds)
        abort();
}
