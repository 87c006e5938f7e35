// What a device model is, and all that it may do to the world outside itself.
//
// Every callback of a model runs with the device's lock held, so a model is written as if
// single-threaded and never names a lock. The ways out (struct device_env) never call back into a
// device on the same stack. Models see virtual time only. See docs/device.md.
#pragma once

#include "base/error.h"
#include "base/log.h"
#include "state/state.h"

struct device;

// Offset-relative access to a range that the device claimed. The bus splits or refuses accesses
// outside min_size..max_size (1, 2, 4, 8) and never passes one that crosses the end of the range.
struct io_ops {
    uint64_t (*read)(struct device *dev, uint64_t offset, unsigned size);
    void (*write)(struct device *dev, uint64_t offset, unsigned size, uint64_t value);
    uint8_t min_size;
    uint8_t max_size;
};

// What a device can ask of its machine.
enum machine_request {
    MACHINE_RESET,      // the guest (or a watchdog) resets the machine
    MACHINE_POWEROFF,   // ACPI S5 or its like
    MACHINE_PANIC,      // the guest says it has crashed
    MACHINE_DEBUG_EXIT, // end with this exit status (argument)
    MACHINE_EJECT,      // the guest has let go of PCI cards
    MACHINE_REQUESTS,
};

struct device_env {
    // Claims. Only in init() and, for ranges that the guest moves (PCI BARs, PCIEXBAR), later.
    // ERR_EXISTS when the range is taken. len > 0.
    err_t (*map_pio)(struct device *dev, uint16_t port, uint32_t len, const struct io_ops *ops);
    err_t (*map_mmio)(struct device *dev, gpa_t at, uint64_t len, const struct io_ops *ops);
    void (*unmap_pio)(struct device *dev, uint16_t port, uint32_t len);
    void (*unmap_mmio)(struct device *dev, gpa_t at, uint64_t len);

    // Copies from or to guest RAM. ERR_INVALID if any byte is outside RAM (then nothing is copied).
    err_t (*dma_read)(struct device *dev, gpa_t at, void *data, size_t len);
    err_t (*dma_write)(struct device *dev, gpa_t at, const void *data, size_t len);
    // A bounded range of guest RAM as host memory, for back ends to read or fill in place; NULL
    // unless all of it is RAM. The guest may change it at any time. After filling it: dma_done()
    // before the guest is told.
    void *(*dma_map)(struct device *dev, gpa_t at, size_t len);
    void (*dma_done)(struct device *dev, gpa_t at, size_t len);

    // Memory of the device's own (a frame buffer) that the guest reaches at [at, at + len) without
    // calling the device; at 0: nowhere. It is the same range of the device however often it moves,
    // host is page-aligned and stays valid. A move takes effect a few instructions later, and not
    // at all where RAM lies: so the device also claims the range with map_mmio().
    void (*map_memory)(struct device *dev, gpa_t at, uint64_t len, void *host);
    // Which pages of that memory the guest has written since the last call, ORed into bitmap (one
    // bit a page). False: not known, take all for written.
    bool (*take_dirty)(struct device *dev, uint64_t *bitmap);

    void (*set_irq)(struct device *dev, unsigned line, bool level); // line: the device's own output
    void (*send_msi)(struct device *dev, uint64_t address, uint32_t data);

    // Doorbells: registers whose writes only mean "look". add_doorbells() in init() only; rung is
    // then called as callbacks are. set_doorbell() says where doorbell n is (0: nowhere any more);
    // the machine need not watch it: then writes arrive as always.
    void (*add_doorbells)(struct device *dev, unsigned count,
                          void (*rung)(struct device *dev, unsigned n));
    void (*set_doorbell)(struct device *dev, unsigned n, gpa_t at);

    // Signals, the way back: descriptors by which another process (a back end that fills queues)
    // interrupts the guest. add_signals() in init() only; signalled is then called as callbacks
    // are, and interrupts as the device would. signal_fd() is the eventfd that the process adds to;
    // it stays the machine's and open as long as the device; -1: there is none. While
    // signalled would do nothing but send this message, set_signal() says so (address 0: it would
    // not), and the machine need not call it any more.
    void (*add_signals)(struct device *dev, unsigned count,
                        void (*signalled)(struct device *dev, unsigned n));
    int (*signal_fd)(struct device *dev, unsigned n);
    void (*set_signal)(struct device *dev, unsigned n, uint64_t address, uint32_t data);

    // Calls type->timer(dev, timer) once at or after virtual time `when`; replaces what was set
    // before; NS_NEVER cancels. timer < type->timers.
    void (*set_timer)(struct device *dev, unsigned timer, ns_t when);
    // The same, but before that as soon as a processor of the guest has nothing to do: for work
    // that is cheaper in a heap. False: this machine does not see its processors rest; nothing was
    // set.
    bool (*set_timer_or_rest)(struct device *dev, unsigned timer, ns_t when);
    // Virtual time: starts at 0, stands still while the VM is paused.
    ns_t (*now)(struct device *dev);
    // Wall-clock time at virtual time 0, ns since 1970 UTC: what a battery-backed clock knows.
    int64_t (*wall_base)(struct device *dev);

    void (*request)(struct device *dev, enum machine_request what, uint32_t argument);
};

struct device_type {
    const char *name;               // key in configuration and state streams: "pit", "virtio-blk"
    uint32_t size;                  // of the model's struct, which begins with struct device
    uint16_t timers;                // how many timers it uses
    uint16_t lines;                 // how many interrupt outputs it has
    const struct state_desc *state; // NULL only for a device without any
    // config: see the model's header.
    err_t (*init)(struct device *dev, const void *config, struct error *e);
    void (*reset)(struct device *dev); // power-on values; cannot fail
    // State came from outside: check it, re-arm timers.
    err_t (*loaded)(struct device *dev, struct error *e);
    void (*timer)(struct device *dev, unsigned timer);
    void (*fini)(struct device *dev); // undoes even a half-finished init
};

// The first member of every model's struct: SKIP(struct pit, dev, "wiring, rebuilt from
// configuration").
struct device {
    const struct device_type *type;
    const struct device_env *env;
    void *owner; // the machine's record of this device; models do not look at it
    char id[24]; // "pit", "disk0": unique in the VM
};
