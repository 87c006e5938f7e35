// The manager's HTTP: its Unix socket always, TLS where it was asked for, and the requests that are
// there for the web page's sake.
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "host/file.h"
#include "manager/manager.h"

#define PEM_MAX (256 * KIB)
#define PATIENCE_SECONDS 2

// --- requests

err_t openapi_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_t *all = openapi_describe(manager_requests);
    if (!all)
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    json_object_update(reply->result, all);
    json_decref(all);
    return OK;
}

// The path may be longer than a socket's address can be, so it is reached through its folder.
err_t screen_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    char folder[PATH_MAX];
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    err_t err = managed_find(context, request_text(args, "vm", ""), &m, e);
    if (err)
        return err;
    managed_path(m, NULL, folder);
    int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval patience = {.tv_sec = PATIENCE_SECONDS}, ever = {0};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/" MANAGED_SCREEN, dir);
    bool there = dir >= 0 && fd >= 0 && !connect(fd, (struct sockaddr *)&at, sizeof at);
    if (dir >= 0)
        close(dir);
    if (there) {
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &ever, sizeof ever);
        reply->fd = fd;
        return OK;
    }
    if (fd >= 0)
        close(fd);
    return error_set(e, ERR_NOT_FOUND,
                     "'%s' shows no screen now; a VM that runs and has a vga std does", m->name);
}

// --- certificates

static err_t read_text(const char *path, char **out, struct error *e)
{
    struct host_file file = {0};
    err_t err = host_file_read(path, PEM_MAX, &file, e);
    if (err)
        return err;
    *out = strndup(file.data ? (const char *)file.data : "", file.len);
    explicit_bzero(file.data, file.len);
    host_file_release(&file);
    return *out ? OK : error_set(e, ERR_NO_MEMORY, "no memory for '%s'", path);
}

static err_t write_text(const char *path, const char *text, struct error *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    err_t err = fd < 0 ? ERR_IO : host_write_all(fd, text, strlen(text));
    if (fd >= 0 && close(fd) < 0)
        err = ERR_IO;
    return err ? error_set(e, ERR_IO, "cannot write '%s': %s", path, strerror(errno)) : OK;
}

// Those that are in the manager's directory, made the first time.
static err_t own_certificate(struct manager *manager, const char *host, char **certificate,
                             char **key, struct error *e)
{
    char pem[PATH_MAX], secret[PATH_MAX];
    snprintf(pem, sizeof pem, "%s/tls-certificate.pem", manager->state);
    snprintf(secret, sizeof secret, "%s/tls-key.pem", manager->state);
    if (!access(pem, F_OK) && !access(secret, F_OK)) {
        err_t err = read_text(pem, certificate, e);
        return err ? err : read_text(secret, key, e);
    }
    err_t err = certificate_make(host, certificate, key, e);
    if (!err)
        err = write_text(secret, *key, e);
    return err ? err : write_text(pem, *certificate, e);
}

// --- listening

static err_t split_address(const char *text, char *host, size_t size, const char **port,
                           struct error *e)
{
    const char *colon = strrchr(text, ':');
    bool brackets = colon && text[0] == '[' && colon > text + 1 && colon[-1] == ']';
    size_t len = colon ? (size_t)(colon - text) - (brackets ? 2 : 0) : 0;
    if (!len || len >= size || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return error_set(e, ERR_INVALID,
                         "--listen %.100s: give ADDRESS:PORT, such as 127.0.0.1:8006", text);
    snprintf(host, size, "%.*s", (int)len, text + brackets);
    *port = colon + 1;
    return OK;
}

static err_t listen_tcp(const char *host, const char *port, int *out, struct error *e)
{
    const struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *at = NULL;
    int yes = 1, failed = getaddrinfo(host, port, &want, &at);
    if (failed)
        return error_set(e, ERR_INVALID, "cannot listen on %s port %s: %s", host, port,
                         gai_strerror(failed));
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    bool listens = fd >= 0 && !bind(fd, at->ai_addr, at->ai_addrlen) && !listen(fd, 64);
    int why = errno;
    freeaddrinfo(at);
    if (listens) {
        *out = fd;
        return OK;
    }
    if (fd >= 0)
        close(fd);
    return error_set(e, err_from_errno(why), "cannot listen on %s port %s: %s", host, port,
                     strerror(why));
}

static err_t open_tls(struct manager *manager, const struct web_options *options, struct error *e)
{
    char host[256], fingerprint[96], *certificate = NULL, *key = NULL;
    const char *port = NULL;
    int fd = -1;
    err_t err = split_address(options->listen, host, sizeof host, &port, e);
    if (!err && options->certificate)
        err = read_text(options->certificate, &certificate, e);
    if (!err && options->certificate)
        err = read_text(options->key, &key, e);
    if (!err && !options->certificate)
        err = own_certificate(manager, host, &certificate, &key, e);
    if (!err)
        err = certificate_fingerprint(certificate, fingerprint, e);
    if (!err)
        err = listen_tcp(host, port, &fd, e);
    if (!err && (err = http_listen_tls(manager->http, fd, certificate, key, e)))
        close(fd);
    if (!err)
        log_line(LOG_INFO, "https://%s, certificate SHA-256 %s", options->listen, fingerprint);
    if (key)
        explicit_bzero(key, strlen(key));
    free(key);
    free(certificate);
    return err;
}

// Beside this program, as it is built; else where it is installed.
static void find_page(char path[PATH_MAX])
{
    ssize_t len = readlink("/proc/self/exe", path, PATH_MAX - 32);
    char *slash = len > 0 ? memrchr(path, '/', (size_t)len) : NULL;
    if (slash) {
        snprintf(slash, 32, "/web/index.html");
        if (!access(path, R_OK)) {
            slash[4] = '\0';
            return;
        }
    }
    snprintf(path, PATH_MAX, "%s/berth/web", BERTH_DATADIR);
}

static void tell(void *opaque, const char *line, size_t len)
{
    struct manager *manager = opaque;
    http_tell(manager->http, line, len);
}

err_t web_open(struct manager *manager, const struct web_options *options, struct error *e)
{
    int fd = -1;
    find_page(manager->web);
    const struct http_options http = {.loop = manager->loop,
                                      .table = manager_requests,
                                      .context = manager,
                                      .web = manager->web,
                                      .role_of = token_role,
                                      .metrics = "usage",
                                      .metrics_text = metrics_text};
    err_t err = http_new(&http, &manager->http, e);
    if (!err)
        err = registry_listen(&manager->claim, REGISTRY_HTTP, &fd, e);
    if (!err && (err = http_listen_local(manager->http, fd, e)))
        close(fd);
    if (!err && options->listen)
        err = open_tls(manager, options, e);
    return err ? err : manager_listen(manager, tell, manager, e);
}

void web_close(struct manager *manager)
{
    if (manager->http)
        manager_unlisten(manager, manager);
    http_free(manager->http);
    manager->http = NULL;
}
