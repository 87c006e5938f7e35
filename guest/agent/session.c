// One connection: a greeting, one request, its answer. And the requests about files.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "control/agent_tree.h"

#define REQUEST_MS 30000 // for the other side to say what it wants
#define LINGER_MS 2000   // for it to read why not

static const struct {
    const char *name;
    request_fn run;
} requests[] = {
    {"exec", request_exec}, {"info", request_info},         {"put", request_put},
    {"get", request_get},   {"shutdown", request_shutdown}, {"freeze", request_freeze},
    {"thaw", request_thaw},
};

// --- files

// Paths that do not begin with / are below root's home.
static err_t path_of(const struct agent_link *link, char *out, size_t size, struct error *e)
{
    const char *path = agent_get(link, "path");
    struct user root;
    if (!path || !*path)
        return error_set(e, ERR_INVALID, "no path was given");
    err_t err = user_find("root", &root, e);
    if (!err && snprintf(out, size, "%s%s%s", *path == '/' ? "" : root.home,
                         *path == '/' ? "" : "/", path) >= (int)size)
        err = error_set(e, ERR_INVALID, "the path is too long");
    return err;
}

err_t request_put(struct agent_link *link, struct shared *shared, struct error *e)
{
    const struct agent_fields none = {0};
    struct tree_counts counts;
    char path[4096], name[256];
    const char *given = agent_get(link, "name");
    snprintf(name, sizeof name, "%s", given ? given : "");
    err_t err = path_of(link, path, sizeof path, e);
    if (!err)
        err = agent_send_fields(link, AGENT_OK, &none, e);
    link->timeout_ms = -1; // whoever copies may take breaks
    if (!err)
        err = tree_receive(link, path, name, NULL, &counts, e);
    return err ? err : agent_send_fields(link, AGENT_OK, &none, e);
}

err_t request_get(struct agent_link *link, struct shared *shared, struct error *e)
{
    struct agent_fields total = {0};
    struct tree_counts counts;
    char path[4096], name[256];
    err_t err = path_of(link, path, sizeof path, e);
    if (!err)
        err = tree_measure(path, &counts, e);
    if (err)
        return err;
    tree_name(path, name, sizeof name);
    agent_add(&total, "name", "%s", name);
    agent_add(&total, "bytes", "%llu", (unsigned long long)counts.bytes);
    err = agent_send_fields(link, AGENT_OK, &total, e);
    link->timeout_ms = -1;
    return err ? err : tree_send(link, path, NULL, &counts, e);
}

// --- the session

static err_t greet(struct agent_link *link, struct error *e)
{
    struct agent_fields hello = {0};
    agent_add(&hello, "version", "%d", AGENT_VERSION);
    agent_add(&hello, "agent", "%s", BERTH_VERSION);
    return agent_send_fields(link, AGENT_HELLO, &hello, e);
}

static err_t answer(struct agent_link *link, struct shared *shared, struct error *e)
{
    err_t err = greet(link, e);
    if (!err)
        err = agent_expect(link, AGENT_REQUEST, e);
    const char *wanted = err ? NULL : agent_get(link, "request");
    for (size_t i = 0; wanted && i < ARRAY_LEN(requests); i++)
        if (!strcmp(requests[i].name, wanted))
            return requests[i].run(link, shared, e);
    return err ? err : error_set(e, ERR_UNSUPPORTED, "this agent does not know this request");
}

// A socket that is closed with bytes in it takes along what the other side has not read.
static void linger(struct agent_link *link)
{
    struct error e;
    link->timeout_ms = LINGER_MS;
    shutdown(link->fd, SHUT_WR);
    while (!agent_receive(link, &e))
        ;
}

_Noreturn void session_obey(struct agent_link *link, struct shared *shared)
{
    struct error e;
    const char *wanted = agent_get(link, "request");
    signal(SIGCHLD, SIG_DFL);
    root_follow();
    err_t err = OK;
    if (link->type == AGENT_REQUEST && wanted && !strcmp(wanted, "shutdown"))
        err = request_shutdown(link, shared, &e);
    _exit(err != OK);
}

_Noreturn void session_serve(int fd, struct shared *shared)
{
    struct agent_link *link = calloc(1, sizeof *link);
    struct error e = {0}, ignored;
    if (!link)
        _exit(1);
    signal(SIGCHLD, SIG_DFL);
    root_follow();
    link->fd = fd;
    link->timeout_ms = REQUEST_MS;
    err_t err = answer(link, shared, &e);
    if (err)
        err = agent_send_error(link, &e, &ignored);
    linger(link);
    _exit(err != OK);
}
