// Asks a running VM over its control socket. unix(7), SCM_RIGHTS. A VM that has been taken over by
// its guest may answer with anything: lines are bounded, and waiting has an end.
#include "control/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "control/registry.h"
#include "control/request.h"
#include "host/clock.h"
#include "host/file.h"
#include "host/passing.h"

#define ANSWER_MAX (64 * MIB)
#define STEP (64 * KIB)

struct client {
    int fd;
    int timeout_ms;
    int passed; // descriptor that came with the bytes read so far; -1: none
    int given;  // descriptor to go with the next request; -1: none
    struct buffer in;
    char name[REGISTRY_NAME_MAX + 1];
};

err_t client_connect(enum registry_kind kind, const char *name, int timeout_ms, struct client **out,
                     struct error *e)
{
    int fd = -1;
    err_t err = registry_connect(kind, name, &fd, e);
    return err ? err : client_new(fd, name, timeout_ms, out, e);
}

err_t client_new(int fd, const char *name, int timeout_ms, struct client **out, struct error *e)
{
    struct client *client = calloc(1, sizeof *client);
    if (!client) {
        close(fd);
        return error_set(e, ERR_NO_MEMORY, "no memory for a connection");
    }
    *client = (struct client){.fd = fd, .timeout_ms = timeout_ms, .passed = -1, .given = -1};
    snprintf(client->name, sizeof client->name, "%s", name);
    *out = client;
    return OK;
}

void client_free(struct client *client)
{
    if (!client)
        return;
    close(client->fd);
    if (client->passed >= 0)
        close(client->passed);
    buffer_release(&client->in);
    free(client);
}

// --- lines in

static void keep_passed(struct client *client, int fd)
{
    if (client->passed >= 0)
        close(client->passed);
    client->passed = fd;
}

// More bytes into client->in; *ended: there will be none.
static err_t receive(struct client *client, bool *ended, struct error *e)
{
    size_t len = client->in.len;
    uint8_t *at = len < ANSWER_MAX ? buffer_extend(&client->in, STEP) : NULL;
    if (!at)
        return error_set(e, ERR_NO_MEMORY, "the answer of '%s' is too long", client->name);
    int fd;
    unsigned count;
    ssize_t n = passing_receive(client->fd, at, STEP, &fd, 1, &count, 0);
    client->in.len = len + (n > 0 ? (size_t)n : 0);
    if (count)
        keep_passed(client, fd);
    *ended = n == 0 || (n < 0 && errno == ECONNRESET);
    if (n < 0 && !*ended && errno != EINTR)
        return error_set(e, ERR_IO, "cannot read from '%s': %s", client->name, strerror(errno));
    return OK;
}

static err_t wait_readable(struct client *client, uint64_t until, struct error *e)
{
    uint64_t now = host_now();
    int wait = until == NS_NEVER ? -1 : now >= until ? 0 : (int)((until - now) / NS_PER_MS) + 1;
    struct pollfd ready = {.fd = client->fd, .events = POLLIN};
    int n = poll(&ready, 1, wait);
    if (n > 0 || (n < 0 && errno == EINTR))
        return OK;
    return error_set(e, ERR_BUSY,
                     "'%s' does not answer; berth ls shows whether it runs, kill its process if it "
                     "hangs",
                     client->name);
}

static char *find_end(const struct buffer *in, size_t seen)
{
    return in->len > seen ? memchr(in->data + seen, '\n', in->len - seen) : NULL;
}

// The next line as an object; NULL in *out: the VM has ended.
static err_t next_line(struct client *client, int timeout_ms, json_t **out, struct error *e)
{
    uint64_t until = timeout_ms < 0 ? NS_NEVER : host_now() + (uint64_t)timeout_ms * NS_PER_MS;
    char *end = NULL;
    bool ended = false;
    err_t err = OK;
    *out = NULL;
    for (size_t seen = 0; !err && !ended && !(end = find_end(&client->in, seen));) {
        seen = client->in.len;
        err = wait_readable(client, until, e);
        if (!err)
            err = receive(client, &ended, e);
    }
    if (err || !end)
        return err;
    size_t len = (size_t)(end - (char *)client->in.data);
    *out = json_loadb((char *)client->in.data, len, 0, NULL);
    client->in.len -= len + 1;
    memmove(client->in.data, end + 1, client->in.len);
    return *out ? OK : error_set(e, ERR_CORRUPT, "'%s' answers what is no JSON", client->name);
}

// --- requests

static err_t refused(const json_t *answer, struct error *e)
{
    const json_t *error = json_object_get(answer, "error");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *text = json_string_value(json_object_get(error, "text"));
    const char *hint = json_string_value(json_object_get(error, "hint"));
    err_t err = ERR_IO;
    for (err_t known = ERR_INVALID; code && known <= ERR_DENIED; known++) {
        if (!strcmp(err_name(known), code))
            err = known;
    }
    return error_set(e, err, "%s%s%s", text ? text : "it refuses", hint ? "; " : "",
                     hint ? hint : "");
}

void client_give(struct client *client, int fd)
{
    client->given = fd;
}

int client_fd(const struct client *client)
{
    return client->fd;
}

static err_t send_line(struct client *client, json_t *line, struct error *e)
{
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    if (!text)
        return error_set(e, ERR_NO_MEMORY, "no memory for a request");
    size_t len = strlen(text);
    text[len] = '\n'; // in place of the end
    ssize_t n = 0;
    for (size_t at = 0; at <= len && n >= 0; at += (size_t)n)
        n = passing_send(client->fd, text + at, len + 1 - at, at ? -1 : client->given, 0);
    client->given = -1;
    free(text);
    return n < 0 ? error_set(e, ERR_IO, "'%s' has just ended", client->name) : OK;
}

err_t client_ask(struct client *client, const char *request, json_t *args, json_t **result, int *fd,
                 struct error *e)
{
    json_t *line = args ? args : json_object(), *answer = NULL;
    if (line)
        json_object_set_new(line, "request", json_string(request));
    err_t err = send_line(client, line, e);
    while (!err) {
        err = next_line(client, client->timeout_ms, &answer, e);
        if (!err && !answer)
            err = error_set(e, ERR_NOT_FOUND, "'%s' has just ended", client->name);
        if (err || !json_object_get(answer, "event"))
            break;
        json_decref(answer);
    }
    json_t *ok = err ? NULL : json_object_get(answer, "ok");
    if (!err && !json_is_object(ok))
        err = refused(answer, e);
    *result = err ? NULL : json_incref(ok);
    json_decref(answer);
    if (fd) {
        *fd = client->passed;
        client->passed = -1;
    }
    return err;
}

err_t client_next_event(struct client *client, int timeout_ms, json_t **event, struct error *e)
{
    return next_line(client, timeout_ms, event, e);
}
