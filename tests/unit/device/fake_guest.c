// See fake_guest.h.
#include "fake_guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

// A broken rule of the environment ends the test program.
#define REQUIRE(cond)                                                  \
    do {                                                               \
        if (!(cond)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                   \
        }                                                              \
    } while (0)

static struct fake_guest *guest_of(struct device *dev)
{
    return dev->owner;
}

static err_t claim(struct device *dev, bool pio, uint64_t at, uint64_t len,
                   const struct io_ops *ops)
{
    struct fake_guest *g = guest_of(dev);
    struct fake_claim *free_slot = NULL;

    for (unsigned i = 0; i < FAKE_CLAIMS; i++) {
        struct fake_claim *c = &g->claims[i];
        if (!c->len)
            free_slot = c;
        else if (c->pio == pio && ranges_overlap(c->at, c->len, at, len))
            return ERR_EXISTS;
    }
    if (!free_slot || len == 0 || (!pio && at < FAKE_RAM_BYTES))
        return ERR_EXISTS;
    *free_slot = (struct fake_claim){dev, ops, at, len, pio};
    return OK;
}

static void unclaim(struct device *dev, bool pio, uint64_t at, uint64_t len)
{
    struct fake_claim *c = fake_claim_at(guest_of(dev), pio, at);

    REQUIRE(c && c->dev == dev && c->at == at && c->len == len);
    if (c)
        *c = (struct fake_claim){0};
}

static err_t map_pio(struct device *dev, uint16_t port, uint32_t len, const struct io_ops *ops)
{
    return claim(dev, true, port, len, ops);
}

static err_t map_mmio(struct device *dev, gpa_t at, uint64_t len, const struct io_ops *ops)
{
    return claim(dev, false, at, len, ops);
}

static void unmap_pio(struct device *dev, uint16_t port, uint32_t len)
{
    unclaim(dev, true, port, len);
}

static void unmap_mmio(struct device *dev, gpa_t at, uint64_t len)
{
    unclaim(dev, false, at, len);
}

static void *dma_map(struct device *dev, gpa_t at, size_t len)
{
    return range_within(at, len, FAKE_RAM_BYTES) ? guest_of(dev)->ram + at : NULL;
}

static err_t dma_read(struct device *dev, gpa_t at, void *data, size_t len)
{
    void *p = dma_map(dev, at, len);

    if (!p)
        return ERR_INVALID;
    memcpy(data, p, len);
    return OK;
}

static err_t dma_write(struct device *dev, gpa_t at, const void *data, size_t len)
{
    void *p = dma_map(dev, at, len);

    if (!p)
        return ERR_INVALID;
    memcpy(p, data, len);
    return OK;
}

static void dma_done(struct device *dev, gpa_t at, size_t len)
{
    REQUIRE(range_within(at, len, FAKE_RAM_BYTES));
    if (guest_of(dev)->on_dma_done)
        guest_of(dev)->on_dma_done(guest_of(dev));
}

static void set_irq(struct device *dev, unsigned line, bool level)
{
    struct fake_guest *g = guest_of(dev);

    REQUIRE(line == 0);
    g->irq_edges += level && !g->irq;
    g->irq = level;
}

static void send_msi(struct device *dev, uint64_t address, uint32_t data)
{
    struct fake_guest *g = guest_of(dev);

    g->msis++;
    g->msi_address = address;
    g->msi_data = data;
}

static void set_timer(struct device *dev, unsigned timer, ns_t when)
{
    REQUIRE(timer < dev->type->timers);
    guest_of(dev)->timer[timer] = when;
}

static bool set_timer_or_rest(struct device *dev, unsigned timer, ns_t when)
{
    if (guest_of(dev)->rests)
        set_timer(dev, timer, when);
    return guest_of(dev)->rests;
}

static ns_t now(struct device *dev)
{
    return guest_of(dev)->now;
}

static int64_t wall_base(struct device *dev)
{
    return 0;
}

static void request(struct device *dev, enum machine_request what, uint32_t argument)
{
}

static void add_doorbells(struct device *dev, unsigned count,
                          void (*rung)(struct device *dev, unsigned n))
{
}

static void set_doorbell(struct device *dev, unsigned n, gpa_t at)
{
}

static void add_signals(struct device *dev, unsigned count,
                        void (*signalled)(struct device *dev, unsigned n))
{
    REQUIRE(count <= FAKE_SIGNALS);
    guest_of(dev)->signalled = signalled;
}

static int signal_fd(struct device *dev, unsigned n)
{
    return -1;
}

static void set_signal(struct device *dev, unsigned n, uint64_t address, uint32_t data)
{
    REQUIRE(n < FAKE_SIGNALS && guest_of(dev)->signalled);
    guest_of(dev)->signal[n].address = address;
    guest_of(dev)->signal[n].data = data;
}

static const struct device_env env = {
    .map_pio = map_pio,
    .map_mmio = map_mmio,
    .unmap_pio = unmap_pio,
    .unmap_mmio = unmap_mmio,
    .dma_read = dma_read,
    .dma_write = dma_write,
    .dma_map = dma_map,
    .dma_done = dma_done,
    .set_irq = set_irq,
    .send_msi = send_msi,
    .add_doorbells = add_doorbells,
    .set_doorbell = set_doorbell,
    .add_signals = add_signals,
    .signal_fd = signal_fd,
    .set_signal = set_signal,
    .set_timer = set_timer,
    .set_timer_or_rest = set_timer_or_rest,
    .now = now,
    .wall_base = wall_base,
    .request = request,
};

struct fake_guest *fake_guest_new(void)
{
    struct fake_guest *g = aligned_alloc(4096, sizeof *g);

    memset(g, 0, sizeof *g);
    for (unsigned i = 0; i < FAKE_TIMERS; i++)
        g->timer[i] = NS_NEVER;
    pci_bus_init(&g->bus, NULL);
    return g;
}

void fake_guest_free(struct fake_guest *g)
{
    for (unsigned i = 0; i < FAKE_CLAIMS; i++)
        REQUIRE(g->claims[i].len == 0);
    free(g);
}

struct device *fake_device(struct fake_guest *g, const struct device_type *type, const void *config)
{
    struct device *dev = calloc(1, type->size);
    struct error e;

    dev->type = type;
    dev->env = &env;
    dev->owner = g;
    strcpy(dev->id, "test0");
    REQUIRE(type->init(dev, config, &e) == OK);
    type->reset(dev);
    return dev;
}

void fake_device_free(struct device *dev)
{
    struct fake_guest *g = guest_of(dev);

    if (dev->type->fini)
        dev->type->fini(dev);
    for (unsigned i = 0; i < FAKE_CLAIMS; i++) // the machine drops what was claimed for good
        if (g->claims[i].dev == dev)
            g->claims[i] = (struct fake_claim){0};
    free(dev);
}

struct fake_claim *fake_claim_at(struct fake_guest *g, bool pio, uint64_t at)
{
    for (unsigned i = 0; i < FAKE_CLAIMS; i++) {
        struct fake_claim *c = &g->claims[i];
        if (c->len && c->pio == pio && at >= c->at && at - c->at < c->len)
            return c;
    }
    return NULL;
}

uint64_t fake_read(struct fake_guest *g, bool pio, uint64_t at, unsigned size)
{
    struct fake_claim *c = fake_claim_at(g, pio, at);

    if (!c || size < c->ops->min_size || size > c->ops->max_size)
        return ~0ull >> (64 - 8 * size);
    return c->ops->read(c->dev, at - c->at, size);
}

void fake_write(struct fake_guest *g, bool pio, uint64_t at, unsigned size, uint64_t value)
{
    struct fake_claim *c = fake_claim_at(g, pio, at);

    if (c && size >= c->ops->min_size && size <= c->ops->max_size)
        c->ops->write(c->dev, at - c->at, size, value);
}

static void fire_until(struct fake_guest *g, struct device *dev, ns_t latest)
{
    for (unsigned i = 0; i < dev->type->timers; i++) {
        if (g->timer[i] > latest)
            continue;
        g->timer[i] = NS_NEVER;
        dev->type->timer(dev, i);
    }
}

void fake_pass_time(struct fake_guest *g, struct device *dev, ns_t by)
{
    g->now += by;
    fire_until(g, dev, g->now);
}

void fake_rest(struct fake_guest *g, struct device *dev)
{
    fire_until(g, dev, NS_NEVER - 1);
}

struct device *fake_migrate(struct fake_guest *to, struct device *dev, const void *config)
{
    struct device *copy = fake_device(to, dev->type, config);
    struct buffer stream = BUFFER_EMPTY;
    struct error e = {0};

    memcpy(to->ram, guest_of(dev)->ram, sizeof to->ram);
    to->now = guest_of(dev)->now;
    state_save(dev->type->state, dev, &stream);
    REQUIRE(state_load(dev->type->state, copy, stream.data, stream.len, &e) == OK);
    REQUIRE(dev->type->loaded(copy, &e) == OK);
    REQUIRE(state_compare(dev->type->state, dev, copy, &e) == OK);
    buffer_release(&stream);
    return copy;
}
