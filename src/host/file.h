// Whole files in memory: kernels, initial RAM disks, definitions.
#pragma once

#include "base/error.h"

struct host_file {
    uint8_t *data; // owned; NULL for an empty file
    size_t len;
};

// Reads a file whose content fits max bytes. The text of an error names the path and the reason.
err_t host_file_read(const char *path, size_t max, struct host_file *out, struct error *e);
// The same from an open descriptor, up to its end; name is for messages.
err_t host_file_read_fd(int fd, const char *name, size_t max, struct host_file *out,
                        struct error *e);
void host_file_release(struct host_file *file);

// Writes all of data to fd, waiting as needed. ERR_IO when the other side is gone.
err_t host_write_all(int fd, const void *data, size_t len);
