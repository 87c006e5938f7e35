// The control socket's serving side: what clients get, and what they cannot do.
#include "control/server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "host/clock.h"
#include "test.h"

struct ctx {
    struct loop *loop;
    struct server *server;
    struct sockaddr_un at;
    socklen_t at_len;
    struct loop_timer end;
    unsigned calls;
    int kept[2]; // descriptors that requests have brought
    unsigned keeps;
};

// --- requests of the test's own

static err_t echo(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct ctx *ctx = context;
    ctx->calls++;
    json_object_set_new(reply->result, "number", json_integer(request_number(args, "number", 7)));
    json_object_set_new(reply->result, "text", json_string(request_text(args, "text", "none")));
    return OK;
}

static err_t fail(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return error_set(e, ERR_BUSY, "it is taken; wait; then ask again");
}

static err_t listen_to(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    reply->events = true;
    return OK;
}

static err_t file(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    reply->fd = memfd_create("test", MFD_CLOEXEC);
    return write(reply->fd, "data", 4) == 4 ? OK : ERR_IO;
}

static err_t keep(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct ctx *ctx = context;
    if (ctx->keeps < 2)
        ctx->kept[ctx->keeps++] = reply->given;
    reply->given = -1;
    return OK;
}

static err_t tell(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct ctx *ctx = context;
    server_tell(ctx->server, "{\"event\":\"told\"}\n", 17);
    return OK;
}

static err_t large(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct ctx *ctx = context;
    ctx->calls++;
    char *text = malloc(4 * MIB);
    memset(text, 'x', 4 * MIB);
    json_object_set_new(reply->result, "text", json_stringn(text, 4 * MIB));
    free(text);
    return OK;
}

static const struct request_field echo_fields[] = {
    {"number", FIELD_NUMBER, false, -5, 100, "a number"},
    {"text", FIELD_TEXT, false, 0, 8, "a text"},
    {"flag", FIELD_BOOL, false, 0, 0, "a flag"},
    {0},
};
static const struct request_field fail_fields[] = {
    {"why", FIELD_TEXT, true, 0, 8, "the reason"},
    {0},
};
static const struct request table[] = {
    {"echo", "says it again", echo_fields, echo}, {"fail", "refuses", fail_fields, fail},
    {"events", "listens", NULL, listen_to},       {"file", "hands out a file", NULL, file},
    {"keep", "keeps a file", NULL, keep},         {"tell", "makes an event", NULL, tell},
    {"large", "a long answer", NULL, large},      {0},
};

// --- a server on an abstract socket

static void stop(void *opaque)
{
    loop_stop(opaque);
}

static void setup(struct ctx *ctx)
{
    *ctx = (struct ctx){.at = {.sun_family = AF_UNIX}};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ctx->at_len = sizeof(sa_family_t);
    if (fd < 0 || bind(fd, (struct sockaddr *)&ctx->at, ctx->at_len) || listen(fd, 32))
        abort();
    ctx->at_len = sizeof ctx->at;
    getsockname(fd, (struct sockaddr *)&ctx->at, &ctx->at_len);
    if (loop_new(&ctx->loop, NULL))
        abort();
    ctx->end = (struct loop_timer){.fire = stop, .opaque = ctx->loop};
    const struct server_options options = {
        .loop = ctx->loop, .listen_fd = fd, .table = table, .context = ctx};
    if (server_new(&options, &ctx->server, NULL))
        abort();
}

static void release(struct ctx *ctx)
{
    server_free(ctx->server, 0);
    loop_free(ctx->loop);
}

static int dial(const struct ctx *ctx)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (const struct sockaddr *)&ctx->at, ctx->at_len))
        abort();
    return fd;
}

static void say(int fd, const char *text)
{
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void *run_loop(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

// Lets the server work, with the client reading meanwhile, until it has `lines` lines or the
// connection has ended. Returns what came.
static char *hear(struct ctx *ctx, int fd, unsigned lines)
{
    static char got[8 * MIB];
    size_t len = 0;
    pthread_t id;
    pthread_create(&id, NULL, run_loop, ctx->loop);
    while (lines) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ssize_t n = poll(&ready, 1, 5000) > 0 ? recv(fd, got + len, sizeof got - len - 1, 0) : 0;
        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            lines -= lines && got[len + (size_t)i] == '\n';
        len += (size_t)n;
    }
    got[len] = '\0';
    loop_stop(ctx->loop);
    pthread_join(id, NULL);
    return got;
}

static void answers(const char *line, const char *answer)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx);
    say(fd, line);
    CHECK_STR(hear(&ctx, fd, 1), answer);
    close(fd);
    release(&ctx);
}

// --- tests

static void a_request_is_answered_with_its_id_and_arguments(void)
{
    answers("{\"request\":\"echo\",\"id\":3,\"number\":-5,\"text\":\"hello\"}\n",
            "{\"ok\":{\"number\":-5,\"text\":\"hello\"},\"id\":3}\n");
    answers("{\"request\":\"echo\",\"id\":\"a\"}\n",
            "{\"ok\":{\"number\":7,\"text\":\"none\"},\"id\":\"a\"}\n");
}

static void a_refusal_has_code_words_and_hint(void)
{
    answers("{\"request\":\"fail\",\"why\":\"x\"}\n",
            "{\"error\":{\"code\":\"busy\",\"text\":\"it is taken; wait\","
            "\"hint\":\"then ask again\"}}\n");
}

static void arguments_outside_the_table_are_refused(void)
{
    static const char *const lines[] = {
        "{\"request\":\"echo\",\"number\":101}\n",
        "{\"request\":\"echo\",\"number\":\"1\"}\n",
        "{\"request\":\"echo\",\"text\":\"nine bytes\"}\n",
        "{\"request\":\"echo\",\"text\":\"a\\u0000b\"}\n",
        "{\"request\":\"echo\",\"flag\":1}\n",
        "{\"request\":\"echo\",\"other\":1}\n",
        "{\"request\":\"fail\"}\n",
        "{\"request\":\"nothing\"}\n",
        "{\"request\":5}\n",
        "{\"request\":\"echo\",\"id\":[]}\n",
        "{\"request\":\"echo\",\"request\":\"echo\"}\n",
        "[]\n",
        "\"\xff\"\n",
        "{\n",
    };
    struct ctx ctx;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        setup(&ctx);
        int fd = dial(&ctx);
        say(fd, lines[i]);
        CHECK(!strncmp(hear(&ctx, fd, 1), "{\"error\":{\"code\":", 17));
        CHECK_EQ(ctx.calls, 0);
        close(fd);
        release(&ctx);
    }
}

static void several_lines_at_once_are_answered_in_order(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx);
    say(fd, "{\"request\":\"echo\",\"id\":1}\n\n{\"request\":\"events\",\"id\":2}\n{\"requ");
    CHECK_STR(hear(&ctx, fd, 2),
              "{\"ok\":{\"number\":7,\"text\":\"none\"},\"id\":1}\n{\"ok\":{},\"id\":2}\n");
    close(fd);
    release(&ctx);
}

static void a_client_that_only_sends_still_gets_its_answer(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx);
    say(fd, "{\"request\":\"echo\"}\n");
    shutdown(fd, SHUT_WR);
    CHECK_STR(hear(&ctx, fd, 2), "{\"ok\":{\"number\":7,\"text\":\"none\"}}\n");
    close(fd);
    release(&ctx);
}

static void a_line_that_never_ends_is_refused(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx);
    char *text = malloc(REQUEST_LINE_MAX + 2);
    memset(text, ' ', REQUEST_LINE_MAX + 1);
    text[REQUEST_LINE_MAX + 1] = '\0';
    say(fd, text);
    free(text);
    CHECK(strstr(hear(&ctx, fd, 2), "longer than 65536 bytes"));
    close(fd);
    release(&ctx);
}

static void a_client_that_does_not_read_is_not_served_further(void)
{
    struct ctx ctx;
    setup(&ctx);
    int lazy = dial(&ctx), fd = dial(&ctx);
    for (int i = 0; i < 20; i++)
        say(lazy, "{\"request\":\"large\"}\n");
    say(fd, "{\"request\":\"echo\"}\n");
    CHECK_STR(hear(&ctx, fd, 1), "{\"ok\":{\"number\":7,\"text\":\"none\"}}\n");
    CHECK_EQ(ctx.calls, 2);
    close(lazy);
    close(fd);
    release(&ctx);
}

static void events_reach_those_who_asked_even_from_a_handler(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx), other = dial(&ctx);
    say(fd, "{\"request\":\"events\"}\n{\"request\":\"tell\"}\n");
    CHECK_STR(hear(&ctx, fd, 3), "{\"ok\":{}}\n{\"event\":\"told\"}\n{\"ok\":{}}\n");
    char byte;
    CHECK(recv(other, &byte, 1, MSG_DONTWAIT) < 0);
    close(fd);
    close(other);
    release(&ctx);
}

static void a_listener_that_does_not_read_is_dropped(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx);
    say(fd, "{\"request\":\"events\"}\n");
    loop_timer_set(ctx.loop, &ctx.end, host_now() + 100 * NS_PER_MS);
    loop_run(ctx.loop);
    static char line[64 * KIB];
    memset(line, ' ', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 100; i++)
        server_tell(ctx.server, line, sizeof line);
    release(&ctx);
    size_t got = 0;
    for (ssize_t n; (n = recv(fd, line, sizeof line, 0)) > 0;)
        got += (size_t)n;
    CHECK(got < 20 * sizeof line);
    close(fd);
}

static void a_descriptor_comes_with_its_answer(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx);
    say(fd, "{\"request\":\"file\"}\n");
    loop_timer_set(ctx.loop, &ctx.end, host_now() + 100 * NS_PER_MS);
    loop_run(ctx.loop);
    char text[100], control[CMSG_SPACE(sizeof(int))];
    struct iovec data = {text, sizeof text};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    CHECK(recvmsg(fd, &message, 0) > 0);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    CHECK(rights && rights->cmsg_type == SCM_RIGHTS);
    int passed = -1;
    if (rights)
        memcpy(&passed, CMSG_DATA(rights), sizeof passed);
    CHECK_EQ(pread(passed, text, sizeof text, 0), 4);
    close(passed);
    close(fd);
    release(&ctx);
}

// Writes the line with `count` copies of fd.
static void say_with(int to, const char *text, int fd, unsigned count)
{
    char control[CMSG_SPACE(4 * sizeof(int))] = {0};
    struct iovec data = {(char *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (unsigned i = 0; i < count; i++)
        memcpy(CMSG_DATA(rights) + i * sizeof(int), &fd, sizeof fd);
    CHECK(sendmsg(to, &message, 0) > 0);
}

static void a_request_may_bring_one_descriptor_and_no_more(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd = dial(&ctx), file = memfd_create("test", MFD_CLOEXEC);
    say_with(fd, "{\"request\":\"keep\"}\n", file, 1);
    say_with(fd, "{\"request\":\"echo\"}\n", file, 4); // nobody keeps them
    say(fd, "{\"request\":\"keep\"}\n");
    CHECK(!strstr(hear(&ctx, fd, 3), "error"));
    CHECK_EQ(ctx.keeps, 2);
    CHECK_EQ(ctx.kept[1], -1);
    CHECK_EQ(write(ctx.kept[0], "data", 4), 4);
    char text[8];
    CHECK_EQ(pread(file, text, sizeof text, 0), 4);
    int next = dup(file); // the lowest number that is free: nothing else was left open
    CHECK(next <= ctx.kept[0] + 1);
    close(next);
    close(ctx.kept[0]);
    close(file);
    close(fd);
    release(&ctx);
}

static void one_client_too_many_is_told_so(void)
{
    struct ctx ctx;
    setup(&ctx);
    int fd[17];
    for (unsigned i = 0; i < ARRAY_LEN(fd); i++)
        fd[i] = dial(&ctx);
    CHECK(strstr(hear(&ctx, fd[16], 1), "\"busy\""));
    for (unsigned i = 0; i < ARRAY_LEN(fd); i++)
        close(fd[i]);
    release(&ctx);
}

TEST_MAIN(TEST(a_request_is_answered_with_its_id_and_arguments),
          TEST(a_refusal_has_code_words_and_hint), TEST(arguments_outside_the_table_are_refused),
          TEST(several_lines_at_once_are_answered_in_order),
          TEST(a_client_that_only_sends_still_gets_its_answer),
          TEST(a_line_that_never_ends_is_refused),
          TEST(a_client_that_does_not_read_is_not_served_further),
          TEST(events_reach_those_who_asked_even_from_a_handler),
          TEST(a_listener_that_does_not_read_is_dropped), TEST(a_descriptor_comes_with_its_answer),
          TEST(a_request_may_bring_one_descriptor_and_no_more),
          TEST(one_client_too_many_is_told_so))
