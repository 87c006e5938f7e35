// A machine for one device under test: RAM, claims of ports and memory, interrupts, timers, and a
// PCI bus without locks. What the device does to the world is recorded in the struct.
#pragma once

#include "device/device.h"
#include "device/pci/pci.h"

#define FAKE_RAM_BYTES (768 * KIB) // up to the ranges that the host bridge answers for
#define FAKE_CLAIMS 64
#define FAKE_TIMERS 4
#define FAKE_SIGNALS 16

struct fake_claim {
    struct device *dev;
    const struct io_ops *ops;
    uint64_t at, len; // len 0: free
    bool pio;
};

struct fake_guest {
    _Alignas(4096) uint8_t ram[FAKE_RAM_BYTES];
    struct fake_claim claims[FAKE_CLAIMS];
    struct pci_bus bus;
    ns_t now;
    ns_t timer[FAKE_TIMERS]; // deadlines
    bool rests;              // whether it is seen when processors rest
    unsigned irq_edges;
    bool irq; // line 0
    unsigned msis;
    uint64_t msi_address; // of the last message
    uint32_t msi_data;
    void (*signalled)(struct device *dev, unsigned n); // NULL: the device has no signals
    struct {
        uint64_t address; // 0: the device is called
        uint32_t data;
    } signal[FAKE_SIGNALS];
    void (*on_dma_done)(struct fake_guest *g); // or NULL
    void *opaque;                              // the test's
};

struct fake_guest *fake_guest_new(void);
void fake_guest_free(struct fake_guest *g);
// Allocates, initialises and resets a device.
struct device *fake_device(struct fake_guest *g, const struct device_type *type,
                           const void *config);
void fake_device_free(struct device *dev);

// Accesses to what devices have claimed; unclaimed reads are all ones.
uint64_t fake_read(struct fake_guest *g, bool pio, uint64_t at, unsigned size);
void fake_write(struct fake_guest *g, bool pio, uint64_t at, unsigned size, uint64_t value);
struct fake_claim *fake_claim_at(struct fake_guest *g, bool pio, uint64_t at);

// Moves time and fires dev's timers that are due.
void fake_pass_time(struct fake_guest *g, struct device *dev, ns_t by);
// A processor rests: fires dev's timer, whichever it is.
void fake_rest(struct fake_guest *g, struct device *dev);

// Saves dev and loads it into a fresh device of the same kind in another guest with the same RAM.
// Compares all state. Returns the new device.
struct device *fake_migrate(struct fake_guest *to, struct device *dev, const void *config);
