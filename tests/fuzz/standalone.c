// See standalone.h.
#include "standalone.h"

#include <stdio.h>
#include <stdlib.h>

#define INPUT_MAX 2048

static uint64_t draw(uint64_t *seed) // xorshift64*
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * 0x2545f4914f6cdd1dull;
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;

    for (unsigned long i = 0; i < rounds; i++) {
        size_t size = draw(&seed) % INPUT_MAX;
        uint8_t *input = malloc(size ? size : 1); // so that a sanitizer sees reads beyond it
        for (size_t at = 0; at < size; at++)
            input[at] = (uint8_t)(draw(&seed) >> 56);
        LLVMFuzzerTestOneInput(input, size);
        free(input);
    }
    printf("%lu inputs\n", rounds);
    return 0;
}
