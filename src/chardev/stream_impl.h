// What stdio, pty and file have in common: two descriptors, a bounded output ring that any thread
// may fill and the loop's thread empties, and input that waits when its user has no room.
#pragma once

#include <pthread.h>

#include "chardev/open.h"

#define STREAM_RING (64 * KIB)
#define STREAM_INPUT 4096

struct stream {
    struct chardev chr; // first: a chardev pointer is a stream pointer
    struct loop *loop;
    void (*leave)(void *opaque);
    void *opaque;
    char where[64];

    // Loop thread only.
    struct loop_fd in, out; // fd is -1 where there is none
    uint8_t input[STREAM_INPUT];
    size_t input_at, input_len; // bytes that the user had no room for
    bool attached;
    bool escape;                 // Ctrl-] leaves
    struct loop_timer reconnect; // pty: looks whether somebody opened the other end

    // Any thread, under lock.
    pthread_mutex_t lock;
    struct loop_work work; // output to write, or the user has room again
    size_t head, len;      // of the ring
    bool was_full;         // write() refused bytes: tell the user when there is room
    bool discard;          // the other end is gone for good: take and drop
    bool detached;         // pty: nobody is there: keep the newest bytes
    uint8_t ring[STREAM_RING];
};

// in_fd and out_fd become the stream's; either may be -1. On failure they are closed.
err_t stream_new(const struct chardev_options *options, int in_fd, int out_fd, struct stream **out,
                 struct error *e);

// Starts (or, after stream_detach(), starts again) to move bytes. Loop thread.
void stream_start(struct stream *s);
// Stops watching both descriptors; output is kept in the ring, the oldest is overwritten.
void stream_detach(struct stream *s);

// The kinds.
err_t stdio_open(const struct chardev_options *options, struct chardev **out, struct error *e);
err_t pty_open(const struct chardev_options *options, struct chardev **out, struct error *e);
err_t file_open(const struct chardev_options *options, const char *path, struct chardev **out,
                struct error *e);
err_t shared_open(const struct chardev_options *options, struct chardev **out, struct error *e);
err_t none_open(struct chardev **out, struct error *e);

// The pty's other end was closed.
void pty_hung_up(struct stream *s);
