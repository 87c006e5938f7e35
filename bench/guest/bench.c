// bench [NAME...]: runs all or the named kernels, best of three, one line each:
//     BENCH name kind nanoseconds checksum
// bench --time NAME COMMAND...: the same for a program.
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void measure(const struct kernel *k)
{
    uint64_t best = UINT64_MAX, sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t start = now();
        sum = k->run();
        uint64_t took = now() - start;
        best = took < best ? took : best;
        if (took > 3000000000u)
            break; // slow enough that one run says it
    }
    printf("BENCH %s %s %llu %llx\n", k->name, k->kind, (unsigned long long)best,
           (unsigned long long)sum);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct kernel *const sets[] = {compute_kernels, float_kernels, memory_kernels,
                                                os_kernels};
    if (argc == 2 && strcmp(argv[1], "--nothing") == 0)
        return 0;
    if (argc > 3 && strcmp(argv[1], "--time") == 0) {
        struct kernel program = program_kernel(argv[2], argv + 3);
        measure(&program);
        return 0;
    }
    for (size_t s = 0; s < sizeof sets / sizeof sets[0]; s++)
        for (const struct kernel *k = sets[s]; k->name; k++) {
            int wanted = argc < 2;
            for (int i = 1; i < argc; i++)
                wanted |= strcmp(argv[i], k->name) == 0;
            if (wanted)
                measure(k);
        }
    return 0;
}
