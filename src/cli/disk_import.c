// Other programs' image formats, by qemu-img: it knows them all, and reading them is not what Berth
// is for. It runs as a program of its own, so that its faults are not ours.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "cli/disk.h"

static const struct foreign {
    const char *format, *qemus; // qemu-img's name for it
} foreigns[] = {
    {"vmdk", "vmdk"},
    {"vdi", "vdi"},
    {"vhd", "vpc"},
    {"vpc", "vpc"},
    {"vhdx", "vhdx"},
    {"qed", "qed"},
    {"parallels", "parallels"},
};

static const struct foreign *find(const char *format)
{
    for (size_t i = 0; i < ARRAY_LEN(foreigns); i++) {
        if (!strcmp(format, foreigns[i].format))
            return &foreigns[i];
    }
    return NULL;
}

bool disk_is_foreign(const char *format)
{
    return find(format) != NULL;
}

static const char *qemus_name(const char *format)
{
    const struct foreign *f = find(format);

    return f ? f->qemus : format;
}

static void add(char *out, size_t size, const char *name, unsigned value)
{
    size_t len = strlen(out);

    if (value)
        snprintf(out + len, size - len, "%s%s=%u", len ? "," : "", name, value);
}

// The options of a new qcow2 image, in qemu-img's words.
static void options_of(const struct qcow2_create *q, char *out, size_t size)
{
    out[0] = '\0';
    add(out, size, "cluster_size", q->cluster_bytes);
    add(out, size, "refcount_bits", q->refcount_bits);
    add(out, size, "extended_l2", q->extended_l2);
    add(out, size, "lazy_refcounts", q->lazy_refcounts);
    size_t len = strlen(out);
    if (q->zstd)
        snprintf(out + len, size - len, "%scompression_type=zstd", len ? "," : "");
    len = strlen(out);
    if (q->version)
        snprintf(out + len, size - len, "%scompat=%s", len ? "," : "",
                 q->version == 2 ? "0.10" : "1.1");
}

static err_t run(const char *const *argv, struct error *e)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execvp(argv[0], (char *const *)argv);
        _exit(errno == ENOENT ? 127 : 126);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return error_set(e, err_from_errno(errno), "cannot start qemu-img: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return OK;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return error_set(e, ERR_UNSUPPORTED,
                         "this format needs qemu-img, which is not installed; try: apt-get install "
                         "qemu-utils");
    return error_set(e, ERR_INVALID, "qemu-img could not convert the disk; its words are above");
}

err_t disk_convert_foreign(const struct disk_args *a, const char *from, const char *to,
                           const char *out, struct error *e)
{
    char options[200];
    const char *argv[16] = {"qemu-img", "convert", "-f", qemus_name(from), "-O", qemus_name(to)};
    unsigned n = 6;

    options_of(&a->qcow2, options, sizeof options);
    if (a->compress)
        argv[n++] = "-c";
    if (!a->quiet && isatty(STDERR_FILENO))
        argv[n++] = "-p";
    if (options[0]) {
        argv[n++] = "-o";
        argv[n++] = options;
    }
    argv[n++] = "--";
    argv[n++] = a->words[0];
    argv[n++] = out;
    return run(argv, e);
}
