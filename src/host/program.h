// Berth's own programs, and processes that outlive whoever started them.
#pragma once

#include "base/error.h"

// A program of Berth's own: it lies beside this one in a build, and in the libexec folder of an
// installation. ERR_NOT_FOUND: in neither.
err_t host_find_program(const char *name, char *path, size_t size, struct error *e);

// Starts argv as a process of its own session whose parent is init: with nothing to read, its words
// going to `log`, and of our descriptors only those in keep. It may still fail to start: then its
// descriptors are closed soon.
err_t host_start_daemon(const char *path, char *const *argv, int log, const int *keep, size_t keeps,
                        struct error *e);
