// The web page's files, and those of a library that it uses, from Debian's package novnc. Names are
// checked letter by letter before a file is opened; only kinds of files that a page is made of are
// served. RFC 9110 (ETag, If-None-Match).
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "http/http_impl.h"

#define NAME_MAX_BYTES 200

static const struct {
    const char *prefix, *folder, *package;
} libraries[] = {
    {"/vendor/novnc/", "/usr/share/novnc", "novnc"},
};

static const struct {
    const char *end, *type;
} types[] = {
    {".html", "text/html; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".css", "text/css; charset=utf-8"},
    {".svg", "image/svg+xml"},
    {".png", "image/png"},
};

static const char *type_of(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t end = strlen(types[i].end);
        if (len > end && !strcmp(name + len - end, types[i].end))
            return types[i].type;
    }
    return NULL;
}

// Segments of plain letters that do not begin with a dot, one slash between them.
static bool is_plain(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    for (;;) {
        size_t len = strspn(name, plain);
        if (!len || *name == '.')
            return false;
        name += len;
        if (!*name)
            return true;
        if (*name++ != '/')
            return false;
    }
}

static enum MHD_Result missing(struct MHD_Connection *c, const char *package)
{
    struct error e;
    if (package)
        (void)!error_set(&e, ERR_NOT_FOUND,
                         "this host has no such file; Debian's package %s brings it", package);
    else
        (void)!error_set(&e, ERR_NOT_FOUND, "there is no such page");
    return respond_error(c, 404, &e);
}

static enum MHD_Result send_file(struct MHD_Connection *c, int fd, const struct stat *st,
                                 const char *type)
{
    char tag[64];
    snprintf(tag, sizeof tag, "\"%llx-%llx\"", (long long)st->st_mtime, (long long)st->st_size);
    const char *known = header(c, "If-None-Match");
    bool same = known && !strcmp(known, tag);
    struct MHD_Response *response =
        same ? MHD_create_response_from_buffer(0, (char *)"", MHD_RESPMEM_PERSISTENT)
             : MHD_create_response_from_fd((size_t)st->st_size, fd);
    if (same || !response)
        close(fd);
    if (response) {
        respond_header(response, "Content-Type", type);
        respond_header(response, "ETag", tag);
        respond_header(response, "Cache-Control", "no-cache");
    }
    return respond(c, same ? 304 : 200, response);
}

static enum MHD_Result open_file(struct MHD_Connection *c, const char *folder, const char *name,
                                 const char *package)
{
    char path[1024];
    struct stat st;
    const char *type = type_of(name);
    if (!folder || !type || strlen(name) > NAME_MAX_BYTES || !is_plain(name) ||
        snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return missing(c, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return missing(c, package);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return missing(c, NULL);
    }
    return send_file(c, fd, &st, type);
}

enum MHD_Result files_answer(struct http *http, struct MHD_Connection *c, const char *target)
{
    char name[NAME_MAX_BYTES + 2];
    size_t len = strcspn(target, "?");
    if (len >= sizeof name)
        return missing(c, NULL);
    snprintf(name, sizeof name, "%.*s", (int)len, target);
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        size_t prefix = strlen(libraries[i].prefix);
        if (!strncmp(name, libraries[i].prefix, prefix))
            return open_file(c, libraries[i].folder, name + prefix, libraries[i].package);
    }
    if (name[0] != '/')
        return missing(c, NULL);
    return open_file(c, http->options.web, name[1] ? name + 1 : "index.html", NULL);
}
