// Images by name: the file is called after its content, so that one content is kept once. The
// manager moves a file that its client has put beside the images into its place, and looks at
// nothing in it but its size and that it names no other file.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/qcow2.h"
#include "machine/config.h"
#include "manager/disks.h"

#define HASH_DIGITS 64
#define NEW_PREFIX ".new-"

struct image {
    char base[DISK_BASE_MAX];
    bool found;
};

static void read_image(void *opaque, sqlite3_stmt *row)
{
    struct image *image = opaque;
    snprintf(image->base, sizeof image->base, "images/%.64s.%.8s", db_text(row, 0),
             db_text(row, 1));
    image->found = true;
}

err_t image_find(struct manager *manager, const char *name, char base[DISK_BASE_MAX],
                 struct error *e)
{
    struct image image = {0};
    err_t err = db_each(manager->db, e, read_image, &image,
                        "SELECT hash, format FROM image WHERE name = ?", "s", name);
    if (err)
        return err;
    if (!image.found)
        return error_set(e, ERR_NOT_FOUND,
                         "there is no image '%.64s'; berth image ls shows them, berth image import "
                         "takes a file",
                         name);
    if (base)
        snprintf(base, DISK_BASE_MAX, "%s", image.base);
    return OK;
}

struct listing {
    const struct manager *manager;
    json_t *list;
};

static void add_image(void *opaque, sqlite3_stmt *row)
{
    struct listing *listing = opaque;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/images/%s.%s", listing->manager->state, db_text(row, 1),
             db_text(row, 2));
    json_array_append_new(listing->list,
                          json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:s}", "name",
                                    db_text(row, 0), "hash", db_text(row, 1), "format",
                                    db_text(row, 2), "size_bytes",
                                    (json_int_t)sqlite3_column_int64(row, 3), "file_bytes",
                                    (json_int_t)sqlite3_column_int64(row, 4), "created",
                                    (json_int_t)sqlite3_column_int64(row, 5), "disks",
                                    sqlite3_column_int(row, 6), "path", path));
}

err_t image_list(struct manager *manager, json_t **list, struct error *e)
{
    struct listing listing = {manager, json_array()};
    *list = listing.list;
    return db_each(manager->db, e, add_image, &listing,
                   "SELECT name, hash, format, size_bytes, file_bytes, created, "
                   "(SELECT count(*) FROM (SELECT base FROM disk UNION ALL SELECT base FROM layer) "
                   "WHERE base = 'images/' || hash || '.' || format) "
                   "FROM image ORDER BY name",
                   "");
}

// --- import

static bool is_hash(const char *text)
{
    return strlen(text) == HASH_DIGITS && strspn(text, "0123456789abcdef") == HASH_DIGITS;
}

static bool is_new_file(const char *file)
{
    return !strncmp(file, NEW_PREFIX, strlen(NEW_PREFIX)) && strlen(file) < 64 &&
           vm_name_valid(file + strlen(NEW_PREFIX));
}

struct content {
    char format[8];
    uint64_t size_bytes, file_bytes;
};

static err_t look(const char *path, struct content *out, struct error *e)
{
    struct stat st;
    struct block *block;
    const struct block_options options = {.read_only = true, .threads = true, .no_backing = true};
    if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return error_set(e, ERR_NOT_FOUND, "there is no file '%s'", path);
    err_t err = block_open(path, &options, &block, e);
    if (err)
        return err;
    struct qcow2_info info = {.backing = ""};
    if (qcow2_of(block))
        qcow2_get_info(qcow2_of(block), &info);
    if (info.backing && info.backing[0])
        err = error_set(e, ERR_INVALID,
                        "the image stands on another file; make one that stands alone with berth "
                        "disk convert");
    snprintf(out->format, sizeof out->format, "%s", block->type->name);
    out->size_bytes = block->limits.size_bytes;
    out->file_bytes = (uint64_t)st.st_blocks * 512;
    block_close(block);
    return err;
}

err_t image_import(struct manager *manager, const char *name, const char *file, const char *hash,
                   struct error *e)
{
    char from[PATH_MAX], to[PATH_MAX];
    struct content content;
    if (!vm_name_valid(name))
        return error_set(e, ERR_INVALID, "'%.64s' is no name of an image; " VM_NAME_RULE, name);
    if (!is_new_file(file) || !is_hash(hash))
        return error_set(e, ERR_INVALID, "file and hash: berth image import gives them");
    if (!image_find(manager, name, NULL, NULL))
        return error_set(e, ERR_EXISTS,
                         "there is an image '%s' already; give another name, or berth image rm %s",
                         name, name);
    snprintf(from, sizeof from, "%s/images/%s", manager->state, file);
    err_t err = look(from, &content, e);
    if (err)
        return err;
    snprintf(to, sizeof to, "%s/images/%s.%s", manager->state, hash, content.format);
    if (chmod(from, 0400) < 0 || rename(from, to) < 0)
        return error_set(e, err_from_errno(errno), "cannot keep '%s': %s", to, strerror(errno));
    return db_run(manager->db, e,
                  "INSERT INTO image (name, hash, format, size_bytes, file_bytes, created) "
                  "VALUES (?, ?, ?, ?, ?, ?)",
                  "sssiii", name, hash, content.format, (int64_t)content.size_bytes,
                  (int64_t)content.file_bytes, wall_ms());
}

// --- removal

static void add_user(void *opaque, sqlite3_stmt *row)
{
    char *users = opaque;
    size_t used = strlen(users);
    snprintf(users + used, 120 - used, "%s%s", used ? ", " : "", db_text(row, 0));
}

// Whoever stands on it, by way of layers or not.
static err_t find_users(struct manager *manager, const char *base, char users[120], struct error *e)
{
    users[0] = '\0';
    return db_each(manager->db, e, add_user, users,
                   "WITH RECURSIVE above (base) AS (SELECT ?1 UNION SELECT 'layers/' || id || "
                   "'/disk.qcow2' FROM layer JOIN above ON layer.base = above.base) "
                   "SELECT DISTINCT vm.name FROM disk JOIN above ON disk.base = above.base "
                   "JOIN vm ON vm.id = disk.vm ORDER BY vm.name",
                   "s", base);
}

static void count_row(void *opaque, sqlite3_stmt *row)
{
    *(int *)opaque = sqlite3_column_int(row, 0);
}

err_t image_remove(struct manager *manager, const char *name, struct error *e)
{
    char base[DISK_BASE_MAX], users[120], path[PATH_MAX];
    int others = 0;
    err_t err = image_find(manager, name, base, e);
    if (!err)
        err = db_each(manager->db, e, count_row, &others,
                      "SELECT count(*) FROM image AS other JOIN image AS this ON other.hash = "
                      "this.hash AND other.format = this.format WHERE this.name = ?1 AND "
                      "other.name <> ?1",
                      "s", name);
    if (!err && !others)
        err = find_users(manager, base, users, e);
    if (!err && !others && users[0])
        err = error_set(e, ERR_BUSY, "VMs stand on the image '%s'; remove them first: %s", name,
                        users);
    if (!err)
        err = db_run(manager->db, e, "DELETE FROM image WHERE name = ?", "s", name);
    if (err || others)
        return err;
    snprintf(path, sizeof path, "%s/%s", manager->state, base);
    unlink(path);
    return OK;
}

// --- after killed imports

// Whoever imports holds a lock on what it writes.
static bool is_left(const char *path, const char *file)
{
    if (strncmp(file, NEW_PREFIX, strlen(NEW_PREFIX)) != 0)
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool left = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (fd >= 0)
        close(fd);
    return left;
}

static err_t is_unknown(struct manager *manager, const char *file, bool *unknown, struct error *e)
{
    int rows = 0;
    err_t err = db_each(manager->db, e, count_row, &rows,
                        "SELECT count(*) FROM image WHERE hash || '.' || format = ?", "s", file);
    *unknown = !rows && strlen(file) > HASH_DIGITS && file[HASH_DIGITS] == '.' &&
               strspn(file, "0123456789abcdef") == HASH_DIGITS;
    return err;
}

err_t images_reconcile(struct manager *manager, struct error *e)
{
    char folder[PATH_MAX], path[PATH_MAX + 256];
    snprintf(folder, sizeof folder, "%s/images", manager->state);
    DIR *all = opendir(folder);
    err_t err = OK;
    for (struct dirent *entry; all && !err && (entry = readdir(all));) {
        bool unknown = false;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        err = is_unknown(manager, entry->d_name, &unknown, e);
        if (!err && (unknown || is_left(path, entry->d_name)))
            unlink(path);
    }
    if (all)
        closedir(all);
    return err;
}
