// qcow2 disk images, versions 2 and 3, and what can be done to one beyond reading and writing it.
// The format: https://www.qemu.org/docs/master/interop/qcow2.html. docs/block.md has the design.
#pragma once

#include "block/block.h"

struct qcow2;
struct block_chain;

// For block_open(). above: the images that this one backs, against cycles.
err_t qcow2_open(const char *path, const struct block_options *options,
                 const struct block_chain *above, struct block **out, struct error *e);
struct qcow2 *qcow2_of(struct block *block); // NULL when the block is something else

// Takes over what is to show where the image, which names no backing file, has nothing. Before any
// request.
void qcow2_stand_on(struct qcow2 *q, struct block *backing);

struct qcow2_create {
    uint64_t size_bytes;        // a multiple of 512
    uint32_t version;           // 2 or 3; 0: 3
    uint32_t cluster_bytes;     // 0: 64 KiB
    uint32_t refcount_bits;     // 0: 16
    bool extended_l2;           // subclusters; needs clusters of 16 KiB or more
    bool lazy_refcounts;        // counts are written at close only; repaired after a crash
    bool zstd;                  // for compressed clusters; else zlib
    const char *backing;        // NULL: none. Relative names are to the new image's folder
    const char *backing_format; // NULL: none said
};

// Makes the empty file at path an image with nothing in it.
err_t qcow2_create(const char *path, const struct qcow2_create *create, struct error *e);

// The functions below want the block for themselves: nothing in flight.

struct qcow2_info {
    uint32_t version, cluster_bytes, refcount_bits, snapshots;
    bool extended_l2, lazy_refcounts, zstd, dirty, corrupt;
    const char *backing, *backing_format; // empty: none; the image's
    uint64_t file_bytes;
};
void qcow2_get_info(struct qcow2 *q, struct qcow2_info *info);

err_t qcow2_resize(struct qcow2 *q, uint64_t size_bytes, bool shrink, struct error *e);
// The name is stored as it is; "" and NULL: no backing file. The content is not looked at.
err_t qcow2_set_backing(struct qcow2 *q, const char *name, const char *format, struct error *e);
// One cluster of the disk, packed; in clear when that is no smaller. The cluster must be
// unallocated: this is for filling a new image.
err_t qcow2_write_compressed(struct qcow2 *q, uint64_t offset, const void *data, struct error *e);
// Makes all of the disk unallocated: the backing file shows through. Snapshots stay.
err_t qcow2_empty(struct qcow2 *q, struct error *e);

struct qcow2_snapshot {
    char id[32], name[256];
    uint64_t size_bytes, vm_state_bytes, clock_ns;
    uint32_t date_sec, date_nsec;
    uint64_t l1_offset;
    uint32_t l1_entries;
};
// All of them, to be freed by the caller.
err_t qcow2_snapshots(struct qcow2 *q, struct qcow2_snapshot **list, unsigned *count,
                      struct error *e);
err_t qcow2_snapshot_create(struct qcow2 *q, const char *name, struct error *e);
// By name or id. Applying discards the disk's present content, and takes its size too.
err_t qcow2_snapshot_apply(struct qcow2 *q, const char *name, struct error *e);
err_t qcow2_snapshot_delete(struct qcow2 *q, const char *name, struct error *e);

// Lets an image that is open read-only be what it was then. After an error: close it.
err_t qcow2_snapshot_show(struct qcow2 *q, const char *name, struct error *e);

struct qcow2_check {
    uint64_t errors; // counts too low, pointers to nowhere, wrong flags
    uint64_t leaks;  // clusters counted and not used
    uint64_t errors_fixed, leaks_fixed;
    uint64_t clusters, allocated, compressed, zero; // of the disk
    uint64_t file_end;                              // bytes in use
    // Called for each finding, with words (may be NULL), and with how far it has come.
    void (*found)(void *opaque, bool leak, const char *words);
    void (*progress)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};
enum qcow2_repair { QCOW2_REPAIR_NONE, QCOW2_REPAIR_LEAKS, QCOW2_REPAIR_ALL };
// ERR_CORRUPT only when the image cannot be examined at all; findings are in the struct.
err_t qcow2_check(struct qcow2 *q, enum qcow2_repair repair, struct qcow2_check *check,
                  struct error *e);
