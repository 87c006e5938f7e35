// The bus: dispatch, cutting of accesses, what nobody owns, changes under readers.
#include <pthread.h>

#include "machine/bus.h"
#include "test.h"

struct probe {
    struct device dev;
    uint64_t last_offset;
    uint64_t last_value;
    unsigned last_size;
    unsigned accesses;
    uint8_t bytes[16];
};

static uint64_t probe_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct probe *p = container_of(dev, struct probe, dev);
    uint64_t value = 0;
    p->accesses++;
    memcpy(&value, p->bytes + offset % 16, size);
    return value;
}

static void probe_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *p = container_of(dev, struct probe, dev);
    p->accesses++;
    p->last_offset = offset;
    p->last_size = size;
    p->last_value = value;
}

static void no_lock(struct device *dev)
{
}

static const struct bus_locks locks = {no_lock, no_lock};
static const struct io_ops byte_ops = {probe_read, probe_write, 1, 1};
static const struct io_ops any_ops = {probe_read, probe_write, 1, 8};
static const struct io_ops dword_ops = {probe_read, probe_write, 4, 4};

static struct bus bus;

static void overlapping_ranges_are_refused(void)
{
    struct probe a = {0};
    bus_init(&bus);
    CHECK_EQ(bus_map(&bus, 0x100, 16, &a.dev, &any_ops), OK);
    CHECK_EQ(bus_map(&bus, 0x10f, 1, &a.dev, &any_ops), ERR_EXISTS);
    CHECK_EQ(bus_map(&bus, 0xf8, 9, &a.dev, &any_ops), ERR_EXISTS);
    CHECK_EQ(bus_map(&bus, 0x110, 16, &a.dev, &any_ops), OK);
    CHECK_EQ(bus_map(&bus, UINT64_MAX, 2, &a.dev, &any_ops), ERR_INVALID);
    CHECK_EQ(bus_map(&bus, 0x200, 0, &a.dev, &any_ops), ERR_INVALID);
    bus_unmap(&bus, 0x100, &a.dev);
    CHECK_EQ(bus_map(&bus, 0xf8, 9, &a.dev, &any_ops), OK);
    bus_release(&bus);
}

static void unowned_addresses_read_as_ones(void)
{
    bus_init(&bus);
    CHECK_EQ(bus_read(&bus, &locks, 0x80, 1), 0xff);
    CHECK_EQ(bus_read(&bus, &locks, 0x80, 4), 0xffffffff);
    CHECK_EQ(bus_read(&bus, &locks, UINT64_MAX - 3, 8), UINT64_MAX);
    bus_write(&bus, &locks, 0x80, 4, 1);
    bus_release(&bus);
}

static void wide_access_is_cut_for_a_byte_device(void)
{
    struct probe a = {.bytes = {1, 2, 3, 4}};
    bus_init(&bus);
    CHECK_EQ(bus_map(&bus, 0x40, 4, &a.dev, &byte_ops), OK);
    CHECK_EQ(bus_read(&bus, &locks, 0x40, 4), 0x04030201);
    CHECK_EQ(a.accesses, 4);
    bus_write(&bus, &locks, 0x40, 2, 0xbeef);
    CHECK_EQ(a.last_offset, 1);
    CHECK_EQ(a.last_value, 0xbe);
    bus_release(&bus);
}

static void narrow_read_of_a_wide_register_is_cut_and_narrow_write_dropped(void)
{
    struct probe a = {.bytes = {1, 2, 3, 4, 5, 6, 7, 8}};
    bus_init(&bus);
    CHECK_EQ(bus_map(&bus, 0x1000, 8, &a.dev, &dword_ops), OK);
    CHECK_EQ(bus_read(&bus, &locks, 0x1005, 2), 0x0706);
    CHECK_EQ(bus_read(&bus, &locks, 0x1000, 8), 0x0807060504030201);
    a.accesses = 0;
    bus_write(&bus, &locks, 0x1004, 1, 1);
    CHECK_EQ(a.accesses, 0);
    bus_release(&bus);
}

static void access_over_the_end_goes_bytewise_to_each_owner(void)
{
    struct probe a = {.bytes = {[14] = 0xaa, [15] = 0xbb}}, b = {.bytes = {0xcc, 0xdd}};
    bus_init(&bus);
    CHECK_EQ(bus_map(&bus, 0x100, 16, &a.dev, &any_ops), OK);
    CHECK_EQ(bus_map(&bus, 0x110, 16, &b.dev, &any_ops), OK);
    CHECK_EQ(bus_read(&bus, &locks, 0x10e, 4), 0xddccbbaa);
    bus_release(&bus);
}

static void single_port_takes_its_whole_width(void)
{
    struct probe a = {0}, b = {0};
    bus_init(&bus);
    CHECK_EQ(bus_map(&bus, 0xcf8, 1, &a.dev, &dword_ops), OK);
    CHECK_EQ(bus_map(&bus, 0xcf9, 1, &b.dev, &byte_ops), OK);
    bus_write(&bus, &locks, 0xcf8, 4, 0x80000000);
    CHECK_EQ(a.last_value, 0x80000000);
    CHECK_EQ(b.accesses, 0);
    bus_write(&bus, &locks, 0xcf9, 1, 6);
    CHECK_EQ(b.last_value, 6);
    bus_release(&bus);
}

static void *mover(void *opaque)
{
    struct probe *p = opaque;
    for (int i = 0; i < 20000; i++) {
        CHECK_EQ(bus_map(&bus, 0x500, 16, &p->dev, &any_ops), OK);
        bus_unmap(&bus, 0x500, &p->dev);
    }
    return NULL;
}

static void readers_see_whole_tables_while_ranges_move(void)
{
    struct probe low = {0}, high = {.bytes = {7}}, moving = {0};
    pthread_t thread;
    bus_init(&bus);
    CHECK_EQ(bus_map(&bus, 0x100, 16, &low.dev, &any_ops), OK);
    CHECK_EQ(bus_map(&bus, 0x900, 16, &high.dev, &any_ops), OK);
    pthread_create(&thread, NULL, mover, &moving);
    unsigned wrong = 0;
    for (int i = 0; i < 50000; i++)
        wrong += bus_read(&bus, &locks, 0x900, 1) != 7;
    pthread_join(thread, NULL);
    CHECK_EQ(wrong, 0);
    bus_release(&bus);
}

TEST_MAIN(TEST(overlapping_ranges_are_refused), TEST(unowned_addresses_read_as_ones),
          TEST(wide_access_is_cut_for_a_byte_device),
          TEST(narrow_read_of_a_wide_register_is_cut_and_narrow_write_dropped),
          TEST(access_over_the_end_goes_bytewise_to_each_owner),
          TEST(single_port_takes_its_whole_width), TEST(readers_see_whole_tables_while_ranges_move))
