// The virtio socket device against a driver that builds its own packets.
#include <stdlib.h>

#include "base/bytes.h"
#include "device/virtio/virtio_pci.h"
#include "device/virtio/vsock.h"
#include "fake_driver.h"
#include "test.h"

#define FEATURES ~(1ull << VIRTIO_F_RING_PACKED | 1ull << VIRTIO_F_EVENT_IDX)
#define HEADER 44
#define TX 0x80000ull
#define RX 0x90000ull // a buffer of RX_BYTES for each receive descriptor in turn
#define RX_BYTES 512
#define EVENT 0xb0000ull

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct packet {
    uint64_t from, to;
    uint32_t from_port, to_port, len;
    uint16_t type, op;
    uint32_t flags, space, consumed;
    uint8_t data[RX_BYTES];
};

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct fake_driver d;
    struct virtio_vsock_config config;
    unsigned put, got; // receive buffers
    bool accepts;
    unsigned asked, opened, ended, closed, resumed, requests;
    uint32_t port;
    size_t received;
    unsigned messages; // ends of them
    uint8_t last;
    int number; // of the connection heard of last
};

// --- the host

static bool request(void *opaque, unsigned connection, enum vsock_type type, uint32_t guest_port,
                    uint32_t host_port)
{
    struct setup *s = opaque;
    s->requests++;
    s->port = host_port;
    s->number = (int)connection;
    return s->accepts;
}

static void asked(void *opaque, unsigned connection)
{
    ((struct setup *)opaque)->asked++;
}

static void opened(void *opaque, unsigned connection)
{
    ((struct setup *)opaque)->opened++;
}

static void received(void *opaque, unsigned connection, const uint8_t *data, size_t len, bool end)
{
    struct setup *s = opaque;
    s->received += len;
    s->messages += end;
    if (len)
        s->last = data[len - 1];
}

static void ended(void *opaque, unsigned connection)
{
    ((struct setup *)opaque)->ended++;
}

static void resume(void *opaque, unsigned connection)
{
    ((struct setup *)opaque)->resumed++;
}

static void closed(void *opaque, unsigned connection)
{
    ((struct setup *)opaque)->closed++;
}

static const struct vsock_host host = {.request = request,
                                       .asked = asked,
                                       .opened = opened,
                                       .received = received,
                                       .ended = ended,
                                       .resume = resume,
                                       .closed = closed};

// --- the guest

static void give_buffers(struct setup *s, unsigned n)
{
    while (n--) {
        struct fake_buffer b = {RX + s->put++ % 64 * RX_BYTES, RX_BYTES, true};
        fake_put(&s->d, 0, &b, 1, false);
    }
    fake_kick(&s->d, 0);
}

static void set_up(struct setup *s)
{
    *s = (struct setup){.g = fake_guest_new(), .accepts = true, .number = -1};
    s->config = (struct virtio_vsock_config){.host = &host, .opaque = s};
    s->dev = fake_device(s->g, &virtio_vsock_type, &s->config);
    fake_driver_start(&s->d, s->g, s->dev, FEATURES, 3, true);
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
}

static void send_raw(struct setup *s, const struct packet *p, uint32_t len)
{
    uint8_t *at = s->g->ram + TX;
    struct fake_buffer b = {TX, HEADER + len, false};
    uint32_t written;
    store_le64(at, p->from);
    store_le64(at + 8, p->to);
    store_le32(at + 16, p->from_port);
    store_le32(at + 20, p->to_port);
    store_le32(at + 24, p->len);
    store_le16(at + 28, p->type);
    store_le16(at + 30, p->op);
    store_le32(at + 32, p->flags);
    store_le32(at + 36, p->space);
    store_le32(at + 40, p->consumed);
    memcpy(at + HEADER, p->data, len < sizeof p->data ? len : sizeof p->data);
    fake_put(&s->d, 1, &b, 1, false);
    fake_kick(&s->d, 1);
    (void)fake_get(&s->d, 1, &written);
}

static struct packet about(uint32_t guest_port, uint32_t host_port, uint16_t op)
{
    return (struct packet){.from = VSOCK_GUEST_CID,
                           .to = VSOCK_HOST_CID,
                           .from_port = guest_port,
                           .to_port = host_port,
                           .type = 1,
                           .op = op,
                           .space = 1000};
}

static void send(struct setup *s, uint32_t guest_port, uint32_t host_port, uint16_t op,
                 uint32_t flags)
{
    struct packet p = about(guest_port, host_port, op);
    p.flags = flags;
    send_raw(s, &p, 0);
}

static void send_data(struct setup *s, uint32_t guest_port, uint32_t host_port, uint32_t len)
{
    struct packet p = about(guest_port, host_port, RW);
    p.len = len;
    memset(p.data, 'x', sizeof p.data);
    send_raw(s, &p, len);
}

// The next packet that the device has sent; op 0: none.
static struct packet receive(struct setup *s)
{
    struct packet p = {0};
    uint32_t written;
    if (!fake_get(&s->d, 0, &written))
        return p;
    const uint8_t *at = s->g->ram + RX + s->got++ % 64 * RX_BYTES;
    p = (struct packet){.from = load_le64(at),
                        .to = load_le64(at + 8),
                        .from_port = load_le32(at + 16),
                        .to_port = load_le32(at + 20),
                        .len = load_le32(at + 24),
                        .type = load_le16(at + 28),
                        .op = load_le16(at + 30),
                        .flags = load_le32(at + 32),
                        .space = load_le32(at + 36),
                        .consumed = load_le32(at + 40)};
    CHECK_EQ(written, HEADER + p.len);
    memcpy(p.data, at + HEADER, p.len < RX_BYTES - HEADER ? p.len : 0);
    return p;
}

static uint16_t next_op(struct setup *s)
{
    return receive(s).op;
}

// A connection that the host asked for, of the guest's port 77; *host_port: the other end.
static int open_from_host(struct setup *s, uint32_t *host_port)
{
    int number = virtio_vsock_connect(s->dev, VSOCK_STREAM, 77);
    struct packet p = receive(s);
    CHECK_EQ(p.op, REQUEST);
    CHECK_EQ(p.to_port, 77);
    CHECK(p.from == VSOCK_HOST_CID && p.to == VSOCK_GUEST_CID && p.type == 1);
    CHECK_EQ(p.space, VSOCK_CREDIT);
    *host_port = p.from_port;
    send(s, 77, *host_port, RESPONSE, 0);
    CHECK(number >= 0 && s->opened == 1 && s->asked);
    return number;
}

// --- tests

static void the_guest_reads_its_cid(void)
{
    struct setup s;
    set_up(&s);
    CHECK_EQ(fake_read(s.g, false, FAKE_BAR + 0x2000, 4), VSOCK_GUEST_CID);
    CHECK(state_check(virtio_vsock_type.state, NULL) == OK);
    tear_down(&s);
}

static void a_guest_connects_sends_and_ends(void)
{
    struct setup s;
    set_up(&s);
    give_buffers(&s, 4);
    send(&s, 5, 900, REQUEST, 0);
    CHECK(s.requests == 1 && s.port == 900);
    struct packet p = receive(&s);
    CHECK(p.op == RESPONSE && p.to_port == 5 && p.from_port == 900);
    send_data(&s, 5, 900, 300);
    CHECK(s.received == 300 && s.last == 'x');
    send(&s, 5, 900, SHUTDOWN, 2);
    CHECK(s.ended == 1 && s.closed == 0);
    send(&s, 5, 900, SHUTDOWN, 3);
    CHECK(s.ended == 1 && s.closed == 1);
    CHECK_EQ(next_op(&s), RST);
    virtio_vsock_release(s.dev, (unsigned)s.number);
    tear_down(&s);
}

static void what_nobody_listens_for_is_reset(void)
{
    struct setup s;
    set_up(&s);
    s.accepts = false;
    give_buffers(&s, 4);
    send(&s, 5, 900, REQUEST, 0);
    CHECK_EQ(next_op(&s), RST);
    send_data(&s, 6, 901, 10); // of no connection
    struct packet p = receive(&s);
    CHECK(p.op == RST && p.to_port == 6 && p.from_port == 901);
    send(&s, 6, 901, RST, 0);
    CHECK_EQ(next_op(&s), 0);
    struct packet seq = about(7, 902, REQUEST);
    seq.type = 3;
    send_raw(&s, &seq, 0);
    p = receive(&s);
    CHECK(p.op == RST && p.type == 3 && s.requests == 1);
    tear_down(&s);
}

static void a_host_connects_and_sends_as_far_as_the_credit_goes(void)
{
    struct setup s;
    static uint8_t data[2000];
    uint32_t port;
    set_up(&s);
    give_buffers(&s, 8);
    unsigned c = (unsigned)open_from_host(&s, &port);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, sizeof data), 1000); // the guest's whole space
    size_t sum = 0;
    struct packet p;
    while ((p = receive(&s)).op == RW)
        sum += p.len;
    CHECK_EQ(sum, 1000);
    CHECK_EQ(p.op, CREDIT_REQUEST);
    CHECK_EQ(s.resumed, 0);
    p = about(77, port, CREDIT_UPDATE);
    p.consumed = 600;
    send_raw(&s, &p, 0);
    CHECK_EQ(s.resumed, 1);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, sizeof data), 600);
    tear_down(&s);
}

static void a_host_waits_for_buffers(void)
{
    struct setup s;
    static const uint8_t data[100];
    uint32_t port;
    set_up(&s);
    give_buffers(&s, 1);
    unsigned c = (unsigned)open_from_host(&s, &port);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, sizeof data), 0);
    give_buffers(&s, 2);
    CHECK_EQ(s.resumed, 1);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, sizeof data), 100);
    CHECK_EQ(next_op(&s), RW);
    tear_down(&s);
}

static void a_refused_connection_closes(void)
{
    struct setup s;
    set_up(&s);
    give_buffers(&s, 4);
    int c = virtio_vsock_connect(s.dev, VSOCK_STREAM, 77);
    struct packet p = receive(&s);
    send(&s, 77, p.from_port, RST, 0);
    CHECK(s.opened == 0 && s.closed == 1);
    virtio_vsock_release(s.dev, (unsigned)c);
    CHECK_EQ(next_op(&s), 0);
    tear_down(&s);
}

static void a_guest_that_answers_nothing_loses_the_connection(void)
{
    struct setup s;
    uint32_t port;
    set_up(&s);
    give_buffers(&s, 8);
    (void)virtio_vsock_connect(s.dev, VSOCK_STREAM, 76);
    CHECK_EQ(next_op(&s), REQUEST);
    fake_pass_time(s.g, s.dev, 21 * NS_PER_SEC);
    CHECK_EQ(s.closed, 1);
    CHECK_EQ(next_op(&s), RST);
    unsigned c = (unsigned)open_from_host(&s, &port);
    fake_pass_time(s.g, s.dev, 3600 * NS_PER_SEC); // an open one may be quiet
    CHECK_EQ(s.closed, 1);
    virtio_vsock_shutdown(s.dev, c, true);
    struct packet p = receive(&s);
    CHECK(p.op == SHUTDOWN && p.flags == 3);
    fake_pass_time(s.g, s.dev, 21 * NS_PER_SEC);
    CHECK_EQ(s.closed, 2);
    CHECK_EQ(next_op(&s), RST);
    tear_down(&s);
}

static void a_guest_that_sends_more_than_it_may_is_reset(void)
{
    struct setup s;
    set_up(&s);
    give_buffers(&s, 8);
    send(&s, 5, 900, REQUEST, 0);
    CHECK_EQ(next_op(&s), RESPONSE);
    for (unsigned i = 0; i < VSOCK_CREDIT / 0x10000; i++)
        send_data(&s, 5, 900, 0x10000);
    CHECK(s.received == VSOCK_CREDIT && s.closed == 0);
    virtio_vsock_consumed(s.dev, (unsigned)s.number, VSOCK_CREDIT / 2);
    struct packet p = receive(&s);
    CHECK(p.op == CREDIT_UPDATE && p.consumed == VSOCK_CREDIT / 2);
    send_data(&s, 5, 900, 0x10000);
    CHECK(s.received == VSOCK_CREDIT + 0x10000 && s.closed == 0);
    send_data(&s, 5, 900, 1);
    CHECK(s.received == VSOCK_CREDIT + 0x10000 && s.closed == 1);
    CHECK_EQ(next_op(&s), RST);
    tear_down(&s);
}

static void nonsense_is_dropped_or_reset(void)
{
    struct setup s;
    struct packet p = about(5, 900, REQUEST);
    set_up(&s);
    give_buffers(&s, 8);
    p.from = 4;
    send_raw(&s, &p, 0); // another guest's
    p = about(5, 900, REQUEST);
    p.to = 1;
    send_raw(&s, &p, 0);
    p = about(5, 900, RW);
    p.len = 100;
    send_raw(&s, &p, 99); // shorter than it says
    struct fake_buffer half = {TX, HEADER - 1, false};
    fake_put(&s.d, 1, &half, 1, false);
    fake_kick(&s.d, 1);
    CHECK(s.requests == 0);
    CHECK_EQ(next_op(&s), 0);
    uint32_t written;
    CHECK(fake_get(&s.d, 1, &written));
    send(&s, 5, 900, REQUEST, 0);
    CHECK_EQ(next_op(&s), RESPONSE);
    send(&s, 5, 900, REQUEST, 0); // twice
    CHECK_EQ(s.closed, 1);
    CHECK_EQ(next_op(&s), RST);
    tear_down(&s);
}

// Answers need buffers, and the guest gives none: its own packets have to wait.
static void a_guest_without_buffers_does_not_pile_up_answers(void)
{
    struct setup s;
    uint32_t written;
    unsigned taken = 0, resets = 0;
    set_up(&s);
    s.accepts = false;
    for (unsigned i = 0; i < 32; i++) {
        send(&s, i, 900, REQUEST, 0);
        taken += s.requests == i + 1;
    }
    CHECK_EQ(taken, 32);
    struct packet p = about(99, 900, REQUEST);
    send_raw(&s, &p, 0);
    CHECK_EQ(s.requests, 32); // it waits in the ring
    give_buffers(&s, 16);
    while (next_op(&s) == RST)
        resets++;
    give_buffers(&s, 16);
    while (next_op(&s) == RST)
        resets++;
    give_buffers(&s, 4);
    while (next_op(&s) == RST)
        resets++;
    CHECK_EQ(s.requests, 33);
    CHECK_EQ(resets, 33);
    CHECK(fake_get(&s.d, 1, &written));
    tear_down(&s);
}

static void connections_are_as_many_as_there_are_places(void)
{
    struct setup s;
    set_up(&s);
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
        send(&s, 1000 + i, 900, REQUEST, 0);
        give_buffers(&s, 1);
        CHECK_EQ(next_op(&s), RESPONSE);
    }
    CHECK_EQ(virtio_vsock_connect(s.dev, VSOCK_STREAM, 77), -1);
    give_buffers(&s, 2);
    send(&s, 10, 900, REQUEST, 0);
    CHECK_EQ(next_op(&s), RST);
    CHECK_EQ(s.requests, VSOCK_CONNECTIONS);
    send(&s, 1000, 900, RST, 0);
    CHECK_EQ(s.closed, 1);
    CHECK_EQ(virtio_vsock_connect(s.dev, VSOCK_STREAM, 77), -1); // nobody has released it
    virtio_vsock_release(s.dev, 0);
    CHECK_EQ(virtio_vsock_connect(s.dev, VSOCK_STREAM, 77), 0);
    tear_down(&s);
}

// --- messages

static void send_part(struct setup *s, uint32_t host_port, uint32_t len, uint32_t flags)
{
    struct packet p = about(5, host_port, RW);
    p.type = VSOCK_SEQPACKET;
    p.len = len;
    p.flags = flags;
    send_raw(s, &p, len);
}

// A connection for messages between ports 5 and 900, from the guest; its number.
static unsigned open_messages(struct setup *s)
{
    struct packet p = about(5, 900, REQUEST);
    p.type = VSOCK_SEQPACKET;
    send_raw(s, &p, 0);
    p = receive(s);
    CHECK(p.op == RESPONSE && p.type == VSOCK_SEQPACKET && p.to_port == 5);
    return (unsigned)s->number;
}

static void a_message_from_the_guest_ends_where_it_says(void)
{
    struct setup s;
    set_up(&s);
    give_buffers(&s, 8);
    (void)open_messages(&s);
    send_part(&s, 900, 300, 0);
    CHECK(s.received == 300 && s.messages == 0);
    send_part(&s, 900, 10, 1);
    CHECK(s.received == 310 && s.messages == 1);
    send_part(&s, 900, 0x3000, 3); // in pieces, with the mark of a record
    CHECK(s.received == 310 + 0x3000 && s.messages == 2);
    send_part(&s, 900, 20, 0);
    send_part(&s, 900, 0, 1); // the end alone
    CHECK(s.received == 330 + 0x3000 && s.messages == 3 && !s.closed);
    send_data(&s, 5, 900, 10); // a stream's packet: of no connection
    struct packet p = receive(&s);
    CHECK(p.op == RST && p.type == VSOCK_STREAM && !s.closed);
    tear_down(&s);
}

static void the_end_of_a_stream_s_packet_is_no_message(void)
{
    struct setup s;
    struct packet p = about(5, 900, RW);
    set_up(&s);
    give_buffers(&s, 4);
    send(&s, 5, 900, REQUEST, 0);
    p.flags = 1;
    p.len = 10;
    send_raw(&s, &p, 10);
    CHECK(s.received == 10 && s.messages == 0);
    tear_down(&s);
}

static void a_message_to_the_guest_is_marked_at_its_end(void)
{
    struct setup s;
    static uint8_t data[900];
    set_up(&s);
    give_buffers(&s, 3);
    unsigned c = open_messages(&s);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, 900), 900); // two buffers
    struct packet p = receive(&s);
    CHECK(p.op == RW && p.type == VSOCK_SEQPACKET && p.flags == 0 && p.len == RX_BYTES - HEADER);
    p = receive(&s);
    CHECK(p.op == RW && p.flags == 1 && p.len == 900 - (RX_BYTES - HEADER));
    give_buffers(&s, 1);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, 50), 50);
    p = receive(&s);
    CHECK(p.op == RW && p.len == 50 && p.flags == 1);
    tear_down(&s);
}

static void a_message_waits_for_credit_in_its_middle(void)
{
    struct setup s;
    static uint8_t data[900];
    set_up(&s);
    give_buffers(&s, 8);
    unsigned c = open_messages(&s);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, 400), 400); // of the guest's 1000
    struct packet p = receive(&s);
    CHECK(p.op == RW && p.flags == 1);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, 900), 600);
    uint32_t sum = 0;
    while ((p = receive(&s)).op == RW) {
        CHECK_EQ(p.flags, 0);
        sum += p.len;
    }
    CHECK(sum == 600 && p.op == CREDIT_REQUEST && !s.resumed);
    p = about(5, 900, CREDIT_UPDATE);
    p.type = VSOCK_SEQPACKET;
    p.consumed = 400;
    send_raw(&s, &p, 0);
    CHECK_EQ(s.resumed, 1);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data + 600, 300), 300);
    p = receive(&s);
    CHECK(p.op == RW && p.len == 300 && p.flags == 1);
    tear_down(&s);
}

static void a_message_that_the_guest_has_no_room_for_breaks_the_connection(void)
{
    struct setup s;
    static uint8_t data[1001];
    set_up(&s);
    give_buffers(&s, 8);
    unsigned c = open_messages(&s);
    CHECK_EQ(virtio_vsock_send(s.dev, c, data, 1001), 1001);
    CHECK_EQ(s.closed, 1);
    CHECK_EQ(next_op(&s), RST);
    tear_down(&s);
}

static void a_message_without_an_end_does_not_outgrow_the_credit(void)
{
    struct setup s;
    set_up(&s);
    give_buffers(&s, 8);
    unsigned c = open_messages(&s);
    send_part(&s, 900, VSOCK_CREDIT - 1, 0);
    CHECK(s.received == VSOCK_CREDIT - 1 && !s.closed);
    send_part(&s, 900, 1, 0);
    CHECK_EQ(s.closed, 1);
    CHECK_EQ(next_op(&s), RST);
    virtio_vsock_release(s.dev, c);
    open_messages(&s);
    send_part(&s, 900, VSOCK_CREDIT, 1); // the longest there can be
    CHECK(s.messages == 1 && s.closed == 1);
    tear_down(&s);
}

// Who waits for credit in the middle of a message hears of any that there is: the message is not
// consumed before its end has come.
static void credit_is_told_in_the_middle_of_a_message(void)
{
    struct setup s;
    set_up(&s);
    give_buffers(&s, 8);
    unsigned c = open_messages(&s);
    send_part(&s, 900, 60000, 1);
    virtio_vsock_consumed(s.dev, c, 60000); // less than half: not told yet
    CHECK_EQ(next_op(&s), 0);
    send_part(&s, 900, VSOCK_CREDIT - 60000, 0); // all that the guest knows of
    struct packet p = receive(&s);
    CHECK(p.op == CREDIT_UPDATE && p.consumed == 60000);
    send_part(&s, 900, 60000, 1);
    CHECK(s.messages == 2 && !s.closed);
    tear_down(&s);
}

static void a_guest_without_the_feature_has_no_messages(void)
{
    struct setup s;
    set_up(&s);
    fake_driver_start(&s.d, s.g, s.dev, FEATURES & ~2ull, 3, true);
    give_buffers(&s, 4);
    CHECK_EQ(virtio_vsock_connect(s.dev, VSOCK_SEQPACKET, 77), -1);
    CHECK(virtio_vsock_connect(s.dev, VSOCK_STREAM, 77) >= 0);
    CHECK_EQ(next_op(&s), REQUEST);
    struct packet p = about(5, 900, REQUEST);
    p.type = VSOCK_SEQPACKET;
    send_raw(&s, &p, 0);
    p = receive(&s);
    CHECK(p.op == RST && p.type == VSOCK_SEQPACKET && !s.requests);
    tear_down(&s);
}

static void a_reset_of_the_device_closes_all(void)
{
    struct setup s;
    uint32_t port;
    set_up(&s);
    CHECK_EQ(s.closed, 0);
    give_buffers(&s, 4);
    int c = open_from_host(&s, &port);
    fake_set_common(&s.d, 0x14, 1, 0);
    CHECK_EQ(s.closed, 1);
    CHECK_EQ(virtio_vsock_connect(s.dev, VSOCK_STREAM, 77), -1); // no driver
    virtio_vsock_release(s.dev, (unsigned)c);
    tear_down(&s);
}

static void after_a_move_the_guest_is_told_that_all_is_gone(void)
{
    struct setup s, moved = {.g = fake_guest_new()};
    struct fake_buffer event = {EVENT, 4, true};
    uint32_t port, written = 0;
    set_up(&s);
    give_buffers(&s, 4);
    (void)open_from_host(&s, &port);
    moved.config = (struct virtio_vsock_config){.host = &host, .opaque = &moved};
    moved.dev = fake_migrate(moved.g, s.dev, &moved.config);
    moved.d = s.d;
    moved.d.g = moved.g;
    moved.d.dev = moved.dev;
    store_le32(moved.g->ram + EVENT, 0xffffffff);
    fake_put(&moved.d, 2, &event, 1, false);
    fake_kick(&moved.d, 2);
    CHECK(fake_get(&moved.d, 2, &written));
    CHECK_EQ(written, 4);
    CHECK_EQ(load_le32(moved.g->ram + EVENT), 0); // transport reset
    fake_put(&moved.d, 2, &event, 1, false);
    fake_kick(&moved.d, 2);
    CHECK(!fake_get(&moved.d, 2, &written)); // once
    tear_down(&moved);
    tear_down(&s);
}

TEST_MAIN(TEST(the_guest_reads_its_cid), TEST(a_guest_connects_sends_and_ends),
          TEST(what_nobody_listens_for_is_reset),
          TEST(a_host_connects_and_sends_as_far_as_the_credit_goes), TEST(a_host_waits_for_buffers),
          TEST(a_refused_connection_closes),
          TEST(a_guest_that_answers_nothing_loses_the_connection),
          TEST(a_guest_that_sends_more_than_it_may_is_reset), TEST(nonsense_is_dropped_or_reset),
          TEST(a_guest_without_buffers_does_not_pile_up_answers),
          TEST(connections_are_as_many_as_there_are_places),
          TEST(a_message_from_the_guest_ends_where_it_says),
          TEST(the_end_of_a_stream_s_packet_is_no_message),
          TEST(a_message_to_the_guest_is_marked_at_its_end),
          TEST(a_message_waits_for_credit_in_its_middle),
          TEST(a_message_that_the_guest_has_no_room_for_breaks_the_connection),
          TEST(a_message_without_an_end_does_not_outgrow_the_credit),
          TEST(credit_is_told_in_the_middle_of_a_message),
          TEST(a_guest_without_the_feature_has_no_messages), TEST(a_reset_of_the_device_closes_all),
          TEST(after_a_move_the_guest_is_told_that_all_is_gone))
