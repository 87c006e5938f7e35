// A world for chips under test: ports, memory-mapped I/O, a little RAM, a virtual clock with
// timers, and a record of all that the devices did. Several devices may live in one.
#pragma once

#include "device/device.h"

#define FAKE_RAM 0x10000 // guest RAM from 0
#define FAKE_CLAIMS 64
#define FAKE_DEVICES 32
#define FAKE_TIMERS 4
#define FAKE_LINES 32

struct fake_env;

struct fake_record { // of one device
    struct fake_env *env;
    struct device *dev;
    ns_t timer[FAKE_TIMERS];
    uint32_t lines;             // levels
    uint32_t rises[FAKE_LINES]; // how often each line went up
};

struct fake_claim {
    struct device *dev;
    const struct io_ops *ops;
    uint64_t at;
    uint64_t len; // 0: free
    bool pio;
};

struct fake_env {
    ns_t now;
    int64_t wall_base;
    struct fake_claim claim[FAKE_CLAIMS];
    struct fake_record *device[FAKE_DEVICES]; // NULL: free
    uint32_t timers_fired;
    uint32_t msis;
    uint64_t msi_address; // of the last one
    uint32_t msi_data;
    uint32_t requests;
    enum machine_request request; // the last one
    uint32_t request_argument;
    uint8_t ram[FAKE_RAM];
};

struct fake_env *fake_env_new(void);
void fake_env_free(struct fake_env *env); // with its devices

// Creates, initializes and resets a device. Ends the program when that fails.
struct device *fake_add(struct fake_env *env, const struct device_type *type, const void *config);
void fake_remove(struct device *dev);

// Saves the device, replaces it by a new one that loads the stream, and ends the program unless the
// new one would save the same and says that it is possible. Returns the new one.
struct device *fake_reload(struct device *dev, const void *config);

// Replaces *dev by a new one that loads a stream from outside. False when it refuses: then *dev is
// new and reset.
bool fake_load(struct device **dev, const void *config, const void *data, size_t len);

uint64_t fake_in(struct fake_env *env, uint16_t port, unsigned size);
void fake_out(struct fake_env *env, uint16_t port, unsigned size, uint64_t value);
uint64_t fake_mmio_read(struct fake_env *env, gpa_t at, unsigned size);
void fake_mmio_write(struct fake_env *env, gpa_t at, unsigned size, uint64_t value);

// Lets time pass; timers fire when they are due, in order.
void fake_advance(struct fake_env *env, ns_t by);
// When the first timer of all will fire; NS_NEVER: the guest is left alone.
ns_t fake_next_timer(const struct fake_env *env);

bool fake_line(const struct device *dev, unsigned line);
unsigned fake_rises(const struct device *dev, unsigned line);
