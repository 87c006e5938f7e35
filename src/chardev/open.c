// The kinds of byte streams: "stdio", "file:PATH", "shared", "none"; "pty" is in pty.c. open(2),
// proc(5).
#include "chardev/open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chardev/stream_impl.h"

#define FILE_PREFIX "file:"

static const char *file_path(const char *spec)
{
    size_t len = strlen(FILE_PREFIX);
    return strncmp(spec, FILE_PREFIX, len) == 0 && spec[len] ? spec + len : NULL;
}

err_t chardev_check(const char *spec, struct error *e)
{
    if (!spec || !*spec || !strcmp(spec, "none") || !strcmp(spec, "stdio") ||
        !strcmp(spec, "pty") || !strcmp(spec, "shared") || file_path(spec))
        return OK;
    return error_set(e, ERR_INVALID,
                     "there is no '%.80s'; give stdio, pty, shared, file:PATH or none", spec);
}

err_t chardev_open(const struct chardev_options *options, struct chardev **out, struct error *e)
{
    const char *spec = options->spec;
    err_t err = chardev_check(spec, e);
    if (err)
        return error_in(e, "%s", options->name);
    if (!spec || !*spec || !strcmp(spec, "none"))
        return none_open(out, e);
    if (!strcmp(spec, "stdio"))
        return stdio_open(options, out, e);
    if (!strcmp(spec, "pty"))
        return pty_open(options, out, e);
    if (!strcmp(spec, "shared"))
        return shared_open(options, out, e);
    return file_open(options, file_path(spec), out, e);
}

// A descriptor like fd that does not block. Terminals and pipes are shared with the shell and with
// other programs, and O_NONBLOCK belongs to the open file, so they are opened anew; where that is
// not allowed the flag is set on the shared one. Regular files never block, and keep their
// position.
static int unblocked(int fd, int mode)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    if (S_ISREG(st.st_mode))
        return fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) {
        char path[40];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        int anew = open(path, mode | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        if (anew >= 0)
            return anew;
    }
    int same = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (same >= 0)
        fcntl(same, F_SETFL, fcntl(same, F_GETFL) | O_NONBLOCK);
    return same;
}

// A closed standard input or output is nothing to read and nowhere to write, not an error.
err_t stdio_open(const struct chardev_options *options, struct chardev **out, struct error *e)
{
    struct stream *s;
    bool terminal = isatty(STDIN_FILENO);
    err_t err = stream_new(options, unblocked(STDIN_FILENO, O_RDONLY),
                           unblocked(STDOUT_FILENO, O_WRONLY), &s, e);
    if (err)
        return err;
    s->escape = terminal && options->leave;
    *out = &s->chr;
    return OK;
}

err_t file_open(const struct chardev_options *options, const char *path, struct chardev **out,
                struct error *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
    if (fd < 0)
        return error_set(e, err_from_errno(errno), "%s: cannot write '%s': %s", options->name, path,
                         strerror(errno));
    struct stream *s;
    err_t err = stream_new(options, -1, fd, &s, e);
    if (!err)
        *out = &s->chr;
    return err;
}

err_t shared_open(const struct chardev_options *options, struct chardev **out, struct error *e)
{
    if (!options->shared || *options->shared < 0)
        return error_set(e, ERR_INVALID, "%s: one console can be shared, and one is",
                         options->name);
    int in = *options->shared, same = fcntl(in, F_DUPFD_CLOEXEC, 3);
    *options->shared = -1;
    struct stream *s;
    err_t err = stream_new(options, in, same, &s, e);
    if (!err)
        *out = &s->chr;
    return err;
}

// --- none

static size_t none_write(struct chardev *chr, const uint8_t *data, size_t len)
{
    return len;
}

static void none_resume(struct chardev *chr)
{
}

static void none_close(struct chardev *chr)
{
    free(chr);
}

static const struct chardev_type none_type = {
    .name = "none", .write = none_write, .resume = none_resume, .close = none_close};

err_t none_open(struct chardev **out, struct error *e)
{
    struct chardev *chr = calloc(1, sizeof *chr);
    if (!chr)
        return error_set(e, ERR_NO_MEMORY, "no memory for a stream");
    chr->type = &none_type;
    *out = chr;
    return OK;
}
