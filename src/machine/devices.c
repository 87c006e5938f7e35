#include "machine/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "host/clock.h"
#include "machine/vm_impl.h"

static struct owned_device *owned(const struct device *dev)
{
    return dev->owner;
}

void device_lock(struct device *dev)
{
    struct owned_device *o = owned(dev);
    if (o->irq_chip)
        irq_lock(&o->vm->irq);
    else
        pthread_mutex_lock(&o->own_lock);
}

void device_lock_access(struct device *dev)
{
    device_lock(dev);
    owned(dev)->accesses++;
}

void device_unlock(struct device *dev)
{
    struct owned_device *o = owned(dev);
    if (o->irq_chip)
        irq_unlock(&o->vm->irq);
    else
        pthread_mutex_unlock(&o->own_lock);
}

// --- the environment -----------------------------------------------------------------------------

static err_t env_map_pio(struct device *dev, uint16_t port, uint32_t len, const struct io_ops *ops)
{
    return bus_map(&owned(dev)->vm->pio, port, len, dev, ops);
}

static err_t env_map_mmio(struct device *dev, gpa_t at, uint64_t len, const struct io_ops *ops)
{
    return bus_map(&owned(dev)->vm->mmio, at, len, dev, ops);
}

static void env_unmap_pio(struct device *dev, uint16_t port, uint32_t len)
{
    bus_unmap(&owned(dev)->vm->pio, port, dev);
}

static void env_unmap_mmio(struct device *dev, gpa_t at, uint64_t len)
{
    bus_unmap(&owned(dev)->vm->mmio, at, dev);
}

static err_t env_dma_read(struct device *dev, gpa_t at, void *data, size_t len)
{
    return memory_read(&owned(dev)->vm->memory, at, data, len);
}

static err_t env_dma_write(struct device *dev, gpa_t at, const void *data, size_t len)
{
    return memory_write(&owned(dev)->vm->memory, at, data, len);
}

static void *env_dma_map(struct device *dev, gpa_t at, size_t len)
{
    return memory_map(&owned(dev)->vm->memory, at, len);
}

static void env_dma_done(struct device *dev, gpa_t at, size_t len)
{
    memory_changed(&owned(dev)->vm->memory, at, len);
}

static void env_map_memory(struct device *dev, gpa_t at, uint64_t len, void *host)
{
    window_want(owned(dev), at, len, host);
}

static bool env_take_dirty(struct device *dev, uint64_t *bitmap)
{
    return window_take_dirty(owned(dev), bitmap);
}

static void env_set_irq(struct device *dev, unsigned line, bool level)
{
    struct owned_device *o = owned(dev);
    if (line >= dev->type->lines || (o->lines_up >> line & 1) == level)
        return;
    o->lines_up ^= BIT(line);
    o->interrupts += level;
    unsigned wire = o->wire[line];
    if (wire < PC_GSIS)
        irq_source(&o->vm->irq, wire, level);
    else if (wire != WIRE_NONE)
        irq_legacy(&o->vm->irq, wire - WIRE_LEGACY(0), level);
}

static void env_send_msi(struct device *dev, uint64_t address, uint32_t data)
{
    owned(dev)->interrupts++;
    irq_msi(&owned(dev)->vm->irq, address, data);
}

// --- doorbells -----------------------------------------------------------------------------------

static void ring(void *opaque, uint32_t events)
{
    struct owned_doorbell *bell = opaque;
    struct owned_device *o = bell->owner;
    uint64_t count;
    if (read(bell->loop.fd, &count, sizeof count) != sizeof count)
        return;
    device_lock(o->dev);
    o->rung(o->dev, (unsigned)(bell - o->doorbell));
    device_unlock(o->dev);
}

// A doorbell that the host cannot give is one less: writes to it stay accesses.
static void env_add_doorbells(struct device *dev, unsigned count,
                              void (*rung)(struct device *dev, unsigned n))
{
    struct owned_device *o = owned(dev);
    struct error e;
    if (!o->vm->engine->doorbell || !(o->doorbell = calloc(count, sizeof *o->doorbell)))
        return;
    o->rung = rung;
    for (; o->doorbells < count; o->doorbells++) {
        struct owned_doorbell *bell = &o->doorbell[o->doorbells];
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        *bell = (struct owned_doorbell){
            .loop = {.fd = fd, .events = EPOLLIN, .ready = ring, .opaque = bell}, .owner = o};
        if (fd < 0)
            return;
        if (loop_fd_add(o->vm->loop, &bell->loop, &e) != OK) {
            close(fd);
            return;
        }
    }
}

static void env_set_doorbell(struct device *dev, unsigned n, gpa_t at)
{
    struct owned_device *o = owned(dev);
    struct vm *vm = o->vm;
    struct error e;
    if (n >= o->doorbells || o->doorbell[n].at == at)
        return;
    struct owned_doorbell *bell = &o->doorbell[n];
    if (bell->at && vm->engine->doorbell(vm->engine_vm, bell->at, bell->loop.fd, false, &e) != OK)
        log_line(LOG_ERROR, "%s: %s", dev->id, e.text);
    bell->at =
        at && vm->engine->doorbell(vm->engine_vm, at, bell->loop.fd, true, &e) == OK ? at : 0;
}

static void free_doorbells(struct owned_device *o)
{
    for (unsigned i = 0; i < o->doorbells; i++) {
        loop_fd_remove(o->vm->loop, &o->doorbell[i].loop);
        close(o->doorbell[i].loop.fd);
    }
    free(o->doorbell);
}

void devices_ring(struct vm *vm)
{
    for (struct owned_device *o = vm->devices; o; o = o->next)
        for (unsigned i = 0; i < o->doorbells; i++)
            ring(&o->doorbell[i], EPOLLIN);
}

static ns_t env_now(struct device *dev)
{
    return clock_now(&owned(dev)->vm->clock);
}

static int64_t env_wall_base(struct device *dev)
{
    return owned(dev)->vm->clock.wall_base;
}

static void env_request(struct device *dev, enum machine_request what, uint32_t argument)
{
    vm_request(owned(dev)->vm, what, argument);
}

// --- timers --------------------------------------------------------------------------------------

static void arm(struct owned_timer *t)
{
    struct vm *vm = t->owner->vm;
    if (t->when == NS_NEVER || !vm->clock.running || t->owner->engine_times) {
        t->awaited = NS_NEVER;
        loop_timer_set(vm->loop, &t->loop, NS_NEVER);
        return;
    }
    t->awaited = t->when;
    ns_t now = clock_now(&vm->clock);
    uint64_t wait = t->when > now ? t->when - now : 0;
    uint64_t host = host_now();
    loop_timer_set(vm->loop, &t->loop, wait < NS_NEVER - host ? host + wait : NS_NEVER);
}

// at_rest is written under the device's lock, and counted for those who only look.
static void set_at_rest(struct owned_timer *t, bool at_rest)
{
    struct vm *vm = t->owner->vm;
    if (t->at_rest == at_rest)
        return;
    __atomic_store_n(&t->at_rest, at_rest, __ATOMIC_RELAXED);
    __atomic_fetch_add(&vm->timers_at_rest, at_rest ? 1 : -1, __ATOMIC_SEQ_CST);
}

static void env_set_timer(struct device *dev, unsigned timer, ns_t when)
{
    struct owned_timer *t = &owned(dev)->timer[timer];
    set_at_rest(t, false);
    if (t->when == when)
        return;
    t->when = when;
    arm(t);
}

// An engine with doorbells sees neither notifications nor rests: they are its kernel's.
static bool env_set_timer_or_rest(struct device *dev, unsigned timer, ns_t when)
{
    struct owned_timer *t = &owned(dev)->timer[timer];
    if (t->owner->vm->engine->doorbell)
        return false;
    set_at_rest(t, true);
    t->when = when;
    if (t->awaited > when) // else the loop comes too early, and waits again
        arm(t);
    return true;
}

static void expire(struct owned_timer *t)
{
    struct device *dev = t->owner->dev;
    set_at_rest(t, false);
    t->when = NS_NEVER;
    dev->type->timer(dev, (unsigned)(t - t->owner->timer));
}

static void fire(void *opaque)
{
    struct owned_timer *t = opaque;
    struct device *dev = t->owner->dev;
    struct vm *vm = t->owner->vm;
    device_lock(dev);
    t->awaited = NS_NEVER;
    if (t->when != NS_NEVER && vm->clock.running) {
        if (clock_now(&vm->clock) >= t->when)
            expire(t);
        else
            arm(t); // set anew in the meantime, or the two host clocks differ by a little
    }
    device_unlock(dev);
}

void devices_rest(struct vm *vm)
{
    if (!__atomic_load_n(&vm->timers_at_rest, __ATOMIC_SEQ_CST))
        return;
    for (struct owned_device *o = vm->devices; o; o = o->next) {
        for (unsigned i = 0; i < o->dev->type->timers; i++) {
            if (!__atomic_load_n(&o->timer[i].at_rest, __ATOMIC_RELAXED))
                continue;
            device_lock(o->dev);
            if (o->timer[i].at_rest && o->timer[i].when != NS_NEVER)
                expire(&o->timer[i]);
            set_at_rest(&o->timer[i], false);
            device_unlock(o->dev);
        }
    }
}

void devices_stop_timers(struct vm *vm)
{
    for (struct owned_device *o = vm->devices; o; o = o->next)
        for (unsigned i = 0; i < o->dev->type->timers; i++) {
            o->timer[i].awaited = NS_NEVER;
            loop_timer_set(vm->loop, &o->timer[i].loop, NS_NEVER);
        }
}

void devices_start_timers(struct vm *vm)
{
    for (struct owned_device *o = vm->devices; o; o = o->next)
        for (unsigned i = 0; i < o->dev->type->timers; i++)
            arm(&o->timer[i]);
}

static const struct device_env env = {
    .map_pio = env_map_pio,
    .map_mmio = env_map_mmio,
    .unmap_pio = env_unmap_pio,
    .unmap_mmio = env_unmap_mmio,
    .dma_read = env_dma_read,
    .dma_write = env_dma_write,
    .dma_map = env_dma_map,
    .dma_done = env_dma_done,
    .map_memory = env_map_memory,
    .take_dirty = env_take_dirty,
    .set_irq = env_set_irq,
    .send_msi = env_send_msi,
    .add_doorbells = env_add_doorbells,
    .set_doorbell = env_set_doorbell,
    .add_signals = signals_add,
    .signal_fd = signals_fd,
    .set_signal = signals_set,
    .set_timer = env_set_timer,
    .set_timer_or_rest = env_set_timer_or_rest,
    .now = env_now,
    .wall_base = env_wall_base,
    .request = env_request,
};

// --- life ----------------------------------------------------------------------------------------

static err_t allocate(struct vm *vm, const struct device_type *type, const char *id,
                      struct owned_device **out)
{
    struct owned_device *o = calloc(1, sizeof *o);
    if (!o)
        return ERR_NO_MEMORY;
    o->dev = aligned_alloc(64, align_up(type->size, 64));
    o->timer = calloc(type->timers ? type->timers : 1, sizeof *o->timer);
    if (!o->dev || !o->timer) {
        free(o->dev);
        free(o->timer);
        free(o);
        return ERR_NO_MEMORY;
    }
    __builtin_memset(o->dev, 0, type->size);
    o->vm = vm;
    pthread_mutex_init(&o->own_lock, NULL);
    o->dev->type = type;
    o->dev->env = &env;
    o->dev->owner = o;
    snprintf(o->dev->id, sizeof o->dev->id, "%s", id);
    for (unsigned i = 0; i < type->timers; i++)
        o->timer[i] = (struct owned_timer){.loop = {.fire = fire, .opaque = &o->timer[i]},
                                           .owner = o,
                                           .when = NS_NEVER,
                                           .awaited = NS_NEVER};
    for (unsigned i = 0; i < DEVICE_LINES; i++)
        o->wire[i] = WIRE_NONE;
    struct owned_device **tail = &vm->devices;
    while (*tail)
        tail = &(*tail)->next;
    *tail = o;
    *out = o;
    return OK;
}

static err_t add(struct vm *vm, const struct device_type *type, const char *id, const void *config,
                 const uint8_t *wires, bool irq_chip, struct device **out, struct error *e)
{
    struct owned_device *o;
    if (type->lines > DEVICE_LINES)
        return error_set(e, ERR_INVALID, "%s: %u interrupt lines are too many", id, type->lines);
    if (allocate(vm, type, id, &o) != OK)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory for the device", id);
    o->irq_chip = irq_chip;
    for (unsigned i = 0; wires && i < type->lines; i++)
        o->wire[i] = wires[i];
    if (out)
        *out = o->dev;
    o->initialised = true;
    if (type->init && type->init(o->dev, config, e) != OK)
        return error_in(e, "%s", id);
    return OK;
}

err_t devices_add(struct vm *vm, const struct device_type *type, const char *id, const void *config,
                  const uint8_t *wires, struct device **out, struct error *e)
{
    return add(vm, type, id, config, wires, false, out, e);
}

err_t devices_add_irq_chip(struct vm *vm, const struct device_type *type, const char *id,
                           const void *config, struct device **out, struct error *e)
{
    return add(vm, type, id, config, NULL, true, out, e);
}

void devices_keep_timers(struct device *dev)
{
    owned(dev)->engine_times = true;
}

static void free_device(struct owned_device *o)
{
    if (o->initialised && o->dev->type->fini)
        o->dev->type->fini(o->dev);
    free_doorbells(o);
    signals_free(o);
    pthread_mutex_destroy(&o->own_lock);
    free(o->timer);
    free(o->dev);
    free(o);
}

void devices_remove(struct vm *vm, struct device *dev)
{
    struct owned_device **at = &vm->devices, *o = owned(dev);
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    for (unsigned i = 0; i < dev->type->timers; i++)
        loop_timer_set(vm->loop, &o->timer[i].loop, NS_NEVER);
    for (unsigned i = 0; i < dev->type->lines; i++)
        env_set_irq(dev, i, false);
    free_device(o);
}

// In reverse order of creation, so that a device outlives those that were built on it.
void devices_free(struct vm *vm)
{
    devices_stop_timers(vm);
    while (vm->devices) {
        struct owned_device **last = &vm->devices;
        while ((*last)->next)
            last = &(*last)->next;
        struct owned_device *o = *last;
        *last = NULL;
        free_device(o);
    }
}

void devices_reset(struct vm *vm)
{
    for (struct owned_device *o = vm->devices; o; o = o->next) {
        device_lock(o->dev);
        if (o->dev->type->reset)
            o->dev->type->reset(o->dev);
        device_unlock(o->dev);
    }
}
