// Opens disk images of any format. A format that is not given is guessed from the file's first
// bytes.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/chain.h"
#include "block/formats.h"
#include "block/qcow2.h"

// Formats that are known by name only are refused rather than taken for raw disks.
static const struct magic {
    const char *format;
    unsigned at, len;
    const char *bytes;
} magics[] = {
    {"qcow2", 0, 4, "QFI\xfb"},
    {"vmdk", 0, 4, "KDMV"},
    {"vmdk", 0, 4, "COWD"},
    {"vmdk", 0, 21, "# Disk DescriptorFile"},
    {"vhdx", 0, 8, "vhdxfile"},
    {"vhd", 0, 8, "conectix"},
    {"vdi", 0x40, 4, "\x7f\x10\xda\xbe"},
    {"qed", 0, 4, "QED\0"},
};

const char *block_guess(const uint8_t *head, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
        const struct magic *m = &magics[i];
        if (len >= m->at + m->len && !memcmp(head + m->at, m->bytes, m->len))
            return m->format;
    }
    return NULL;
}

void block_set_name(struct block *block, const char *path)
{
    size_t len = strlen(path);

    if (len >= sizeof block->name)
        path += len - (sizeof block->name - 1);
    memcpy(block->name, path, min_u64(len, sizeof block->name - 1));
}

static err_t guess(const char *path, const char **format, struct error *e)
{
    uint8_t head[BLOCK_GUESS_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return error_set(e, err_from_errno(errno), "%s: %s", path, strerror(errno));
    ssize_t len = pread(fd, head, sizeof head, 0);
    int reason = errno;
    close(fd);
    if (len < 0 && reason == EISDIR)
        return error_set(e, ERR_INVALID, "%s: not a file or a block device", path);
    if (len < 0)
        return error_set(e, ERR_IO, "%s: cannot be read: %s", path, strerror(reason));
    *format = block_guess(head, (size_t)len);
    return OK;
}

// Each image of a chain once, and not too many.
static err_t check_chain(const char *path, const struct block_chain *above, const struct stat *st,
                         struct error *e)
{
    if (above && above->depth >= CHAIN_DEPTH_MAX)
        return error_set(e, ERR_CORRUPT, "%s: more than %d backing files below each other", path,
                         CHAIN_DEPTH_MAX);
    for (; above; above = above->above) {
        if (above->device == st->st_dev && above->inode == st->st_ino)
            return error_set(e, ERR_CORRUPT, "%s: is its own backing file, in a circle", path);
    }
    return OK;
}

err_t chain_open(const char *path, const struct block_options *options,
                 const struct block_chain *above, struct block **out, struct error *e)
{
    const char *format = options->format;
    struct stat st;

    if (stat(path, &st) < 0)
        return error_set(e, err_from_errno(errno), "%s: %s", path, strerror(errno));
    err_t err = check_chain(path, above, &st, e);
    if (err == OK && !format)
        err = guess(path, &format, e);
    if (err != OK)
        return err;
    struct block_chain here = {st.st_dev, st.st_ino, above ? above->depth + 1 : 1, above};
    if (!format || !strcmp(format, "raw"))
        return raw_open(path, options, !format, out, e);
    if (!strcmp(format, "qcow2"))
        return qcow2_open(path, options, &here, out, e);
    return error_set(e, ERR_UNSUPPORTED,
                     "%s: a disk in %s format; convert it: berth disk convert %s DISK.qcow2", path,
                     format, path);
}

err_t block_open(const char *path, const struct block_options *options, struct block **out,
                 struct error *e)
{
    return options->snapshot ? overlay_open(path, options, out, e)
                             : chain_open(path, options, NULL, out, e);
}

err_t chain_path(const char *image, const char *name, char **path, struct error *e)
{
    const char *slash = strrchr(image, '/'), *colon = strchr(name, ':');

    *path = NULL;
    if (!strncmp(name, "file:", 5))
        name += 5;
    else if (colon && !memchr(name, '/', (size_t)(colon - name)))
        return error_set(e, ERR_UNSUPPORTED, "%s: its backing file '%s' is not a plain file", image,
                         name);
    int dir = name[0] == '/' || !slash ? 0 : (int)(slash - image) + 1;
    if (asprintf(path, "%.*s%s", dir, image, name) < 0)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", image);
    return OK;
}

err_t chain_open_below(const char *image, const char *name, const char *format,
                       const struct block_options *options, const struct block_chain *above,
                       struct block **out, struct error *e)
{
    struct block_options below = {.format = format,
                                  .read_only = true,
                                  .direct = options->direct,
                                  .threads = options->threads};
    char *path;
    err_t err = chain_path(image, name, &path, e);

    if (err == OK && (err = chain_open(path, &below, above, out, e)) != OK)
        err = error_in(e, "%s: its backing file", image);
    free(path);
    return err;
}
