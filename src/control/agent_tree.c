// Files and folders as frames. fts(3), openat(2).
//
// Not copied: owners, extended attributes, hard links as such, holes, special files.
#include "control/agent_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODES 0777

// --- walking

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static err_t failed(const char *verb, const char *path, struct error *e)
{
    int number = errno;
    return error_set(e, err_from_errno(number), "cannot %s '%.150s': %s", verb, path,
                     strerror(number));
}

// Calls each() for all that is at path, folders before what is in them.
static err_t walk(const char *path, err_t (*each)(void *opaque, FTSENT *entry, struct error *e),
                  void *opaque, struct error *e)
{
    char *const roots[] = {(char *)path, NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_COMFOLLOW, by_name);
    err_t err = fts ? OK : failed("read", path, e);
    for (FTSENT *entry; !err && (errno = 0, entry = fts_read(fts));) {
        if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS) {
            errno = entry->fts_errno;
            err = failed("read", entry->fts_path, e);
        } else if (entry->fts_info != FTS_DP) {
            err = each(opaque, entry, e);
        }
    }
    if (!err && errno)
        err = failed("read", path, e);
    if (fts)
        fts_close(fts);
    return err;
}

static err_t count(void *opaque, FTSENT *entry, struct error *e)
{
    struct tree_counts *c = opaque;
    switch (entry->fts_info) {
    case FTS_D: c->folders++; break;
    case FTS_F:
        c->files++;
        c->bytes += (uint64_t)entry->fts_statp->st_size;
        break;
    case FTS_SL:
    case FTS_SLNONE: c->links++; break;
    default: c->skipped++; break;
    }
    return OK;
}

err_t tree_measure(const char *path, struct tree_counts *out, struct error *e)
{
    *out = (struct tree_counts){0};
    return walk(path, count, out, e);
}

void tree_name(const char *path, char *out, size_t size)
{
    size_t len = strlen(path);
    while (len && path[len - 1] == '/')
        len--;
    size_t start = len;
    while (start && path[start - 1] != '/')
        start--;
    snprintf(out, size, "%.*s", (int)(len - start), path + start);
    if (!*out || !strcmp(out, ".") || !strcmp(out, ".."))
        snprintf(out, size, "copy");
}

// --- sending

struct sending {
    struct agent_link *link;
    size_t root; // length of the path that was asked for
    const struct tree_progress *progress;
    struct tree_counts *counts;
    struct agent_fields fields;
    uint8_t data[AGENT_FRAME_MAX];
};

// The other side has nothing to say before the end: what it says, or its going, ends the copy.
static err_t look_for_refusal(struct sending *s, struct error *e)
{
    struct pollfd ready = {.fd = s->link->fd, .events = POLLIN};
    return poll(&ready, 1, 0) == 1 ? agent_expect(s->link, AGENT_END, e) : OK;
}

static void step(const struct tree_progress *progress, const char *path, uint64_t bytes)
{
    if (progress && progress->step)
        progress->step(progress->opaque, path, bytes);
}

static err_t send_data(struct sending *s, const FTSENT *entry, int fd, struct error *e)
{
    err_t err = OK;
    for (ssize_t n = 1; !err && n > 0;) {
        n = read(fd, s->data, sizeof s->data);
        if (n < 0)
            err = failed("read", entry->fts_path, e);
        if (!err && n > 0)
            err = agent_send(s->link, AGENT_DATA, s->data, (size_t)n, e);
        if (!err)
            err = look_for_refusal(s, e);
        if (n > 0) {
            s->counts->bytes += (uint64_t)n;
            step(s->progress, entry->fts_path, (uint64_t)n);
        }
    }
    return err;
}

static err_t describe(struct sending *s, const FTSENT *entry, const char *type, struct error *e)
{
    const struct stat *st = entry->fts_statp;
    const char *path = entry->fts_path + s->root;
    char target[PATH_MAX + 1] = "";
    path += strspn(path, "/");
    s->fields.len = 0;
    agent_add(&s->fields, "path", "%s", entry->fts_level == FTS_ROOTLEVEL ? "." : path);
    agent_add(&s->fields, "type", "%s", type);
    agent_add(&s->fields, "mode", "%u", (unsigned)st->st_mode & MODES);
    agent_add(&s->fields, "size", "%llu", (unsigned long long)st->st_size);
    agent_add(&s->fields, "time", "%lld", (long long)st->st_mtim.tv_sec);
    if (!strcmp(type, "link")) {
        ssize_t n = readlink(entry->fts_accpath, target, sizeof target - 1);
        if (n < 0)
            return failed("read", entry->fts_path, e);
        agent_add(&s->fields, "target", "%s", target);
    }
    return agent_send_fields(s->link, AGENT_ENTRY, &s->fields, e);
}

static err_t send_file(struct sending *s, const FTSENT *entry, struct error *e)
{
    int follow = entry->fts_level == FTS_ROOTLEVEL ? 0 : O_NOFOLLOW;
    int fd = open(entry->fts_accpath, O_RDONLY | O_CLOEXEC | O_NONBLOCK | follow);
    if (fd < 0)
        return failed("read", entry->fts_path, e);
    err_t err = describe(s, entry, "file", e);
    if (!err)
        err = send_data(s, entry, fd, e);
    close(fd);
    s->counts->files++;
    return err;
}

static err_t send_entry(void *opaque, FTSENT *entry, struct error *e)
{
    struct sending *s = opaque;
    switch (entry->fts_info) {
    case FTS_D: s->counts->folders++; return describe(s, entry, "dir", e);
    case FTS_F: return send_file(s, entry, e);
    case FTS_SL:
    case FTS_SLNONE: s->counts->links++; return describe(s, entry, "link", e);
    default: s->counts->skipped++; return OK;
    }
}

err_t tree_send(struct agent_link *link, const char *path, const struct tree_progress *progress,
                struct tree_counts *counts, struct error *e)
{
    struct sending *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(e, ERR_NO_MEMORY, "no memory for a copy");
    s->link = link;
    s->root = strlen(path);
    s->progress = progress;
    s->counts = counts;
    *counts = (struct tree_counts){0};
    err_t err = walk(path, send_entry, s, e);
    s->fields.len = 0;
    agent_add(&s->fields, "skipped", "%llu", (unsigned long long)counts->skipped);
    if (!err)
        err = agent_send_fields(link, AGENT_END, &s->fields, e);
    free(s);
    return err;
}

// --- receiving

struct receiving {
    struct agent_link *link;
    char top[PATH_MAX];  // where it all goes
    char path[PATH_MAX]; // of the file that is being written, for words
    int root;            // the folder at top; -1: it is none
    int file;            // being written; -1: none
    unsigned mode;       // for it
    int64_t time;
    const struct tree_progress *progress;
    struct tree_counts *counts;
};

static bool is_component(const char *text, size_t len)
{
    return len > 0 && len <= NAME_MAX && !(len == 1 && text[0] == '.') &&
           !(len == 2 && text[0] == '.' && text[1] == '.');
}

// Opens the folder that holds the last component of a path below root, and finds that component.
// Every step is a name, and none goes through a link.
static err_t descend(const struct receiving *r, const char *path, int *folder, const char **last,
                     struct error *e)
{
    int at = dup(r->root);
    for (;;) {
        size_t len = strcspn(path, "/");
        if (!is_component(path, len)) {
            close(at);
            return error_set(e, ERR_CORRUPT, "the other side names a file outside the copy");
        }
        if (!path[len])
            break;
        char name[NAME_MAX + 1];
        snprintf(name, sizeof name, "%.*s", (int)len, path);
        int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int number = errno;
        close(at);
        errno = number;
        if (next < 0)
            return failed("enter", name, e);
        at = next;
        path += len + 1;
    }
    *folder = at;
    *last = path;
    return OK;
}

// The top is followed if it is a link, as the person's own choice; nothing else is.
static err_t make_file(struct receiving *r, int folder, const char *name, struct error *e)
{
    struct stat st;
    int follow = r->root < 0 ? 0 : O_NOFOLLOW;
    r->file = openat(folder, name, O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC | follow, 0600);
    if (r->file < 0)
        return failed("write", r->path, e);
    if (fstat(r->file, &st) < 0 || !S_ISREG(st.st_mode))
        return error_set(e, ERR_EXISTS, "'%.150s' is there and no ordinary file", r->path);
    if (ftruncate(r->file, 0) < 0)
        return failed("write", r->path, e);
    r->counts->files++;
    return OK;
}

static err_t make_folder(struct receiving *r, int folder, const char *name, struct error *e)
{
    if (mkdirat(folder, name, 0700) < 0 && errno != EEXIST)
        return failed("make the folder", r->path, e);
    int follow = r->root < 0 ? 0 : O_NOFOLLOW;
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | follow);
    if (fd < 0 || fchmod(fd, (r->mode & MODES) | 0700) < 0) {
        err_t err = failed("make the folder", r->path, e);
        if (fd >= 0)
            close(fd);
        return err;
    }
    if (r->root < 0)
        r->root = fd;
    else
        close(fd);
    r->counts->folders++;
    return OK;
}

static err_t make_link(struct receiving *r, int folder, const char *name, struct error *e)
{
    const char *target = agent_get(r->link, "target");
    if (!target || !*target)
        return error_set(e, ERR_CORRUPT, "the other side sends a link to nowhere");
    if (symlinkat(target, folder, name) < 0 &&
        (errno != EEXIST || unlinkat(folder, name, 0) < 0 || symlinkat(target, folder, name) < 0))
        return failed("make the link", r->path, e);
    r->counts->links++;
    return OK;
}

static err_t make(struct receiving *r, int folder, const char *name, struct error *e)
{
    const char *type = agent_get(r->link, "type");
    r->mode = (unsigned)agent_number(r->link, "mode", MODES, 0600);
    r->time = (int64_t)agent_number(r->link, "time", INT64_MAX, 0);
    if (type && !strcmp(type, "dir"))
        return make_folder(r, folder, name, e);
    if (type && !strcmp(type, "file"))
        return make_file(r, folder, name, e);
    if (type && !strcmp(type, "link"))
        return make_link(r, folder, name, e);
    return error_set(e, ERR_CORRUPT, "the other side sends an entry of no known type");
}

static err_t finish_file(struct receiving *r, struct error *e)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_sec = r->time}};
    if (r->file < 0)
        return OK;
    bool done = fchmod(r->file, r->mode) == 0 && (futimens(r->file, times) == 0 || true);
    done &= close(r->file) == 0;
    r->file = -1;
    return done ? OK : failed("finish", r->path, e);
}

static err_t receive_entry(struct receiving *r, bool first, struct error *e)
{
    const char *path = agent_get(r->link, "path"), *name = "";
    int folder = -1;
    err_t err = finish_file(r, e);
    if (err)
        return err;
    if (first) {
        snprintf(r->path, sizeof r->path, "%s", r->top);
        return make(r, AT_FDCWD, r->top, e);
    }
    if (!path || r->root < 0)
        return error_set(e, ERR_CORRUPT, "the other side sends a file that is in no folder");
    snprintf(r->path, sizeof r->path, "%s", path);
    agent_make_plain(r->path);
    err = descend(r, path, &folder, &name, e);
    if (err)
        return err;
    err = make(r, folder, name, e);
    close(folder);
    return err;
}

static err_t receive_data(struct receiving *r, struct error *e)
{
    if (r->file < 0)
        return error_set(e, ERR_CORRUPT, "the other side sends bytes of no file");
    for (size_t at = 0; at < r->link->len;) {
        ssize_t n = write(r->file, r->link->data + at, r->link->len - at);
        if (n < 0 && errno != EINTR)
            return failed("write", r->path, e);
        at += n > 0 ? (size_t)n : 0;
    }
    r->counts->bytes += r->link->len;
    step(r->progress, r->path, r->link->len);
    return OK;
}

// Until the other side says that that was all.
static err_t receive_all(struct receiving *r, struct error *e)
{
    bool first = true;
    for (;;) {
        err_t err = agent_receive(r->link, e);
        if (!err && r->link->type == AGENT_ENTRY)
            err = receive_entry(r, first, e);
        else if (!err && r->link->type == AGENT_DATA)
            err = receive_data(r, e);
        else if (!err && r->link->type != AGENT_END)
            err = agent_refused(r->link, e);
        if (err || r->link->type == AGENT_END)
            return err ? err : finish_file(r, e);
        first = false;
    }
}

err_t tree_receive(struct agent_link *link, const char *path, const char *name,
                   const struct tree_progress *progress, struct tree_counts *counts,
                   struct error *e)
{
    struct stat st;
    struct receiving r = {
        .link = link, .root = -1, .file = -1, .progress = progress, .counts = counts};
    bool into = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    *counts = (struct tree_counts){0};
    if (!is_component(name, strcspn(name, "/")) || strchr(name, '/'))
        return error_set(e, ERR_INVALID, "'%.100s' is no name for a copy", name);
    int len = into ? snprintf(r.top, sizeof r.top, "%s/%s", path, name)
                   : snprintf(r.top, sizeof r.top, "%s", path);
    if (len < 1 || (size_t)len >= sizeof r.top)
        return error_set(e, ERR_INVALID, "'%.100s' is no path for a copy", path);
    err_t err = receive_all(&r, e);
    if (r.file >= 0)
        close(r.file);
    if (r.root >= 0)
        close(r.root);
    return err;
}
