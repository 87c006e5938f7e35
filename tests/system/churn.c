// Code without end, for translators: churn ROUNDS does the same work in each round, always with
// code that has not been there before.
//   pages full of functions are written, run and overwritten by others, as a compiler at run time
//   does; this program is executed again some dozen times, in another address space each time; and
//   something is computed that keeps its code.
// One line a round: ROUND number nanoseconds. Results are checked; "WRONG" is said of those that
// are not right.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FUNCTIONS = 8192, FUNCTION_BYTES = 64, EXECS = 16, NUMBERS = 20000, STATUS = 42 };

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t next(uint32_t *seed)
{
    return *seed = *seed * 1664525 + 1013904223;
}

static uint8_t *put(uint8_t *at, uint8_t opcode, uint32_t value)
{
    *at++ = opcode;
    memcpy(at, &value, 4);
    return at + 4;
}

// A function of its own for each seed; returns what it returns.
static uint32_t write_function(uint8_t *at, uint32_t seed)
{
    uint32_t sum = next(&seed);
    at = put(at, 0xb8, sum); // mov eax, imm
    for (int i = 0; i < 8; i++) {
        uint32_t value = next(&seed);
        if (seed >> 30 & 1) {
            sum ^= value;
            at = put(at, 0x35, value); // xor eax, imm
        } else {
            sum += value;
            at = put(at, 0x05, value); // add eax, imm
        }
    }
    *at = 0xc3;
    return sum;
}

static int run_new_code(uint8_t *code, uint32_t round)
{
    static uint32_t expected[FUNCTIONS];
    int wrong = 0;
    for (uint32_t i = 0; i < FUNCTIONS; i++)
        expected[i] = write_function(code + i * FUNCTION_BYTES, round * FUNCTIONS + i);
    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        uint32_t (*function)(void) = (uint32_t(*)(void))(uintptr_t)(code + i * FUNCTION_BYTES);
        wrong += function() != expected[i] || function() != expected[i];
    }
    return wrong;
}

static int run_programs(void)
{
    int wrong = 0, status;
    for (int i = 0; i < EXECS; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            execl("/proc/self/exe", "churn", (char *)NULL);
            _exit(1);
        }
        wrong +=
            waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != STATUS;
    }
    return wrong;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int compute(void)
{
    static uint32_t numbers[NUMBERS];
    uint32_t seed = 1, sum = 0;
    for (int i = 0; i < NUMBERS; i++)
        numbers[i] = next(&seed);
    qsort(numbers, NUMBERS, sizeof numbers[0], compare);
    for (int i = 1; i < NUMBERS; i++)
        sum += numbers[i - 1] > numbers[i];
    return sum != 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return STATUS; // the program that a round executes
    uint8_t *code = mmap(NULL, FUNCTIONS * FUNCTION_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return 1;
    for (uint32_t round = 1; round <= (uint32_t)atoi(argv[1]); round++) {
        uint64_t start = now();
        int wrong = run_new_code(code, round) + run_programs() + compute();
        printf("ROUND %u %llu%s\n", round, (unsigned long long)(now() - start),
               wrong ? " WRONG" : "");
        fflush(stdout);
    }
    return 0;
}
