// bench --time NAME COMMAND...: a whole program, from fork to exit, its standard output summed up.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static char *const *command;

static uint64_t checksum(int fd)
{
    static uint8_t buffer[65536];
    uint64_t sum = 14695981039346656037u; // FNV-1a
    ssize_t n;
    lseek(fd, 0, SEEK_SET);
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < n; i++)
            sum = (sum ^ buffer[i]) * 1099511628211u;
    return sum;
}

static uint64_t run_program(void)
{
    int out = memfd_create("out", 0), status = 1;
    pid_t child = out < 0 ? -1 : fork();
    if (child == 0) {
        dup2(out, STDOUT_FILENO);
        execvp(command[0], command);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "bench: %s failed (status %x)\n", command[0], (unsigned)status);
        exit(1);
    }
    uint64_t sum = checksum(out);
    close(out);
    return sum;
}

struct kernel program_kernel(const char *name, char *const *argv)
{
    command = argv;
    return (struct kernel){name, "app", run_program};
}
