// Talks to the control socket as a hostile client would: pieces of requests in any order, cut
// anywhere, from several clients that do or do not read, that stay or go. Nothing may crash, leak
// or stop answering others.
//
// The input is a list of actions with their operands.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/server.h"
#include "standalone.h"

#define CLIENTS 4

struct ctx {
    struct loop *loop;
    struct server *server;
    struct loop_work stop;
    struct sockaddr_un at;
    socklen_t at_len;
    int client[CLIENTS];
};

static const char *const pieces[] = {
    "{\"request\":\"echo\"}\n",
    "{\"request\":\"events\"}\n",
    "{\"request\":\"tell\"}\n",
    "{\"request\":\"file\",\"id\":",
    "{\"request\":\"large\"}\n",
    "{\"request\":\"help\"}\n",
    "{\"request\":\"echo\",\"number\":",
    "{\"request\":\"echo\",\"text\":\"",
    "-1",
    "99999999999999999999",
    "0.5e300",
    "\"",
    "}",
    "\n",
    "[",
    ",",
    "\"id\":",
    "\\u0000",
    "\xff\xfe",
    "null",
    "true",
};

static err_t echo(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_object_set(reply->result, "args", (json_t *)args);
    return OK;
}

static err_t listen_to(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    reply->events = true;
    return OK;
}

static err_t tell(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    static char line[100000];
    struct ctx *ctx = context;
    memset(line, ' ', sizeof line);
    line[sizeof line - 1] = '\n';
    server_tell(ctx->server, line, sizeof line);
    return OK;
}

static err_t file(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    reply->fd = memfd_create("fuzz", MFD_CLOEXEC);
    return error_set(e, ERR_BUSY, "a descriptor with an error; odd");
}

static err_t large(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    static char text[300000];
    memset(text, 'x', sizeof text);
    json_object_set_new(reply->result, "text", json_stringn(text, sizeof text));
    return OK;
}

static err_t help(void *context, const json_t *args, struct reply *reply, struct error *e);

static const struct request_field echo_fields[] = {
    {"number", FIELD_NUMBER, false, -5, 100, "a number"},
    {"text", FIELD_TEXT, false, 0, 8, "a text"},
    {"flag", FIELD_BOOL, false, 0, 0, "a flag"},
    {0},
};
static const struct request table[] = {
    {"echo", "", echo_fields, echo},
    {"events", "", NULL, listen_to},
    {"tell", "", NULL, tell},
    {"file", "", NULL, file},
    {"large", "", NULL, large},
    {"help", "", NULL, help},
    {0},
};

static err_t help(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_object_set_new(reply->result, "requests", request_describe(table));
    return OK;
}

static void stop(void *opaque)
{
    loop_stop(opaque);
}

static void start(struct ctx *ctx)
{
    *ctx = (struct ctx){.at = {.sun_family = AF_UNIX}, .at_len = sizeof ctx->at};
    memset(ctx->client, -1, sizeof ctx->client);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&ctx->at, sizeof(sa_family_t)) || listen(fd, 8) ||
        getsockname(fd, (struct sockaddr *)&ctx->at, &ctx->at_len) || loop_new(&ctx->loop, NULL))
        abort();
    const struct server_options options = {
        .loop = ctx->loop, .listen_fd = fd, .table = table, .context = ctx};
    if (server_new(&options, &ctx->server, NULL))
        abort();
    ctx->stop = (struct loop_work){.run = stop, .opaque = ctx->loop};
}

static void *serve(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

static int dial(const struct ctx *ctx)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (const struct sockaddr *)&ctx->at, ctx->at_len))
        abort();
    return fd;
}

static void act(struct ctx *ctx, uint8_t what, uint8_t operand)
{
    static char sink[64 * 1024];
    int *fd = &ctx->client[what % CLIENTS];
    if (*fd < 0)
        *fd = dial(ctx);
    const char *piece = pieces[operand % (sizeof pieces / sizeof *pieces)];
    switch (what / CLIENTS % 8) {
    case 0:
        close(*fd);
        *fd = -1;
        break;
    case 1: (void)!recv(*fd, sink, sizeof sink, MSG_DONTWAIT); break;
    case 2: shutdown(*fd, operand & 1 ? SHUT_WR : SHUT_RD); break;
    case 3:
        memset(sink, '[', sizeof sink);
        (void)!send(*fd, sink, operand * 256u, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    case 4:
        (void)!send(*fd, piece, operand % (strlen(piece) + 1), MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    default: (void)!send(*fd, piece, strlen(piece), MSG_DONTWAIT | MSG_NOSIGNAL); break;
    }
}

// Whatever the others did, somebody new gets an answer.
static void check_alive(struct ctx *ctx)
{
    char answer[200] = "";
    int fd = dial(ctx);
    (void)!send(fd, "{\"request\":\"echo\"}\n", 19, MSG_NOSIGNAL);
    if (recv(fd, answer, sizeof answer - 1, 0) <= 0 ||
        strcmp(answer, "{\"ok\":{\"args\":{}}}\n") != 0)
        abort();
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ctx ctx;
    pthread_t id;
    start(&ctx);
    pthread_create(&id, NULL, serve, ctx.loop);
    for (; size >= 2; data += 2, size -= 2)
        act(&ctx, data[0], data[1]);
    check_alive(&ctx);
    loop_post(ctx.loop, &ctx.stop);
    pthread_join(id, NULL);
    server_free(ctx.server, 0);
    loop_free(ctx.loop);
    for (int i = 0; i < CLIENTS; i++) {
        if (ctx.client[i] >= 0)
            close(ctx.client[i]);
    }
    return 0;
}
