// Names of translated code for Linux's perf: a file /tmp/perf-PID.map, in which perf looks up what
// runs in memory that no file holds. Each block is named after the guest's address, or after the
// symbol of the guest's kernel that it is in.
#pragma once

#include "base/error.h"

struct perf_map;

// symbols: a table as in System.map or /proc/kallsyms; "none": addresses only. Opens the file,
// which stays when the VM has ended.
err_t perf_map_new(const char *symbols, struct perf_map **out, struct error *e);
void perf_map_free(struct perf_map *map); // accepts NULL

// The len bytes at host run what the guest has at rip. Any thread.
void perf_map_add(const struct perf_map *map, const void *host, size_t len, uint64_t rip);
