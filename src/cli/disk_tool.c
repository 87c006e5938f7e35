// What the verbs of berth disk share: sizes, progress, and files that appear when they are whole.
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/file.h"
#include "cli/cli.h"
#include "cli/disk.h"
#include "host/clock.h"

#define PROGRESS_NS 200000000

// --- sizes

err_t disk_size_parse(const char *text, uint64_t *bytes, struct error *e)
{
    static const char units[] = "KMGT";
    char *end;

    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (unit)
        end++;
    if (!isdigit((unsigned char)text[0]) || *end || errno || n > (uint64_t)INT64_MAX >> shift)
        return error_set(e, ERR_INVALID, "'%.40s' is no size; give for example 20G", text);
    *bytes = n << shift;
    return OK;
}

void disk_size_text(uint64_t bytes, char *out, size_t size)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double n = (double)bytes;
    unsigned unit = 0;

    for (; n >= 1024 && unit + 1 < ARRAY_LEN(units); unit++)
        n /= 1024;
    snprintf(out, size, n == (double)(uint64_t)n ? "%.0f %s" : "%.2f %s", n, units[unit]);
}

// --- results

void disk_tell(const struct disk_args *a, json_t *object, const char *fmt, ...)
{
    va_list ap;

    if (a->json) {
        print_json(object);
        return;
    }
    json_decref(object);
    if (a->quiet)
        return;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

// --- progress

static void ending_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

static void hold_signals(sigset_t *before)
{
    sigset_t set;

    ending_signals(&set);
    sigprocmask(SIG_BLOCK, &set, before);
}

void disk_progress_begin(struct disk_progress *p, const struct disk_args *a, const char *what)
{
    *p = (struct disk_progress){.what = what, .shown = !a->quiet && isatty(STDERR_FILENO)};
    hold_signals(&p->mask);
}

static void show(struct disk_progress *p, uint64_t done, uint64_t total)
{
    char all[32];
    unsigned percent = total ? (unsigned)(100.0 * (double)done / (double)total) : 100;
    static const char bar[] = "########################################";
    int width = (int)(percent * (sizeof bar - 1) / 100);

    disk_size_text(total, all, sizeof all);
    fprintf(stderr, "\r%s [%-*.*s] %3u %% of %s ", p->what, (int)sizeof bar - 1, width, bar,
            percent, all);
}

bool disk_progress_step(void *opaque, uint64_t done, uint64_t total)
{
    struct disk_progress *p = opaque;
    uint64_t now = host_now();
    sigset_t set;

    if (now - p->last_ns < PROGRESS_NS && done != total)
        return !p->interrupted;
    p->last_ns = now;
    if (p->shown)
        show(p, done, total);
    ending_signals(&set);
    p->interrupted |= sigtimedwait(&set, NULL, &(struct timespec){0}) > 0;
    return !p->interrupted;
}

void disk_progress_end(struct disk_progress *p)
{
    if (p->shown && p->last_ns)
        fputc('\n', stderr);
    sigprocmask(SIG_SETMASK, &p->mask, NULL);
}

// --- new files

// Nobody may have open what is to be replaced.
static err_t check_unused(const char *path, struct error *e)
{
    struct bfile *file;
    err_t err = bfile_open(path, &(struct bfile_options){.grows = true}, &file, e);

    if (err == OK)
        bfile_close(file);
    return err;
}

err_t disk_new_begin(struct disk_new *n, const char *path, bool replace, struct error *e)
{
    struct stat st;
    mode_t mask = umask(0);

    umask(mask);
    n->path = path;
    n->replace = lstat(path, &st) == 0;
    if (n->replace && !replace)
        return error_set(e, ERR_EXISTS, "'%s' is there already; remove it, or say --force", path);
    if (n->replace && !S_ISREG(st.st_mode))
        return error_set(e, ERR_INVALID, "'%s' is not a file that could be replaced", path);
    if (n->replace && check_unused(path, e) != OK)
        return e->code;
    if (snprintf(n->temp, sizeof n->temp, "%s.XXXXXX", path) >= (int)sizeof n->temp)
        return error_set(e, ERR_INVALID, "the name of the new file is too long");
    hold_signals(&n->mask);
    int fd = mkstemp(n->temp);
    if (fd < 0) {
        sigprocmask(SIG_SETMASK, &n->mask, NULL);
        return error_set(e, err_from_errno(errno), "cannot make '%s': %s", path, strerror(errno));
    }
    if (fchmod(fd, 0666 & ~mask) < 0)
        fchmod(fd, 0600);
    close(fd);
    return OK;
}

err_t disk_new_end(struct disk_new *n, err_t err, struct error *e)
{
    if (err == OK &&
        renameat2(AT_FDCWD, n->temp, AT_FDCWD, n->path, n->replace ? 0 : RENAME_NOREPLACE) < 0 &&
        (errno != EINVAL || rename(n->temp, n->path) < 0))
        err = error_set(e, err_from_errno(errno), "cannot make '%s': %s", n->path, strerror(errno));
    if (err != OK)
        unlink(n->temp);
    sigprocmask(SIG_SETMASK, &n->mask, NULL);
    return err;
}

// --- formats

// Fixed disks of Virtual PC have their mark at the end only.
static bool ends_as_vhd(int fd)
{
    uint8_t tail[512];
    off_t end = lseek(fd, 0, SEEK_END);

    return end >= 1024 && pread(fd, tail, sizeof tail, end - 512) == (ssize_t)sizeof tail &&
           !memcmp(tail, "conectix", 8);
}

err_t disk_guess(const char *path, const char **format, struct error *e)
{
    uint8_t head[BLOCK_GUESS_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return error_set(e, err_from_errno(errno), "%s: %s", path, strerror(errno));
    ssize_t len = pread(fd, head, sizeof head, 0);
    *format = len < 0 ? NULL : block_guess(head, (size_t)len);
    if (!*format)
        *format = ends_as_vhd(fd) ? "vhd" : "raw";
    int reason = errno;
    close(fd);
    return len < 0 ? error_set(e, ERR_IO, "%s: cannot be read: %s", path, strerror(reason)) : OK;
}

// --- images

err_t disk_open_to_read(const struct disk_args *a, const char *path, const char *format,
                        struct block **out, struct error *e)
{
    const struct block_options options = {.format = format, .read_only = true};
    err_t err = block_open(path, &options, out, e);

    if (err != OK || !a->snapshot)
        return err;
    struct qcow2 *q = qcow2_of(*out);
    err = q ? qcow2_snapshot_show(q, a->snapshot, e)
            : error_set(e, ERR_INVALID, "%s: only qcow2 images have snapshots", path);
    if (err != OK)
        block_close(*out);
    return err;
}
