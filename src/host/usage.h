// What other processes of this host use: CPU time, and how long their threads waited for a CPU;
// memory. From proc(5), which tells it to anybody; a process that is gone has used nothing.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include "base/types.h"

// ns of all its threads so far. False: there is no such process.
bool host_usage_cpu(pid_t pid, uint64_t *ns);

// A VM's process and those that it started, in which programs of its guest run (cage.h): at most
// max of them, the VM's first, and how many these are.
#define HOST_USAGE_FAMILY_MAX 256
unsigned host_usage_family(pid_t pid, pid_t *out, unsigned max);
bool host_usage_family_cpu(pid_t pid, uint64_t *ns); // of all of these

struct host_usage_threads {
    uint64_t ran_ns;   // CPU time of its living threads but the first, which looks after the others
    uint64_t wait_ns;  // that its living threads were ready to run but did not; 0: not said
    cpu_set_t cpus;    // where those may run whose names begin with the prefix
    unsigned found;    // how many these are
    unsigned runnable; // of these, how many run or are ready to
};
// Of a family, whose other processes' threads are all in ran_ns, wait_ns and runnable.
bool host_usage_threads(pid_t pid, const char *prefix, struct host_usage_threads *out);

struct host_usage_memory {
    uint64_t resident; // bytes in the host's memory
    uint64_t shared;   // of these, what others may have, too: pages of files, and merged ones
};
bool host_usage_memory(pid_t pid, struct host_usage_memory *out);
