// berth image import, ls and rm: disk images by name, kept by the manager. The file is copied and
// its SHA-256 computed here, where a person sees how far it has come; the manager takes it over
// when it is whole. An image that stands on another file is made one that stands alone.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/copy.h"
#include "block/formats.h"
#include "cli/cli.h"
#include "cli/disk.h"
#include "cli/manager.h"
#include "cli/vms.h"
#include "host/dirs.h"
#include "host/file.h"
#include "machine/config.h"

#define ANSWER_MS 30000
#define STEP (1 * MIB)

// --- import

struct import {
    const char *path, *name;
    char made_name[REGISTRY_NAME_MAX + 1];
    char file[64], made[PATH_MAX]; // in the manager's folder
    char hash[2 * SHA256_DIGEST_SIZE + 1];
    int fd; // holds a lock, so that the manager does not take it for a killed import's
    struct disk_args args;
};

static err_t failed(const char *what, const char *path, struct error *e)
{
    return error_set(e, err_from_errno(errno), "cannot %s '%s': %s", what, path, strerror(errno));
}

// "/srv/Debian 12.qcow2" to "Debian-12".
static void name_after(struct import *i)
{
    const char *slash = strrchr(i->path, '/');
    snprintf(i->made_name, sizeof i->made_name, "%s", slash ? slash + 1 : i->path);
    char *dot = strrchr(i->made_name, '.');
    if (dot && dot != i->made_name)
        *dot = '\0';
    for (char *p = i->made_name; *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", *p))
            *p = '-';
    i->name = i->made_name;
}

static err_t open_new(struct import *i, struct error *e)
{
    char folder[PATH_MAX - 128];
    err_t err = host_data_path(folder, sizeof folder, e);
    if (err)
        return err;
    snprintf(i->file, sizeof i->file, ".new-%d", (int)getpid());
    snprintf(i->made, sizeof i->made, "%s/images/%s", folder, i->file);
    i->fd = open(i->made, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (i->fd < 0 || flock(i->fd, LOCK_EX) < 0)
        return failed("make", i->made, e);
    return OK;
}

static bool is_zero(const uint8_t *data, size_t len)
{
    return len && !data[0] && !memcmp(data, data + 1, len - 1);
}

// Copies what is not zero, and takes the sum of all.
static err_t copy_file(struct import *i, int from, uint64_t size, struct error *e)
{
    struct sha256_ctx sum;
    struct disk_progress progress;
    uint8_t *data = malloc(STEP);
    uint64_t at = 0;
    ssize_t n = 1;
    err_t err = data ? OK : ERR_NO_MEMORY;
    sha256_init(&sum);
    disk_progress_begin(&progress, &i->args, "importing");
    while (!err && (n = read(from, data, STEP)) > 0) {
        sha256_update(&sum, (size_t)n, data);
        if (!is_zero(data, (size_t)n) && pwrite(i->fd, data, (size_t)n, (off_t)at) != n)
            err = failed("write", i->made, e);
        at += (uint64_t)n;
        if (!err && !disk_progress_step(&progress, at, size))
            err = error_set(e, ERR_BUSY, "interrupted; nothing was imported");
    }
    disk_progress_end(&progress);
    free(data);
    if (!err && n < 0)
        err = failed("read", i->path, e);
    if (!err && (ftruncate(i->fd, (off_t)at) < 0 || fsync(i->fd) < 0))
        err = failed("write", i->made, e);
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&sum, sizeof digest, digest);
    for (size_t k = 0; k < sizeof digest; k++)
        snprintf(i->hash + 2 * k, 3, "%02x", digest[k]);
    return err;
}

static err_t copy_whole(struct import *i, const char *path, struct error *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || S_ISDIR(st.st_mode)) {
        err_t err =
            fd < 0 ? failed("read", path, e) : error_set(e, ERR_INVALID, "'%s' is no image", path);
        if (fd >= 0)
            close(fd);
        return err;
    }
    err_t err = copy_file(i, fd, (uint64_t)st.st_size, e);
    close(fd);
    return err;
}

// Whether the image stands on another file.
static err_t stands_on_another(struct import *i, bool *stands, struct error *e)
{
    struct block *block;
    const struct block_options options = {.read_only = true, .no_backing = true};
    struct qcow2_info info = {.backing = ""};
    err_t err = block_open(i->path, &options, &block, e);
    if (err)
        return err;
    if (qcow2_of(block))
        qcow2_get_info(qcow2_of(block), &info);
    *stands = info.backing && info.backing[0];
    block_close(block);
    return OK;
}

// As one image, beside the copy that is then made of it.
static err_t flatten(struct import *i, char path[PATH_MAX], struct error *e)
{
    char size[32];
    struct block *from = NULL;
    snprintf(path, PATH_MAX, "%.4000s.whole", i->made);
    const struct block_options options = {.read_only = true};
    err_t err = block_open(i->path, &options, &from, e);
    if (err)
        return err;
    snprintf(size, sizeof size, "%llu", (unsigned long long)from->limits.size_bytes);
    block_close(from);
    struct disk_args convert = {.words = {i->path, path}, .count = 2, .to = "qcow2", .quiet = true};
    return disk_convert(&convert, e);
}

static err_t copy(struct import *i, struct error *e)
{
    char whole[PATH_MAX];
    bool stands = false;
    err_t err = stands_on_another(i, &stands, e);
    if (!err && !stands)
        return copy_whole(i, i->path, e);
    if (!err)
        err = flatten(i, whole, e);
    if (!err)
        err = copy_whole(i, whole, e);
    if (stands)
        unlink(whole);
    return err;
}

static err_t import(struct import *i, struct error *e)
{
    json_t *result = NULL;
    i->fd = -1;
    if (!i->name)
        name_after(i);
    if (!vm_name_valid(i->name))
        return error_set(e, ERR_INVALID, "'%.64s' is no name of an image; " VM_NAME_RULE, i->name);
    err_t err = manager_request(MANAGER_NEEDED, "ping", NULL, ANSWER_MS, &result, e);
    json_decref(result);
    if (!err)
        err = open_new(i, e);
    if (!err)
        err = copy(i, e);
    if (!err)
        err = manager_request(
            MANAGER_NEEDED, "image-import",
            json_pack("{s:s, s:s, s:s}", "name", i->name, "file", i->file, "hash", i->hash),
            ANSWER_MS, &result, e);
    if (!err)
        json_decref(result);
    else if (i->fd >= 0)
        unlink(i->made);
    if (i->fd >= 0)
        close(i->fd);
    return err;
}

int image_import(int argc, char **argv)
{
    struct vms_words w;
    struct error e = {0};
    if (!vms_parse(argc, argv, "", &w))
        return EXIT_USAGE;
    if (w.count < 1 || w.count > 2)
        return complain(EXIT_USAGE, "import needs a file, and may have a name for it");
    struct import i = {
        .path = w.names[0], .name = w.count > 1 ? w.names[1] : NULL, .args = {.json = w.json}};
    err_t err = import(&i, &e);
    if (err)
        return complain(status_of(err), "%s", e.text);
    if (w.json)
        return print_json(json_pack("{s:s, s:s}", "name", i.name, "hash", i.hash));
    printf("%s is the image %.12s\n", i.name, i.hash);
    return EXIT_OK;
}

// --- ls, rm

static void show(const json_t *images)
{
    size_t i;
    const json_t *image;
    printf("%-24s %-12s  %-6s %10s %10s %6s\n", "NAME", "HASH", "FORMAT", "SIZE", "ON DISK",
           "DISKS");
    json_array_foreach(images, i, image)
    {
        char size[32], file[32];
        disk_size_text((uint64_t)json_integer_value(json_object_get(image, "size_bytes")), size,
                       sizeof size);
        disk_size_text((uint64_t)json_integer_value(json_object_get(image, "file_bytes")), file,
                       sizeof file);
        printf("%-24s %.12s  %-6s %10s %10s %6lld\n",
               json_string_value(json_object_get(image, "name")),
               json_string_value(json_object_get(image, "hash")),
               json_string_value(json_object_get(image, "format")), size, file,
               (long long)json_integer_value(json_object_get(image, "disks")));
    }
}

int image_ls(int argc, char **argv)
{
    struct vms_words w;
    json_t *result = NULL;
    if (!vms_parse(argc, argv, "", &w) || w.count)
        return w.count ? complain(EXIT_USAGE, "image ls takes no names") : EXIT_USAGE;
    int status = manager_ask("image-ls", NULL, ANSWER_MS, &result);
    if (status)
        return status;
    json_t *images = json_incref(json_object_get(result, "images"));
    json_decref(result);
    if (w.json)
        return print_json(images);
    if (json_array_size(images))
        show(images);
    else
        puts("there is no image; berth image import FILE takes one");
    json_decref(images);
    return EXIT_OK;
}

static bool may_remove(const struct vms_words *w, const char *name)
{
    char line[16] = "";
    if (w->force)
        return true;
    printf("remove the image %s? [y/N] ", name);
    fflush(stdout);
    return fgets(line, sizeof line, stdin) && (line[0] == 'y' || line[0] == 'Y');
}

int image_rm(int argc, char **argv)
{
    struct vms_words w;
    int status = EXIT_OK;
    if (!vms_parse(argc, argv, "f", &w))
        return EXIT_USAGE;
    if (!w.count)
        return complain(EXIT_USAGE,
                        "image rm needs the names of images; berth image ls shows them");
    if (!w.force && !isatty(STDIN_FILENO))
        return complain(EXIT_USAGE, "rm asks, and nobody is there to answer; give --force");
    for (int i = 0; i < w.count; i++) {
        json_t *result = NULL;
        if (!may_remove(&w, w.names[i]))
            continue;
        int failed =
            manager_ask("image-rm", json_pack("{s:s}", "image", w.names[i]), ANSWER_MS, &result);
        json_decref(result);
        if (failed)
            status = failed;
        else if (!w.json)
            printf("%s is removed\n", w.names[i]);
    }
    return w.json && !status ? print_json(json_object()) : status;
}
