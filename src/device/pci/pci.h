// A PCI function, as a device model embeds it, and the bus that functions are plugged into.
//
// A model's struct begins with struct pci_function (which begins with struct device), so the
// board gets from one to the other with pci_function_of(). The function keeps configuration space
// with its write masks, maps and moves BARs as the command register and the BAR registers say, and
// delivers INTx (the device's interrupt line 0), MSI and MSI-X.
//
// Specification: PCI 3.0. Not modelled: bridges and buses below bus 0, PCI Express capabilities and
// extended configuration space (reads as all ones), power management, parity errors.
#pragma once

#include "device/device.h"
#include "device/pci/pci_regs.h"

#define PCI_CONFIG_SIZE 256
#define PCI_BARS 6
#define PCI_ROM_BAR 6   // the expansion ROM's place behind the BARs
#define PCI_MSIX_MAX 64 // vectors

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64, PCI_BAR_ROM };

struct pci_bar {
    uint64_t size;   // power of two
    uint64_t mapped; // where it is claimed now; 0: nowhere
    const struct io_ops *ops;
    uint32_t kind; // enum pci_bar_kind
    uint32_t pad;
};

struct pci_function;

// What a model may want to know of configuration accesses. Each may be NULL.
struct pci_hooks {
    void (*before_read)(struct pci_function *f, unsigned offset, unsigned size);
    void (*after_write)(struct pci_function *f, unsigned offset, unsigned size);
    void (*bar_moved)(struct pci_function *f, unsigned bar, uint64_t at); // 0: unmapped
    // What pci_msix_message() says may have changed.
    void (*messages_changed)(struct pci_function *f);
};

struct pci_function {
    struct device dev;
    const struct pci_hooks *hooks;     // or NULL
    struct pci_bar bars[PCI_BARS + 1]; // and the expansion ROM
    const uint8_t *rom;                // not owned; NULL: none
    uint64_t rom_len;
    uint64_t msix_address[PCI_MSIX_MAX];
    uint64_t msix_pending;
    uint32_t msix_data[PCI_MSIX_MAX];
    uint32_t msix_control[PCI_MSIX_MAX];
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t initial[PCI_CONFIG_SIZE];   // values after reset
    uint8_t writable[PCI_CONFIG_SIZE];  // bits that the guest sets
    uint8_t clearable[PCI_CONFIG_SIZE]; // bits that the guest clears by writing one
    uint8_t intx;                       // the model asserts its INTx pin
    uint8_t msi_pending;                // MSI's pending bit
    uint8_t intx_out;                   // what the interrupt line was last driven to
    uint8_t devfn;                      // slot * 8 + function, once plugged
    uint8_t cap_end;                    // first free byte behind the capabilities
    uint8_t cap_last;                   // offset of the newest capability, 0: none
    uint8_t msi_cap;                    // offsets, 0: none
    uint8_t msix_cap;
    uint8_t msix_vectors;
    uint8_t pad[7];
};

extern const struct state_desc pci_function_state;

struct pci_id {
    uint16_t vendor;
    uint16_t device;
    uint16_t subsystem_vendor;
    uint16_t subsystem;
    uint32_t class_code; // base class << 16 | subclass << 8 | programming interface
    uint8_t revision;
    uint8_t pin; // 0: no INTx; 1: INTA# .. 4: INTD#
};

static inline struct pci_function *pci_function_of(struct device *dev)
{
    return (struct pci_function *)dev;
}

// --- For a model's init(), in this order ---

// Prepares an endpoint's header. The struct is zero except for dev.
void pci_init(struct pci_function *f, const struct pci_id *id, const struct pci_hooks *hooks);
// A BAR of size bytes (a power of two; at least 4 for I/O, 16 for memory; a 64-bit BAR takes index
// and index + 1). ops work relative to its start.
void pci_add_bar(struct pci_function *f, unsigned index, enum pci_bar_kind kind, uint64_t size,
                 const struct io_ops *ops);
// An expansion ROM (PCI 3.0, 6.2.5.2), such as a video BIOS, for firmware to run. The image stays
// the caller's and valid until pci_fini(); behind its len bytes (at most PCI_ROM_MAX) the ROM reads
// as ones. It has room for so many bytes, or for the image where that is longer: with the same room
// everywhere, a function's state does not depend on its image.
#define PCI_ROM_MAX (16 * MIB)
void pci_add_rom(struct pci_function *f, const uint8_t *image, uint64_t len, uint64_t room);
// Room for a capability of len bytes with this id; returns its offset, filled with zeros,
// read-only.
unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned len);
// MSI with one message.
void pci_add_msi(struct pci_function *f);
// MSI-X with its table and pending bits in a 32-bit BAR of their own.
void pci_add_msix(struct pci_function *f, unsigned vectors, unsigned bar);
// Sets a register of 1, 2 or 4 bytes to its value after reset and says which bits the guest may
// write.
void pci_set_register(struct pci_function *f, unsigned offset, unsigned size, uint32_t value,
                      uint32_t writable);

// --- For the same-named callbacks of the model ---

void pci_reset(struct pci_function *f);
err_t pci_loaded(struct pci_function *f, struct error *e); // checks, then maps BARs, drives INTx
void pci_fini(struct pci_function *f);

// --- For a running model ---

void pci_set_intx(struct pci_function *f, bool level);
bool pci_msi_enabled(const struct pci_function *f);
bool pci_msix_enabled(const struct pci_function *f);
void pci_send_msi(struct pci_function *f);
// Sends a vector's message, or remembers it while masked. vector < the number added.
void pci_send_msix(struct pci_function *f, unsigned vector);
// Whether sending a vector would send a message at once, and which.
bool pci_msix_message(const struct pci_function *f, unsigned vector, uint64_t *address,
                      uint32_t *data);
// Whether the guest lets this function read and write memory.
bool pci_is_master(const struct pci_function *f);
uint32_t pci_register(const struct pci_function *f, unsigned offset, unsigned size);

// --- Configuration space: with the function's device lock held. size is 1, 2 or 4 ---

uint32_t pci_config_read(struct pci_function *f, unsigned offset, unsigned size);
void pci_config_write(struct pci_function *f, unsigned offset, unsigned size, uint32_t value);

// --- The bus ---

// How the bus enters a function from the host bridge's callback: the machine takes the function's
// own device lock. The host bridge's lock is held then and no function ever waits for the host
// bridge, so the order is safe. The host bridge answers for its own function itself.
struct pci_bus_ops {
    void (*lock)(struct device *dev);
    void (*unlock)(struct device *dev);
};

// Bus 0, and the only one. Plugging happens while the guest does not run.
struct pci_bus {
    const struct pci_bus_ops *ops;       // NULL: no locking (tests)
    struct pci_function *functions[256]; // by devfn; not owned
};

#define PCI_DEVFN(slot, function) ((slot)*8 + (function))

void pci_bus_init(struct pci_bus *bus, const struct pci_bus_ops *ops);
// ERR_EXISTS if the place is taken. A slot with functions above 0 must have function 0.
err_t pci_bus_plug(struct pci_bus *bus, struct pci_function *f, unsigned devfn, struct error *e);
// Takes the function out. While the guest does not run.
void pci_bus_unplug(struct pci_bus *bus, const struct pci_function *f);
// bdf is bus << 8 | devfn. Absent functions read as all ones and ignore writes.
uint32_t pci_bus_read(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size);
void pci_bus_write(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size,
                   uint32_t value);

// Does what firmware would: opens the configuration window and the legacy RAM ranges, gives every
// BAR an address in the board's windows (device/platform.h), routes the PIRQs and fills in the
// interrupt line registers. Enables no decoding. To be called after reset when no firmware runs.
// ERR_NO_MEMORY when a window is full.
err_t pci_assign_resources(struct pci_bus *bus, struct error *e);
// The range in which all BARs above 4 GiB lie. False: there are none.
bool pci_high_bars(struct pci_bus *bus, uint64_t *from, uint64_t *to);
