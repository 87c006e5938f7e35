// The virtio transport over PCI, as a virtio model embeds it.
//
// A model's struct begins with struct virtio_pci (which begins with struct pci_function). The
// transport owns device status, features, queues and interrupts; the model is told when a queue has
// something.
//
// Specification: VIRTIO 1.2, 2.1 to 2.3, 3.1, 4.1. Modern interface only (no legacy or transitional
// one). Not offered: queue reset, notification data, shared memory regions.
#pragma once

#include "device/pci/pci.h"
#include "device/virtio/queue.h"

#define VIRTIO_QUEUES_MAX 16
#define VIRTIO_CONFIG_MAX 64 // bytes of device configuration
#define VIRTIO_TIMER 0       // the transport's; models count theirs from 1

#define VIRTIO_FEATURE(bit) (1ull << (bit))

struct virtio_pci;

struct virtio_model {
    uint32_t class_code; // PCI's
    uint16_t id;         // virtio's: 1 network, 2 block, ...
    uint16_t config_len; // bytes of device configuration
    // The guest says that queue has buffers; also called for each enabled queue at DRIVER_OK.
    void (*notify)(struct virtio_pci *v, unsigned queue);
    // The guest's driver is ready, its features are known; before any queue's notify(). May be
    // NULL.
    void (*started)(struct virtio_pci *v);
    // The guest wrote to the device configuration. NULL: all of it is read-only.
    void (*config_written)(struct virtio_pci *v, unsigned offset, unsigned size, uint32_t value);
    // Whether requests are in flight in a back end: the guest's reset waits for them. May be NULL.
    bool (*busy)(struct virtio_pci *v);
    // The device is reset: by the guest or the machine. May be NULL.
    void (*reset)(struct virtio_pci *v);
};

struct virtio_pci {
    struct pci_function pci;
    const struct virtio_model *model;
    uint64_t features;        // offered
    uint64_t driver_features; // accepted
    struct virtq queues[VIRTIO_QUEUES_MAX];
    struct log_limit log;
    uint32_t budget; // requests that may still be taken in this callback
    uint32_t later;  // bit per queue: requests wait for the next callback
    uint32_t feature_select;
    uint32_t driver_feature_select;
    uint16_t queue_vectors[VIRTIO_QUEUES_MAX];
    uint16_t config_vector;
    uint16_t queue_select;
    uint16_t queue_count;
    uint8_t status;
    uint8_t generation; // of the device configuration
    uint8_t isr;
    uint8_t resetting; // the guest has asked for a reset that waits for the back end
    uint8_t config[VIRTIO_CONFIG_MAX]; // device configuration, as the guest reads it
    uint8_t window_cap;                // offset of the capability that is a window to the BAR
    bool signals;                      // another process interrupts the guest
    uint8_t pad[4];
};

extern const struct state_desc virtio_pci_state;

static inline struct virtio_pci *virtio_of(struct device *dev)
{
    return (struct virtio_pci *)dev;
}

// For the model's init(): queues of these sizes, and the model's own feature bits.
void virtio_pci_init(struct virtio_pci *v, const struct virtio_model *model, uint64_t features,
                     unsigned queues, uint16_t queue_size);

// After it, for queues that another process works on: virtio_signal_fd() is then the eventfd that
// this process adds to for an interrupt (it knows itself whether the guest wants one); -1: there is
// none. It holds as long as the device does, whatever the guest does to its vectors.
void virtio_add_signals(struct virtio_pci *v);
int virtio_signal_fd(struct virtio_pci *v, unsigned queue);

// For the same-named callbacks. Before a reset or a save the machine has drained the back ends.
void virtio_pci_reset(struct virtio_pci *v);
err_t virtio_pci_loaded(struct virtio_pci *v, struct error *e);
void virtio_pci_timer(struct virtio_pci *v); // for VIRTIO_TIMER
void virtio_pci_fini(struct virtio_pci *v);

bool virtio_has(const struct virtio_pci *v, unsigned feature_bit);
// The guest's driver runs and the device is neither broken nor being reset.
bool virtio_running(const struct virtio_pci *v);

// To be called when something other than a notification makes the model take requests. A callback
// takes a bounded number of them, so that a guest that adds without end cannot keep a thread of the
// machine busy; the model is notified again for the rest.
void virtio_begin(struct virtio_pci *v);
// Takes the next request of a queue. False when there is none (now); a broken ring stops the
// device.
bool virtio_pop(struct virtio_pci *v, unsigned queue, struct virtq_chain *chain);
// For notify(): lets what the queue has wait for more, until the guest's processors have nothing
// else to do, for at most so long; then the model is notified again. False: it cannot wait.
bool virtio_wait(struct virtio_pci *v, unsigned queue, ns_t most);
// Whether notify() comes again for this queue, whatever the guest does.
static inline bool virtio_waits(const struct virtio_pci *v, unsigned queue)
{
    return v->later >> queue & 1;
}
// Returns a request. The guest hears of it with virtio_signal().
void virtio_push(struct virtio_pci *v, unsigned queue, const struct virtq_chain *chain,
                 uint32_t written);
// Interrupts the guest for what was pushed, if it wants to be.
void virtio_signal(struct virtio_pci *v, unsigned queue);

// v->config has changed.
void virtio_config_changed(struct virtio_pci *v);
// The guest broke the rules: the device stops itself and says DEVICE_NEEDS_RESET.
void virtio_broken(struct virtio_pci *v, const char *why);
// The model's last request in flight has ended.
void virtio_idle(struct virtio_pci *v);
