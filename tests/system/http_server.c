// A server of src/http with a small table, for http_server.py: SOCKET PORT WEB CERTIFICATE. Writes
// its certificate, prints "ready" and serves until standard input ends.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "http/http.h"

struct ctx {
    struct loop *loop;
    struct http *http;
    struct promise *promise; // of "later"
};

static err_t echo(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_object_update(reply->result, (json_t *)args);
    return OK;
}

static err_t busy(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return error_set(e, ERR_BUSY, "it is taken; ask again later");
}

static err_t listen_to(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    reply->events = true;
    return OK;
}

static err_t tell(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct ctx *ctx = context;
    static char line[100000];
    size_t len = (size_t)request_number(args, "bytes", 20);
    memset(line, ' ', len);
    memcpy(line, "{\"event\":\"told\"}", 16);
    line[len - 1] = '\n';
    http_tell(ctx->http, line, len);
    return OK;
}

static err_t later(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct ctx *ctx = context;
    if (ctx->promise)
        return error_set(e, ERR_BUSY, "one at a time");
    ctx->promise = reply_later(reply);
    return OK;
}

static err_t settle(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct ctx *ctx = context;
    struct error why;
    (void)!error_set(&why, ERR_EXISTS, "it is there");
    if (ctx->promise)
        promise_settle(
            ctx->promise,
            json_is_true(json_object_get(args, "flag")) ? NULL : json_pack("{s:i}", "n", 1), &why);
    ctx->promise = NULL;
    return OK;
}

// A program's other end that says everything again.
static err_t stream(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return error_set(e, ERR_IO, "no sockets");
    if (!fork()) {
        char data[4096];
        close(pair[0]);
        for (ssize_t n;
             (n = read(pair[1], data, sizeof data)) > 0 && !(n == 1 && data[0] == '!');) {
            if (write(pair[1], data, (size_t)n) < 0)
                break;
        }
        _exit(0);
    }
    close(pair[1]);
    reply->fd = pair[0];
    return OK;
}

static err_t usage(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_object_set_new(reply->result, "value", json_integer(1));
    return OK;
}

static const struct request_field echo_fields[] = {
    {"name", FIELD_TEXT, true, 0, 63, "a name"},
    {"number", FIELD_NUMBER, false, 0, 10, "a number"},
    {"flag", FIELD_BOOL, false, 0, 0, "a flag"},
    {0},
};
static const struct request_field tell_fields[] = {
    {"bytes", FIELD_NUMBER, false, 20, 100000, "of the line"},
    {0},
};
static const struct request table[] = {
    {"show", "says its arguments", echo_fields, echo, "GET /v1/things/{name}"},
    {"set", "says its arguments", echo_fields, echo, "POST /v1/things/{name}"},
    {"remove", "says its arguments", echo_fields, echo, "DELETE /v1/things/{name}"},
    {"busy", "refuses", NULL, busy, "POST /v1/busy"},
    {"events", "listens", NULL, listen_to, "GET /v1/events", ANSWER_EVENTS},
    {"tell", "makes an event", tell_fields, tell, "POST /v1/tell"},
    {"usage", "a number", NULL, usage},
    {"later", "answers when it is settled", NULL, later, "POST /v1/later"},
    {"settle", "answers that", echo_fields, settle, "POST /v1/settle/{name}"},
    {"stream", "a stream that says everything again", NULL, stream, "GET /v1/stream",
     ANSWER_STREAM},
    {0},
};

static enum http_role role_of(void *context, const char *token)
{
    return !strcmp(token, "operator") ? HTTP_OPERATOR
           : !strcmp(token, "reader") ? HTTP_READER
                                      : HTTP_NOBODY;
}

static void metrics_text(const json_t *answer, struct buffer *out)
{
    char text[80];
    int len = snprintf(text, sizeof text, "# TYPE berth_test gauge\nberth_test %d\n",
                       (int)json_integer_value(json_object_get(answer, "value")));
    buffer_append(out, text, (size_t)len);
}

static int listen_at(const struct sockaddr *at, socklen_t len)
{
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (fd < 0 || bind(fd, at, len) || listen(fd, 64)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

static void check(err_t err, const struct error *e)
{
    if (!err)
        return;
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

static void input(void *opaque, uint32_t events)
{
    struct ctx *ctx = opaque;
    loop_stop(ctx->loop);
}

int main(int argc, char **argv)
{
    struct ctx ctx;
    struct error e;
    char *certificate, *key;
    if (argc != 5)
        return 2;
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    snprintf(local.sun_path, sizeof local.sun_path, "%s", argv[1]);
    struct sockaddr_in remote = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)atoi(argv[2])),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    signal(SIGPIPE, SIG_IGN);
    check(loop_new(&ctx.loop, &e), &e);
    const struct http_options options = {.loop = ctx.loop,
                                         .table = table,
                                         .context = &ctx,
                                         .web = argv[3],
                                         .role_of = role_of,
                                         .metrics = "usage",
                                         .metrics_text = metrics_text};
    check(http_new(&options, &ctx.http, &e), &e);
    check(certificate_make("127.0.0.1", &certificate, &key, &e), &e);
    FILE *file = fopen(argv[4], "w");
    if (!file || fputs(certificate, file) < 0 || fclose(file))
        return 1;
    check(http_listen_local(ctx.http, listen_at((struct sockaddr *)&local, sizeof local), &e), &e);
    check(http_listen_tls(ctx.http, listen_at((struct sockaddr *)&remote, sizeof remote),
                          certificate, key, &e),
          &e);
    struct loop_fd in = {.fd = 0, .events = EPOLLIN, .ready = input, .opaque = &ctx};
    check(loop_fd_add(ctx.loop, &in, &e), &e);
    puts("ready");
    fflush(stdout);
    loop_run(ctx.loop);
    loop_fd_remove(ctx.loop, &in);
    http_free(ctx.http);
    loop_free(ctx.loop);
    free(certificate);
    free(key);
    return 0;
}
