// The guest benchmark set: each kernel does a fixed amount of work and returns a checksum, so that
// the same binary can be timed on the host, under Berth and under QEMU, and results can be
// compared.
#pragma once

#include <stdint.h>

struct kernel {
    const char *name;
    const char *kind; // "int", "fp", "mem", "os", "app": how results are grouped
    uint64_t (*run)(void);
};

extern const struct kernel compute_kernels[]; // ended by a NULL name
extern const struct kernel float_kernels[];
extern const struct kernel memory_kernels[];
extern const struct kernel os_kernels[];

struct kernel program_kernel(const char *name, char *const *argv); // one program run as a whole
