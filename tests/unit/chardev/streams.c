// Byte streams: the kinds, flow control both ways, a pty whose reader goes and comes back.
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "chardev/open.h"
#include "host/clock.h"
#include "test.h"

struct fixture {
    struct loop *loop;
    struct chardev *chr;
    uint8_t got[64];
    size_t len;
    size_t room; // how many bytes input() takes
    bool writable;
    struct loop_timer end;
};

static size_t input(void *opaque, const uint8_t *data, size_t len)
{
    struct fixture *f = opaque;
    size_t n = len < f->room ? len : f->room;
    memcpy(f->got + f->len, data, n);
    f->len += n;
    f->room -= n;
    return n;
}

static void writable(void *opaque)
{
    struct fixture *f = opaque;
    f->writable = true;
}

static void open_stream(struct fixture *f, const char *spec)
{
    *f = (struct fixture){.room = sizeof f->got};
    CHECK(loop_new(&f->loop, NULL) == OK);
    struct chardev_options options = {.loop = f->loop, .spec = spec, .name = "serial"};
    struct error e = {0};
    CHECK(chardev_open(&options, &f->chr, &e) == OK);
    CHECK_STR(e.text, "");
    struct chardev_user user = {.input = input, .writable = writable, .opaque = f};
    chardev_attach(f->chr, &user);
}

static void end(void *opaque)
{
    struct fixture *f = opaque;
    loop_stop(f->loop);
}

// The loop can stop only once, so the fixture's loop runs in one go; long enough for two looks of a
// pty.
static void run_for(struct fixture *f, unsigned ms)
{
    f->end = (struct loop_timer){.fire = end, .opaque = f};
    loop_timer_set(f->loop, &f->end, host_now() + ms * NS_PER_MS);
    loop_run(f->loop);
}

static void close_stream(struct fixture *f)
{
    chardev_close(f->chr, 100);
    loop_free(f->loop);
}

static void put(struct fixture *f, const char *text)
{
    CHECK_EQ(f->chr->type->write(f->chr, (const uint8_t *)text, strlen(text)), strlen(text));
}

static void unknown_kinds_are_refused_with_the_ones_there_are(void)
{
    struct error e = {0};
    CHECK(chardev_check("tcp:1", &e) == ERR_INVALID);
    CHECK_STR(e.text, "there is no 'tcp:1'; give stdio, pty, shared, file:PATH or none");
    CHECK(chardev_check("file:", NULL) == ERR_INVALID);
    CHECK(chardev_check(NULL, NULL) == OK);
}

static void a_file_gets_what_was_written_before_the_close(void)
{
    struct fixture f;
    char spec[] = "file:/tmp/berth-chr-XXXXXX";
    close(mkstemp(spec + 5));
    open_stream(&f, spec);
    put(&f, "hello");
    close_stream(&f);
    char text[8] = "";
    int fd = open(spec + 5, O_RDONLY);
    CHECK_EQ(read(fd, text, sizeof text), 5);
    CHECK_STR(text, "hello");
    close(fd);
    unlink(spec + 5);
}

static void nothing_takes_everything(void)
{
    struct fixture f;
    open_stream(&f, "none");
    put(&f, "hello");
    CHECK(chardev_where(f.chr) == NULL);
    close_stream(&f);
}

static int open_terminal(const struct fixture *f)
{
    int fd = open(chardev_where(f->chr), O_RDWR | O_NOCTTY | O_NONBLOCK);
    CHECK(fd >= 0);
    return fd;
}

static void a_pty_keeps_its_newest_output_for_the_next_reader(void)
{
    struct fixture f;
    open_stream(&f, "pty");
    static char filler[70000];
    memset(filler, 'x', sizeof filler - 1);
    put(&f, filler);
    put(&f, "end");
    int fd = open_terminal(&f);
    run_for(&f, 250);
    char text[4096];
    CHECK(read(fd, text, sizeof text) > 0);
    CHECK_EQ(text[0], 'x');
    close(fd);
    close_stream(&f);
}

static void a_pty_passes_bytes_both_ways_unchanged(void)
{
    struct fixture f;
    open_stream(&f, "pty");
    int fd = open_terminal(&f);
    put(&f, "a\r\nb");
    CHECK_EQ(write(fd, "\3q\r", 3), 3);
    run_for(&f, 250);
    char text[8] = "";
    CHECK_EQ(read(fd, text, sizeof text), 4);
    CHECK_STR(text, "a\r\nb");
    CHECK_EQ(f.len, 3);
    CHECK(!memcmp(f.got, "\3q\r", 3));
    close(fd);
    close_stream(&f);
}

struct hangup {
    struct fixture *f;
    struct loop_timer timer;
    int fd;
};

static void close_terminal(void *opaque)
{
    struct hangup *h = opaque;
    close(h->fd);
    h->fd = -1;
}

static void reopen_terminal(void *opaque)
{
    struct hangup *h = opaque;
    put(h->f, "again");
    h->fd = open_terminal(h->f);
}

static void a_pty_survives_its_reader(void)
{
    struct fixture f;
    open_stream(&f, "pty");
    struct hangup h = {.f = &f, .fd = open_terminal(&f)};
    struct hangup h2 = {.f = &f, .fd = -1};
    h.timer = (struct loop_timer){.fire = close_terminal, .opaque = &h};
    h2.timer = (struct loop_timer){.fire = reopen_terminal, .opaque = &h2};
    loop_timer_set(f.loop, &h.timer, host_now() + 150 * NS_PER_MS);
    loop_timer_set(f.loop, &h2.timer, host_now() + 200 * NS_PER_MS);
    run_for(&f, 450);
    char text[8] = "";
    CHECK_EQ(read(h2.fd, text, sizeof text), 5);
    CHECK_STR(text, "again");
    close(h2.fd);
    close_stream(&f);
}

struct room {
    struct fixture *f;
    struct loop_timer timer;
};

static void give_room(void *opaque)
{
    struct room *r = opaque;
    CHECK_EQ(r->f->len, 2);
    r->f->room = 9;
    r->f->chr->type->resume(r->f->chr);
}

static void input_waits_until_the_device_has_room(void)
{
    struct fixture f;
    open_stream(&f, "pty");
    f.room = 2;
    int fd = open_terminal(&f);
    CHECK_EQ(write(fd, "12345", 5), 5);
    struct room r = {.f = &f, .timer = {.fire = give_room}};
    r.timer.opaque = &r;
    loop_timer_set(f.loop, &r.timer, host_now() + 200 * NS_PER_MS);
    run_for(&f, 250);
    CHECK_EQ(f.len, 5);
    CHECK(!memcmp(f.got, "12345", 5));
    close(fd);
    close_stream(&f);
}

static void a_reader_that_does_not_read_makes_writes_stop_until_there_is_room(void)
{
    struct fixture f;
    int ends[2], saved = dup(STDOUT_FILENO);
    fflush(stdout);
    CHECK(pipe(ends) == 0);
    dup2(ends[1], STDOUT_FILENO);
    open_stream(&f, "stdio");
    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(ends[1]);
    static uint8_t data[50000], sink[65536];
    size_t total = 0, n;
    while ((n = f.chr->type->write(f.chr, data, sizeof data)) > 0)
        total += n;
    CHECK_EQ(total, 65536);
    CHECK(!f.writable);
    run_for(&f, 20);
    CHECK(f.writable);
    CHECK(read(ends[0], sink, sizeof sink) > 0);
    close(ends[0]);
    close_stream(&f);
}

TEST_MAIN(TEST(unknown_kinds_are_refused_with_the_ones_there_are),
          TEST(a_file_gets_what_was_written_before_the_close), TEST(nothing_takes_everything),
          TEST(a_pty_keeps_its_newest_output_for_the_next_reader),
          TEST(a_pty_passes_bytes_both_ways_unchanged), TEST(a_pty_survives_its_reader),
          TEST(input_waits_until_the_device_has_room),
          TEST(a_reader_that_does_not_read_makes_writes_stop_until_there_is_room))
