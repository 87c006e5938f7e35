// The parts of berth disk: one file for each group of its verbs.
#pragma once

#include <jansson.h>
#include <signal.h>

#include "base/error.h"
#include "block/qcow2.h"

struct disk_args {
    const char *words[3]; // what is no option: files, sizes, names
    unsigned count;
    const char *format;  // of the image that is read; NULL: guessed
    const char *to;      // of the image that is made
    const char *backing; // NULL: not given; "": none
    const char *backing_format;
    const char *snapshot;       // of the image that is read; NULL: its present content
    struct qcow2_create qcow2;  // how a new one is made
    bool subclusters, compress; // also in qcow2; compress: its clusters
    bool json, quiet, shrink, unsafe, chain, force;
    enum qcow2_repair repair;
    int status; // the exit status of a verb that succeeds
};

err_t disk_create(struct disk_args *a, struct error *e);
err_t disk_convert(struct disk_args *a, struct error *e);
err_t disk_resize(struct disk_args *a, struct error *e);
err_t disk_info(struct disk_args *a, struct error *e);
err_t disk_check(struct disk_args *a, struct error *e);
err_t disk_map(struct disk_args *a, struct error *e);
err_t disk_snapshot(struct disk_args *a, struct error *e);
err_t disk_commit(struct disk_args *a, struct error *e);
err_t disk_rebase(struct disk_args *a, struct error *e);

// --- what they share (disk_tool.c)

// "10G": a number of bytes, or of K, M, G or T.
err_t disk_size_parse(const char *text, uint64_t *bytes, struct error *e);
void disk_size_text(uint64_t bytes, char *out, size_t size); // "1.5 GiB"

// What a verb did, as words or with --json as an object, which is taken over.
void disk_tell(const struct disk_args *a, json_t *object, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// How far long work has come: a line on standard error when that is a terminal. While there is one,
// signals that would end the program are held back, so that the work ends in an orderly way.
struct disk_progress {
    const char *what;
    bool shown;
    uint64_t last_ns;
    bool interrupted;
    sigset_t mask; // before
};
void disk_progress_begin(struct disk_progress *p, const struct disk_args *a, const char *what);
bool disk_progress_step(void *opaque, uint64_t done, uint64_t total); // false: a signal came
void disk_progress_end(struct disk_progress *p);

// A file that is made beside its place and put there when it is whole.
struct disk_new {
    const char *path;
    char temp[4096];
    bool replace;  // what is there
    sigset_t mask; // before it was begun: until its end, signals that end the program wait
};
err_t disk_new_begin(struct disk_new *n, const char *path, bool replace, struct error *e);
// err: what became of the work. Puts the file in its place, or removes it; returns err, or why not.
err_t disk_new_end(struct disk_new *n, err_t err, struct error *e);

// Opens an image to be read, with what is below it; as its snapshot has it, if one was given.
err_t disk_open_to_read(const struct disk_args *a, const char *path, const char *format,
                        struct block **out, struct error *e);

// The format of an image, by its content and name: "raw" when nothing else fits.
err_t disk_guess(const char *path, const char **format, struct error *e);

// --- other programs' formats (disk_import.c)

bool disk_is_foreign(const char *format); // vmdk, vdi, vhd, vhdx, qed ...
// Converts by qemu-img.
err_t disk_convert_foreign(const struct disk_args *a, const char *from, const char *to,
                           const char *out, struct error *e);
