// Windows, with a back end that writes into its side of them what it likes.
#include "net/window.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "test.h"

#define FEATURES (1ull << 15 | 1ull << 29)

static struct window w;
static uint8_t packet[NET_PACKET_MAX], got[NET_PACKET_MAX];

static void begin(uint64_t features)
{
    if (window_new(&w, NULL))
        abort();
    window_start(&w, features);
    for (size_t i = 0; i < sizeof packet; i++)
        packet[i] = (uint8_t)(i * 13 + i / 251);
}

static struct window_shared *shared(enum window_ring_name ring)
{
    return w.ring[ring].shared;
}

static uint8_t *bytes_of(const struct window_desc *d)
{
    return w.at + (d->address - WINDOW_BASE);
}

// What a good back end does with the next packet of the guest; its length.
static size_t read_sent(unsigned *taken)
{
    struct window_shared *s = shared(WINDOW_TRANSMIT);
    unsigned slot = *taken % WINDOW_ENTRIES;
    if (s->avail.index == (uint16_t)*taken)
        return 0;
    uint16_t head = s->avail.ring[slot];
    size_t len = 0;
    const struct window_desc *d = &s->desc[head];
    for (;;) {
        memcpy(got + len, bytes_of(d), d->len);
        len += d->len;
        if (!(d->flags & 1))
            break;
        d = &s->desc[d->next];
    }
    s->used.ring[slot].id = head;
    s->used.ring[slot].len = 0;
    s->used.index++;
    ++*taken;
    return len;
}

// Puts bytes into the guest's buffers, over as many as they need.
static void write_received(size_t len, unsigned *taken, unsigned claimed)
{
    struct window_shared *s = shared(WINDOW_RECEIVE);
    unsigned parts = (unsigned)((len + WINDOW_BUFFER - 1) / WINDOW_BUFFER);
    size_t done = 0;
    store_le16(packet + 10, (uint16_t)(claimed ? claimed : parts));
    for (unsigned i = 0; i < parts; i++, ++*taken) {
        unsigned slot = *taken % WINDOW_ENTRIES;
        size_t part = len - done < WINDOW_BUFFER ? len - done : WINDOW_BUFFER;
        uint16_t head = s->avail.ring[slot];
        memcpy(bytes_of(&s->desc[head]), packet + done, part);
        s->used.ring[slot].id = head;
        s->used.ring[slot].len = (uint32_t)part;
        done += part;
    }
    s->used.index = (uint16_t)(s->used.index + parts);
}

static void packets_of_every_length_pass_both_ways(void)
{
    unsigned sent = 0, received = 0;
    begin(FEATURES);
    for (unsigned i = 0; i < 3000; i++) {
        size_t len = i % 3 ? 60 + i : NET_PACKET_MAX - i;
        CHECK(window_send(&w, packet, len));
        CHECK_EQ(read_sent(&sent), len);
        CHECK(!memcmp(got, packet, len));
        write_received(len, &received, 0);
        CHECK_EQ(window_receive(&w, got), len);
        CHECK(!memcmp(got, packet, len));
        CHECK_EQ(window_receive(&w, got), 0);
    }
    window_free(&w);
}

static void a_full_ring_has_room_again_when_packets_were_read(void)
{
    unsigned taken = 0, sent = 0;
    begin(FEATURES);
    while (window_send(&w, packet, NET_PACKET_MAX))
        sent++;
    CHECK_EQ(sent, WINDOW_ENTRIES / 9); // of 8 KiB and a bit
    CHECK(!window_room(&w));
    CHECK_EQ((uint16_t)(shared(WINDOW_TRANSMIT)->avail.used_event + 1), sent / 2);
    while (read_sent(&taken))
        ;
    CHECK(window_room(&w));
    CHECK(window_send(&w, packet, NET_PACKET_MAX));
    window_free(&w);
}

static void kicks_are_for_a_back_end_that_asks_for_them(void)
{
    begin(FEATURES);
    CHECK(window_wants_kick(&w, WINDOW_RECEIVE)); // it begins asleep
    CHECK(!window_wants_kick(&w, WINDOW_RECEIVE));
    CHECK(window_send(&w, packet, 100));
    CHECK(window_wants_kick(&w, WINDOW_TRANSMIT));
    CHECK(window_send(&w, packet, 100));
    CHECK(!window_wants_kick(&w, WINDOW_TRANSMIT)); // it has not gone back to sleep
    shared(WINDOW_TRANSMIT)->used.avail_event = 2;
    CHECK(window_send(&w, packet, 100));
    CHECK(window_wants_kick(&w, WINDOW_TRANSMIT));
    window_start(&w, 0);
    shared(WINDOW_TRANSMIT)->used.flags = 1;
    CHECK(window_send(&w, packet, 100));
    CHECK(!window_wants_kick(&w, WINDOW_TRANSMIT));
    window_free(&w);
}

static void calls_are_asked_for_only_before_going_to_sleep(void)
{
    unsigned taken = 0;
    begin(FEATURES);
    CHECK_EQ(window_receive(&w, got), 0);
    CHECK_EQ(shared(WINDOW_RECEIVE)->avail.used_event, 0);
    for (int i = 0; i < 3; i++)
        write_received(100, &taken, 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(window_receive(&w, got), 100);
    CHECK_EQ(shared(WINDOW_RECEIVE)->avail.used_event, 0);
    CHECK_EQ(window_receive(&w, got), 0);
    CHECK_EQ(shared(WINDOW_RECEIVE)->avail.used_event, 3);
    window_free(&w);
}

static bool receives(void)
{
    return window_receive(&w, got) != 0;
}

static void a_back_end_that_breaks_the_receive_ring_is_heard_no_more(void)
{
    for (int how = 0; how < 6; how++) {
        unsigned taken = 0;
        begin(FEATURES);
        struct window_used *used = &shared(WINDOW_RECEIVE)->used;
        write_received(100, &taken, how == 0 ? 10 : how == 1 ? 65535 : 0);
        if (how == 2)
            store_le16(bytes_of(&shared(WINDOW_RECEIVE)->desc[0]) + 10, 0);
        if (how == 3)
            used->index = WINDOW_ENTRIES + 1; // more than were given
        if (how == 4)
            used->ring[0].id = WINDOW_ENTRIES;
        if (how == 5)
            used->ring[0].len = WINDOW_BUFFER + 1;
        CHECK(!receives());
        CHECK(w.ring[WINDOW_RECEIVE].broken);
        window_free(&w);
    }
}

static void a_packet_that_is_not_all_there_is_waited_for(void)
{
    unsigned taken = 0;
    begin(FEATURES);
    write_received(100, &taken, 3);
    CHECK(!receives());
    CHECK(!w.ring[WINDOW_RECEIVE].broken);
    CHECK_EQ(shared(WINDOW_RECEIVE)->avail.used_event, 2); // until three are there
    window_free(&w);
}

static void a_back_end_that_returns_what_it_was_not_given_gets_no_more(void)
{
    for (int how = 0; how < 3; how++) {
        begin(FEATURES);
        struct window_used *used = &shared(WINDOW_TRANSMIT)->used;
        for (int i = 0; i < 4; i++)
            CHECK(window_send(&w, packet, 20000)); // three buffers each
        uint16_t head = shared(WINDOW_TRANSMIT)->avail.ring[0];
        used->ring[0].id = how == 0   ? head
                           : how == 1 ? shared(WINDOW_TRANSMIT)->desc[head].next
                                      : 5;
        used->ring[1].id = used->ring[0].id; // twice
        used->index = 2;
        CHECK(window_send(&w, packet, 20000)); // and is lost
        CHECK(w.ring[WINDOW_TRANSMIT].broken);
        CHECK(!window_wants_kick(&w, WINDOW_TRANSMIT));
        CHECK(window_room(&w));
        window_free(&w);
    }
}

TEST_MAIN(TEST(packets_of_every_length_pass_both_ways),
          TEST(a_full_ring_has_room_again_when_packets_were_read),
          TEST(kicks_are_for_a_back_end_that_asks_for_them),
          TEST(calls_are_asked_for_only_before_going_to_sleep),
          TEST(a_back_end_that_breaks_the_receive_ring_is_heard_no_more),
          TEST(a_packet_that_is_not_all_there_is_waited_for),
          TEST(a_back_end_that_returns_what_it_was_not_given_gets_no_more))
