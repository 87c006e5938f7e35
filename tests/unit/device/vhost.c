// vhost-user: a front end and a back end of ours talk to each other, and each to somebody worse.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/vhost/back.h"
#include "host/clock.h"
#include "net/vhost_front.h"
#include "test.h"

#define PACKETS 500

// A front end whose packets come back from a back end.
struct ctx {
    struct loop *loop;
    struct loop_timer late;
    struct vhost_front front;
    struct vhost_back back;
    unsigned sent, received, wrong;
    bool echo_waits, gone;
    bool scribbles; // somebody writes into the ring
    size_t echo_len;
    char why[200];
    uint8_t packet[NET_PACKET_MAX + 1], echo[NET_PACKET_MAX + 1];
};

static struct ctx ctx;

static void stop(void *opaque)
{
    loop_stop(ctx.loop);
}

// --- the front end's side

static size_t make_packet(unsigned n)
{
    size_t len = n % 7 ? 60 + n : 60000 + n;
    memset(ctx.packet, 0, NET_HEADER_BYTES);
    for (size_t i = NET_HEADER_BYTES; i < len; i++)
        ctx.packet[i] = (uint8_t)(i * n);
    return len;
}

static void send_more(void *opaque)
{
    while (ctx.sent < PACKETS) {
        size_t len = make_packet(ctx.sent);
        if (!vhost_front_send(&ctx.front, ctx.packet, len))
            return;
        ctx.sent++;
    }
}

static void received(void *opaque)
{
    static uint8_t got[NET_PACKET_MAX];
    size_t len;
    if (ctx.scribbles)
        ctx.front.window.ring[WINDOW_RECEIVE].shared->used.index += 200;
    while ((len = vhost_front_receive(&ctx.front, got))) {
        size_t want = make_packet(ctx.received++);
        ctx.wrong += len != want || memcmp(got + NET_HEADER_BYTES, ctx.packet + NET_HEADER_BYTES,
                                           len - NET_HEADER_BYTES) != 0;
    }
    vhost_front_received(&ctx.front);
    if (ctx.received == PACKETS)
        stop(NULL);
}

static void front_gone(void *opaque, const char *why)
{
    snprintf(ctx.why, sizeof ctx.why, "%s", why);
    ctx.gone = true;
    vhost_front_close(&ctx.front);
    stop(NULL);
}

static const struct vhost_front_ops front_ops = {send_more, received, send_more, front_gone};

// --- the back end's

static void echo(void *opaque)
{
    while (!ctx.echo_waits || vhost_back_give(&ctx.back, ctx.echo, ctx.echo_len)) {
        ssize_t len = vhost_back_pull(&ctx.back, ctx.echo, sizeof ctx.echo);
        ctx.echo_waits = len >= 0;
        if (len < 0)
            break;
        ctx.echo_len = (size_t)len;
    }
    vhost_back_pulled(&ctx.back);
}

static void broken(void *opaque, const char *why)
{
    snprintf(ctx.why, sizeof ctx.why, "%s", why);
    stop(NULL);
}

static const struct vhost_back_ops back_ops = {echo, echo, broken, broken};

static void begin(bool careful, int pair[2])
{
    memset(&ctx, 0, sizeof ctx);
    if (loop_new(&ctx.loop, NULL) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        abort();
    ctx.late.fire = stop;
    loop_timer_set(ctx.loop, &ctx.late, host_now() + 20 * NS_PER_SEC);
    ctx.front.loop = ctx.back.loop = ctx.loop;
    ctx.front.ops = &front_ops;
    ctx.back.ops = &back_ops;
    ctx.back.careful = careful;
    vhost_front_init(&ctx.front);
    vhost_back_init(&ctx.back);
}

static void end(void)
{
    loop_timer_set(ctx.loop, &ctx.late, NS_NEVER);
    vhost_front_close(&ctx.front);
    vhost_back_close(&ctx.back);
    loop_free(ctx.loop);
}

static void echo_all(bool careful)
{
    int pair[2];
    begin(careful, pair);
    CHECK(!vhost_back_open(&ctx.back, pair[1], NULL));
    CHECK(!vhost_front_open(&ctx.front, pair[0], NULL));
    loop_run(ctx.loop);
    CHECK_STR(ctx.why, "");
    CHECK_EQ(ctx.received, PACKETS);
    CHECK_EQ(ctx.wrong, 0);
    CHECK(vhost_back_runs(&ctx.back));
    end();
}

static void packets_pass_with_kicks_and_calls_as_messages(void)
{
    echo_all(true);
}

static void packets_pass_with_kicks_and_calls_by_eventfd(void)
{
    echo_all(false);
}

// --- a front end and something else

static void a_front_end_leaves_whoever_breaks_its_rings(void)
{
    int pair[2];
    begin(true, pair);
    ctx.scribbles = true;
    CHECK(!vhost_back_open(&ctx.back, pair[1], NULL));
    CHECK(!vhost_front_open(&ctx.front, pair[0], NULL));
    loop_run(ctx.loop);
    CHECK(ctx.gone);
    CHECK_STR(ctx.why, "it breaks the rules of a ring");
    end();
}

static void a_front_end_leaves_whoever_answers_nonsense(void)
{
    static const struct {
        unsigned request, flags, len;
        uint64_t value;
        const char *why;
    } bad[] = {{1, 4, 8, 0, "it knows only virtio's old format"},
               {2, 4, 8, 1ull << 32, "it answers what it was not asked"},
               {1, 0, 8, 1ull << 32, "it answers what it was not asked"},
               {1, 4, 4, 1ull << 32, "it answers what it was not asked"},
               {1, 2, 8, 0, ""}}; // a version that nobody has
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int pair[2];
        uint8_t value[8];
        begin(true, pair);
        store_le64(value, bad[i].value);
        CHECK(!vhost_front_open(&ctx.front, pair[0], NULL));
        CHECK(vhost_send(pair[1], bad[i].request, bad[i].flags, value, bad[i].len, -1));
        loop_run(ctx.loop);
        CHECK(ctx.gone);
        CHECK_STR(ctx.why, bad[i].why);
        close(pair[1]);
        end();
    }
}

static void a_front_end_notices_that_it_is_alone(void)
{
    int pair[2];
    begin(true, pair);
    CHECK(!vhost_front_open(&ctx.front, pair[0], NULL));
    close(pair[1]);
    loop_run(ctx.loop);
    CHECK(ctx.gone);
    end();
}

// --- a back end and something else

static err_t obey(unsigned request, const void *payload, size_t len, int fd)
{
    static struct vhost_message m;
    bool answer;
    struct error e;
    m = (struct vhost_message){.request = request, .size = (uint32_t)len};
    memcpy(m.payload, payload, len);
    if (fd >= 0)
        m.fd[m.fds++] = fd;
    err_t err = vhost_obey(&ctx.back, &m, &answer, &e);
    if (m.fds && m.fd[0] >= 0)
        close(m.fd[0]);
    return err;
}

static err_t offer_memory(int fd, uint64_t bytes)
{
    uint8_t table[40] = {1};
    store_le64(table + 16, bytes);
    return obey(VHOST_SET_MEM_TABLE, table, sizeof table, fd);
}

static int memory(unsigned flags, uint64_t bytes, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | flags);
    if (ftruncate(fd, (off_t)bytes) || (seals && fcntl(fd, F_ADD_SEALS, seals)))
        abort();
    return fd;
}

static void a_careful_back_end_takes_only_what_cannot_hurt_it(void)
{
    int pair[2];
    begin(true, pair);
    uint8_t ring[8] = {0};
    CHECK_EQ(offer_memory(memory(0, MIB, 0), MIB), ERR_INVALID);
    CHECK_EQ(offer_memory(memory(MFD_ALLOW_SEALING, MIB, F_SEAL_GROW), MIB), ERR_INVALID);
    CHECK_EQ(offer_memory(open("/dev/zero", O_RDWR | O_CLOEXEC), MIB), ERR_INVALID);
    CHECK_EQ(offer_memory(memory(MFD_ALLOW_SEALING, GIB, F_SEAL_SHRINK), GIB), ERR_INVALID);
    CHECK_EQ(offer_memory(memory(MFD_ALLOW_SEALING, MIB, F_SEAL_SHRINK), 2 * MIB), ERR_INVALID);
    CHECK_EQ(offer_memory(memory(MFD_ALLOW_SEALING, MIB, F_SEAL_SHRINK), MIB), OK);
    CHECK_EQ(obey(VHOST_SET_VRING_KICK, ring, sizeof ring, eventfd(0, EFD_CLOEXEC)), ERR_INVALID);
    CHECK_EQ(obey(VHOST_SET_VRING_CALL, ring, sizeof ring, eventfd(0, EFD_CLOEXEC)), OK);
    CHECK_EQ(ctx.back.ring[0].call, -1);                                  // not kept
    CHECK_EQ(obey(VHOST_VRING_KICK, ring, sizeof ring, -1), ERR_INVALID); // of no ring yet
    vhost_memory_release(&ctx.back.memory);
    close(pair[0]);
    close(pair[1]);
    end();
}

static void messages_may_come_in_pieces(void)
{
    int pair[2], big[2];
    static struct vhost_channel c;
    uint8_t bytes[64], payload[24] = {7, 8, 9};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || socketpair(AF_UNIX, SOCK_STREAM, 0, big))
        abort();
    CHECK(vhost_send(big[0], 33, 8, payload, sizeof payload, pair[0]));
    CHECK_EQ(vhost_channel_read(&c, big[1]), VHOST_MESSAGE);
    CHECK(c.in.fds == 1 && c.in.request == 33 && c.in.size == 24 && c.in.payload[2] == 9);
    vhost_channel_clear(&c);
    CHECK_EQ(c.in.payload[2], 0);
    CHECK(vhost_send(big[0], 34, 0, payload, sizeof payload, -1));
    ssize_t n = read(big[1], bytes, sizeof bytes);
    for (ssize_t i = 0; i < n; i++) {
        CHECK_EQ(vhost_channel_read(&c, pair[1]), VHOST_NOTHING);
        CHECK(write(pair[0], bytes + i, 1) == 1);
    }
    CHECK_EQ(vhost_channel_read(&c, pair[1]), VHOST_MESSAGE);
    CHECK(c.in.request == 34 && !c.in.fds && !memcmp(c.in.payload, payload, sizeof payload));
    vhost_channel_clear(&c);
    store_le32(bytes + 8, VHOST_PAYLOAD_MAX + 1);
    CHECK(write(pair[0], bytes, 12) == 12);
    CHECK_EQ(vhost_channel_read(&c, pair[1]), VHOST_GONE);
    for (int i = 0; i < 2; i++) {
        close(pair[i]);
        close(big[i]);
    }
}

TEST_MAIN(TEST(packets_pass_with_kicks_and_calls_as_messages),
          TEST(packets_pass_with_kicks_and_calls_by_eventfd),
          TEST(a_front_end_leaves_whoever_breaks_its_rings),
          TEST(a_front_end_leaves_whoever_answers_nonsense),
          TEST(a_front_end_notices_that_it_is_alone),
          TEST(a_careful_back_end_takes_only_what_cannot_hurt_it),
          TEST(messages_may_come_in_pieces))
