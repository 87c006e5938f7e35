// Overlays and layers. link(2), rename(2). Every step leaves rows and files such that a killed
// manager's successor can go on: a layer's row is there before its folder, and a disk that is still
// the same file as its layer has not been replaced yet.
#include "manager/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/qcow2.h"
#include "host/random.h"

#define LAYER_DISK "disk.qcow2"

void disk_name(unsigned number, char name[24])
{
    snprintf(name, 24, "disk%u.qcow2", number);
}

static err_t failed(const char *what, const char *path, struct error *e)
{
    return error_set(e, err_from_errno(errno), "cannot %s '%s': %s", what, path, strerror(errno));
}

static void path_below(const struct manager *manager, const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", manager->state, name);
}

static const char *format_of(const char *base)
{
    const char *dot = strrchr(base, '.');
    return dot ? dot + 1 : "raw";
}

// --- one disk

static err_t size_of(const char *path, const char *format, uint64_t *size, struct error *e)
{
    struct block *block;
    const struct block_options options = {
        .format = format, .read_only = true, .threads = true, .no_backing = true};
    err_t err = block_open(path, &options, &block, e);
    if (err)
        return err;
    *size = block->limits.size_bytes;
    block_close(block);
    return OK;
}

// Images and layers lie two folders below the state's, as disks do, so that all of it can be moved.
static err_t make_overlay(const struct manager *manager, const char *path, const char *base,
                          struct error *e)
{
    char base_path[PATH_MAX], backing[DISK_BASE_MAX + 8];
    struct qcow2_create create = {.backing = backing, .backing_format = format_of(base)};
    path_below(manager, base, base_path);
    snprintf(backing, sizeof backing, "../../%s", base);
    err_t err = size_of(base_path, create.backing_format, &create.size_bytes, e);
    if (err)
        return err;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return failed("make", path, e);
    close(fd);
    err = qcow2_create(path, &create, e);
    if (err)
        unlink(path);
    return err;
}

static err_t note_disk(const struct managed *m, unsigned number, const char *base, struct error *e)
{
    return db_run(m->manager->db, e, "INSERT INTO disk (vm, number, base) VALUES (?, ?, ?)", "sis",
                  m->id, (int64_t)number, base);
}

err_t disk_make(const struct managed *m, unsigned number, const char *base, struct error *e)
{
    char name[24], path[PATH_MAX];
    disk_name(number, name);
    managed_path(m, name, path);
    err_t err = note_disk(m, number, base, e);
    return err ? err : make_overlay(m->manager, path, base, e);
}

// --- layers

struct disk_row {
    char vm[MANAGED_ID + 1], base[DISK_BASE_MAX];
    unsigned number;
};

struct disk_rows {
    struct disk_row *row;
    size_t count;
};

static void collect(void *opaque, sqlite3_stmt *row)
{
    struct disk_rows *rows = opaque;
    void *more = reallocarray(rows->row, rows->count + 1, sizeof *rows->row);
    if (!more)
        return;
    rows->row = more;
    struct disk_row *new = &rows->row[rows->count++];
    snprintf(new->vm, sizeof new->vm, "%s", db_text(row, 0));
    new->number = (unsigned)sqlite3_column_int(row, 1);
    snprintf(new->base, sizeof new->base, "%s", db_text(row, 2));
}

static void paths_of(const struct manager *manager, const struct disk_row *row, char disk[PATH_MAX],
                     char made[PATH_MAX])
{
    snprintf(disk, PATH_MAX, "%s/vms/%s/disk%u.qcow2", manager->state, row->vm, row->number);
    snprintf(made, PATH_MAX, "%s/vms/%s/disk%u.new", manager->state, row->vm, row->number);
}

// Puts an empty overlay of the layer in the place of the disk that the layer is made of.
static err_t replace(const struct manager *manager, const struct disk_row *row, struct error *e)
{
    char disk[PATH_MAX], made[PATH_MAX];
    paths_of(manager, row, disk, made);
    unlink(made);
    err_t err = make_overlay(manager, made, row->base, e);
    if (!err && rename(made, disk) < 0)
        err = failed("replace", disk, e);
    return err;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat sa, sb;
    return !stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static err_t link_layer(const struct manager *manager, const char *disk, const char *id,
                        struct error *e)
{
    char folder[PATH_MAX], path[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/layers/%s", manager->state, id);
    snprintf(path, sizeof path, "%s/layers/%s/" LAYER_DISK, manager->state, id);
    if (mkdir(folder, 0700) < 0 || link(disk, path) < 0)
        return failed("make", path, e);
    return OK;
}

// Makes the disk a layer: row->base is that afterwards.
static err_t freeze(struct manager *manager, struct disk_row *row, struct error *e)
{
    uint8_t random[8];
    char id[17], base[DISK_BASE_MAX], disk[PATH_MAX], made[PATH_MAX];
    host_random(random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
    snprintf(base, sizeof base, "layers/%s/" LAYER_DISK, id);
    paths_of(manager, row, disk, made);
    err_t err =
        db_run(manager->db, e, "INSERT INTO layer (id, base) VALUES (?, ?)", "ss", id, row->base);
    if (!err)
        err = link_layer(manager, disk, id, e);
    if (!err)
        err = db_run(manager->db, e, "UPDATE disk SET base = ? WHERE vm = ? AND number = ?", "ssi",
                     base, row->vm, (int64_t)row->number);
    if (err)
        return err;
    snprintf(row->base, sizeof row->base, "%s", base);
    return replace(manager, row, e);
}

// Whether nothing was written to the disk since it was made.
static err_t is_empty(const char *path, bool *empty, struct error *e)
{
    struct block *block;
    struct block_extent extent;
    const struct block_options options = {
        .format = "qcow2", .read_only = true, .threads = true, .no_backing = true};
    err_t err = block_open(path, &options, &block, e);
    if (err)
        return err;
    *empty = true;
    for (uint64_t at = 0, size = block->limits.size_bytes; !err && *empty && at < size;
         at += extent.len) {
        err = block->type->map(block, at, size - at, &extent, e);
        *empty = !err && !extent.allocated;
    }
    block_close(block);
    return err;
}

static err_t clone_one(const struct managed *to, struct disk_row *row, struct error *e)
{
    char disk[PATH_MAX], made[PATH_MAX];
    bool empty = false;
    paths_of(to->manager, row, disk, made);
    err_t err = is_empty(disk, &empty, e);
    if (!err && !empty)
        err = freeze(to->manager, row, e);
    return err ? err : disk_make(to, row->number, row->base, e);
}

err_t disks_clone(const struct managed *from, const struct managed *to, struct error *e)
{
    struct disk_rows rows = {0};
    err_t err = db_each(from->manager->db, e, collect, &rows,
                        "SELECT vm, number, base FROM disk WHERE vm = ?", "s", from->id);
    for (size_t i = 0; !err && i < rows.count; i++)
        err = clone_one(to, &rows.row[i], e);
    free(rows.row);
    return err;
}

// --- clearing away

static void collect_base(void *opaque, sqlite3_stmt *row)
{
    snprintf(opaque, DISK_BASE_MAX, "%s", db_text(row, 0));
}

// One after the other: when a layer goes, the one below it may have no other use.
err_t layers_clear(struct manager *manager, struct error *e)
{
    for (;;) {
        char id[DISK_BASE_MAX] = "", path[PATH_MAX];
        err_t err = db_each(manager->db, e, collect_base, id,
                            "SELECT id FROM layer WHERE "
                            "'layers/' || id || '/" LAYER_DISK "' NOT IN "
                            "(SELECT base FROM disk UNION SELECT base FROM layer) LIMIT 1",
                            "");
        if (err || !id[0])
            return err;
        snprintf(path, sizeof path, "%s/layers/%s/" LAYER_DISK, manager->state, id);
        unlink(path);
        *strrchr(path, '/') = '\0';
        if (rmdir(path) < 0 && errno != ENOENT)
            return failed("remove", path, e);
        err = db_run(manager->db, e, "DELETE FROM layer WHERE id = ?", "s", id);
        if (err)
            return err;
    }
}

err_t disks_reconcile(struct manager *manager, struct error *e)
{
    struct disk_rows rows = {0};
    err_t err = db_each(manager->db, e, collect, &rows,
                        "SELECT vm, number, base FROM disk WHERE base LIKE 'layers/%'", "");
    for (size_t i = 0; !err && i < rows.count; i++) {
        char disk[PATH_MAX], made[PATH_MAX], base[PATH_MAX];
        paths_of(manager, &rows.row[i], disk, made);
        path_below(manager, rows.row[i].base, base);
        if (is_same_file(disk, base))
            err = replace(manager, &rows.row[i], e);
    }
    free(rows.row);
    return err ? err : layers_clear(manager, e);
}
