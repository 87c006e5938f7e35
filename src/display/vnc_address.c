// Where the VNC server listens, and what guards it. Done by the command-line program, before the
// VM's process gives up sockets; the password file is read by the VM's process itself.
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "display/vnc.h"
#include "host/file.h"

#define BACKLOG 4
#define PASSWORD_FILE_MAX 4096

static err_t bad_form(const char *spec, struct error *e)
{
    return error_set(e, ERR_INVALID,
                     "'%.60s' is no place for VNC; give vnc=unix:PATH or "
                     "vnc=HOST:PORT,password-file=FILE",
                     spec);
}

static bool copy(char *to, size_t size, const char *from, size_t len)
{
    if (!len || len >= size)
        return false;
    memcpy(to, from, len);
    to[len] = '\0';
    return true;
}

static bool parse_tcp(const char *spec, struct vnc_address *out)
{
    static const char option[] = ",password-file=";
    const char *comma = strchr(spec, ',');
    size_t len = comma ? (size_t)(comma - spec) : strlen(spec);
    const char *colon = memrchr(spec, ':', len);
    if (!colon || !copy(out->port, sizeof out->port, colon + 1, len - (size_t)(colon + 1 - spec)) ||
        strspn(out->port, "0123456789") != strlen(out->port))
        return false;
    size_t host = (size_t)(colon - spec);
    bool brackets = host > 2 && spec[0] == '[' && spec[host - 1] == ']'; // an IPv6 address
    if (!copy(out->host, sizeof out->host, spec + brackets, host - 2 * brackets))
        return false;
    if (!comma)
        return true;
    return !strncmp(comma, option, sizeof option - 1) &&
           copy(out->password_file, sizeof out->password_file, comma + sizeof option - 1,
                strlen(comma + sizeof option - 1));
}

err_t vnc_parse(const char *spec, struct vnc_address *out, struct error *e)
{
    *out = (struct vnc_address){0};
    if (!strncmp(spec, "unix:", 5))
        return copy(out->path, sizeof out->path, spec + 5, strlen(spec + 5)) ? OK
                                                                             : bad_form(spec, e);
    if (!parse_tcp(spec, out))
        return bad_form(spec, e);
    if (!out->password_file[0])
        return error_set(e, ERR_INVALID,
                         "VNC over TCP needs a password: add ,password-file=FILE, or listen on "
                         "vnc=unix:PATH");
    return OK;
}

err_t vnc_read_password(const char *file, char out[9], struct error *e)
{
    struct host_file content;
    err_t err = host_file_read(file, PASSWORD_FILE_MAX, &content, e);
    if (err)
        return err;
    size_t len = 0;
    while (len < content.len && content.data[len] != '\n' && content.data[len] != '\r')
        len++;
    if (!len)
        err = error_set(e, ERR_INVALID, "'%s' holds no password in its first line", file);
    len = len < 8 ? len : 8;
    if (!err)
        memcpy(out, content.data, len);
    out[len] = '\0';
    host_file_release(&content);
    return err;
}

// --- sockets

static err_t cannot_listen(const char *where, int why, struct error *e)
{
    return error_set(e, err_from_errno(why), "cannot listen for VNC on '%s': %s", where,
                     strerror(why));
}

static bool somebody_listens(const struct sockaddr_un *at)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool answered = fd >= 0 && connect(fd, (const struct sockaddr *)at, sizeof *at) == 0;
    if (fd >= 0)
        close(fd);
    return answered;
}

static err_t listen_unix(const char *path, int *out, struct error *e)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct stat st;
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && !somebody_listens(&at))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177); // for its owner only
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    int why = errno;
    umask(mask);
    if (bound && listen(fd, BACKLOG) == 0) {
        *out = fd;
        return OK;
    }
    if (fd >= 0)
        close(fd);
    return cannot_listen(path, why, e);
}

static err_t listen_tcp(const struct vnc_address *address, int *out, struct error *e)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found;
    int result = getaddrinfo(address->host, address->port, &hints, &found);
    if (result)
        return error_set(e, ERR_INVALID, "cannot listen for VNC on '%s': %s", address->host,
                         gai_strerror(result));
    const int on = 1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool good = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
    int why = errno;
    freeaddrinfo(found);
    if (good) {
        *out = fd;
        return OK;
    }
    if (fd >= 0)
        close(fd);
    char where[160];
    snprintf(where, sizeof where, "%s:%s", address->host, address->port);
    return cannot_listen(where, why, e);
}

err_t vnc_listen(const struct vnc_address *address, int *fd, struct error *e)
{
    return address->path[0] ? listen_unix(address->path, fd, e) : listen_tcp(address, fd, e);
}
