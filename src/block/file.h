// Positioned I/O on one image file or block device, below every format.
//
// Two ways in. bfile_read() and its like block and are for a format's metadata. bfile_submit() has
// the contract of a block's submit() (block.h): it never blocks for I/O, never calls back on the
// same stack, and requests in flight overtake each other. Both may be used at the same time from
// any thread.
#pragma once

#include "block/block.h"

struct bfile;

struct bfile_options {
    bool read_only;
    bool direct;    // O_DIRECT
    bool threads;   // no io_uring
    bool unlocked;  // read_only: no lock
    bool transient; // syncs do nothing
    // The file belongs to a format that decides its length: reads beyond the end give zeros and
    // writes there extend it. Else the length is the disk's and both are errors.
    bool grows;
};

// Opens and locks (one writer or many readers, advisory): ERR_BUSY when somebody has it.
err_t bfile_open(const char *path, const struct bfile_options *options, struct bfile **out,
                 struct error *e);
void bfile_close(struct bfile *file); // waits for what is in flight; accepts NULL

void bfile_submit(struct bfile *file, struct block_request *request);
// See block_type's at_once.
bool bfile_at_once(struct bfile *file, const struct block_request *request, err_t *result);
// Calls done() with result from one of the file's threads: for what needs no I/O.
void bfile_answer(struct bfile *file, struct block_request *request, err_t result);
void bfile_drain(struct bfile *file); // until nothing is in flight and every done() has returned

// Whole transfers. With direct, writes are aligned to limits->logical_block in file and memory;
// reads may start and end anywhere.
err_t bfile_read(struct bfile *file, uint64_t offset, void *data, size_t len, struct error *e);
err_t bfile_write(struct bfile *file, uint64_t offset, const void *data, size_t len,
                  struct error *e);
// What was written before is on the medium when this returns OK.
err_t bfile_sync(struct bfile *file, struct error *e);
// The range reads as zeros afterwards. punch gives its space back where the host can; with zeros
// written the slow way, if need be.
err_t bfile_zero(struct bfile *file, uint64_t offset, uint64_t len, bool punch, struct error *e);
// Advice: gives space back where the host can. What the range reads as is not defined.
void bfile_discard(struct bfile *file, uint64_t offset, uint64_t len);

// How many bytes from offset on (at most len) are alike: data, or a hole.
uint64_t bfile_extent(struct bfile *file, uint64_t offset, uint64_t len, bool *data);

uint64_t bfile_length(struct bfile *file); // now
err_t bfile_set_length(struct bfile *file, uint64_t len, struct error *e);

const char *bfile_io(const struct bfile *file); // "io_uring" or "threads"
// logical_block is what direct I/O needs, size_bytes the length at opening.
const struct block_limits *bfile_limits(const struct bfile *file);
