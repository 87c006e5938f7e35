// io_uring: requests to the kernel on a ring in shared memory, and their results on another.
// io_uring_setup(2) and its like by raw system calls; Linux 5.10 or later.
//
// A ring is bound to what it is for when it is made: these operations on these files and nothing
// else, whoever gets hold of it. One thread uses a ring. Not here: polled I/O, registered buffers,
// linked requests.
#pragma once

#include <linux/io_uring.h>

#include "base/error.h"

struct uring {
    int fd;
    unsigned entries;  // that the kernel takes at once
    unsigned prepared; // not handed over yet
    unsigned sq_mask, cq_mask;
    unsigned *sq_tail, *cq_head, *cq_tail; // shared with the kernel
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    void *rings; // the mappings
    size_t rings_bytes, sqes_bytes;
};

struct uring_result {
    uint64_t user_data;
    int32_t result; // as of the system call, negative: -errno
};

// A ring for `ops` (IORING_OP_*) on `files`, which requests name by their index. u: zeros, or after
// a close.
err_t uring_open(struct uring *u, unsigned entries, const int *files, unsigned file_count,
                 const uint8_t *ops, unsigned op_count, struct error *e);
void uring_close(struct uring *u); // also one that was never open

// The next request, zeroed, for the file with that index; there are at most `entries` between two
// calls of uring_enter().
struct io_uring_sqe *uring_next(struct uring *u, unsigned file);
// Hands over what was prepared, and waits until there are results when `wait` says so. 0 or an
// errno value; what was not handed over stays prepared.
int uring_enter(struct uring *u, bool wait);
bool uring_take(struct uring *u, struct uring_result *out); // false: none is there

// Whether it can be used here: OK, or in e why not.
err_t uring_probe(struct error *e);
