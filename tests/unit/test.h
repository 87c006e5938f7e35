// A small test harness: a test is a function listed in the program's table; TAP goes to stdout.
#pragma once

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/types.h"

struct test {
    const char *name;
    void (*run)(void);
};

static int test_failures; // of the running test

#define CHECK(cond)                                             \
    do {                                                        \
        if (!(cond)) {                                          \
            printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond); \
            test_failures++;                                    \
        }                                                       \
    } while (0)

#define CHECK_EQ(got, want)                                                                   \
    do {                                                                                      \
        uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);                            \
        if (got_ != want_) {                                                                  \
            printf("# %s:%d: %s = %#" PRIx64 ", expected %#" PRIx64 "\n", __FILE__, __LINE__, \
                   #got, got_, want_);                                                        \
            test_failures++;                                                                  \
        }                                                                                     \
    } while (0)

#define CHECK_STR(got, want)                                                                  \
    do {                                                                                      \
        const char *got_ = (got), *want_ = (want);                                            \
        if (strcmp(got_, want_) != 0) {                                                       \
            printf("# %s:%d: %s = \"%s\", expected \"%s\"\n", __FILE__, __LINE__, #got, got_, \
                   want_);                                                                    \
            test_failures++;                                                                  \
        }                                                                                     \
    } while (0)

static inline int test_main(const struct test *tests, size_t count)
{
    int failed = 0;
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; i++) {
        test_failures = 0;
        tests[i].run();
        printf("%sok %zu - %s\n", test_failures ? "not " : "", i + 1, tests[i].name);
        fflush(stdout);
        failed += test_failures != 0;
    }
    return failed != 0;
}

#define TEST(fn) \
    {            \
#fn, fn  \
    }
#define TEST_MAIN(...)                                           \
    int main(void)                                               \
    {                                                            \
        static const struct test tests[] = {__VA_ARGS__};        \
        return test_main(tests, sizeof tests / sizeof tests[0]); \
    }
