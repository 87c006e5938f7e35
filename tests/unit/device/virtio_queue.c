// Virtqueues in both formats, against a driver and an echo device; and rings that break the rules.
#include "device/virtio/queue.h"

#include "base/bytes.h"
#include "fake_driver.h"
#include "fake_echo.h"
#include "test.h"

#define INDIRECT (1ull << VIRTIO_F_INDIRECT_DESC)
#define EVENT_IDX (1ull << VIRTIO_F_EVENT_IDX)
#define PACKED (1ull << VIRTIO_F_RING_PACKED)
#define NEEDS_RESET 0x40
#define OUT 0x80000ull
#define IN 0x90000ull

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct fake_driver d;
};

static void set_up(struct setup *s, uint64_t features)
{
    s->g = fake_guest_new();
    s->dev = fake_device(s->g, &echo_type, NULL);
    fake_driver_start(&s->d, s->g, s->dev, features, 1, true);
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
}

static bool echo_once(struct setup *s, unsigned salt, bool indirect)
{
    struct fake_buffer buffers[] = {
        {OUT, 10, false}, {OUT + 100, 20, false}, {IN, 5, true}, {IN + 50, 40, true}};
    uint8_t *ram = s->g->ram;
    uint32_t written = 0;

    for (unsigned i = 0; i < 120; i++)
        ram[OUT + i] = (uint8_t)(salt + i);
    memset(ram + IN, 0, 100);
    fake_put(&s->d, 0, buffers, 4, indirect);
    fake_kick(&s->d, 0);
    return fake_get(&s->d, 0, &written) && written == 30 && memcmp(ram + IN, ram + OUT, 5) == 0 &&
           memcmp(ram + IN + 50, ram + OUT + 5, 5) == 0 &&
           memcmp(ram + IN + 55, ram + OUT + 100, 20) == 0 && ram[IN + 75] == 0;
}

static void queue_round_trips_in_every_format(void)
{
    for (unsigned format = 0; format < 8; format++) {
        uint64_t features =
            (format & 1 ? INDIRECT : 0) | (format & 2 ? EVENT_IDX : 0) | (format & 4 ? PACKED : 0);
        struct setup s;
        set_up(&s, features);
        for (unsigned i = 0; i < 100; i++)
            CHECK(echo_once(&s, i, format & 1));
        CHECK_EQ(fake_common(&s.d, 0x14, 1), 0xf);
        CHECK(s.g->msis > 0);
        tear_down(&s);
    }
}

static void split_index_wraps_at_65536(void)
{
    struct setup s;

    set_up(&s, 0);
    for (unsigned i = 0; i < 70000; i++) {
        if (!echo_once(&s, i, false)) {
            CHECK(!"echo");
            break;
        }
    }
    tear_down(&s);
}

static void batch_is_served_with_one_interrupt(void)
{
    static const uint64_t formats[] = {0, PACKED};

    for (unsigned f = 0; f < 2; f++) {
        struct fake_buffer b = {IN, 8, true};
        struct setup s;
        set_up(&s, formats[f]);
        for (unsigned i = 0; i < 10; i++)
            fake_put(&s.d, 0, &b, 1, false);
        fake_kick(&s.d, 0);
        CHECK_EQ(s.g->msis, 1);
        tear_down(&s);
    }
}

static void driver_can_silence_interrupts(void)
{
    struct fake_buffer b = {IN, 8, true};
    struct setup s;

    set_up(&s, 0);
    store_le16(s.g->ram + s.d.q[0].avail, 1); // NO_INTERRUPT
    fake_put(&s.d, 0, &b, 1, false);
    fake_kick(&s.d, 0);
    CHECK_EQ(s.g->msis, 0);
    tear_down(&s);
    set_up(&s, PACKED);
    store_le16(s.g->ram + s.d.q[0].avail + 2, 1); // RING_EVENT_FLAGS_DISABLE
    fake_put(&s.d, 0, &b, 1, false);
    fake_kick(&s.d, 0);
    CHECK_EQ(s.g->msis, 0);
    tear_down(&s);
}

static void put_and_kick(struct setup *s, unsigned n)
{
    struct fake_buffer b = {IN, 8, true};

    for (unsigned i = 0; i < n; i++)
        fake_put(&s->d, 0, &b, 1, false);
    fake_kick(&s->d, 0);
}

static void split_event_index_names_the_entry_that_interrupts(void)
{
    struct setup s;
    uint8_t *used_event;

    set_up(&s, EVENT_IDX);
    used_event = s.g->ram + s.d.q[0].avail + 4 + 2 * FAKE_QUEUE_SIZE;
    store_le16(used_event, 3);
    put_and_kick(&s, 3);
    CHECK_EQ(s.g->msis, 0);
    put_and_kick(&s, 1); // entry 3
    CHECK_EQ(s.g->msis, 1);
    put_and_kick(&s, 5);
    CHECK_EQ(s.g->msis, 1);
    // and the other way: the device asks for a notification of the next entry
    CHECK_EQ(load_le16(s.g->ram + s.d.q[0].used + 4 + 8 * FAKE_QUEUE_SIZE), 9);
    tear_down(&s);
}

static void packed_event_index_names_the_slot_that_interrupts(void)
{
    struct setup s;
    uint8_t *event;

    set_up(&s, EVENT_IDX | PACKED);
    event = s.g->ram + s.d.q[0].avail;
    store_le16(event, 0x8000 | 3);
    store_le16(event + 2, 2); // RING_EVENT_FLAGS_DESC
    put_and_kick(&s, 3);
    CHECK_EQ(s.g->msis, 0);
    put_and_kick(&s, 1);
    CHECK_EQ(s.g->msis, 1);
    CHECK_EQ(load_le16(s.g->ram + s.d.q[0].used), 0x8000 | 4);
    CHECK_EQ(load_le16(s.g->ram + s.d.q[0].used + 2), 2);
    put_and_kick(&s, FAKE_QUEUE_SIZE - 2); // passes the end: slot 2 of the next lap comes next
    CHECK_EQ(s.g->msis, 1);
    store_le16(event, 2); // wrap counter 0
    put_and_kick(&s, 1);
    CHECK_EQ(s.g->msis, 2);
    CHECK_EQ(load_le16(s.g->ram + s.d.q[0].used), 3);
    tear_down(&s);
}

static void unpopped_request_is_found_again(void)
{
    static const uint64_t formats[] = {0, PACKED};

    for (unsigned f = 0; f < 2; f++) {
        struct fake_buffer b[2] = {{OUT, 8, false}, {IN, 8, true}};
        static struct virtq_chain chain;
        struct setup s;
        struct virtq *q;
        set_up(&s, formats[f]);
        q = &virtio_of(s.dev)->queues[0];
        ((struct echo *)s.dev)->stall = true;
        for (unsigned i = 0; i < 7; i++) // the eighth chain ends at the packed ring's end
            fake_put(&s.d, 0, b, 2, false);
        for (unsigned i = 0; i < 7; i++)
            CHECK(virtq_pop(q, &chain, NULL) == VIRTQ_GOT);
        fake_put(&s.d, 0, b, 2, false);
        for (unsigned i = 0; i < 3; i++) {
            CHECK(virtq_pop(q, &chain, NULL) == VIRTQ_GOT);
            CHECK_EQ(chain.readable_bytes, 8);
            CHECK(virtq_pop(q, &chain, NULL) == VIRTQ_EMPTY);
            virtq_unpop(q, &chain);
        }
        tear_down(&s);
    }
}

static void add_another(struct fake_guest *g)
{
    struct setup *s = g->opaque;
    struct fake_buffer b = {IN, 8, true};

    if ((uint16_t)(s->d.q[0].next - load_le16(g->ram + s->d.q[0].used + 2)) < 4)
        fake_put(&s->d, 0, &b, 1, false);
}

// --- Rings that break the rules ---

static uint8_t *split_desc(struct setup *s, unsigned i)
{
    return s->g->ram + s->d.q[0].desc + 16 * i;
}

static void descriptor_loop(struct setup *s)
{
    store_le16(split_desc(s, 1) + 14, 0);
}

static void head_outside_the_table(struct setup *s)
{
    store_le16(s->g->ram + s->d.q[0].avail + 4, FAKE_QUEUE_SIZE);
}

static void next_outside_the_table(struct setup *s)
{
    store_le16(split_desc(s, 0) + 14, 0xffff);
}

static void index_far_ahead(struct setup *s)
{
    store_le16(s->g->ram + s->d.q[0].avail + 2, FAKE_QUEUE_SIZE + 1);
}

static void buffer_outside_ram(struct setup *s)
{
    store_le64(split_desc(s, 0), FAKE_RAM_BYTES - 4);
}

static void buffer_that_wraps(struct setup *s)
{
    store_le64(split_desc(s, 0), UINT64_MAX - 3);
}

static void readable_after_writable(struct setup *s)
{
    store_le16(split_desc(s, 0) + 12, 3);
    store_le16(split_desc(s, 1) + 12, 1);
}

static void indirect_table_outside_ram(struct setup *s)
{
    store_le64(split_desc(s, 0), FAKE_RAM_BYTES);
    store_le32(split_desc(s, 0) + 8, 32);
    store_le16(split_desc(s, 0) + 12, 4);
}

static void indirect_table_with_an_odd_length(struct setup *s)
{
    store_le32(split_desc(s, 0) + 8, 17);
    store_le16(split_desc(s, 0) + 12, 4);
}

static void indirect_inside_indirect(struct setup *s)
{
    uint8_t *table = s->g->ram + s->d.q[0].indirect;

    store_le64(split_desc(s, 0), s->d.q[0].indirect);
    store_le32(split_desc(s, 0) + 8, 16);
    store_le16(split_desc(s, 0) + 12, 4);
    store_le64(table, s->d.q[0].indirect);
    store_le32(table + 8, 16);
    store_le16(table + 12, 4);
}

static void indirect_table_that_loops(struct setup *s)
{
    uint8_t *table = s->g->ram + s->d.q[0].indirect;

    store_le64(split_desc(s, 0), s->d.q[0].indirect);
    store_le32(split_desc(s, 0) + 8, 16);
    store_le16(split_desc(s, 0) + 12, 4);
    store_le64(table, OUT);
    store_le32(table + 8, 16);
    store_le16(table + 12, 1);
    store_le16(table + 14, 0);
}

typedef void breakage_fn(struct setup *s);

static void broken_split_rings_stop_the_device(void)
{
    static breakage_fn *const breakages[] = {
        descriptor_loop,          head_outside_the_table,     next_outside_the_table,
        index_far_ahead,          buffer_outside_ram,         buffer_that_wraps,
        readable_after_writable,  indirect_table_outside_ram, indirect_table_with_an_odd_length,
        indirect_inside_indirect, indirect_table_that_loops,
    };

    for (unsigned i = 0; i < ARRAY_LEN(breakages); i++) {
        struct fake_buffer b[3] = {{OUT, 8, false}, {OUT, 8, false}, {IN, 8, true}};
        struct setup s;
        set_up(&s, INDIRECT);
        fake_put(&s.d, 0, b, 3, false);
        breakages[i](&s);
        fake_kick(&s.d, 0);
        CHECK_EQ(fake_common(&s.d, 0x14, 1), 0xf | NEEDS_RESET);
        CHECK_EQ(s.g->msis, 1);
        CHECK_EQ(s.g->msi_data, 0x40); // the configuration's vector
        fake_kick(&s.d, 0);            // stays stopped
        CHECK_EQ(s.g->msis, 1);
        fake_driver_start(&s.d, s.g, s.dev, INDIRECT, 1, true);
        CHECK(echo_once(&s, 1, false));
        tear_down(&s);
    }
}

static void broken_packed_rings_stop_the_device(void)
{
    for (unsigned i = 0; i < 4; i++) {
        struct fake_buffer b = {OUT, 8, false};
        struct setup s;
        set_up(&s, PACKED | INDIRECT);
        if (i == 3) // all slots chained, no end
            for (unsigned n = 1; n < FAKE_QUEUE_SIZE; n++)
                fake_put(&s.d, 0, &b, 1, false);
        fake_put(&s.d, 0, &b, 1, false);
        for (unsigned n = 0; n < FAKE_QUEUE_SIZE; n++) {
            uint8_t *flags = split_desc(&s, n) + 14;
            if (i == 0)
                store_le64(split_desc(&s, n), UINT64_MAX);
            else if (i == 1)
                store_le16(flags, load_le16(flags) | 5); // indirect and next
            else if (i == 2)
                store_le16(flags, load_le16(flags) | 4); // 8 bytes are no table
            else
                store_le16(flags, load_le16(flags) | 1);
        }
        fake_kick(&s.d, 0);
        CHECK_EQ(fake_common(&s.d, 0x14, 1), 0xf | NEEDS_RESET);
        tear_down(&s);
    }
}

static void queue_areas_outside_ram_stop_the_device(void)
{
    static const unsigned areas[] = {0x20, 0x28, 0x30};
    static const uint64_t formats[] = {EVENT_IDX, PACKED | EVENT_IDX};

    for (unsigned i = 0; i < 6; i++) {
        struct setup s;
        set_up(&s, formats[i / 3]);
        fake_set_common(&s.d, 0x16, 2, 1); // queue 1 is not enabled yet
        for (unsigned a = 0; a < 3; a++)
            fake_set_common(&s.d, areas[a], 4, s.d.q[0].desc + 0x1000 * a);
        fake_set_common(&s.d, areas[i % 3], 4, FAKE_RAM_BYTES);
        fake_set_common(&s.d, areas[i % 3] + 4, 4, i & 1 ? 0xffffffff : 0);
        fake_set_common(&s.d, 0x1c, 2, 1);
        put_and_kick(&s, 1); // an entry for queue 0's rings, which queue 1 shares
        s.d.q[1] = s.d.q[0];
        fake_kick(&s.d, 1);
        // Where the packed driver area is missing, it can only be silence about interrupts.
        CHECK_EQ(!!(fake_common(&s.d, 0x14, 1) & NEEDS_RESET), i != 4);
        tear_down(&s);
    }
}

// The fake RAM's dma_done is the guest's chance to add the next entry while the device serves.
static void endless_guest_does_not_keep_the_device_busy(void)
{
    struct setup s;
    uint32_t served;

    set_up(&s, 0);
    s.g->on_dma_done = add_another;
    s.g->opaque = &s;
    put_and_kick(&s, 1);
    served = load_le16(s.g->ram + s.d.q[0].used + 2);
    CHECK(served > 0 && served <= 4 * VIRTQ_SIZE_MAX);
    CHECK_EQ(s.g->timer[0], s.g->now);
    s.g->on_dma_done = NULL;
    fake_pass_time(s.g, s.dev, 1);
    CHECK_EQ(load_le16(s.g->ram + s.d.q[0].used + 2), s.d.q[0].next);
    tear_down(&s);
}

static void zero_length_buffers_are_skipped(void)
{
    struct fake_buffer b[3] = {{0xdead0000dead0000, 0, false}, {OUT, 8, false}, {IN, 8, true}};
    uint32_t written;
    struct setup s;

    set_up(&s, 0);
    fake_put(&s.d, 0, b, 3, false);
    fake_kick(&s.d, 0);
    CHECK(fake_get(&s.d, 0, &written) && written == 8);
    tear_down(&s);
}

TEST_MAIN(TEST(queue_round_trips_in_every_format), TEST(split_index_wraps_at_65536),
          TEST(batch_is_served_with_one_interrupt), TEST(driver_can_silence_interrupts),
          TEST(split_event_index_names_the_entry_that_interrupts),
          TEST(packed_event_index_names_the_slot_that_interrupts),
          TEST(unpopped_request_is_found_again), TEST(broken_split_rings_stop_the_device),
          TEST(broken_packed_rings_stop_the_device), TEST(queue_areas_outside_ram_stop_the_device),
          TEST(zero_length_buffers_are_skipped), TEST(endless_guest_does_not_keep_the_device_busy))
