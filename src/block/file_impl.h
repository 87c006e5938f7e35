// Inside file.h's image files: what the parts share.
//
// file.c opens and closes, file_io.c makes the system calls that block, file_pool.c has threads
// that make them, and file_uring.c hands reads and writes to the kernel instead, where it can.
#pragma once

#include <pthread.h>

#include "block/file.h"
#include "host/thread.h"

#define FILE_THREADS 4
#define FILE_BUFFERS 256 // passed to one system call
#define DIRECT_ALIGN_MAX 4096

struct uring; // opaque

struct bfile {
    int fd;
    bool direct, grows, transient;
    bool complained;   // an I/O error has been logged
    bool waits_always; // the file system has no reads that do not wait
    bool stop;
    bool woken;                 // a thread was told of work and has not looked yet
    unsigned resting;           // threads that wait for work
    unsigned in_flight;         // [atomic] submitted, and done() has not returned
    uint64_t writes_wait_until; // [atomic] by host_now(): they are the threads' so long
    struct block_limits limits;
    char name[64]; // for messages
    pthread_mutex_t lock;
    pthread_cond_t work; // the queue has something, or stop
    pthread_cond_t idle; // in_flight is 0
    struct block_request *head, **tail;
    struct host_thread threads[FILE_THREADS];
    unsigned started;        // of them; each counts the one that it starts
    struct file_uring *ring; // NULL: none, the threads do it all
};

// --- system calls (file_io.c); 0 or an errno value

// How far a transfer has come.
struct cursor {
    const struct iovec *iov;
    unsigned left; // buffers
    uint64_t skip; // bytes of the first that are done, or not ours
    uint64_t offset;
    uint64_t bytes_left;
};

struct cursor cursor_of(const struct block_request *r);
void cursor_advance(struct cursor *c, uint64_t done);
// The buffers of the next system call, at most FILE_BUFFERS.
unsigned cursor_chunk(const struct cursor *c, struct iovec *chunk);

// Whether O_DIRECT takes a request as it is.
bool file_aligned(const struct bfile *file, const struct block_request *r);
// Whether a request may be, by its range and what was opened.
int file_allowed(const struct bfile *file, const struct block_request *r);
// Does a request, however long it takes.
int file_perform(struct bfile *file, const struct block_request *r);
int file_sync(struct bfile *file);
int file_write_zeroes(struct bfile *file, uint64_t offset, uint64_t len, bool punch);
void file_punch_hole(struct bfile *file, uint64_t offset, uint64_t len); // where the host can
// What becomes of a request; the first failure is logged.
err_t file_result(struct bfile *file, const struct block_request *r, int error);

// --- threads (file_pool.c)

err_t pool_start(struct bfile *file, struct error *e);
void pool_stop(struct bfile *file);
void pool_submit(struct bfile *file, struct block_request *r);
// done() of so many requests has returned.
void file_ended(struct bfile *file, unsigned count);

// --- io_uring (file_uring.c)

// fd: the file, which stays the caller's. NULL where the kernel or its keeper refuses.
struct file_uring *file_uring_new(struct bfile *file, int fd);
void file_uring_free(struct file_uring *u); // nothing is in flight; accepts NULL
// False: not a request for it, or there is no room.
bool file_uring_submit(struct file_uring *u, struct block_request *r);
