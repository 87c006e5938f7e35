// The machine's side of device models: their locks, timers and interrupt wires, and the environment
// (struct device_env) through which they reach the world.
#pragma once

#include <pthread.h>

#include "device/device.h"
#include "host/loop.h"

#define DEVICE_LINES 40

// Where an output of a device goes: a global system interrupt (0..23), one of the legacy wires,
// nowhere.
#define WIRE_LEGACY(which) (64 + (which)) // enum irq_legacy
#define WIRE_NONE 0xff

struct vm;
struct owned_device;

struct owned_timer {
    struct loop_timer loop;
    struct owned_device *owner;
    ns_t when;    // virtual time; NS_NEVER: not armed
    ns_t awaited; // for when the loop's is set, not later than `when`; NS_NEVER: not set
    bool at_rest; // or before, when a vCPU rests
};

// Memory of the device's own that the guest reaches directly. Guarded by vm->windows.
struct window {
    void *host;
    uint64_t len;
    gpa_t wanted; // 0: nowhere
    gpa_t mapped; // where the engine has it; 0: nowhere
};

struct owned_doorbell {
    struct loop_fd loop; // an eventfd
    struct owned_device *owner;
    gpa_t at; // 0: nowhere
};

struct owned_signal {
    struct loop_fd loop; // an eventfd
    struct owned_device *owner;
    unsigned number;  // the engine's
    bool placed;      // the engine looks at it (guarded by the router's lock, as are the next two)
    uint32_t data;    // the message that it means,
    uint64_t address; // 0: that is for the device to say
};

// struct device.owner points here.
struct owned_device {
    struct vm *vm;
    struct device *dev;
    pthread_mutex_t own_lock;
    bool irq_chip;              // guarded by the interrupt router's lock in place of own_lock
    bool engine_times;          // the engine keeps the chip while the VM runs: no host timers
    uint8_t wire[DEVICE_LINES]; // where each output goes
    uint64_t lines_up;          // outputs that are asserted
    uint64_t accesses;          // by the guest to its ranges (under the device's lock)
    uint64_t interrupts;        // messages, and outputs that rose (likewise)
    struct owned_timer *timer;  // type->timers of them
    struct window window;
    struct owned_doorbell *doorbell;
    unsigned doorbells;
    void (*rung)(struct device *dev, unsigned n);
    struct owned_signal *signal;
    unsigned signals;
    void (*signalled)(struct device *dev, unsigned n);
    bool initialised;
    struct owned_device *next;
};

// Allocates and initialises a device and puts it at the end of the VM's list. wires: type->lines
// entries (NULL: all go nowhere).
err_t devices_add(struct vm *vm, const struct device_type *type, const char *id, const void *config,
                  const uint8_t *wires, struct device **out, struct error *e);
// The same for a chip of device/irq.
err_t devices_add_irq_chip(struct vm *vm, const struct device_type *type, const char *id,
                           const void *config, struct device **out, struct error *e);
// The engine keeps this chip while the VM runs.
void devices_keep_timers(struct device *dev);
// Takes one out of a machine whose vCPUs do not run; its lines fall.
void devices_remove(struct vm *vm, struct device *dev);
void devices_free(struct vm *vm);

void device_lock(struct device *dev);
void device_lock_access(struct device *dev); // for an access by the guest, which is counted
void device_unlock(struct device *dev);

// window.c: see device_env's map_memory and take_dirty.
void window_want(struct owned_device *o, gpa_t at, uint64_t len, void *host);
bool window_take_dirty(struct owned_device *o, uint64_t *bitmap);
void windows_apply(struct vm *vm); // while paused: carries out what was wanted

// signals.c: see device_env.
void signals_add(struct device *dev, unsigned count,
                 void (*signalled)(struct device *dev, unsigned n));
int signals_fd(struct device *dev, unsigned n);
void signals_set(struct device *dev, unsigned n, uint64_t address, uint32_t data);
void signals_free(struct owned_device *o);
void signals_give(struct vm *vm); // while paused, after chips_give()
void signals_take(struct vm *vm); // likewise, before chips_take(): nothing that was sent is lost

// While paused.
void devices_reset(struct vm *vm);
void devices_ring(struct vm *vm);         // what vCPUs have rung before they stopped
void devices_stop_timers(struct vm *vm);  // virtual time stands: no host timer stays armed
void devices_start_timers(struct vm *vm); // re-arms what the models had set

// A vCPU has nothing to do, on its thread: what waited for that takes place.
void devices_rest(struct vm *vm);
