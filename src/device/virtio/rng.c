// The virtio entropy device: fills the guest's buffers with random bytes, at a bounded rate.
//
// Specification: VIRTIO 1.2, 5.4.
#include "device/virtio/rng.h"

#include "base/bits.h"
#include "device/virtio/virtio_pci.h"

enum {
    QUEUE_SIZE = 64,
    PERIOD_MS = 100,    // the budget is refilled ten times a second
    PIECE = 256,        // bytes made at a time
    REQUEST_MAX = 4096, // a longer buffer is filled in part, as the specification allows
    DEFAULT_RATE = 1024 * 1024,
    TIMER_REFILL = VIRTIO_TIMER + 1,
};

struct virtio_rng {
    struct virtio_pci virtio;
    struct virtio_rng_config config;
    struct virtq_chain chain;
    uint64_t period_end; // virtual time at which the budget is full again
    uint32_t budget;     // bytes left in this period
    uint32_t pad;
};

static const struct state_field rng_fields[] = {
    SUB(struct virtio_rng, virtio, virtio_pci_state),
    SKIP(struct virtio_rng, config, "wiring, rebuilt from configuration"),
    SKIP(struct virtio_rng, chain, "scratch of one callback"),
    FIELD(struct virtio_rng, period_end),
    FIELD(struct virtio_rng, budget),
    SKIP(struct virtio_rng, pad, "padding"),
    FIELDS_END,
};
static const struct state_desc rng_state =
    STATE_DESC("virtio-rng", struct virtio_rng, 1, rng_fields);

static struct virtio_rng *rng_of(struct virtio_pci *v)
{
    return container_of(v, struct virtio_rng, virtio);
}

static uint32_t full_budget(const struct virtio_rng *rng)
{
    uint32_t rate = rng->config.bytes_per_second ? rng->config.bytes_per_second : DEFAULT_RATE;

    return (uint32_t)max_u64(rate / (1000 / PERIOD_MS), 1);
}

static void refill(struct virtio_rng *rng)
{
    struct device *dev = &rng->virtio.pci.dev;
    ns_t now = dev->env->now(dev);

    if (now < rng->period_end)
        return;
    rng->budget = full_budget(rng);
    rng->period_end = now + PERIOD_MS * NS_PER_MS;
}

static uint32_t fill_chain(struct virtio_rng *rng, uint32_t len)
{
    uint8_t piece[PIECE];

    for (uint32_t done = 0; done < len; done += PIECE) {
        size_t part = min_u64(PIECE, len - done);
        rng->config.fill(rng->config.opaque, piece, part);
        virtq_write(&rng->chain, done, piece, part);
    }
    return len;
}

// Serves what is queued as far as the budget goes; the rest waits for the timer.
static void rng_notify(struct virtio_pci *v, unsigned queue)
{
    struct virtio_rng *rng = rng_of(v);
    struct device *dev = &v->pci.dev;

    refill(rng);
    while (rng->budget && virtio_pop(v, queue, &rng->chain)) {
        uint32_t len =
            (uint32_t)min_u64(min_u64(rng->chain.writable_bytes, REQUEST_MAX), rng->budget);
        virtio_push(v, queue, &rng->chain, fill_chain(rng, len));
        rng->budget -= len;
    }
    virtio_signal(v, queue);
    dev->env->set_timer(dev, TIMER_REFILL, rng->budget ? NS_NEVER : rng->period_end);
}

static void rng_timer(struct device *dev, unsigned timer)
{
    struct virtio_pci *v = virtio_of(dev);

    if (timer == VIRTIO_TIMER) {
        virtio_pci_timer(v);
    } else if (virtio_running(v)) {
        virtio_begin(v);
        rng_notify(v, 0);
    }
}

static const struct virtio_model rng_model = {
    .class_code = 0xff0000, // no class fits
    .id = 4,
    .notify = rng_notify,
};

static err_t rng_init(struct device *dev, const void *config, struct error *e)
{
    struct virtio_rng *rng = rng_of(virtio_of(dev));

    rng->config = *(const struct virtio_rng_config *)config;
    virtio_pci_init(&rng->virtio, &rng_model, 0, 1, QUEUE_SIZE);
    return OK;
}

static void rng_reset(struct device *dev)
{
    struct virtio_rng *rng = rng_of(virtio_of(dev));

    virtio_pci_reset(&rng->virtio);
    rng->budget = full_budget(rng);
    rng->period_end = 0;
    dev->env->set_timer(dev, TIMER_REFILL, NS_NEVER);
}

static err_t rng_loaded(struct device *dev, struct error *e)
{
    struct virtio_rng *rng = rng_of(virtio_of(dev));
    ns_t latest = dev->env->now(dev) + PERIOD_MS * NS_PER_MS;

    // Another configuration may allow less; a period never ends later than one period from now.
    rng->budget = (uint32_t)min_u64(rng->budget, full_budget(rng));
    rng->period_end = min_u64(rng->period_end, latest);
    dev->env->set_timer(dev, TIMER_REFILL, rng->budget ? NS_NEVER : rng->period_end);
    return virtio_pci_loaded(&rng->virtio, e);
}

static void rng_fini(struct device *dev)
{
    virtio_pci_fini(virtio_of(dev));
}

const struct device_type virtio_rng_type = {
    .name = "virtio-rng",
    .size = sizeof(struct virtio_rng),
    .timers = 2,
    .lines = 1,
    .state = &rng_state,
    .init = rng_init,
    .reset = rng_reset,
    .loaded = rng_loaded,
    .timer = rng_timer,
    .fini = rng_fini,
};
