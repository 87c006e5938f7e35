// A virtio console: ports that carry byte streams. Port 0 is a terminal (hvc0 in Linux); further
// ports are named channels (/dev/virtio-ports/NAME).
#pragma once

#include "device/device.h"

#define VIRTIO_CONSOLE_PORTS 4
#define VIRTIO_CONSOLE_NAME 32 // bytes, with the final zero

struct virtio_console_config {
    unsigned ports; // 1..VIRTIO_CONSOLE_PORTS; 0 means 1
    // Names of ports 1 and up; port 0's is not used.
    char names[VIRTIO_CONSOLE_PORTS][VIRTIO_CONSOLE_NAME];
    uint16_t columns, rows; // of the terminal; 0: not known
    // Takes output of a port; returns how many bytes were taken (0..len). Never blocks and never
    // calls back. When it takes fewer, virtio_console_writable() says when to try again. NULL:
    // output is lost.
    size_t (*write)(void *opaque, unsigned port, const uint8_t *data, size_t len);
    // There is room for input again after virtio_console_input() took less than it was given. Never
    // calls back. May be NULL.
    void (*resume)(void *opaque, unsigned port);
    void *opaque;
};

extern const struct device_type virtio_console_type; // config: struct virtio_console_config

// All with the device's lock held. Bytes arrive at a port; returns how many were taken.
size_t virtio_console_input(struct device *dev, unsigned port, const uint8_t *data, size_t len);
void virtio_console_writable(struct device *dev, unsigned port);
// Somebody is, or no longer is, at the host's end of a port. Ports start connected.
void virtio_console_connect(struct device *dev, unsigned port, bool connected);
void virtio_console_resize(struct device *dev, uint16_t columns, uint16_t rows);
