// See fake_echo.h.
#include "fake_echo.h"

static const struct state_field echo_fields[] = {
    SUB(struct echo, virtio, virtio_pci_state), SKIP(struct echo, chain, "scratch"),
    SKIP(struct echo, busy, "set by the test"), SKIP(struct echo, stall, "set by the test"),
    FIELD(struct echo, config_value),           FIELDS_END,
};
static const struct state_desc echo_state = STATE_DESC("echo", struct echo, 1, echo_fields);

static void echo_notify(struct virtio_pci *v, unsigned queue)
{
    struct echo *echo = (struct echo *)v;

    while (!echo->stall && virtio_pop(v, queue, &echo->chain)) {
        uint8_t piece[64];
        uint64_t done = 0;
        size_t len;
        while ((len = virtq_read(&echo->chain, done, piece, sizeof piece))) {
            size_t put = virtq_write(&echo->chain, done, piece, len);
            done += put;
            if (put < len)
                break;
        }
        virtio_push(v, queue, &echo->chain, (uint32_t)done);
    }
    virtio_signal(v, queue);
}

static void echo_config_written(struct virtio_pci *v, unsigned offset, unsigned size,
                                uint32_t value)
{
    ((struct echo *)v)->config_value = value;
}

static bool echo_busy(struct virtio_pci *v)
{
    return ((struct echo *)v)->busy;
}

static const struct virtio_model echo_model = {
    .class_code = 0xff0000,
    .id = 42,
    .config_len = 8,
    .notify = echo_notify,
    .config_written = echo_config_written,
    .busy = echo_busy,
};

static err_t echo_init(struct device *dev, const void *config, struct error *e)
{
    virtio_pci_init(virtio_of(dev), &echo_model, 1, ECHO_QUEUES, 64);
    return OK;
}

static void echo_reset(struct device *dev)
{
    virtio_pci_reset(virtio_of(dev));
}

static err_t echo_loaded(struct device *dev, struct error *e)
{
    return virtio_pci_loaded(virtio_of(dev), e);
}

static void echo_timer(struct device *dev, unsigned timer)
{
    virtio_pci_timer(virtio_of(dev));
}

static void echo_fini(struct device *dev)
{
    virtio_pci_fini(virtio_of(dev));
}

const struct device_type echo_type = {
    .name = "echo",
    .size = sizeof(struct echo),
    .timers = 1,
    .lines = 1,
    .state = &echo_state,
    .init = echo_init,
    .reset = echo_reset,
    .loaded = echo_loaded,
    .timer = echo_timer,
    .fini = echo_fini,
};
