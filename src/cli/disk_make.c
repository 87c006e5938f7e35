// berth disk create, convert and resize.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/chain.h"
#include "block/copy.h"
#include "block/formats.h"
#include "block/sync.h"
#include "cli/disk.h"

static err_t check_format(const char *format, struct error *e)
{
    return !strcmp(format, "raw") || !strcmp(format, "qcow2")
               ? OK
               : error_set(e, ERR_INVALID,
                           "'%.40s' is no format that can be made; give raw or "
                           "qcow2, or convert",
                           format);
}

static bool asks_for_qcow2(const struct disk_args *a)
{
    const struct qcow2_create *q = &a->qcow2;

    return q->version || q->cluster_bytes || q->refcount_bits || q->extended_l2 ||
           q->lazy_refcounts || q->zstd || a->compress;
}

static err_t make_raw(const char *path, uint64_t size, struct error *e)
{
    return truncate(path, (off_t)size) == 0
               ? OK
               : error_set(e, err_from_errno(errno), "%s: cannot be made %llu bytes long: %s", path,
                           (unsigned long long)size, strerror(errno));
}

static err_t make_empty(const struct disk_args *a, const char *format, const char *path,
                        uint64_t size, struct error *e)
{
    struct qcow2_create create = a->qcow2;

    create.size_bytes = size;
    return strcmp(format, "raw") ? qcow2_create(path, &create, e) : make_raw(path, size, e);
}

// --- create

// Opens the backing file as the new image will: its format, once known, is written into the image,
// so that nobody has to guess later.
static err_t look_at_backing(struct disk_args *a, const char *image, uint64_t *size,
                             struct error *e)
{
    struct block *block;
    const struct block_options options = {.format = a->backing_format, .read_only = true};
    char *path;
    err_t err = chain_path(image, a->backing, &path, e);

    if (err == OK)
        err = block_open(path, &options, &block, e);
    if (err == OK) {
        *size = block->limits.size_bytes;
        a->backing_format = block->type->name;
        block_close(block);
    } else {
        err = error_in(e, "the backing file");
    }
    free(path);
    return err;
}

static err_t size_of_new(struct disk_args *a, uint64_t *size, struct error *e)
{
    err_t err = OK;

    *size = 0;
    if (a->backing)
        err = look_at_backing(a, a->words[0], size, e);
    if (err == OK && a->count > 1)
        err = disk_size_parse(a->words[1], size, e);
    if (err == OK && (!*size || *size % 512))
        err = error_set(e, ERR_INVALID,
                        a->count > 1 ? "the size must be a multiple of 512 bytes, and not 0"
                                     : "say how large the disk is to be, for example 20G");
    return err;
}

err_t disk_create(struct disk_args *a, struct error *e)
{
    const char *format = a->format ? a->format : "qcow2", *path = a->words[0];
    struct disk_new n;
    uint64_t size;
    char words[32];
    err_t err = check_format(format, e);

    if (err == OK && !strcmp(format, "raw") && (a->backing || asks_for_qcow2(a)))
        err = error_set(e, ERR_INVALID, "raw images have no such options; make a qcow2 image");
    if (err == OK)
        err = size_of_new(a, &size, e);
    if (err != OK || (err = disk_new_begin(&n, path, a->force, e)) != OK)
        return err;
    a->qcow2.backing = a->backing;
    a->qcow2.backing_format = a->backing_format;
    err = disk_new_end(&n, make_empty(a, format, n.temp, size, e), e);
    if (err != OK)
        return err;
    disk_size_text(size, words, sizeof words);
    disk_tell(a,
              json_pack("{s:s, s:s, s:I}", "file", path, "format", format, "size_bytes",
                        (json_int_t)size),
              "made %s: %s, %s%s%s", path, format, words, a->backing ? ", over " : "",
              a->backing ? a->backing : "");
    return OK;
}

// --- convert

static err_t copy_all(struct disk_args *a, struct block *from, struct block *to, bool is_zero,
                      struct error *e)
{
    struct disk_progress progress;

    disk_progress_begin(&progress, a, "converting");
    const struct block_copy copy = {.from = from,
                                    .to = to,
                                    .packed = a->compress ? qcow2_of(to) : NULL,
                                    .target_is_zero = is_zero,
                                    .depth = UINT_MAX,
                                    .progress = disk_progress_step,
                                    .opaque = &progress};
    err_t err = block_copy(&copy, e);
    disk_progress_end(&progress);
    return err;
}

static err_t fill(struct disk_args *a, struct block *from, const char *path, const char *format,
                  bool is_zero, struct error *e)
{
    const struct block_options options = {.format = format};
    struct block *to;
    err_t err = block_open(path, &options, &to, e);

    if (err != OK)
        return err;
    if (to->limits.size_bytes < from->limits.size_bytes)
        err = error_set(e, ERR_INVALID, "%s: is smaller than the disk to be copied", path);
    else
        err = copy_all(a, from, to, is_zero, e);
    block_close(to);
    return err;
}

static err_t convert_to_file(struct disk_args *a, struct block *from, const char *format,
                             struct error *e)
{
    struct disk_new n;
    err_t err = disk_new_begin(&n, a->words[1], a->force, e);

    if (err != OK)
        return err;
    err = make_empty(a, format, n.temp, from->limits.size_bytes, e);
    if (err == OK)
        err = fill(a, from, n.temp, format, true, e);
    return disk_new_end(&n, err, e);
}

static bool is_block_device(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

static err_t convert(struct disk_args *a, const char *from, const char *to, struct error *e)
{
    struct block *block;
    err_t err = check_format(to, e);

    if (err == OK)
        err = disk_open_to_read(a, a->words[0], from, &block, e);
    if (err != OK)
        return err;
    if (!strcmp(to, "raw") && is_block_device(a->words[1]))
        err = fill(a, block, a->words[1], to, false, e);
    else
        err = convert_to_file(a, block, to, e);
    block_close(block);
    return err;
}

static err_t convert_foreign(struct disk_args *a, const char *from, const char *to, struct error *e)
{
    struct disk_new n;
    err_t err = disk_new_begin(&n, a->words[1], a->force, e);

    return err == OK ? disk_new_end(&n, disk_convert_foreign(a, from, to, n.temp, e), e) : err;
}

err_t disk_convert(struct disk_args *a, struct error *e)
{
    const char *to = a->to ? a->to : "qcow2", *from = a->format;
    err_t err = from ? OK : disk_guess(a->words[0], &from, e);

    if (err == OK && strcmp(to, "qcow2") && asks_for_qcow2(a))
        err = error_set(e, ERR_INVALID, "only qcow2 images have these options; give -O qcow2");
    if (err == OK && a->snapshot && (disk_is_foreign(from) || disk_is_foreign(to)))
        err = error_set(e, ERR_INVALID, "a snapshot can be converted to raw and qcow2 only");
    if (err != OK)
        return err;
    err = disk_is_foreign(from) || disk_is_foreign(to) ? convert_foreign(a, from, to, e)
                                                       : convert(a, from, to, e);
    if (err == OK)
        disk_tell(a,
                  json_pack("{s:s, s:s, s:s, s:s}", "file", a->words[1], "format", to, "from",
                            a->words[0], "from_format", from),
                  "made %s (%s) from %s (%s)", a->words[1], to, a->words[0], from);
    return err;
}

// --- resize

static err_t resize_raw(struct disk_args *a, struct block *block, uint64_t size, struct error *e)
{
    if (is_block_device(a->words[0]))
        return error_set(e, ERR_UNSUPPORTED, "%s: is a block device, whose size is the host's",
                         a->words[0]);
    if (size < block->limits.size_bytes && !a->shrink)
        return error_set(e, ERR_INVALID,
                         "%s: a smaller size cuts off the disk's end; say --shrink "
                         "if that is meant",
                         a->words[0]);
    if (!size || size % 512)
        return error_set(e, ERR_INVALID, "the size must be a multiple of 512 bytes, and not 0");
    return raw_resize(block, size, e);
}

// "+5G" and "-5G" are relative.
static err_t new_size(const char *text, uint64_t old, uint64_t *size, struct error *e)
{
    bool more = text[0] == '+', less = text[0] == '-';
    err_t err = disk_size_parse(text + (more || less), size, e);

    if (err != OK || !(more || less))
        return err;
    if (less && *size >= old)
        return error_set(e, ERR_INVALID, "the disk has %llu bytes only", (unsigned long long)old);
    *size = more ? old + *size : old - *size;
    return OK;
}

err_t disk_resize(struct disk_args *a, struct error *e)
{
    const struct block_options options = {.format = a->format};
    struct block *block;
    uint64_t size = 0, old;
    char words[32];
    err_t err = block_open(a->words[0], &options, &block, e);

    if (err != OK)
        return err;
    old = block->limits.size_bytes;
    err = new_size(a->words[1], old, &size, e);
    if (err == OK)
        err = qcow2_of(block) ? qcow2_resize(qcow2_of(block), size, a->shrink, e)
                              : resize_raw(a, block, size, e);
    block_close(block);
    if (err != OK)
        return err;
    disk_size_text(size, words, sizeof words);
    disk_tell(a,
              json_pack("{s:s, s:I, s:I}", "file", a->words[0], "size_bytes", (json_int_t)size,
                        "was_bytes", (json_int_t)old),
              "%s has %s now; the guest's partitions and file systems are as they were",
              a->words[0], words);
    return OK;
}
