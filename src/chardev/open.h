// Opening byte streams from their specification: "stdio", "pty", "file:PATH", "none", and "shared":
// a connected socket whose other end berth lets people attach to.
#pragma once

#include "chardev/chardev.h"
#include "host/loop.h"

struct chardev_options {
    struct loop *loop;           // runs input and writable; outlives the stream
    const char *spec;            // NULL or "" means "none"
    const char *name;            // for messages: "serial"
    int *shared;                 // the socket of "shared": whoever takes it sets it to -1
    void (*leave)(void *opaque); // stdio: the person typed Ctrl-]; loop thread; may be NULL
    void *opaque;
};

// OK when a specification is well-formed; else ERR_INVALID with the forms that exist. Opens
// nothing.
err_t chardev_check(const char *spec, struct error *e);

// Opens the stream. Its user is not set yet: output is taken, input waits until chardev_attach().
err_t chardev_open(const struct chardev_options *options, struct chardev **out, struct error *e);

// Sets who gets input and lets it flow. Loop thread.
void chardev_attach(struct chardev *chr, const struct chardev_user *user);

// Where the other end is: the path of a pty's terminal; NULL for the others.
const char *chardev_where(const struct chardev *chr);

// Writes out what is buffered if that is possible within wait_ms, then closes. Loop thread or after
// the loop has ended; accepts NULL.
void chardev_close(struct chardev *chr, unsigned wait_ms);
