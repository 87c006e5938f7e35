// The virtio transport over PCI: status, features, vectors, ISR, the window, reset, state.
#include "device/virtio/virtio_pci.h"

#include "base/bytes.h"
#include "fake_driver.h"
#include "fake_echo.h"
#include "test.h"

#define IN 0x90000ull

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct fake_driver d;
};

static void set_up(struct setup *s, bool start, bool msix)
{
    s->g = fake_guest_new();
    s->dev = fake_device(s->g, &echo_type, NULL);
    if (start)
        fake_driver_start(&s->d, s->g, s->dev, ~0ull, ECHO_QUEUES, msix);
    else
        fake_driver_enable(&s->d, s->g, s->dev, msix);
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
}

static void features_without_version_1_are_refused(void)
{
    struct setup s;

    set_up(&s, false, true);
    fake_set_common(&s.d, 0x14, 1, 3);
    fake_set_common(&s.d, 0x14, 1, 0xb);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 3); // FEATURES_OK did not stick
    fake_set_common(&s.d, 0x14, 1, 0xf);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 3); // nor does DRIVER_OK then
    fake_set_common(&s.d, 0x08, 4, 1);
    fake_set_common(&s.d, 0x0c, 4, 1);
    fake_set_common(&s.d, 0x14, 1, 0xb);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 0xb);
    fake_set_common(&s.d, 0x0c, 4, 0); // too late to change one's mind
    CHECK_EQ(fake_common(&s.d, 0x0c, 4), 1);
    tear_down(&s);
}

static void features_that_are_not_offered_are_refused(void)
{
    struct setup s;

    set_up(&s, false, true);
    CHECK_EQ(fake_offered(&s.d), 0x530000001);
    fake_set_common(&s.d, 0x08, 4, 0);
    fake_set_common(&s.d, 0x0c, 4, 2);
    fake_set_common(&s.d, 0x08, 4, 1);
    fake_set_common(&s.d, 0x0c, 4, 1);
    fake_set_common(&s.d, 0x14, 1, 0xb);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 3);
    fake_set_common(&s.d, 0x00, 4, 2); // beyond bit 63 there is nothing
    CHECK_EQ(fake_common(&s.d, 0x04, 4), 0);
    tear_down(&s);
}

static void queue_registers_follow_the_selection(void)
{
    struct setup s;

    set_up(&s, true, true);
    CHECK_EQ(fake_common(&s.d, 0x12, 2), ECHO_QUEUES);
    fake_set_common(&s.d, 0x16, 2, 1);
    CHECK_EQ(fake_common(&s.d, 0x18, 2), FAKE_QUEUE_SIZE);
    CHECK_EQ(fake_common(&s.d, 0x1e, 2), 1);
    CHECK_EQ(fake_common(&s.d, 0x1c, 2), 1);
    CHECK_EQ(fake_common(&s.d, 0x20, 4), s.d.q[1].desc);
    fake_set_common(&s.d, 0x20, 4, 0x1000); // an enabled queue does not move
    CHECK_EQ(fake_common(&s.d, 0x20, 4), s.d.q[1].desc);
    fake_set_common(&s.d, 0x16, 2, ECHO_QUEUES);
    CHECK_EQ(fake_common(&s.d, 0x18, 2), 0); // no such queue
    fake_set_common(&s.d, 0x1c, 2, 1);
    CHECK_EQ(fake_common(&s.d, 0x1c, 2), 0);
    tear_down(&s);
}

static void queue_with_an_impossible_size_stops_the_device(void)
{
    static const uint16_t sizes[] = {0, 3};

    for (unsigned i = 0; i < 2; i++) {
        struct setup s;
        set_up(&s, true, true);
        fake_set_common(&s.d, 0x14, 1, 0);
        fake_set_common(&s.d, 0x14, 1, 3);
        fake_set_common(&s.d, 0x08, 4, 1);
        fake_set_common(&s.d, 0x0c, 4, 1); // split
        fake_set_common(&s.d, 0x14, 1, 0xb);
        fake_setup_queue(&s.d, 0, sizes[i]);
        CHECK_EQ(fake_common(&s.d, 0x14, 1), 0x4b);
        tear_down(&s);
    }
}

static void vector_that_does_not_exist_reads_as_none(void)
{
    struct setup s;

    set_up(&s, true, true);
    fake_set_common(&s.d, 0x10, 2, ECHO_QUEUES + 1);
    CHECK_EQ(fake_common(&s.d, 0x10, 2), 0xffff);
    fake_set_common(&s.d, 0x10, 2, ECHO_QUEUES);
    CHECK_EQ(fake_common(&s.d, 0x10, 2), ECHO_QUEUES);
    fake_set_common(&s.d, 0x16, 2, 0);
    fake_set_common(&s.d, 0x1a, 2, 0xfffe);
    CHECK_EQ(fake_common(&s.d, 0x1a, 2), 0xffff);
    tear_down(&s);
}

static void put_one(struct setup *s)
{
    struct fake_buffer b = {IN, 8, true};

    fake_put(&s->d, 0, &b, 1, false);
}

static void without_msix_the_isr_tells_and_clears(void)
{
    struct setup s;

    set_up(&s, true, false);
    put_one(&s);
    fake_kick(&s.d, 0);
    CHECK(s.g->irq);
    CHECK_EQ(fake_read(s.g, false, FAKE_BAR + 0x1000, 1), 1);
    CHECK(!s.g->irq);
    CHECK_EQ(fake_read(s.g, false, FAKE_BAR + 0x1000, 1), 0);
    virtio_config_changed(virtio_of(s.dev));
    CHECK_EQ(fake_read(s.g, false, FAKE_BAR + 0x1000, 1), 2);
    CHECK_EQ(fake_common(&s.d, 0x15, 1), 1);
    tear_down(&s);
}

static void buffers_queued_before_driver_ok_are_served_then(void)
{
    uint32_t written;
    struct setup s;

    set_up(&s, true, true);
    fake_set_common(&s.d, 0x14, 1, 0);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 0);
    fake_set_common(&s.d, 0x14, 1, 3);
    fake_set_common(&s.d, 0x08, 4, 1);
    fake_set_common(&s.d, 0x0c, 4, 1);
    fake_set_common(&s.d, 0x14, 1, 0xb);
    s.d.features = 1ull << VIRTIO_F_VERSION_1;
    fake_setup_queue(&s.d, 0, 8);
    put_one(&s);
    fake_kick(&s.d, 0);
    CHECK(!fake_get(&s.d, 0, &written));
    fake_set_common(&s.d, 0x14, 1, 0xf);
    CHECK(fake_get(&s.d, 0, &written));
    tear_down(&s);
}

static void reset_waits_for_what_is_in_flight(void)
{
    struct setup s;
    struct echo *echo;

    set_up(&s, true, true);
    echo = (struct echo *)s.dev;
    echo->busy = true;
    fake_set_common(&s.d, 0x14, 1, 0);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 0xf);
    put_one(&s);
    fake_kick(&s.d, 0);
    CHECK_EQ(s.g->msis, 0); // nothing new begins
    echo->busy = false;
    virtio_idle(&echo->virtio);
    CHECK_EQ(fake_common(&s.d, 0x14, 1), 0);
    CHECK_EQ(fake_common(&s.d, 0x1c, 2), 0);
    tear_down(&s);
}

static void without_bus_master_queues_are_left_alone(void)
{
    uint32_t written;
    struct setup s;

    set_up(&s, true, true);
    pci_config_write(pci_function_of(s.dev), PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    put_one(&s);
    fake_kick(&s.d, 0);
    CHECK(!fake_get(&s.d, 0, &written));
    tear_down(&s);
}

static void window_in_configuration_space_reaches_the_bar(void)
{
    struct setup s;
    struct pci_function *f;
    unsigned cap;

    set_up(&s, true, true);
    f = pci_function_of(s.dev);
    cap = virtio_of(s.dev)->window_cap;
    pci_config_write(f, cap + 8, 4, 0x12); // the number of queues
    pci_config_write(f, cap + 12, 4, 2);
    CHECK_EQ(pci_config_read(f, cap + 16, 2), ECHO_QUEUES);
    pci_config_write(f, cap + 8, 4, 0x2004); // device configuration
    pci_config_write(f, cap + 12, 4, 4);
    pci_config_write(f, cap + 16, 4, 0x1234);
    CHECK_EQ(((struct echo *)s.dev)->config_value, 0x1234);
    pci_config_write(f, cap + 8, 4, 0xfffffffc); // outside the BAR: nothing happens
    (void)pci_config_read(f, cap + 16, 4);
    pci_config_write(f, cap + 16, 4, 0xffffffff);
    CHECK_EQ(((struct echo *)s.dev)->config_value, 0x1234);
    tear_down(&s);
}

static void capabilities_lie_inside_the_bar(void)
{
    struct setup s;
    struct pci_function *f;
    unsigned types = 0;

    set_up(&s, true, true);
    f = pci_function_of(s.dev);
    CHECK_EQ(pci_config_read(f, PCI_VENDOR, 4), 0x106a1af4);
    for (unsigned at = pci_config_read(f, PCI_CAPABILITIES, 1); at;
         at = pci_config_read(f, at + 1, 1)) {
        if (pci_config_read(f, at, 1) != PCI_CAP_VENDOR)
            continue;
        types |= 1u << pci_config_read(f, at + 3, 1);
        CHECK(pci_config_read(f, at + 8, 4) + pci_config_read(f, at + 12, 4) <= 0x4000);
    }
    CHECK_EQ(types, 0x3e);
    tear_down(&s);
}

// What is said of queue 1's signal: a message's data, 0: that the device must be asked.
static uint32_t direct(const struct setup *s)
{
    return s->g->signal[1].address ? s->g->signal[1].data : 0;
}

static void set_up_signals(struct setup *s, bool msix)
{
    s->g = fake_guest_new();
    s->dev = fake_device(s->g, &echo_type, NULL);
    virtio_add_signals(virtio_of(s->dev));
    fake_driver_start(&s->d, s->g, s->dev, ~0ull, ECHO_QUEUES, msix);
}

static void signals_are_direct_while_their_vector_would_be_sent(void)
{
    struct setup s;
    struct pci_function *f;

    set_up_signals(&s, true);
    f = pci_function_of(s.dev);
    CHECK_EQ(s.g->signal[1].address, 0xfee00000);
    CHECK_EQ(direct(&s), 0x42);
    fake_write(s.g, false, FAKE_MSIX + 2 * 16 + 8, 4, 0x77);
    CHECK_EQ(direct(&s), 0x77);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    CHECK_EQ(direct(&s), 0);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_config_write(f, f->msix_cap + PCI_MSIX_CONTROL, 2,
                     PCI_MSIX_ENABLE | PCI_MSIX_FUNCTION_MASK);
    CHECK_EQ(direct(&s), 0);
    pci_config_write(f, f->msix_cap + PCI_MSIX_CONTROL, 2, PCI_MSIX_ENABLE);
    CHECK_EQ(direct(&s), 0x77);
    fake_set_common(&s.d, 0x16, 2, 1);
    fake_set_common(&s.d, 0x1a, 2, 1);
    CHECK_EQ(direct(&s), 0x41);
    fake_set_common(&s.d, 0x1a, 2, 0xffff);
    CHECK_EQ(direct(&s), 0);
    fake_set_common(&s.d, 0x1a, 2, 2);
    fake_set_common(&s.d, 0x14, 1, 0);
    CHECK_EQ(direct(&s), 0);
    tear_down(&s);
}

static void signals_of_a_masked_vector_are_pending(void)
{
    struct setup s;

    set_up_signals(&s, true);
    fake_write(s.g, false, FAKE_MSIX + 2 * 16 + 12, 4, 1);
    CHECK_EQ(direct(&s), 0);
    s.g->signalled(s.dev, 1);
    CHECK_EQ(s.g->msis, 0);
    CHECK_EQ(fake_read(s.g, false, FAKE_MSIX + 0x800, 4), 4);
    fake_write(s.g, false, FAKE_MSIX + 2 * 16 + 12, 4, 0);
    CHECK_EQ(s.g->msis, 1);
    CHECK_EQ(direct(&s), 0x42);
    tear_down(&s);
}

static void signals_without_msix_go_through_the_isr(void)
{
    struct setup s;

    set_up_signals(&s, false);
    CHECK_EQ(direct(&s), 0);
    s.g->signalled(s.dev, 1);
    CHECK(s.g->irq);
    CHECK_EQ(fake_read(s.g, false, FAKE_BAR + 0x1000, 1), 1);
    fake_set_common(&s.d, 0x14, 1, 0);
    s.g->signalled(s.dev, 1); // too late: there is no driver
    CHECK(!s.g->irq);
    tear_down(&s);
}

static void running_device_survives_a_move(void)
{
    struct fake_guest *to = fake_guest_new();
    uint32_t written;
    struct error e;
    struct setup s, moved;

    CHECK(state_check(&virtio_pci_state, &e) == OK);
    CHECK(state_check(&virtq_state, &e) == OK);
    CHECK(state_check(&pci_function_state, &e) == OK);
    set_up(&s, true, true);
    put_one(&s);
    fake_kick(&s.d, 0);
    put_one(&s);
    moved = (struct setup){to, fake_migrate(to, s.dev, NULL), s.d};
    moved.d.g = to;
    moved.d.dev = moved.dev;
    CHECK(fake_get(&moved.d, 0, &written));
    fake_kick(&moved.d, 0);
    CHECK_EQ(to->msis, 1);
    tear_down(&moved);
    tear_down(&s);
}

static void impossible_state_is_refused(void)
{
    struct error e;
    struct setup s;
    struct virtio_pci *v;

    set_up(&s, true, true);
    v = virtio_of(s.dev);
    CHECK(s.dev->type->loaded(s.dev, &e) == OK);
    v->queues[0].avail = 0x7fff; // packed: a slot
    CHECK(s.dev->type->loaded(s.dev, &e) == ERR_CORRUPT);
    v->queues[0].avail = 0;
    v->queues[1].size = 0x8000;
    CHECK(s.dev->type->loaded(s.dev, &e) == ERR_CORRUPT);
    v->queues[1].size = 16;
    v->queue_vectors[3] = 17;
    CHECK(s.dev->type->loaded(s.dev, &e) == ERR_CORRUPT);
    v->queue_vectors[3] = 0xffff;
    v->driver_features |= 2;
    CHECK(s.dev->type->loaded(s.dev, &e) == ERR_CORRUPT);
    tear_down(&s);
}

TEST_MAIN(
    TEST(features_without_version_1_are_refused), TEST(features_that_are_not_offered_are_refused),
    TEST(queue_registers_follow_the_selection),
    TEST(queue_with_an_impossible_size_stops_the_device),
    TEST(vector_that_does_not_exist_reads_as_none), TEST(without_msix_the_isr_tells_and_clears),
    TEST(buffers_queued_before_driver_ok_are_served_then), TEST(reset_waits_for_what_is_in_flight),
    TEST(without_bus_master_queues_are_left_alone),
    TEST(window_in_configuration_space_reaches_the_bar), TEST(capabilities_lie_inside_the_bar),
    TEST(signals_are_direct_while_their_vector_would_be_sent),
    TEST(signals_of_a_masked_vector_are_pending), TEST(signals_without_msix_go_through_the_isr),
    TEST(running_device_survives_a_move), TEST(impossible_state_is_refused))
