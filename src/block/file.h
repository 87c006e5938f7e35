// Positioned I/O on one image file or block device, below every format.
//
// Two ways in. file_read() and its like block and are for a format's metadata. file_submit() has
// the contract of a block's submit() (block.h): it never blocks for I/O, never calls back on the
// same stack, and requests in flight overtake each other. Both may be used at the same time from
// any thread.
#pragma once

#include "block/block.h"

struct file;

struct file_options {
    bool read_only;
    bool direct; // O_DIRECT
    // The file belongs to a format that decides its length: reads beyond the end give zeros and
    // writes there extend it. Else the length is the disk's and both are errors.
    bool grows;
};

// Opens and locks (one writer or many readers, advisory): ERR_BUSY when somebody has it.
err_t file_open(const char *path, const struct file_options *options, struct file **out,
                struct error *e);
void file_close(struct file *file); // waits for what is in flight; accepts NULL

void file_submit(struct file *file, struct block_request *request);
// Calls done() with result from one of the file's threads: for what needs no I/O.
void file_answer(struct file *file, struct block_request *request, err_t result);
void file_drain(struct file *file); // until nothing is in flight and every done() has returned

// Whole transfers. With direct, writes are aligned to limits->logical_block in file and memory;
// reads may start and end anywhere.
err_t file_read(struct file *file, uint64_t offset, void *data, size_t len, struct error *e);
err_t file_write(struct file *file, uint64_t offset, const void *data, size_t len, struct error *e);
// What was written before is on the medium when this returns OK.
err_t file_sync(struct file *file, struct error *e);
// The range reads as zeros afterwards. punch gives its space back where the host can; with zeros
// written the slow way, if need be.
err_t file_zero(struct file *file, uint64_t offset, uint64_t len, bool punch, struct error *e);
// Advice: gives space back where the host can. What the range reads as is not defined.
void file_discard(struct file *file, uint64_t offset, uint64_t len);

uint64_t file_length(struct file *file); // now
err_t file_set_length(struct file *file, uint64_t len, struct error *e);

// logical_block is what direct I/O needs, size_bytes the length at opening.
const struct block_limits *file_limits(const struct file *file);
