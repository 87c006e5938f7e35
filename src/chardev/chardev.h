// Byte streams behind serial ports and consoles: terminal, pty, file, socket, nothing.
#pragma once

#include "base/error.h"

struct chardev;

// What the device on top is told. Called on the main loop's thread, with no lock held.
struct chardev_user {
    // Bytes came in; returns how many were taken (fewer: call chardev_resume() when there is room).
    size_t (*input)(void *opaque, const uint8_t *data, size_t len);
    void (*writable)(void *opaque); // output that write() refused may be tried again
    void *opaque;
};

struct chardev_type {
    const char *name;
    // Takes output; returns how many bytes were taken (0..len). Never blocks.
    size_t (*write)(struct chardev *chr, const uint8_t *data, size_t len);
    void (*resume)(struct chardev *chr); // the user has room for input again
    void (*close)(struct chardev *chr);
};

struct chardev {
    const struct chardev_type *type;
    struct chardev_user user;
};
