// A Linux program that computes for ever and checks itself: integers and doubles in memory of its
// own, each word of which is known at every time.
//
//     compute MIB    says "ROUND n" after each round, or "WRONG ..." and ends
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define ODD 0x9e3779b97f4a7c15ull

struct cell {
    uint64_t number;
    double part;
};

// The next value of each, if the last one is right.
static int round_of(struct cell *cell, size_t cells, uint64_t n)
{
    for (size_t i = 0; i < cells; i++) {
        uint64_t want = (i + n) * ODD;
        double part = (double)(i % 1000) + (double)n * 0.5;
        if (cell[i].number != want || cell[i].part != part) {
            printf("WRONG cell %zu in round %" PRIu64 ": %" PRIx64 " %f, not %" PRIx64 " %f\n", i,
                   n, cell[i].number, cell[i].part, want, part);
            return 0;
        }
        cell[i].number += ODD;
        cell[i].part += 0.5;
    }
    return 1;
}

int main(int argc, char **argv)
{
    size_t cells = (argc > 1 ? strtoul(argv[1], NULL, 0) : 16) * 1024 * 1024 / sizeof(struct cell);
    struct cell *cell = malloc(cells * sizeof *cell);
    for (size_t i = 0; cell && i < cells; i++)
        cell[i] = (struct cell){i * ODD, (double)(i % 1000)};
    for (uint64_t n = 0; cell && round_of(cell, cells, n); n++) {
        printf("ROUND %" PRIu64 "\n", n);
        fflush(stdout);
    }
    return 1;
}
