// The event loop: order of timers, work from other threads, descriptors of every kind.
#include "host/loop.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "host/clock.h"
#include "host/thread.h"
#include "test.h"

struct ctx {
    struct loop *loop;
    char log[16];
    unsigned len;
    unsigned stop_at;
};

struct step {
    struct ctx *ctx;
    char mark;
};

static void note(void *opaque)
{
    struct step *step = opaque;
    struct ctx *ctx = step->ctx;
    if (ctx->len < sizeof ctx->log - 1)
        ctx->log[ctx->len++] = step->mark;
    if (ctx->len >= ctx->stop_at)
        loop_stop(ctx->loop);
}

static void setup(struct ctx *ctx, unsigned stop_at)
{
    struct error e;
    *ctx = (struct ctx){.stop_at = stop_at};
    if (loop_new(&ctx->loop, &e))
        abort();
}

static void timers_fire_in_order_of_their_deadlines(void)
{
    struct ctx ctx;
    setup(&ctx, 3);
    struct step a = {&ctx, 'a'}, b = {&ctx, 'b'}, c = {&ctx, 'c'}, d = {&ctx, 'd'};
    struct loop_timer ta = {.fire = note, .opaque = &a}, tb = {.fire = note, .opaque = &b},
                      tc = {.fire = note, .opaque = &c}, td = {.fire = note, .opaque = &d};
    uint64_t now = host_now();
    loop_timer_set(ctx.loop, &tc, now + 3 * NS_PER_MS);
    loop_timer_set(ctx.loop, &ta, 0);
    loop_timer_set(ctx.loop, &tb, now + 2 * NS_PER_MS);
    loop_timer_set(ctx.loop, &td, now + NS_PER_MS);
    loop_timer_set(ctx.loop, &td, NS_NEVER);
    loop_run(ctx.loop);
    CHECK_STR(ctx.log, "abc");
    CHECK(host_now() >= now + 3 * NS_PER_MS);
    loop_free(ctx.loop);
}

struct rearm {
    struct ctx *ctx;
    struct loop_timer timer;
    struct step *work_step;
    unsigned fired;
};

static void fire_again(void *opaque)
{
    struct rearm *r = opaque;
    r->fired++;
    loop_timer_set(r->ctx->loop, &r->timer, 0);
}

static void a_timer_that_rearms_itself_in_the_past_does_not_starve_work(void)
{
    struct ctx ctx;
    setup(&ctx, 1);
    struct step w = {&ctx, 'w'};
    struct loop_work work = {.run = note, .opaque = &w};
    struct rearm r = {.ctx = &ctx, .timer = {.fire = fire_again}};
    r.timer.opaque = &r;
    loop_timer_set(ctx.loop, &r.timer, 0);
    loop_post(ctx.loop, &work);
    loop_run(ctx.loop);
    CHECK_STR(ctx.log, "w");
    CHECK(r.fired >= 1);
    loop_free(ctx.loop);
}

static void post_twice(void *opaque)
{
    struct loop_work *work = opaque;
    struct step *step = work->opaque;
    loop_post(step->ctx->loop, work);
    loop_post(step->ctx->loop, work);
}

static void work_posted_twice_from_another_thread_runs_once(void)
{
    struct ctx ctx;
    setup(&ctx, 2);
    struct step a = {&ctx, 'a'}, z = {&ctx, 'z'};
    struct loop_work work = {.run = note, .opaque = &a};
    struct loop_timer end = {.fire = note, .opaque = &z};
    struct host_thread thread = {0};
    CHECK(host_thread_start(&thread, "poster", post_twice, &work, NULL) == OK);
    host_thread_join(&thread);
    loop_timer_set(ctx.loop, &end, host_now() + 5 * NS_PER_MS);
    loop_run(ctx.loop);
    CHECK_STR(ctx.log, "az");
    loop_free(ctx.loop);
}

struct reader {
    struct ctx *ctx;
    struct loop_fd fd;
    char got[8];
    size_t len;
};

static void take(void *opaque, uint32_t events)
{
    struct reader *r = opaque;
    ssize_t n = read(r->fd.fd, r->got + r->len, 1);
    if (n <= 0) {
        loop_fd_remove(r->ctx->loop, &r->fd);
        loop_stop(r->ctx->loop);
        return;
    }
    r->len += (size_t)n;
}

static void read_three(int fd)
{
    struct ctx ctx;
    setup(&ctx, 9);
    struct reader r = {.ctx = &ctx, .fd = {.fd = fd, .events = EPOLLIN, .ready = take}};
    r.fd.opaque = &r;
    CHECK(loop_fd_add(ctx.loop, &r.fd, NULL) == OK);
    loop_run(ctx.loop);
    CHECK_STR(r.got, "xyz");
    loop_free(ctx.loop);
    close(fd);
}

static void pipes_are_read_to_their_end(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK(write(ends[1], "xyz", 3) == 3);
    close(ends[1]);
    read_three(ends[0]);
}

static void regular_files_count_as_always_ready(void)
{
    char path[] = "/tmp/berth-loop-XXXXXX";
    int fd = mkstemp(path);
    CHECK(write(fd, "xyz", 3) == 3);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    unlink(path);
    read_three(fd);
}

static void a_stop_before_the_run_is_kept(void)
{
    struct ctx ctx;
    setup(&ctx, 1);
    loop_stop(ctx.loop);
    loop_run(ctx.loop);
    CHECK_EQ(ctx.len, 0);
    loop_free(ctx.loop);
}

TEST_MAIN(TEST(timers_fire_in_order_of_their_deadlines),
          TEST(a_timer_that_rearms_itself_in_the_past_does_not_starve_work),
          TEST(work_posted_twice_from_another_thread_runs_once), TEST(pipes_are_read_to_their_end),
          TEST(regular_files_count_as_always_ready), TEST(a_stop_before_the_run_is_kept))
