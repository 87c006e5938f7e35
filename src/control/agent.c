// The asking side of the guest's agent.
#include "control/agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "host/clock.h"

#define CONTROL_MS 10000

// --- whether it is there

static err_t absent(const char *vm, struct error *e)
{
    return error_set(e, ERR_UNSUPPORTED,
                     "the guest of '%.63s' has no agent, or none yet (--wait SECONDS waits); start "
                     "it with berth "
                     "run --agent, or install berth-agent in it: man berth-exec",
                     vm);
}

static err_t state_of(struct client *client, char state[16], struct error *e)
{
    json_t *info = NULL;
    err_t err = client_ask(client, "info", NULL, &info, NULL, e);
    const char *text = json_string_value(json_object_get(info, "agent"));
    snprintf(state, 16, "%s", text ? text : "absent");
    json_decref(info);
    return err;
}

// Until an event says that the agent is ready.
static err_t await_event(struct client *client, const char *vm, int wait_ms, struct error *e)
{
    uint64_t until = host_now() + (uint64_t)wait_ms * NS_PER_MS;
    for (;;) {
        uint64_t now = host_now();
        json_t *event = NULL;
        err_t err = now < until
                        ? client_next_event(client, (int)((until - now) / NS_PER_MS), &event, e)
                        : ERR_BUSY;
        const char *name = json_string_value(json_object_get(event, "event"));
        bool ready =
            name && !strcmp(name, "agent") && json_is_true(json_object_get(event, "ready"));
        bool ended = !err && !event;
        json_decref(event);
        if (ready)
            return OK;
        if (ended)
            return error_set(e, ERR_NOT_FOUND, "'%s' has just ended", vm);
        if (err == ERR_BUSY)
            return error_set(e, ERR_UNSUPPORTED,
                             "the agent in '%s' was not ready in %d s; does its guest still start? "
                             "--wait SECONDS waits longer",
                             vm, wait_ms / 1000);
        if (err)
            return err;
    }
}

// The events come first, so that the one that matters is not missed.
static err_t await_agent(struct client *client, const char *vm, int wait_ms, struct error *e)
{
    char state[16];
    json_t *nothing = NULL;
    err_t err = state_of(client, state, e);
    if (err || !strcmp(state, "ready"))
        return err;
    if (wait_ms == AGENT_WAIT_DEFAULT)
        wait_ms = strcmp(state, "expected") ? 0 : AGENT_WAIT_MS;
    if (!wait_ms)
        return absent(vm, e);
    err = client_ask(client, "events", NULL, &nothing, NULL, e);
    json_decref(nothing);
    if (!err)
        err = state_of(client, state, e);
    return err || !strcmp(state, "ready") ? err : await_event(client, vm, wait_ms, e);
}

// --- a connection

static err_t connect_to(agent_vm_fn find, const char *vm, int wait_ms, int *fd, struct error *e)
{
    struct client *client = NULL;
    json_t *result = NULL;
    int ends[2];
    err_t err = find(vm, CONTROL_MS, &client, e);
    if (!err)
        err = await_agent(client, vm, wait_ms, e);
    client_free(client); // events may be on their way over this one
    client = NULL;
    if (!err)
        err = find(vm, CONTROL_MS, &client, e);
    if (!err && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        err = error_set(e, ERR_IO, "cannot make a pair of sockets: %s", strerror(errno));
    if (!err) {
        client_give(client, ends[1]);
        err = client_ask(client, "vsock-connect", json_pack("{s:i}", "port", AGENT_PORT), &result,
                         NULL, e);
        close(ends[1]);
        *fd = ends[0];
        if (err)
            close(ends[0]);
    }
    json_decref(result);
    client_free(client);
    return err;
}

// The agent is hung, or gone, or something else answers in its place.
static err_t greet(struct agent_link *link, const char *vm, struct error *e)
{
    err_t err = agent_expect(link, AGENT_HELLO, e);
    if (err)
        return error_in(e, "the agent in '%s' does not answer", vm);
    if (agent_number(link, "version", UINT32_MAX, 0) != AGENT_VERSION)
        return error_set(e, ERR_UNSUPPORTED,
                         "the agent in '%s' speaks another version; install this one's", vm);
    return OK;
}

err_t agent_open(agent_vm_fn find, const char *vm, int wait_ms, struct agent_link **out,
                 struct error *e)
{
    int fd = -1;
    err_t err = connect_to(find, vm, wait_ms, &fd, e);
    if (err)
        return err;
    struct agent_link *link = calloc(1, sizeof *link);
    if (!link) {
        close(fd);
        return error_set(e, ERR_NO_MEMORY, "no memory for a connection");
    }
    link->fd = fd;
    link->timeout_ms = AGENT_PATIENCE_MS;
    err = greet(link, vm, e);
    if (err)
        agent_close(link);
    else
        *out = link;
    return err;
}

void agent_close(struct agent_link *link)
{
    if (link)
        close(link->fd);
    free(link);
}

// --- requests

struct agent_fields *agent_request_new(const char *request)
{
    struct agent_fields *fields = calloc(1, sizeof *fields);
    if (fields)
        agent_add(fields, "request", "%s", request);
    return fields;
}

err_t agent_ask(struct agent_link *link, struct agent_fields *request, struct error *e)
{
    err_t err = request ? agent_send_fields(link, AGENT_REQUEST, request, e)
                        : error_set(e, ERR_NO_MEMORY, "no memory for a request");
    free(request);
    return err;
}

// A text of UTF-8, whatever the guest wrote.
static json_t *plain(const char *value)
{
    char text[512];
    snprintf(text, sizeof text, "%s", value);
    agent_make_plain(text);
    json_t *string = json_string(text);
    for (char *p = text; !string && *p; p++)
        *p = (unsigned char)*p < 0x80 ? *p : '?';
    return string ? string : json_string(text);
}

static json_t *to_json(const struct agent_link *link)
{
    json_t *object = json_object();
    const char *at = (const char *)link->data, *end = at + link->len;
    if (link->len && end[-1])
        return object;
    for (; at < end; at += strlen(at) + 1) {
        char key[32];
        size_t len = strcspn(at, "=");
        if (!at[len] || len >= sizeof key)
            continue;
        snprintf(key, sizeof key, "%.*s", (int)len, at);
        json_t *value = plain(at + len + 1), *before = json_object_get(object, key);
        if (json_is_array(before)) {
            json_array_append_new(before, value);
        } else if (before) {
            json_object_set_new(object, key, json_pack("[O, o]", before, value));
        } else {
            json_object_set_new(object, key, value);
        }
    }
    return object;
}

err_t agent_simple(agent_vm_fn find, const char *vm, int wait_ms, struct agent_fields *request,
                   json_t **result, struct error *e)
{
    struct agent_link *link = NULL;
    err_t err = agent_open(find, vm, wait_ms, &link, e);
    if (err) {
        free(request);
        return err;
    }
    err = agent_ask(link, request, e);
    if (!err)
        err = agent_expect(link, AGENT_OK, e);
    if (!err)
        *result = to_json(link);
    agent_close(link);
    return err;
}
