// Disks whose writes go to a temporary qcow2 image over the real one: it has no name, so that it
// vanishes with the process that has it open, whatever becomes of that.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/chain.h"
#include "block/formats.h"
#include "block/qcow2.h"

static err_t make_nameless(int *fd, struct error *e)
{
    const char *folder = secure_getenv("TMPDIR");

    folder = folder && folder[0] ? folder : "/var/tmp";
    *fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*fd >= 0)
        return OK;
    return error_set(e, err_from_errno(errno),
                     "the temporary file for a disk's writes cannot be made in %s (%s); set TMPDIR "
                     "to another folder",
                     folder, strerror(errno));
}

static err_t open_nameless(uint64_t size, struct block **out, struct error *e)
{
    const struct qcow2_create create = {.size_bytes = size, .lazy_refcounts = true};
    const struct block_options options = {.transient = true};
    char path[40];
    int fd;
    err_t err = make_nameless(&fd, e);

    if (err != OK)
        return err;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    err = qcow2_create(path, &create, e);
    if (err == OK)
        err = qcow2_open(path, &options, NULL, out, e);
    close(fd);
    return err;
}

err_t overlay_open(const char *path, const struct block_options *options, struct block **out,
                   struct error *e)
{
    const struct block_options below = {
        .format = options->format, .read_only = true, .direct = options->direct};
    struct block *base;
    err_t err = chain_open(path, &below, NULL, &base, e);

    if (err != OK)
        return err;
    err = open_nameless(base->limits.size_bytes, out, e);
    if (err != OK) {
        block_close(base);
        return err;
    }
    qcow2_stand_on(qcow2_of(*out), base);
    block_set_name(*out, path);
    return OK;
}
