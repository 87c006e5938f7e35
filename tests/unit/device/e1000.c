// The 82540EM, driven as drivers drive it.
#include "device/net/e1000.h"

#include "base/bytes.h"
#include "fake_guest.h"
#include "test.h"

#define BAR 0xd0000000ull
#define TX_RING 0x10000ull
#define RX_RING 0x11000ull
#define A 0x20000ull
#define B 0x30000ull
#define ENTRIES 8u

enum {
    CTRL = 0,
    STATUS = 8,
    EECD = 0x10,
    EERD = 0x14,
    MDIC = 0x20,
    ICR = 0xc0,
    ITR = 0xc4,
    IMS = 0xd0,
    RCTL = 0x100,
    TCTL = 0x400,
    RDBAL = 0x2800,
    TDBAL = 0x3800,
    LENGTH = 8,
    HEAD = 0x10,
    TAIL = 0x18,
    GPRC = 0x4074,
    RECEIVES = 1 << 1 | 1 << 15, // with broadcasts
};

struct wire {
    uint8_t packet[NET_PACKET_MAX];
    size_t len;
    unsigned packets, resumed;
    bool full;
};

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct nic_config config;
    struct wire wire;
    unsigned tx, rx; // next descriptors
};

static struct setup s;

static bool take_packet(void *opaque, uint8_t *packet, size_t len)
{
    struct wire *w = opaque;

    if (w->full)
        return false;
    w->packets++;
    w->len = len;
    memcpy(w->packet, packet, len);
    return true;
}

static void room_again(void *opaque)
{
    ((struct wire *)opaque)->resumed++;
}

static uint32_t reg(unsigned at)
{
    return (uint32_t)fake_read(s.g, false, BAR + at, 4);
}

static void set_reg(unsigned at, uint32_t value)
{
    fake_write(s.g, false, BAR + at, 4, value);
}

static void set_ring(unsigned base, gpa_t at)
{
    set_reg(base, (uint32_t)at);
    set_reg(base + LENGTH, ENTRIES * 16);
}

static void start(void)
{
    set_reg(CTRL, 1 << 6);
    set_ring(TDBAL, TX_RING);
    set_ring(RDBAL, RX_RING);
    set_reg(TCTL, 2);
    set_reg(RCTL, RECEIVES);
    set_reg(IMS, 0xffff);
    (void)reg(ICR);
}

static void set_up(void)
{
    memset(&s, 0, sizeof s);
    s.g = fake_guest_new();
    s.config = (struct nic_config){.mac = {0x52, 0x54, 0, 1, 2, 3},
                                   .send = take_packet,
                                   .resume = room_again,
                                   .opaque = &s.wire};
    s.dev = fake_device(s.g, &e1000_type, &s.config);
    struct pci_function *f = pci_function_of(s.dev);
    pci_config_write(f, PCI_BAR0, 4, BAR);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    start();
}

static void tear_down(void)
{
    fake_device_free(s.dev);
    fake_guest_free(s.g);
}

// --- Rings ---

struct data {
    gpa_t at;
    uint16_t len;
    uint8_t command, options;
};

enum { EOP = 1, IC = 4, TSE = 4, RS = 8, DEXT = 0x20 };

static uint8_t *tx_slot(void)
{
    uint8_t *d = s.g->ram + TX_RING + 16 * s.tx;

    s.tx = (s.tx + 1) % ENTRIES;
    memset(d, 0, 16);
    return d;
}

static void put_legacy(gpa_t at, uint16_t len, uint8_t command)
{
    uint8_t *d = tx_slot();

    store_le64(d, at);
    store_le16(d + 8, len);
    d[11] = command;
}

static void put_data(gpa_t at, uint32_t len, uint8_t command, uint8_t options)
{
    uint8_t *d = tx_slot();

    store_le64(d, at);
    store_le32(d + 8, len | 1 << 20);
    d[11] = command | DEXT;
    d[13] = options;
}

// For TCP over IPv4 without options.
static void put_context(uint8_t command, uint16_t mss)
{
    uint8_t *d = tx_slot();

    d[0] = 14;
    d[1] = 24;
    store_le16(d + 2, 33);
    d[4] = 34;
    d[5] = 50;
    d[11] = command | DEXT;
    d[13] = 54;
    store_le16(d + 14, mss);
}

static void send_all(void)
{
    set_reg(TDBAL + TAIL, s.tx);
}

static void give_buffers(unsigned count)
{
    for (unsigned i = 0; i < count; i++, s.rx++) {
        uint8_t *d = s.g->ram + RX_RING + 16 * (s.rx % ENTRIES);
        memset(d, 0, 16);
        store_le64(d, B + 0x1000 * (s.rx % ENTRIES));
    }
    set_reg(RDBAL + TAIL, s.rx % ENTRIES);
}

static const uint8_t *rx_slot(unsigned i)
{
    return s.g->ram + RX_RING + 16 * i;
}

static bool receive(const uint8_t to[6], size_t frame_len)
{
    static uint8_t packet[NET_PACKET_MAX];

    memset(packet, 0, sizeof packet);
    memset(packet + 12, 0x42, frame_len);
    memcpy(packet + 12, to, 6);
    packet[12 + 12] = 8;
    packet[12 + 13] = 6;
    return e1000_nic.receive(s.dev, packet, 12 + frame_len);
}

static const uint8_t everyone[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

// --- The EEPROM and the PHY ---

static void edge(uint32_t lines)
{
    set_reg(EECD, lines);
    set_reg(EECD, lines | 1);
}

static uint16_t read_by_hand(unsigned word)
{
    unsigned command = 6u << 6 | word;
    uint16_t value = 0;

    set_reg(EECD, 2);
    for (int bit = 8; bit >= 0; bit--)
        edge(2 | (command >> bit & 1) << 2);
    for (int bit = 0; bit < 16; bit++) {
        edge(2);
        value = (uint16_t)(value << 1 | (reg(EECD) >> 3 & 1));
    }
    set_reg(EECD, 0);
    return value;
}

static uint16_t phy(unsigned at)
{
    set_reg(MDIC, 2u << 26 | 1 << 21 | at << 16);
    CHECK(reg(MDIC) >> 28 & 1);
    return (uint16_t)reg(MDIC);
}

static void eeprom_has_the_address_and_a_right_sum(void)
{
    uint16_t sum = 0;

    set_up();
    CHECK_EQ(read_by_hand(0), 0x5452);
    CHECK_EQ(read_by_hand(2), 0x0302);
    for (unsigned i = 0; i < 64; i++) {
        set_reg(EERD, i << 8 | 1);
        CHECK(reg(EERD) & 1 << 4);
        CHECK_EQ(reg(EERD) >> 16, read_by_hand(i));
        sum = (uint16_t)(sum + (reg(EERD) >> 16));
    }
    CHECK_EQ(sum, 0xbaba);
    tear_down();
}

static void phy_and_status_tell_of_the_link(void)
{
    set_up();
    CHECK_EQ(phy(2) << 16 | phy(3), 0x01410c20);
    CHECK(phy(1) & 4);
    CHECK(reg(STATUS) & 2);
    e1000_nic.set_link(s.dev, false);
    CHECK(s.g->irq);
    CHECK_EQ(reg(ICR), 4);
    CHECK(!s.g->irq);
    CHECK(!(phy(1) & 4));
    CHECK(!(reg(STATUS) & 2));
    set_reg(MDIC, 2u << 26 | 3 << 21);
    CHECK(reg(MDIC) >> 30 & 1); // nobody at that address
    tear_down();
}

// --- Sending ---

static void frames_are_gathered_and_reported(void)
{
    set_up();
    memset(s.g->ram + A, 0x11, 20);
    memset(s.g->ram + A + 0x100, 0x22, 40);
    put_legacy(A, 20, 0);
    put_legacy(A + 0x100, 40, EOP | RS);
    send_all();
    CHECK_EQ(s.wire.len, 12 + 60);
    CHECK_EQ(s.wire.packet[12 + 19], 0x11);
    CHECK_EQ(s.wire.packet[12 + 20], 0x22);
    CHECK_EQ(s.g->ram[TX_RING + 12], 0);
    CHECK_EQ(s.g->ram[TX_RING + 28], 1);
    CHECK_EQ(reg(TDBAL + HEAD), 2);
    CHECK(s.g->irq);
    CHECK_EQ(reg(ICR), 3);
    tear_down();
}

static void a_frame_waits_while_the_network_is_full(void)
{
    set_up();
    s.wire.full = true;
    put_legacy(A, 60, EOP | RS);
    send_all();
    CHECK_EQ(reg(TDBAL + HEAD), 0);
    CHECK_EQ(s.g->ram[TX_RING + 12], 0);
    s.wire.full = false;
    e1000_nic.go_on(s.dev);
    CHECK_EQ(s.wire.packets, 1);
    CHECK_EQ(reg(TDBAL + HEAD), 1);
    tear_down();
}

static void large_tcp_leaves_whole_with_its_lengths_right(void)
{
    uint8_t *frame;

    set_up();
    frame = s.g->ram + A;
    memset(frame, 0, 54);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[23] = 6;
    memcpy(frame + 26, "\x0a\x00\x00\x01\x0a\x00\x00\x02", 8);
    frame[46] = 0x50;
    put_context(1 | 2 | TSE, 1000);
    put_data(A, 54, TSE, 3);
    put_data(B, 2500, TSE | EOP | RS, 0);
    send_all();
    CHECK_EQ(s.wire.len, 12 + 54 + 2500);
    CHECK_EQ(s.wire.packet[0], 1);
    CHECK_EQ(s.wire.packet[1], 1);
    CHECK_EQ(load_le16(s.wire.packet + 4), 1000);
    CHECK_EQ(s.wire.packet[12 + 16] << 8 | s.wire.packet[12 + 17], 40 + 2500);
    CHECK_EQ(reg(TDBAL + HEAD), 3);
    tear_down();
}

static void descriptors_that_make_no_packet_are_given_back(void)
{
    set_up();
    put_legacy(A, 5, EOP | RS);            // a runt
    put_data(A, 0xfffff, EOP | RS, 0);     // longer than any frame
    put_legacy(~0ull - 100, 60, EOP | RS); // not in RAM: sent as zeros
    put_context(1 | 2 | TSE, 0);
    put_data(A, 54, TSE | EOP | RS, 3); // no data behind its headers
    send_all();
    CHECK_EQ(reg(TDBAL + HEAD), 5);
    CHECK(s.wire.packets <= 2);
    set_reg(TDBAL + LENGTH, 128 * 1024);
    set_reg(TDBAL, 0xfffffff0);
    set_reg(TDBAL + TAIL, 8000); // a ring outside RAM
    tear_down();
}

// --- Receiving ---

static void frames_are_padded_and_spread_over_buffers(void)
{
    set_up();
    set_reg(RCTL, RECEIVES | 3 << 16 | 1 << 5); // buffers of 256 bytes, long frames
    give_buffers(4);
    CHECK(receive(everyone, 20));
    CHECK_EQ(load_le16(rx_slot(0) + 8), 64); // with the check sequence
    CHECK_EQ(rx_slot(0)[12] & 3, 3);
    CHECK_EQ(s.g->ram[B + 19], 0x42);
    CHECK_EQ(s.g->ram[B + 20], 0);
    CHECK(receive(everyone, 300));
    CHECK_EQ(load_le16(rx_slot(1) + 8), 256);
    CHECK_EQ(rx_slot(1)[12] & 3, 1);
    CHECK_EQ(load_le16(rx_slot(2) + 8), 48);
    CHECK_EQ(rx_slot(2)[12] & 3, 3);
    CHECK_EQ(reg(RDBAL + HEAD), 3);
    CHECK_EQ(reg(GPRC), 2);
    CHECK_EQ(reg(GPRC), 0);
    CHECK(reg(ICR) & 0x80);
    CHECK(!receive(everyone, 300)); // one buffer is too few
    give_buffers(1);
    CHECK_EQ(s.wire.resumed, 1);
    CHECK(receive(everyone, 300));
    tear_down();
}

// Of a long packet in pieces of 100 bytes: its last 7 arrive when there are buffers again, once
// each.
static void a_long_packet_goes_on_where_buffers_ran_out(void)
{
    static uint8_t packet[NET_PACKET_MAX];
    const size_t headers = 14 + 20 + 20, data = 1000;
    uint8_t *ip = packet + 12 + 14, *tcp = ip + 20;

    set_up();
    packet[0] = 1;
    packet[1] = 1; // TCP over IPv4
    store_le16(packet + 2, (uint16_t)headers);
    store_le16(packet + 4, 100);
    store_le16(packet + 6, 34);
    store_le16(packet + 8, 16);
    memcpy(packet + 12, everyone, 6);
    packet[12 + 12] = 8;
    ip[0] = 0x45;
    ip[2] = (uint8_t)((headers - 14 + data) >> 8);
    ip[3] = (uint8_t)(headers - 14 + data);
    ip[8] = 64;
    ip[9] = 6;
    tcp[12] = 5 << 4;
    give_buffers(3);
    CHECK(!e1000_nic.receive(s.dev, packet, 12 + headers + data));
    CHECK_EQ(reg(GPRC), 3);
    give_buffers(4);
    CHECK(!e1000_nic.receive(s.dev, packet, 12 + headers + data));
    CHECK_EQ(reg(GPRC), 4);
    give_buffers(4);
    CHECK(e1000_nic.receive(s.dev, packet, 12 + headers + data));
    CHECK_EQ(reg(GPRC), 3);
    CHECK(receive(everyone, 60));
    CHECK_EQ(reg(GPRC), 1); // the next packet from its start
    tear_down();
}

static void filters_let_pass_what_they_should(void)
{
    static const uint8_t own[6] = {0x52, 0x54, 0, 1, 2, 3}, other[6] = {0x52, 0x54, 0, 1, 2, 4},
                         group[6] = {1, 0, 0x5e, 0, 0, 0xfb};

    set_up();
    give_buffers(7);
    CHECK(receive(own, 60) && receive(everyone, 60) && receive(other, 60) && receive(group, 60));
    CHECK_EQ(reg(RDBAL + HEAD), 2);
    set_reg(0x5200 + 4 * (0xfb00 >> 4 >> 5 & 127), 1u << (0xfb00 >> 4 & 31));
    CHECK(receive(group, 60));
    CHECK_EQ(reg(RDBAL + HEAD), 3);
    set_reg(RCTL, RECEIVES | 1 << 3);
    CHECK(receive(other, 60));
    CHECK_EQ(reg(RDBAL + HEAD), 4);
    CHECK(receive(own, 1600)); // too long for what was allowed
    CHECK_EQ(reg(RDBAL + HEAD), 4);
    set_reg(RCTL, 0);
    CHECK(receive(own, 60));
    CHECK_EQ(reg(RDBAL + HEAD), 4);
    tear_down();
}

static void interrupts_keep_their_distance(void)
{
    set_up();
    set_reg(ITR, 4000); // about a millisecond
    give_buffers(6);
    CHECK(receive(everyone, 60));
    CHECK(s.g->irq);
    (void)reg(ICR);
    CHECK(receive(everyone, 60));
    CHECK(!s.g->irq);
    fake_pass_time(s.g, s.dev, 2 * NS_PER_MS);
    CHECK(s.g->irq);
    tear_down();
}

static void its_rom_is_as_large_whatever_is_in_it(void)
{
    static const uint8_t image[] = {0x55, 0xaa, 1};

    set_up();
    struct pci_function *f = pci_function_of(s.dev);
    struct nic_config with = s.config;
    struct fake_guest *to = fake_guest_new();
    with.rom = image;
    with.rom_len = sizeof image;
    pci_config_write(f, PCI_ROM, 4, 0x90000001);
    CHECK_EQ(fake_read(s.g, false, 0x90000000, 2), 0xffff);
    pci_config_write(f, PCI_ROM, 4, 0xffffffff);
    CHECK_EQ(pci_config_read(f, PCI_ROM, 4), 0xfffc0001);
    pci_config_write(f, PCI_ROM, 4, 0x90000001);
    struct device *copy = fake_migrate(to, s.dev, &with);
    CHECK_EQ(fake_read(to, false, 0x90000000, 4), 0xff01aa55);
    fake_device_free(copy);
    fake_guest_free(to);
    tear_down();
}

static void it_survives_a_move_and_a_reset(void)
{
    struct error e;

    CHECK(state_check(e1000_type.state, &e) == OK);
    set_up();
    s.wire.full = true;
    put_legacy(A, 60, EOP | RS);
    send_all();
    CHECK(!receive(everyone, 60));
    struct fake_guest *to = fake_guest_new();
    struct device *copy = fake_migrate(to, s.dev, &s.config);
    s.wire.full = false;
    e1000_nic.go_on(copy);
    CHECK_EQ(s.wire.packets, 1);
    fake_device_free(copy);
    fake_guest_free(to);
    set_reg(CTRL, 1 << 26);
    CHECK_EQ(s.wire.resumed, 1); // the frame that waited may come, and goes nowhere
    CHECK(receive(everyone, 60));
    CHECK_EQ(reg(RDBAL), 0);
    CHECK_EQ(reg(0x5400), 0x01005452);
    tear_down();
}

TEST_MAIN(TEST(eeprom_has_the_address_and_a_right_sum), TEST(phy_and_status_tell_of_the_link),
          TEST(frames_are_gathered_and_reported), TEST(a_frame_waits_while_the_network_is_full),
          TEST(large_tcp_leaves_whole_with_its_lengths_right),
          TEST(descriptors_that_make_no_packet_are_given_back),
          TEST(frames_are_padded_and_spread_over_buffers),
          TEST(a_long_packet_goes_on_where_buffers_ran_out),
          TEST(filters_let_pass_what_they_should), TEST(interrupts_keep_their_distance),
          TEST(its_rom_is_as_large_whatever_is_in_it), TEST(it_survives_a_move_and_a_reset))
