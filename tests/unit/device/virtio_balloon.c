// The virtio balloon against a driver.
#include "device/virtio/balloon.h"

#include "base/bytes.h"
#include "device/virtio/virtio_pci.h"
#include "fake_driver.h"
#include "test.h"

#define PACKED (1ull << VIRTIO_F_RING_PACKED)
#define EVENT_IDX (1ull << VIRTIO_F_EVENT_IDX)
#define FEATURES ~(PACKED | EVENT_IDX)
#define STATS_VQ (1ull << 1)
#define PAGE_POISON (1ull << 4)
#define REPORTING (1ull << 5)
#define LIST 0x80000ull
#define PAGES 1024

struct given { // to the host
    unsigned calls;
    gpa_t at[8];
    uint64_t len[8], all;
};

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct fake_driver d;
    struct given given;
    struct virtio_balloon_config config;
};

static void discard(void *opaque, gpa_t at, uint64_t len)
{
    struct given *g = opaque;
    if (g->calls < ARRAY_LEN(g->at)) {
        g->at[g->calls] = at;
        g->len[g->calls] = len;
    }
    g->calls++;
    g->all += len;
}

static void set_up(struct setup *s, uint64_t features, unsigned queues)
{
    *s = (struct setup){0};
    s->config = (struct virtio_balloon_config){PAGES, discard, &s->given};
    s->g = fake_guest_new();
    s->dev = fake_device(s->g, &virtio_balloon_type, &s->config);
    fake_driver_start(&s->d, s->g, s->dev, features, queues, true);
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
}

static void send_pages(struct setup *s, unsigned queue, const uint32_t *pfn, unsigned n)
{
    struct fake_buffer b = {LIST, n * 4, false};
    uint32_t written;
    for (unsigned i = 0; i < n; i++)
        store_le32(s->g->ram + LIST + i * 4, pfn[i]);
    fake_put(&s->d, queue, &b, 1, false);
    fake_kick(&s->d, queue);
    CHECK(fake_get(&s->d, queue, &written) && written == 0);
}

static uint32_t config_word(struct setup *s, unsigned offset)
{
    return (uint32_t)fake_read(s->g, false, FAKE_BAR + 0x2000 + offset, 4);
}

static void inflated_pages_go_back_in_runs(void)
{
    struct setup s;
    static const uint32_t pfn[] = {7, 8, 9, 30, 29, 28, 100};
    set_up(&s, FEATURES, 2);
    send_pages(&s, 0, pfn, ARRAY_LEN(pfn));
    CHECK_EQ(s.given.calls, 3);
    CHECK(s.given.at[0] == 7 * PAGE_SIZE && s.given.len[0] == 3 * PAGE_SIZE);
    CHECK(s.given.at[1] == 28 * PAGE_SIZE && s.given.len[1] == 3 * PAGE_SIZE);
    CHECK(s.given.at[2] == 100 * PAGE_SIZE && s.given.len[2] == PAGE_SIZE);
    tear_down(&s);
}

static void deflated_pages_are_only_taken_note_of(void)
{
    struct setup s;
    static const uint32_t pfn[] = {7, 8};
    set_up(&s, FEATURES, 2);
    send_pages(&s, 1, pfn, ARRAY_LEN(pfn));
    CHECK_EQ(s.given.calls, 0);
    tear_down(&s);
}

static void a_target_interrupts_the_driver_and_reads_back(void)
{
    struct setup s;
    struct balloon_view view;
    set_up(&s, FEATURES, 5);
    unsigned before = s.g->msis;
    virtio_balloon_set_target(s.dev, 200);
    CHECK_EQ(s.g->msis, before + 1);
    CHECK_EQ(config_word(&s, 0), 200);
    virtio_balloon_set_target(s.dev, 200);
    CHECK_EQ(s.g->msis, before + 1);
    virtio_balloon_set_target(s.dev, PAGES + 1);
    CHECK_EQ(config_word(&s, 0), PAGES);
    fake_write(s.g, false, FAKE_BAR + 0x2004, 4, 150);
    fake_write(s.g, false, FAKE_BAR + 0x2000, 4, 9); // the host's
    virtio_balloon_look(s.dev, &view);
    CHECK(view.driver && view.reports);
    CHECK_EQ(view.target_pages, PAGES);
    CHECK_EQ(view.inflated_pages, 150);
    fake_write(s.g, false, FAKE_BAR + 0x2004, 4, 0xffffffff);
    virtio_balloon_look(s.dev, &view);
    CHECK_EQ(view.inflated_pages, PAGES);
    tear_down(&s);
}

static void put_stats(struct setup *s, uint64_t available)
{
    static const struct {
        uint16_t tag;
        uint64_t value;
    } rest[] = {{4, 111}, {77, 1}};
    struct fake_buffer b = {LIST, 30, false};
    uint8_t *at = s->g->ram + LIST;
    store_le16(at, 6);
    store_le64(at + 2, available);
    for (unsigned i = 0; i < 2; i++) {
        store_le16(at + 10 + 10 * i, rest[i].tag);
        store_le64(at + 12 + 10 * i, rest[i].value);
    }
    fake_put(&s->d, 2, &b, 1, false);
    fake_kick(&s->d, 2);
}

static void statistics_are_kept_until_new_ones_are_asked_for(void)
{
    struct setup s;
    struct balloon_view view;
    uint32_t written;
    set_up(&s, FEATURES, 5);
    put_stats(&s, 5000);
    CHECK(!fake_get(&s.d, 2, &written));
    virtio_balloon_look(s.dev, &view);
    CHECK_EQ(view.stats, 1u << BALLOON_AVAILABLE | 1u << BALLOON_FREE);
    CHECK_EQ(view.stat[BALLOON_AVAILABLE], 5000);
    CHECK_EQ(view.stat[BALLOON_FREE], 111);
    CHECK(fake_get(&s.d, 2, &written) && written == 0); // looking asked for more
    virtio_balloon_look(s.dev, &view);
    CHECK(!fake_get(&s.d, 2, &written)); // nothing to ask with
    put_stats(&s, 6000);
    virtio_balloon_look(s.dev, &view);
    CHECK_EQ(view.stat[BALLOON_AVAILABLE], 6000);
    tear_down(&s);
}

static void reported_pages_go_back_whole(void)
{
    struct setup s;
    struct fake_buffer b[2] = {{0x10000, 0x4000, true}, {0x20800, 0x1fff, true}};
    struct balloon_view view;
    uint32_t written;
    set_up(&s, FEATURES, 5);
    fake_put(&s.d, 4, b, 2, false);
    fake_kick(&s.d, 4);
    CHECK(fake_get(&s.d, 4, &written) && written == 0);
    CHECK_EQ(s.given.calls, 2);
    CHECK(s.given.at[0] == 0x10000 && s.given.len[0] == 0x4000);
    CHECK(s.given.at[1] == 0x21000 && s.given.len[1] == 0x1000);
    virtio_balloon_look(s.dev, &view);
    CHECK_EQ(view.reported_bytes, 0x5000);
    tear_down(&s);
}

// Linux gives reporting queue 3, or 2 without statistics, since it uses no number twice.
static void the_reporting_queue_is_found_where_linux_puts_it(void)
{
    static const struct {
        uint64_t features;
        unsigned queue;
    } cases[] = {{FEATURES, 3}, {FEATURES & ~STATS_VQ, 2}, {FEATURES & ~STATS_VQ, 4}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct setup s;
        struct fake_buffer b = {0x10000, 0x1000, true};
        set_up(&s, cases[i].features, 5);
        fake_put(&s.d, cases[i].queue, &b, 1, false);
        fake_kick(&s.d, cases[i].queue);
        CHECK_EQ(s.given.all, 0x1000);
        tear_down(&s);
    }
}

static void pages_with_a_pattern_stay(void)
{
    struct setup s;
    struct fake_buffer b = {0x10000, 0x1000, true};
    uint32_t written;
    set_up(&s, FEATURES, 5);
    fake_write(s.g, false, FAKE_BAR + 0x200c, 4, 0xaaaaaaaa);
    fake_put(&s.d, 4, &b, 1, false);
    fake_kick(&s.d, 4);
    CHECK(fake_get(&s.d, 4, &written));
    CHECK_EQ(s.given.calls, 0);
    tear_down(&s);
    set_up(&s, FEATURES & ~PAGE_POISON, 5); // a pattern that it did not announce
    fake_write(s.g, false, FAKE_BAR + 0x200c, 4, 0xaaaaaaaa);
    fake_put(&s.d, 4, &b, 1, false);
    fake_kick(&s.d, 4);
    CHECK_EQ(s.given.calls, 1);
    tear_down(&s);
}

static void a_request_of_too_many_pages_stops_the_device(void)
{
    struct setup s;
    struct fake_buffer b = {0x10000, 4097 * 4, false};
    struct balloon_view view;
    set_up(&s, FEATURES, 2);
    fake_put(&s.d, 0, &b, 1, false);
    fake_kick(&s.d, 0);
    CHECK_EQ(s.given.calls, 0);
    virtio_balloon_look(s.dev, &view);
    CHECK(!view.driver);
    tear_down(&s);
}

static void a_guest_that_starts_over_has_an_empty_balloon_and_the_same_target(void)
{
    struct setup s;
    struct balloon_view view;
    set_up(&s, FEATURES, 5);
    virtio_balloon_set_target(s.dev, 200);
    fake_write(s.g, false, FAKE_BAR + 0x2004, 4, 200);
    put_stats(&s, 1);
    fake_set_common(&s.d, 0x14, 1, 0);
    virtio_balloon_look(s.dev, &view);
    CHECK(!view.driver && !view.stats);
    CHECK_EQ(view.inflated_pages, 0);
    CHECK_EQ(view.target_pages, 200);
    tear_down(&s);
}

static void the_balloon_survives_a_move(void)
{
    struct fake_guest *to = fake_guest_new();
    struct balloon_view view;
    struct setup s;
    set_up(&s, FEATURES, 5);
    virtio_balloon_set_target(s.dev, 77);
    fake_write(s.g, false, FAKE_BAR + 0x2004, 4, 70);
    put_stats(&s, 4321);
    struct device *copy = fake_migrate(to, s.dev, &s.config);
    virtio_balloon_look(copy, &view);
    CHECK_EQ(view.target_pages, 77);
    CHECK_EQ(view.inflated_pages, 70);
    CHECK_EQ(view.stat[BALLOON_AVAILABLE], 4321);
    CHECK_EQ(load_le32(virtio_of(copy)->config), 77);
    fake_device_free(copy);
    fake_guest_free(to);
    tear_down(&s);
}

TEST_MAIN(TEST(inflated_pages_go_back_in_runs), TEST(deflated_pages_are_only_taken_note_of),
          TEST(a_target_interrupts_the_driver_and_reads_back),
          TEST(statistics_are_kept_until_new_ones_are_asked_for),
          TEST(reported_pages_go_back_whole),
          TEST(the_reporting_queue_is_found_where_linux_puts_it), TEST(pages_with_a_pattern_stay),
          TEST(a_request_of_too_many_pages_stops_the_device),
          TEST(a_guest_that_starts_over_has_an_empty_balloon_and_the_same_target),
          TEST(the_balloon_survives_a_move))
