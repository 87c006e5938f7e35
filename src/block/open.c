// Opens disk images of any format. A format that is not given is guessed from the file's first
// bytes.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/formats.h"

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

err_t block_open(const char *path, const struct block_options *options, struct block **out,
                 struct error *e)
{
    const char *format = options->format;
    err_t err = format ? OK : guess(path, &format, e);

    if (err != OK)
        return err;
    if (options->snapshot)
        return error_set(e, ERR_UNSUPPORTED, "%s: a disk with snapshot is not supported", path);
    if (!format || !strcmp(format, "raw"))
        return raw_open(path, options, !format, out, e);
    return error_set(e, ERR_UNSUPPORTED,
                     "%s: a disk in %s format; convert it: berth disk convert %s DISK.qcow2", path,
                     format, path);
}
