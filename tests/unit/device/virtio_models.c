// The virtio console, entropy source and disk, each against a driver.
#include <stdlib.h>

#include "base/bytes.h"
#include "device/storage/virtio_blk.h"
#include "device/virtio/console.h"
#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "device/virtio/virtio_pci.h"
#include "fake_driver.h"
#include "ram_disk.h"
#include "test.h"

#define FEATURES ~(1ull << VIRTIO_F_RING_PACKED | 1ull << VIRTIO_F_EVENT_IDX)
#define A 0x80000ull
#define B 0x90000ull
#define C 0xa0000ull

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct fake_driver d;
};

static void set_up(struct setup *s, const struct device_type *type, const void *config,
                   unsigned queues)
{
    s->g = fake_guest_new();
    s->dev = fake_device(s->g, type, config);
    fake_driver_start(&s->d, s->g, s->dev, FEATURES, queues, true);
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
}

static uint32_t config_word(struct setup *s, unsigned offset, unsigned size)
{
    return (uint32_t)fake_read(s->g, false, FAKE_BAR + 0x2000 + offset, size);
}

// --- Entropy ---

static void fill(void *opaque, void *data, size_t len)
{
    *(size_t *)opaque += len;
    memset(data, 0xa5, len);
}

static void rng_fills_buffers_at_a_bounded_rate(void)
{
    size_t made = 0;
    struct virtio_rng_config config = {fill, &made, 10000};
    struct fake_buffer b = {A, 600, true};
    uint32_t written;
    struct setup s;

    set_up(&s, &virtio_rng_type, &config, 1);
    fake_put(&s.d, 0, &b, 1, false);
    fake_put(&s.d, 0, &b, 1, false);
    fake_put(&s.d, 0, &b, 1, false);
    fake_kick(&s.d, 0);
    CHECK(fake_get(&s.d, 0, &written) && written == 600);
    CHECK(fake_get(&s.d, 0, &written) && written == 400); // the tenth of a second's budget
    CHECK(!fake_get(&s.d, 0, &written));
    CHECK_EQ(s.g->ram[A + 599], 0xa5);
    CHECK_EQ(s.g->ram[A + 600], 0);
    fake_pass_time(s.g, s.dev, 50 * NS_PER_MS);
    CHECK(!fake_get(&s.d, 0, &written));
    fake_pass_time(s.g, s.dev, 50 * NS_PER_MS);
    CHECK(fake_get(&s.d, 0, &written) && written == 600);
    CHECK_EQ(made, 1600);
    tear_down(&s);
}

static void rng_survives_a_move_with_its_budget(void)
{
    struct fake_guest *to = fake_guest_new();
    size_t made = 0;
    struct virtio_rng_config config = {fill, &made, 1000};
    struct fake_buffer b = {A, 100, true};
    struct device *copy;
    struct error e;
    struct setup s;

    CHECK(state_check(virtio_rng_type.state, &e) == OK);
    set_up(&s, &virtio_rng_type, &config, 1);
    fake_put(&s.d, 0, &b, 1, false);
    fake_kick(&s.d, 0);
    copy = fake_migrate(to, s.dev, &config);
    CHECK_EQ(to->timer[1], 100 * NS_PER_MS);
    fake_device_free(copy);
    fake_guest_free(to);
    tear_down(&s);
}

// --- Console ---

struct host_end {
    char text[4][4096];
    size_t len[4];
    size_t room; // for port 0
    unsigned resumed;
};

static size_t take_output(void *opaque, unsigned port, const uint8_t *data, size_t len)
{
    struct host_end *h = opaque;

    if (port == 0 && len > h->room)
        len = h->room;
    if (port == 0)
        h->room -= len;
    memcpy(h->text[port] + h->len[port], data, len);
    h->len[port] += len;
    return len;
}

static void resume(void *opaque, unsigned port)
{
    ((struct host_end *)opaque)->resumed++;
}

static void put_text(struct setup *s, unsigned queue, const char *text)
{
    struct fake_buffer b = {A, (uint32_t)strlen(text), false};

    memcpy(s->g->ram + A, text, b.len);
    fake_put(&s->d, queue, &b, 1, false);
    fake_kick(&s->d, queue);
}

static void console_output_waits_for_the_host(void)
{
    struct host_end *h = calloc(1, sizeof *h);
    struct virtio_console_config config = {.ports = 1, .write = take_output, .opaque = h};
    uint32_t written;
    struct setup s;

    h->room = 4;
    set_up(&s, &virtio_console_type, &config, 2);
    put_text(&s, 1, "hello world");
    CHECK(!fake_get(&s.d, 1, &written));
    CHECK_STR(h->text[0], "hell");
    h->room = 3;
    virtio_console_writable(s.dev, 0);
    CHECK(!fake_get(&s.d, 1, &written));
    h->room = 100;
    virtio_console_writable(s.dev, 0);
    CHECK(fake_get(&s.d, 1, &written) && written == 0);
    CHECK_STR(h->text[0], "hello world");
    tear_down(&s);
    free(h);
}

static void console_output_in_hand_survives_a_move(void)
{
    struct host_end *h = calloc(1, sizeof *h);
    struct virtio_console_config config = {.ports = 1, .write = take_output, .opaque = h};
    struct fake_guest *to = fake_guest_new();
    struct device *copy;
    struct error e;
    struct setup s;

    CHECK(state_check(virtio_console_type.state, &e) == OK);
    h->room = 6;
    set_up(&s, &virtio_console_type, &config, 2);
    put_text(&s, 1, "hello world");
    copy = fake_migrate(to, s.dev, &config);
    h->room = 100;
    virtio_console_writable(copy, 0);
    CHECK_STR(h->text[0], "hello world");
    fake_device_free(copy);
    fake_guest_free(to);
    tear_down(&s);
    free(h);
}

static void console_input_waits_for_the_guest(void)
{
    struct host_end *h = calloc(1, sizeof *h);
    struct virtio_console_config config = {.ports = 1, .resume = resume, .opaque = h};
    struct fake_buffer b = {B, 4, true};
    uint32_t written;
    struct setup s;

    set_up(&s, &virtio_console_type, &config, 2);
    CHECK_EQ(virtio_console_input(s.dev, 0, (const uint8_t *)"abcdef", 6), 0);
    fake_put(&s.d, 0, &b, 1, false);
    CHECK_EQ(h->resumed, 0);
    fake_kick(&s.d, 0);
    CHECK_EQ(h->resumed, 1);
    CHECK_EQ(virtio_console_input(s.dev, 0, (const uint8_t *)"abcdef", 6), 4);
    CHECK(fake_get(&s.d, 0, &written) && written == 4);
    CHECK(memcmp(s.g->ram + B, "abcd", 4) == 0);
    CHECK_EQ(virtio_console_input(s.dev, 1, (const uint8_t *)"x", 1), 0);
    tear_down(&s);
    free(h);
}

static void send_control(struct setup *s, uint32_t port, uint16_t event, uint16_t value)
{
    struct fake_buffer b = {A, 8, false};

    store_le32(s->g->ram + A, port);
    store_le16(s->g->ram + A + 4, event);
    store_le16(s->g->ram + A + 6, value);
    fake_put(&s->d, 3, &b, 1, false);
    fake_kick(&s->d, 3);
}

// Takes one control message and makes its buffer available again.
static bool got_control(struct setup *s, uint32_t port, uint16_t event, uint16_t value)
{
    struct fake_buffer b = {B, 64, true};
    const uint8_t *m = s->g->ram + B;
    uint32_t written;
    bool same;

    fake_put(&s->d, 2, &b, 1, false);
    fake_kick(&s->d, 2);
    same = fake_get(&s->d, 2, &written) && written >= 8 && load_le32(m) == port &&
           load_le16(m + 4) == event && load_le16(m + 6) == value;
    return same;
}

static void console_ports_introduce_themselves(void)
{
    struct host_end *h = calloc(1, sizeof *h);
    struct virtio_console_config config = {.ports = 2,
                                           .names = {"", "org.example.agent"},
                                           .columns = 80,
                                           .rows = 25,
                                           .write = take_output,
                                           .opaque = h};
    struct fake_buffer input = {C, 8, true};
    struct setup s;

    set_up(&s, &virtio_console_type, &config, 6);
    CHECK_EQ(config_word(&s, 0, 4), 25u << 16 | 80);
    CHECK_EQ(config_word(&s, 4, 4), 2);
    send_control(&s, 0, 0, 1); // DEVICE_READY
    CHECK(got_control(&s, 0, 1, 1));
    CHECK(got_control(&s, 1, 1, 1));
    send_control(&s, 0, 3, 1); // PORT_READY
    CHECK(got_control(&s, 0, 4, 1));
    CHECK(got_control(&s, 0, 5, 1));
    CHECK_EQ(load_le32(s.g->ram + B + 8), 25u << 16 | 80);
    CHECK(got_control(&s, 0, 6, 1));
    send_control(&s, 1, 3, 1);
    CHECK(got_control(&s, 1, 7, 1));
    CHECK(memcmp(s.g->ram + B + 8, "org.example.agent", 17) == 0);
    CHECK(got_control(&s, 1, 6, 1));
    fake_put(&s.d, 4, &input, 1, false);
    CHECK_EQ(virtio_console_input(s.dev, 1, (const uint8_t *)"x", 1), 0); // not open yet
    send_control(&s, 1, 6, 1);
    CHECK_EQ(virtio_console_input(s.dev, 1, (const uint8_t *)"x", 1), 1);
    put_text(&s, 5, "from the agent");
    CHECK_STR(h->text[1], "from the agent");
    virtio_console_connect(s.dev, 1, false);
    CHECK(got_control(&s, 1, 6, 0));
    send_control(&s, 77, 6, 1); // no such port
    tear_down(&s);
    free(h);
}

static void console_emergency_write_needs_no_queue(void)
{
    struct host_end *h = calloc(1, sizeof *h);
    struct virtio_console_config config = {.ports = 1, .write = take_output, .opaque = h};
    struct setup s = {.g = fake_guest_new()};

    h->room = 10;
    s.dev = fake_device(s.g, &virtio_console_type, &config);
    fake_driver_enable(&s.d, s.g, s.dev, true);
    fake_write(s.g, false, FAKE_BAR + 0x2008, 4, '!');
    CHECK_STR(h->text[0], "!");
    tear_down(&s);
    free(h);
}

// --- Network card ---

struct wire {
    uint8_t frame[2000];
    size_t len;
    unsigned frames, resumed;
    bool full;
};

static bool take_frame(void *opaque, uint8_t *packet, size_t len)
{
    struct wire *w = opaque;

    if (w->full)
        return false;
    w->frames++;
    w->len = len;
    memcpy(w->frame, packet, len < sizeof w->frame ? len : sizeof w->frame);
    return true;
}

static void room_again(void *opaque)
{
    ((struct wire *)opaque)->resumed++;
}

static const struct nic_config *net_config(struct wire *wire)
{
    static struct nic_config config;

    config = (struct nic_config){.mac = {0x52, 0x54, 0, 1, 2, 3},
                                 .mtu = 1400,
                                 .send = take_frame,
                                 .resume = room_again,
                                 .opaque = wire};
    return &config;
}

static void net_sends_packets_that_are_whole(void)
{
    struct fake_buffer b[] = {{A, 12, false}, {A + 12, 14, false}, {B, 46, false}};
    struct fake_buffer runt = {A, 25, false};
    struct wire wire = {0};
    uint32_t written;
    struct setup s;

    set_up(&s, &virtio_net_type, net_config(&wire), 3);
    CHECK_EQ(config_word(&s, 0, 4), 0x01005452);
    CHECK_EQ(config_word(&s, 6, 2), 1);
    CHECK_EQ(config_word(&s, 10, 2), 1400);
    for (unsigned i = 12; i < 64; i++)
        s.g->ram[A + i] = s.g->ram[B + i] = (uint8_t)i;
    fake_put(&s.d, 1, b, 3, false);
    fake_kick(&s.d, 1);
    CHECK(fake_get(&s.d, 1, &written) && written == 0);
    CHECK_EQ(wire.len, 72);
    CHECK_EQ(wire.frame[12], 12);
    CHECK_EQ(wire.frame[26], 0);
    CHECK_EQ(wire.frame[71], 45);
    fake_put(&s.d, 1, &runt, 1, true);
    fake_kick(&s.d, 1);
    CHECK(fake_get(&s.d, 1, &written)); // given back, not sent
    s.g->ram[A + 1] = 1;                // a large frame that was not negotiated, or is none
    fake_put(&s.d, 1, b, 3, false);
    fake_kick(&s.d, 1);
    CHECK(fake_get(&s.d, 1, &written));
    CHECK_EQ(wire.frames, 1);
    tear_down(&s);
}

static void net_keeps_what_the_wire_has_no_room_for(void)
{
    struct fake_buffer b = {A, 72, false};
    struct wire wire = {.full = true};
    uint32_t written;
    struct setup s;

    set_up(&s, &virtio_net_type, net_config(&wire), 3);
    fake_put(&s.d, 1, &b, 1, false);
    fake_kick(&s.d, 1);
    virtio_nic.go_on(s.dev);
    CHECK(!fake_get(&s.d, 1, &written));
    wire.full = false;
    virtio_nic.go_on(s.dev);
    CHECK(fake_get(&s.d, 1, &written));
    CHECK_EQ(wire.frames, 1);
    virtio_nic.go_on(s.dev);
    CHECK_EQ(wire.frames, 1);
    tear_down(&s);
}

static void net_spreads_a_packet_over_merged_buffers_or_waits(void)
{
    struct fake_buffer b[] = {{A, 1000, true}, {B, 1000, true}};
    struct wire wire = {0};
    uint8_t packet[1526] = {0};
    uint32_t written;
    struct setup s;

    memset(packet + 12, 0x42, sizeof packet - 12);
    set_up(&s, &virtio_net_type, net_config(&wire), 3);
    fake_put(&s.d, 0, &b[0], 1, false);
    CHECK(!virtio_nic.receive(s.dev, packet, sizeof packet)); // the second half has no buffer
    CHECK(!fake_get(&s.d, 0, &written));
    fake_put(&s.d, 0, &b[1], 1, false);
    fake_kick(&s.d, 0);
    CHECK_EQ(wire.resumed, 1);
    memset(s.g->ram + A, 0xff, 12);
    CHECK(virtio_nic.receive(s.dev, packet, sizeof packet));
    CHECK(fake_get(&s.d, 0, &written) && written == 1000);
    CHECK(fake_get(&s.d, 0, &written) && written == 526);
    CHECK_EQ(load_le64(s.g->ram + A), 0);
    CHECK_EQ(load_le32(s.g->ram + A + 8), 0x20000); // two buffers
    CHECK_EQ(s.g->ram[A + 999], 0x42);
    CHECK_EQ(s.g->ram[B + 525], 0x42);
    tear_down(&s);
}

// TCP over IPv4, to be cut into segments of 100 bytes, for a driver that cannot; its length.
static size_t large_packet(uint8_t *packet, size_t data)
{
    const size_t headers = 14 + 20 + 20;
    uint8_t *ip = packet + 12 + 14;

    memset(packet, 0, 12 + headers + data);
    packet[0] = packet[1] = 1;
    store_le16(packet + 2, (uint16_t)headers);
    store_le16(packet + 4, 100);
    store_le16(packet + 6, 34);
    store_le16(packet + 8, 16);
    packet[12 + 12] = 8;
    ip[0] = 0x45;
    ip[2] = (uint8_t)((headers - 14 + data) >> 8);
    ip[3] = (uint8_t)(headers - 14 + data);
    ip[8] = 64;
    ip[9] = 6;
    ip[20 + 12] = 5 << 4;
    return 12 + headers + data;
}

// Three buffers, as long as the packet has parts left; each part comes once and in its turn.
static void net_gives_a_packet_of_more_parts_than_buffers_in_turns(void)
{
    struct fake_buffer b[] = {{A, 200, true}, {B, 200, true}, {A + 1000, 200, true}};
    uint8_t packet[2000];
    size_t len = large_packet(packet, 1000);
    struct wire wire = {0};
    uint32_t written;
    struct setup s;
    bool all = false;

    set_up(&s, &virtio_net_type, net_config(&wire), 3);
    s.dev->type->reset(s.dev);
    fake_driver_start(&s.d, s.g, s.dev, 0, 3, false);
    for (unsigned parts = 0; parts < 10;) {
        for (unsigned i = 0; i < 3; i++)
            fake_put(&s.d, 0, &b[i], 1, false);
        fake_kick(&s.d, 0);
        CHECK(!all);
        all = virtio_nic.receive(s.dev, packet, len);
        for (unsigned i = 0; i < 3 && parts < 10; i++, parts++) {
            const uint8_t *sequence = s.g->ram + b[i].at + 12 + 34 + 4;
            CHECK(fake_get(&s.d, 0, &written) && written == 12 + 54 + 100);
            CHECK_EQ(sequence[2] << 8 | sequence[3], parts * 100);
        }
        CHECK(!fake_get(&s.d, 0, &written));
    }
    CHECK(all);
    CHECK_EQ(wire.resumed, 3);
    CHECK(virtio_nic.receive(s.dev, packet, 12 + 60)); // the next packet from its start
    CHECK(fake_get(&s.d, 0, &written));
    tear_down(&s);
}

static void net_drops_packets_while_the_link_is_down(void)
{
    struct fake_buffer b = {A, 100, true};
    struct wire wire = {0};
    uint8_t packet[72] = {0};
    uint32_t written;
    struct setup s;

    set_up(&s, &virtio_net_type, net_config(&wire), 3);
    fake_put(&s.d, 0, &b, 1, false);
    fake_kick(&s.d, 0);
    virtio_nic.set_link(s.dev, false);
    CHECK_EQ(config_word(&s, 6, 2), 0);
    CHECK_EQ(s.g->msi_data, 0x40);
    CHECK(virtio_nic.receive(s.dev, packet, sizeof packet));
    CHECK(!fake_get(&s.d, 0, &written));
    virtio_nic.set_link(s.dev, true);
    CHECK_EQ(config_word(&s, 6, 2), 3); // and the guest is asked to announce itself
    CHECK(virtio_nic.receive(s.dev, packet, sizeof packet));
    CHECK(fake_get(&s.d, 0, &written) && written == 72);
    tear_down(&s);
}

static void net_without_a_driver_holds_nothing_up(void)
{
    struct wire wire = {0};
    uint8_t packet[72] = {0};
    struct setup s;

    set_up(&s, &virtio_net_type, net_config(&wire), 3);
    CHECK(!virtio_nic.receive(s.dev, packet, sizeof packet)); // no buffers yet
    s.dev->type->reset(s.dev);
    CHECK(virtio_nic.receive(s.dev, packet, sizeof packet)); // lost
    fake_driver_start(&s.d, s.g, s.dev, 0, 3, false);
    CHECK_EQ(wire.resumed, 1);
    tear_down(&s);
}

static void net_obeys_commands_and_refuses_others(void)
{
    static const struct {
        uint8_t bytes[10];
        uint8_t len, answer;
    } commands[] = {
        {{3, 0}, 2, 0},                    // announced
        {{4, 0, 2, 0}, 4, 0},              // two pairs of queues
        {{4, 0, 3, 0}, 4, 1},              // more than there are
        {{5, 0, 2}, 10, 0},                // checksums only
        {{5, 0, 2, 0, 0, 0, 0x80}, 10, 1}, // what was not negotiated
        {{9, 9}, 2, 1},
        {{4}, 1, 1},
    };
    struct wire wire = {0};
    struct nic_config config = *net_config(&wire);
    uint32_t written;
    struct setup s;

    config.pairs = 2;
    set_up(&s, &virtio_net_type, &config, 5);
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
        struct fake_buffer b[] = {{A, commands[i].len, false}, {B, 1, true}};
        memcpy(s.g->ram + A, commands[i].bytes, commands[i].len);
        s.g->ram[B] = 0xff;
        fake_put(&s.d, 4, b, 2, false);
        fake_kick(&s.d, 4);
        CHECK(fake_get(&s.d, 4, &written) && written == 1);
        CHECK_EQ(s.g->ram[B], commands[i].answer);
    }
    tear_down(&s);
}

static void net_survives_a_move(void)
{
    struct fake_guest *to = fake_guest_new();
    struct wire wire = {0};
    struct error e;
    struct setup s;

    CHECK(state_check(virtio_net_type.state, &e) == OK);
    set_up(&s, &virtio_net_type, net_config(&wire), 3);
    CHECK(!virtio_nic.receive(s.dev, wire.frame, 60));
    fake_device_free(fake_migrate(to, s.dev, net_config(&wire)));
    fake_guest_free(to);
    tear_down(&s);
}

// --- Disk ---

static void disk_up(struct setup *s, struct ram_disk **disk, bool read_only)
{
    struct virtio_blk_config config = {.serial = "serial-number"};

    *disk = ram_disk_new(read_only);
    (*disk)->newest_first = true;
    (*disk)->block.limits.discard = (*disk)->block.limits.write_zeroes = true;
    config.block = &(*disk)->block;
    set_up(s, &virtio_blk_type, &config, 1);
}

static void disk_down(struct setup *s, struct ram_disk *disk)
{
    tear_down(s);
    free(disk);
}

// Header at A, data at B, status at C.
static void put_request(struct setup *s, uint32_t type, uint64_t sector, uint32_t len, bool write)
{
    struct fake_buffer b[] = {{A, 16, false}, {B, len, write}, {C, 1, true}};

    store_le32(s->g->ram + A, type);
    store_le32(s->g->ram + A + 4, 0);
    store_le64(s->g->ram + A + 8, sector);
    s->g->ram[C] = 0xee;
    fake_put(&s->d, 0, b, 3, true);
    fake_kick(&s->d, 0);
}

static unsigned status_of(struct setup *s, struct ram_disk *disk, uint32_t *written)
{
    ram_disk_run(disk, UINT_MAX);
    return fake_get(&s->d, 0, written) ? s->g->ram[C] : 0xff;
}

static void disk_reads_and_writes(void)
{
    struct ram_disk *disk;
    uint32_t written;
    struct setup s;

    disk_up(&s, &disk, false);
    memset(s.g->ram + B, 0x77, 1024);
    put_request(&s, 1, 2, 1024, false);
    CHECK(!fake_get(&s.d, 0, &written)); // asynchronous
    CHECK_EQ(status_of(&s, disk, &written), 0);
    CHECK_EQ(written, 1);
    CHECK_EQ(disk->data[1024], 0x77);
    CHECK_EQ(disk->data[2047], 0x77);
    CHECK_EQ(disk->data[2048], 0);
    memset(s.g->ram + B, 0, 2048);
    put_request(&s, 0, 1, 2048, true);
    CHECK_EQ(status_of(&s, disk, &written), 0);
    CHECK_EQ(written, 2049);
    CHECK_EQ(s.g->ram[B + 511], 0);
    CHECK_EQ(s.g->ram[B + 512], 0x77);
    put_request(&s, 4, 0, 0, false);
    CHECK_EQ(status_of(&s, disk, &written), 0);
    CHECK_EQ(disk->ops[BLOCK_FLUSH], 1);
    CHECK(s.g->msis >= 3);
    disk_down(&s, disk);
}

static void disk_answers_what_is_in_memory_at_once(void)
{
    struct ram_disk *disk;
    uint32_t written;
    struct setup s;

    disk_up(&s, &disk, false);
    disk->cached = true;
    memset(disk->data + 512, 0x77, 1024);
    put_request(&s, 0, 1, 1024, true);
    CHECK(fake_get(&s.d, 0, &written));
    CHECK_EQ(written, 1025);
    CHECK_EQ(s.g->ram[C], 0);
    CHECK_EQ(s.g->ram[B + 1023], 0x77);
    CHECK_EQ(disk->ops[BLOCK_READ], 0);
    CHECK(s.g->msis >= 1);
    disk->fail = true;
    put_request(&s, 0, 1, 512, true);
    CHECK(fake_get(&s.d, 0, &written));
    CHECK_EQ(s.g->ram[C], 1);
    disk_down(&s, disk);
}

// How many requests have been answered.
static unsigned answers(struct setup *s)
{
    uint32_t written;
    unsigned n = 0;

    while (fake_get(&s->d, 0, &written))
        n++;
    return n;
}

static void disk_serves_guests_with_many_requests_in_heaps(void)
{
    struct ram_disk *disk;
    struct setup s;

    disk_up(&s, &disk, false);
    disk->cached = true;
    s.g->rests = true;
    for (unsigned i = 0; i < 15; i++) { // beside the driver's start
        put_request(&s, 0, 1, 512, true);
        CHECK_EQ(answers(&s), 1);
    }
    for (unsigned i = 0; i < 5; i++)
        put_request(&s, 0, 1, 512, true);
    CHECK_EQ(answers(&s), 0);
    unsigned before = s.g->msis;
    fake_rest(s.g, s.dev);
    CHECK_EQ(answers(&s), 5);
    CHECK_EQ(s.g->msis, before + 1);
    put_request(&s, 0, 1, 512, true); // alone: when it has waited enough
    fake_pass_time(s.g, s.dev, 999999);
    CHECK_EQ(answers(&s), 0);
    fake_pass_time(s.g, s.dev, 1);
    CHECK_EQ(answers(&s), 1);
    put_request(&s, 0, 1, 512, true);
    CHECK_EQ(answers(&s), 1);
    disk_down(&s, disk);
}

static void disk_tells_its_shape_and_serial(void)
{
    struct ram_disk *disk;
    uint32_t written;
    struct setup s;

    disk_up(&s, &disk, false);
    CHECK_EQ(config_word(&s, 0, 4), RAM_DISK_BYTES / 512);
    CHECK_EQ(config_word(&s, 12, 4), 254);
    CHECK_EQ(config_word(&s, 20, 4), 512);
    CHECK_EQ(config_word(&s, 24, 1), 3);
    CHECK_EQ(config_word(&s, 56, 1), 1);
    CHECK_EQ(config_word(&s, 60, 4), 0);
    put_request(&s, 8, 0, 20, true);
    CHECK_EQ(status_of(&s, disk, &written), 0);
    CHECK(memcmp(s.g->ram + B, "serial-number\0\0\0\0\0\0\0", 20) == 0);
    disk_down(&s, disk);
}

static void put_range(struct setup *s, uint32_t type, uint64_t sector, uint32_t sectors,
                      uint32_t flags)
{
    store_le64(s->g->ram + B, sector);
    store_le32(s->g->ram + B + 8, sectors);
    store_le32(s->g->ram + B + 12, flags);
    put_request(s, type, 0, 16, false);
}

static void disk_discards_and_zeroes(void)
{
    struct ram_disk *disk;
    uint32_t written;
    struct setup s;

    disk_up(&s, &disk, false);
    memset(disk->data, 1, RAM_DISK_BYTES);
    put_range(&s, 11, 4, 2, 0);
    CHECK_EQ(status_of(&s, disk, &written), 0);
    CHECK_EQ(disk->data[4 * 512], 0);
    CHECK_EQ(disk->data[6 * 512], 1);
    put_range(&s, 13, 8, 1, 1);
    CHECK_EQ(status_of(&s, disk, &written), 0);
    CHECK_EQ(disk->data[8 * 512], 0);
    put_range(&s, 11, 4, 2, 1); // discard has no unmap flag
    CHECK_EQ(status_of(&s, disk, &written), 2);
    put_range(&s, 13, RAM_DISK_BYTES / 512 - 1, 2, 0); // past the end
    CHECK_EQ(status_of(&s, disk, &written), 1);
    put_range(&s, 13, UINT64_MAX, 2, 0);
    CHECK_EQ(status_of(&s, disk, &written), 1);
    disk_down(&s, disk);
}

static void disk_refuses_what_is_outside_or_unknown(void)
{
    struct ram_disk *disk;
    uint32_t written;
    struct setup s;

    disk_up(&s, &disk, false);
    put_request(&s, 0, RAM_DISK_BYTES / 512, 512, true);
    CHECK_EQ(status_of(&s, disk, &written), 1);
    put_request(&s, 0, UINT64_MAX / 512, 512, true);
    CHECK_EQ(status_of(&s, disk, &written), 1);
    put_request(&s, 1, 0, 100, false);
    CHECK_EQ(status_of(&s, disk, &written), 1);
    put_request(&s, 999, 0, 512, true);
    CHECK_EQ(status_of(&s, disk, &written), 2);
    disk->fail = true;
    put_request(&s, 0, 0, 512, true);
    CHECK_EQ(status_of(&s, disk, &written), 1);
    disk_down(&s, disk);
}

static void read_only_disk_says_so_and_refuses_writes(void)
{
    struct ram_disk *disk;
    uint32_t written;
    struct setup s;

    disk_up(&s, &disk, true);
    CHECK_EQ(fake_offered(&s.d) & 0x6020, 0x20); // RO, neither DISCARD nor WRITE_ZEROES
    put_request(&s, 1, 0, 512, false);
    CHECK_EQ(status_of(&s, disk, &written), 1);
    CHECK_EQ(disk->ops[BLOCK_WRITE], 0);
    disk_down(&s, disk);
}

static void disk_request_without_a_status_byte_stops_the_device(void)
{
    struct fake_buffer b = {A, 16, false};
    struct ram_disk *disk;
    struct setup s;

    disk_up(&s, &disk, false);
    fake_put(&s.d, 0, &b, 1, false);
    fake_kick(&s.d, 0);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 0x4f);
    disk_down(&s, disk);
}

static void disk_reset_waits_for_requests_in_flight(void)
{
    struct ram_disk *disk;
    uint32_t written;
    struct setup s;

    disk_up(&s, &disk, false);
    put_request(&s, 0, 0, 512, true);
    fake_set_common(&s.d, 0x14, 1, 0);
    CHECK(fake_common(&s.d, 0x14, 1) != 0);
    ram_disk_run(disk, UINT_MAX);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 0);
    fake_driver_start(&s.d, s.g, s.dev, FEATURES, 1, true);
    put_request(&s, 1, 0, 512, false);
    CHECK_EQ(status_of(&s, disk, &written), 0);
    disk_down(&s, disk);
}

// More requests than the device has slots: the rest are served as slots come free.
static void disk_serves_a_full_ring(void)
{
    struct fake_buffer b[] = {{A, 16, false}, {C, 1, true}};
    struct ram_disk *disk;
    struct setup s;
    uint32_t written;
    unsigned done = 0;

    disk_up(&s, &disk, false);
    fake_set_common(&s.d, 0x14, 1, 0);
    fake_driver_start(&s.d, s.g, s.dev, FEATURES, 0, true);
    fake_setup_queue(&s.d, 0, 256);
    store_le32(s.g->ram + A, 4);
    for (unsigned i = 0; i < 256; i++)
        fake_put(&s.d, 0, b, 2, true); // all with one indirect table
    fake_kick(&s.d, 0);
    CHECK_EQ(disk->ops[BLOCK_FLUSH], 128);
    ram_disk_run(disk, UINT_MAX);
    while (fake_get(&s.d, 0, &written))
        done++;
    CHECK_EQ(done, 256);
    CHECK_EQ(disk->ops[BLOCK_FLUSH], 256);
    disk_down(&s, disk);
}

static void drained_disk_survives_a_move(void)
{
    struct fake_guest *to = fake_guest_new();
    struct ram_disk *disk;
    struct setup s, moved;
    struct virtio_blk_config config = {0};
    uint32_t written;
    struct error e;

    CHECK(state_check(virtio_blk_type.state, &e) == OK);
    disk_up(&s, &disk, false);
    config.block = &disk->block;
    put_request(&s, 0, 0, 512, true);
    disk->block.type->drain(&disk->block);
    moved = (struct setup){to, fake_migrate(to, s.dev, &config), s.d};
    moved.d.g = to;
    moved.d.dev = moved.dev;
    CHECK(fake_get(&moved.d, 0, &written));
    put_request(&moved, 1, 0, 512, false);
    CHECK_EQ(status_of(&moved, disk, &written), 0);
    tear_down(&moved);
    disk_down(&s, disk);
}

TEST_MAIN(TEST(rng_fills_buffers_at_a_bounded_rate), TEST(rng_survives_a_move_with_its_budget),
          TEST(console_output_waits_for_the_host), TEST(console_output_in_hand_survives_a_move),
          TEST(console_input_waits_for_the_guest), TEST(console_ports_introduce_themselves),
          TEST(console_emergency_write_needs_no_queue), TEST(net_sends_packets_that_are_whole),
          TEST(net_keeps_what_the_wire_has_no_room_for),
          TEST(net_spreads_a_packet_over_merged_buffers_or_waits),
          TEST(net_gives_a_packet_of_more_parts_than_buffers_in_turns),
          TEST(net_drops_packets_while_the_link_is_down),
          TEST(net_without_a_driver_holds_nothing_up), TEST(net_obeys_commands_and_refuses_others),
          TEST(net_survives_a_move), TEST(disk_reads_and_writes),
          TEST(disk_answers_what_is_in_memory_at_once),
          TEST(disk_serves_guests_with_many_requests_in_heaps),
          TEST(disk_tells_its_shape_and_serial), TEST(disk_discards_and_zeroes),
          TEST(disk_refuses_what_is_outside_or_unknown),
          TEST(read_only_disk_says_so_and_refuses_writes),
          TEST(disk_request_without_a_status_byte_stops_the_device),
          TEST(disk_reset_waits_for_requests_in_flight), TEST(disk_serves_a_full_ring),
          TEST(drained_disk_survives_a_move))
