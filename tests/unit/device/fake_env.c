// See fake_env.h.
#include "fake_env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

static struct fake_record *record(const struct device *dev)
{
    return dev->owner;
}

static void require(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fake_env: %s\n", what);
    abort();
}

// --- what a device sees ---

static err_t claim(struct device *dev, bool pio, uint64_t at, uint64_t len,
                   const struct io_ops *ops)
{
    struct fake_env *env = record(dev)->env;
    struct fake_claim *unused = NULL;
    for (unsigned i = 0; i < FAKE_CLAIMS; i++) {
        struct fake_claim *c = &env->claim[i];
        if (!c->len)
            unused = c;
        else if (c->pio == pio && ranges_overlap(c->at, c->len, at, len))
            return ERR_EXISTS;
    }
    require(unused && len, "too many claims");
    *unused = (struct fake_claim){dev, ops, at, len, pio};
    return OK;
}

static void unclaim(struct device *dev, bool pio, uint64_t at)
{
    struct fake_env *env = record(dev)->env;
    for (unsigned i = 0; i < FAKE_CLAIMS; i++) {
        struct fake_claim *c = &env->claim[i];
        if (c->len && c->dev == dev && c->pio == pio && c->at == at)
            c->len = 0;
    }
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
    unclaim(dev, true, port);
}

static void unmap_mmio(struct device *dev, gpa_t at, uint64_t len)
{
    unclaim(dev, false, at);
}

static void *dma_map(struct device *dev, gpa_t at, size_t len)
{
    return range_within(at, len, FAKE_RAM) ? record(dev)->env->ram + at : NULL;
}

static err_t dma_read(struct device *dev, gpa_t at, void *data, size_t len)
{
    void *ram = dma_map(dev, at, len);
    if (!ram)
        return ERR_INVALID;
    memcpy(data, ram, len);
    return OK;
}

static err_t dma_write(struct device *dev, gpa_t at, const void *data, size_t len)
{
    void *ram = dma_map(dev, at, len);
    if (!ram)
        return ERR_INVALID;
    memcpy(ram, data, len);
    return OK;
}

static void dma_done(struct device *dev, gpa_t at, size_t len)
{
}

static void set_irq(struct device *dev, unsigned line, bool level)
{
    struct fake_record *r = record(dev);
    require(line < dev->type->lines && line < FAKE_LINES, "a line that the type does not have");
    if (level && !(r->lines >> line & 1))
        r->rises[line]++;
    r->lines = level ? r->lines | 1u << line : r->lines & ~(1u << line);
}

static void send_msi(struct device *dev, uint64_t address, uint32_t data)
{
    struct fake_env *env = record(dev)->env;
    env->msis++;
    env->msi_address = address;
    env->msi_data = data;
}

static void set_timer(struct device *dev, unsigned timer, ns_t when)
{
    require(timer < dev->type->timers && timer < FAKE_TIMERS,
            "a timer that the type does not have");
    record(dev)->timer[timer] = when;
}

static ns_t now(struct device *dev)
{
    return record(dev)->env->now;
}

static int64_t wall_base(struct device *dev)
{
    return record(dev)->env->wall_base;
}

static void request(struct device *dev, enum machine_request what, uint32_t argument)
{
    struct fake_env *env = record(dev)->env;
    env->requests++;
    env->request = what;
    env->request_argument = argument;
}

static void add_doorbells(struct device *dev, unsigned count,
                          void (*rung)(struct device *dev, unsigned n))
{
}

static void set_doorbell(struct device *dev, unsigned n, gpa_t at)
{
}

static const struct device_env calls = {
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
    .set_timer = set_timer,
    .now = now,
    .wall_base = wall_base,
    .request = request,
};

// --- what a test does ---

struct fake_env *fake_env_new(void)
{
    struct fake_env *env = calloc(1, sizeof *env);
    require(env, "no memory");
    return env;
}

void fake_env_free(struct fake_env *env)
{
    for (unsigned i = 0; i < FAKE_DEVICES; i++)
        if (env->device[i])
            fake_remove(env->device[i]->dev);
    free(env);
}

static struct device *create(struct fake_env *env, const struct device_type *type,
                             const void *config)
{
    unsigned slot = 0;
    while (slot < FAKE_DEVICES && env->device[slot])
        slot++;
    require(slot < FAKE_DEVICES, "too many devices");
    struct fake_record *r = calloc(1, sizeof *r);
    // Aligned as the machine allocates devices.
    struct device *dev = aligned_alloc(64, (type->size + 63) & ~63u);
    require(r && dev, "no memory");
    memset(dev, 0, type->size);
    dev->type = type;
    dev->env = &calls;
    dev->owner = r;
    snprintf(dev->id, sizeof dev->id, "%s", type->name);
    *r = (struct fake_record){.env = env, .dev = dev};
    for (unsigned i = 0; i < FAKE_TIMERS; i++)
        r->timer[i] = NS_NEVER;
    env->device[slot] = r;
    struct error e = {0};
    require(type->init(dev, config, &e) == OK, e.text);
    if (type->reset)
        type->reset(dev);
    return dev;
}

struct device *fake_add(struct fake_env *env, const struct device_type *type, const void *config)
{
    return create(env, type, config);
}

static void release_claims(struct device *dev)
{
    struct fake_env *env = record(dev)->env;
    for (unsigned i = 0; i < FAKE_CLAIMS; i++)
        if (env->claim[i].len && env->claim[i].dev == dev)
            env->claim[i].len = 0;
}

void fake_remove(struct device *dev)
{
    struct fake_record *r = record(dev);
    for (unsigned i = 0; i < FAKE_DEVICES; i++)
        if (r->env->device[i] == r)
            r->env->device[i] = NULL;
    if (dev->type->fini)
        dev->type->fini(dev);
    release_claims(dev);
    free(dev);
    free(r);
}

struct device *fake_reload(struct device *dev, const void *config)
{
    struct fake_env *env = record(dev)->env;
    const struct device_type *type = dev->type;
    struct buffer first = BUFFER_EMPTY, second = BUFFER_EMPTY;
    struct error e = {0};
    if (type->state)
        state_save(type->state, dev, &first);
    fake_remove(dev);
    dev = create(env, type, config);
    if (type->state) {
        require(state_load(type->state, dev, first.data, first.len, &e) == OK, e.text);
        state_save(type->state, dev, &second);
        require(first.len == second.len && memcmp(first.data, second.data, first.len) == 0,
                "a reloaded device saves something else");
        require(!type->loaded || type->loaded(dev, &e) == OK, e.text);
    }
    buffer_release(&first);
    buffer_release(&second);
    return dev;
}

bool fake_load(struct device **dev, const void *config, const void *data, size_t len)
{
    struct fake_env *env = record(*dev)->env;
    const struct device_type *type = (*dev)->type;
    struct error e;
    fake_remove(*dev);
    *dev = create(env, type, config);
    if (state_load(type->state, *dev, data, len, &e) == OK &&
        (!type->loaded || type->loaded(*dev, &e) == OK))
        return true;
    fake_remove(*dev);
    *dev = create(env, type, config);
    return false;
}

static struct fake_claim *find(struct fake_env *env, bool pio, uint64_t at)
{
    for (unsigned i = 0; i < FAKE_CLAIMS; i++) {
        struct fake_claim *c = &env->claim[i];
        if (c->len && c->pio == pio && at >= c->at && at - c->at < c->len)
            return c;
    }
    return NULL;
}

// The width in which an access reaches a claim: what the machine's bus does.
static unsigned step_of(const struct fake_claim *c, uint64_t at, unsigned size)
{
    if (!c)
        return size;
    unsigned step = size < c->ops->max_size ? size : c->ops->max_size;
    return c->len == 1 || at - c->at + size <= c->len ? step : 1;
}

static uint64_t bus_read(struct fake_env *env, bool pio, uint64_t at, unsigned size)
{
    struct fake_claim *c = find(env, pio, at);
    uint64_t all = size == 8 ? ~0ull : (1ull << 8 * size) - 1;
    unsigned step = step_of(c, at, size);
    if (!c || size < c->ops->min_size)
        return all;
    if (step == size)
        return c->ops->read(c->dev, at - c->at, size) & all;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i += step)
        value |= bus_read(env, pio, at + i, step) << 8 * i;
    return value;
}

static void bus_write(struct fake_env *env, bool pio, uint64_t at, unsigned size, uint64_t value)
{
    struct fake_claim *c = find(env, pio, at);
    unsigned step = step_of(c, at, size);
    if (!c || size < c->ops->min_size)
        return;
    uint64_t all = step == 8 ? ~0ull : (1ull << 8 * step) - 1;
    if (step == size)
        c->ops->write(c->dev, at - c->at, size, value & all);
    else
        for (unsigned i = 0; i < size; i += step)
            bus_write(env, pio, at + i, step, value >> 8 * i & all);
}

uint64_t fake_in(struct fake_env *env, uint16_t port, unsigned size)
{
    return bus_read(env, true, port, size);
}

void fake_out(struct fake_env *env, uint16_t port, unsigned size, uint64_t value)
{
    bus_write(env, true, port, size, value);
}

uint64_t fake_mmio_read(struct fake_env *env, gpa_t at, unsigned size)
{
    return bus_read(env, false, at, size);
}

void fake_mmio_write(struct fake_env *env, gpa_t at, unsigned size, uint64_t value)
{
    bus_write(env, false, at, size, value);
}

static ns_t *first_timer(const struct fake_env *env, struct device **dev, unsigned *timer)
{
    ns_t *first = NULL;
    for (unsigned i = 0; i < FAKE_DEVICES; i++) {
        struct fake_record *r = env->device[i];
        for (unsigned t = 0; r && t < FAKE_TIMERS; t++) {
            if (r->timer[t] == NS_NEVER || (first && *first <= r->timer[t]))
                continue;
            first = &r->timer[t];
            *dev = r->dev;
            *timer = t;
        }
    }
    return first;
}

ns_t fake_next_timer(const struct fake_env *env)
{
    struct device *dev;
    unsigned timer;
    const ns_t *first = first_timer(env, &dev, &timer);
    return first ? *first : NS_NEVER;
}

void fake_advance(struct fake_env *env, ns_t by)
{
    ns_t end = env->now + by;
    uint32_t before = env->timers_fired;
    for (;;) {
        struct device *dev;
        unsigned timer;
        ns_t *when = first_timer(env, &dev, &timer);
        if (!when || *when > end)
            break;
        if (*when > env->now)
            env->now = *when;
        *when = NS_NEVER;
        env->timers_fired++;
        require(env->timers_fired - before < 1000000, "a timer without end");
        dev->type->timer(dev, timer);
    }
    env->now = end;
}

bool fake_line(const struct device *dev, unsigned line)
{
    return record(dev)->lines >> line & 1;
}

unsigned fake_rises(const struct device *dev, unsigned line)
{
    return record(dev)->rises[line];
}
