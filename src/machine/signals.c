// Signals: eventfds by which other processes interrupt the guest for a device (device_env's
// add_signals). An engine that keeps the local APICs turns one into its message in the kernel,
// without this process, while that is all it means and the VM runs. Else the main loop reads it
// and calls the device: for masked messages, INTx, a paused VM, and engines without chips.
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/vm_impl.h"

static void look(void *opaque, uint32_t events)
{
    struct owned_signal *s = opaque;
    struct owned_device *o = s->owner;
    uint64_t count;
    if (read(s->loop.fd, &count, sizeof count) != sizeof count)
        return; // the engine was first
    device_lock(o->dev);
    o->signalled(o->dev, (unsigned)(s - o->signal));
    device_unlock(o->dev);
}

void signals_add(struct device *dev, unsigned count,
                 void (*signalled)(struct device *dev, unsigned n))
{
    struct owned_device *o = dev->owner;
    struct error e;
    o->signalled = signalled;
    if (!(o->signal = calloc(count, sizeof *o->signal)))
        return;
    for (; o->signals < count; o->signals++) {
        struct owned_signal *s = &o->signal[o->signals];
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        *s =
            (struct owned_signal){.loop = {.fd = fd, .events = EPOLLIN, .ready = look, .opaque = s},
                                  .owner = o,
                                  .number = o->vm->signals};
        if (fd < 0)
            return;
        if (loop_fd_add(o->vm->loop, &s->loop, &e) != OK) {
            close(fd);
            return;
        }
        o->vm->signals++;
    }
}

int signals_fd(struct device *dev, unsigned n)
{
    struct owned_device *o = dev->owner;
    return n < o->signals ? o->signal[n].loop.fd : -1;
}

// With the router's lock held. What an engine refuses (the guest may have written an address that
// is none) goes the other way.
static void place(struct owned_signal *s, bool run)
{
    struct irq *irq = &s->owner->vm->irq;
    bool on = run && irq->live && s->address && s->number < ENGINE_SIGNALS;
    struct error e;
    if (!irq->chips || !irq->chips->signal || (!on && !s->placed))
        return;
    s->placed = irq->chips->signal(irq->engine_vm, s->number, s->loop.fd, s->address, s->data, on,
                                   &e) == OK &&
                on;
}

void signals_set(struct device *dev, unsigned n, uint64_t address, uint32_t data)
{
    struct owned_device *o = dev->owner;
    struct owned_signal *s = &o->signal[n];
    if (n >= o->signals || (s->address == address && s->data == data))
        return;
    irq_lock(&o->vm->irq);
    s->address = address;
    s->data = data;
    place(s, true);
    irq_unlock(&o->vm->irq);
}

static void place_all(struct vm *vm, bool run)
{
    irq_lock(&vm->irq);
    for (struct owned_device *o = vm->devices; o; o = o->next)
        for (unsigned i = 0; i < o->signals; i++)
            place(&o->signal[i], run);
    irq_unlock(&vm->irq);
}

void signals_give(struct vm *vm)
{
    place_all(vm, true);
}

void signals_take(struct vm *vm)
{
    place_all(vm, false);
    for (struct owned_device *o = vm->devices; o; o = o->next)
        for (unsigned i = 0; i < o->signals; i++)
            look(&o->signal[i], EPOLLIN);
}

void signals_free(struct owned_device *o)
{
    for (unsigned i = 0; i < o->signals; i++) {
        loop_fd_remove(o->vm->loop, &o->signal[i].loop);
        close(o->signal[i].loop.fd);
    }
    free(o->signal);
}
