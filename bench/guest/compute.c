// Integer work: what compilers, databases and interpreters spend their time on.
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "bench.h"

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static uint64_t crc_loop(void)
{
    static uint32_t table[256];
    static uint8_t data[65536];
    uint32_t seed = 1, crc = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
        table[i] = c;
    }
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)next_random(&seed);
    for (int round = 0; round < 400; round++)
        for (size_t i = 0; i < sizeof data; i++)
            crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
    return crc;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t sort(void)
{
    static uint32_t v[200000];
    uint32_t seed = 7;
    uint64_t sum = 0;
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < sizeof v / sizeof v[0]; i++)
            v[i] = next_random(&seed);
        qsort(v, sizeof v / sizeof v[0], sizeof v[0], compare);
        sum += v[1000] ^ v[100000];
    }
    return sum;
}

static uint64_t hash_table(void)
{
    enum { SLOTS = 1 << 18 };
    static uint32_t key[SLOTS], value[SLOTS];
    uint32_t seed = 99;
    uint64_t sum = 0;
    memset(key, 0, sizeof key);
    for (int i = 0; i < 2000000; i++) {
        uint32_t k = (next_random(&seed) & 0x3ffff) | 1;
        uint32_t at = k * 2654435761u >> 14;
        while (key[at] && key[at] != k)
            at = (at + 1) & (SLOTS - 1);
        key[at] = k;
        sum += value[at]++;
    }
    return sum;
}

// A small stack machine that computes primes: the shape of a bytecode interpreter.
enum op { PUSH, LOAD, STORE, ADD, MUL, MOD, LESS, JZ, JMP, INC, HALT };

static uint64_t interpreter(void)
{
    // for (n = 2; n < 40000; n++) {
    //     for (d = 2; d * d < n + 1; d++) if (n % d == 0) goto no;
    //     count++;
    // no: }
    // clang-format off
    static const int code[] = {
        PUSH, 2, STORE, 0,                                                     // 0: n = 2
        LOAD, 0, PUSH, 40000, LESS, JZ, 46,                                    // 4: n < 40000
        PUSH, 2, STORE, 1,                                                     // 11: d = 2
        LOAD, 1, LOAD, 1, MUL, LOAD, 0, PUSH, 1, ADD, LESS, JZ, 40,            // 15: d * d < n + 1
        LOAD, 0, LOAD, 1, MOD, JZ, 42,                                         // 28: n % d
        INC, 1, JMP, 15, 0,                                                    // 35
        INC, 2,                                                                // 40: count++
        INC, 0, JMP, 4,                                                        // 42: n++
        HALT,                                                                  // 46
    };
    // clang-format on
    int64_t stack[16], var[4] = {0};
    int sp = 0;
    for (const int *pc = code;;) {
        switch (*pc++) {
        case PUSH: stack[sp++] = *pc++; break;
        case LOAD: stack[sp++] = var[*pc++]; break;
        case STORE: var[*pc++] = stack[--sp]; break;
        case ADD: sp--, stack[sp - 1] += stack[sp]; break;
        case MUL: sp--, stack[sp - 1] *= stack[sp]; break;
        case MOD: sp--, stack[sp - 1] %= stack[sp]; break;
        case LESS: sp--, stack[sp - 1] = stack[sp - 1] < stack[sp]; break;
        case JZ: pc = stack[--sp] ? pc + 1 : code + *pc; break;
        case JMP: pc = code + *pc; break;
        case INC: var[*pc++]++; break;
        case HALT: return (uint64_t)var[2];
        }
    }
}

static unsigned fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t calls(void)
{
    volatile unsigned n = 36;
    return fib(n);
}

static uint64_t sieve(void)
{
    static uint8_t composite[2000000];
    uint64_t count = 0;
    for (int round = 0; round < 3; round++) {
        memset(composite, 0, sizeof composite);
        count = 0;
        for (size_t i = 2; i < sizeof composite; i++) {
            if (composite[i])
                continue;
            count++;
            for (size_t j = i * 2; j < sizeof composite; j += i)
                composite[j] = 1;
        }
    }
    return count;
}

static uint64_t deflate_text(void)
{
    enum { SIZE = 1 << 20 };
    static uint8_t in[SIZE], out[SIZE * 2];
    uint32_t seed = 5;
    for (size_t i = 0; i < SIZE; i++)
        in[i] = (uint8_t)("the quick brown fox jumps over"[next_random(&seed) % 30]);
    for (size_t i = 0; i + 64 < SIZE; i += 200)
        memcpy(in + i, in + (next_random(&seed) % (i + 1)), 64);
    uint64_t sum = 0;
    for (int round = 0; round < 2; round++) {
        uLongf len = sizeof out;
        compress2(out, &len, in, SIZE, 6);
        sum += len;
    }
    return sum;
}

const struct kernel compute_kernels[] = {
    {"crc", "int", crc_loop},         {"sort", "int", sort},
    {"hash", "int", hash_table},      {"interp", "int", interpreter},
    {"calls", "int", calls},          {"sieve", "int", sieve},
    {"deflate", "int", deflate_text}, {0},
};
