// A 16550A serial port.
#pragma once

#include "device/device.h"

struct uart_config {
    uint16_t port; // of 8
    // Takes output; returns how many bytes were taken (0..len). Never blocks and never calls back.
    // When it takes fewer, uart_writable() says when to try again. NULL: output goes nowhere.
    size_t (*write)(void *opaque, const uint8_t *data, size_t len);
    // There is room for input again after uart_input() took less than it was given. Never calls
    // back. May be NULL.
    void (*resume)(void *opaque);
    void *opaque;
};

extern const struct device_type uart_type; // config: struct uart_config; line 0: its interrupt

// Bytes arrive at the serial line; returns how many were taken. With the device's lock held.
size_t uart_input(struct device *dev, const uint8_t *data, size_t len);
void uart_writable(struct device *dev);
void uart_break(struct device *dev); // a break condition arrives
