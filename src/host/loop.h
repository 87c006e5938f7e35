// The event loop of a process: descriptors, timers and work posted from other threads, all run on
// the one thread that calls loop_run(). Built on epoll, one timerfd and one eventfd.
//
// Callbacks run with no lock held and may call anything here. The structs are the caller's storage
// and stay in place while they are registered.
#pragma once

#include "base/error.h"

struct loop; // opaque

err_t loop_new(struct loop **out, struct error *e);
void loop_free(struct loop *loop); // nothing may be registered any more; accepts NULL

// Runs callbacks until loop_stop(), which any thread (and a signal handler) may call; stopping is
// sticky: a stop before the run makes it return at once.
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

// --- descriptors: loop thread only ---------------------------------------------------------------

struct loop_fd {
    int fd;
    uint32_t events; // EPOLLIN, EPOLLOUT, level-triggered; EPOLLERR and EPOLLHUP always come
    void (*ready)(void *opaque, uint32_t events);
    void *opaque;
    struct loop_fd *next; // the loop's
    bool always;          // the loop's: epoll refuses the file (a regular one): it is always ready
    bool added;           // the loop's
};

err_t loop_fd_add(struct loop *loop, struct loop_fd *fd, struct error *e);
// Blocks these signals (ended by 0) and has the loop tell of them through fd, a signalfd, whose
// ready and opaque are set. A reader that goes away no longer ends the process (SIGPIPE).
err_t loop_signals(struct loop *loop, struct loop_fd *fd, const int *signals, struct error *e);
void loop_fd_set(struct loop *loop, struct loop_fd *fd,
                 uint32_t events);                          // what to wait for from now on
void loop_fd_remove(struct loop *loop, struct loop_fd *fd); // ready() is not called again

// --- timers: any thread --------------------------------------------------------------------------

// Zero-initialised but for fire and opaque. fire() is called once at or after host time `when`.
struct loop_timer {
    void (*fire)(void *opaque);
    void *opaque;
    uint64_t when; // the loop's: host_now() value
    struct loop_timer *prev, *next;
    bool armed;
};

// Replaces what was set before; UINT64_MAX (NS_NEVER) cancels. No allocation; one system call at
// most, and only when the earliest deadline moves forward. A fire() that has begun on the loop's
// thread is not waited for.
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t when);

// --- work from other threads ---------------------------------------------------------------------

struct loop_work {
    void (*run)(void *opaque);
    void *opaque;
    struct loop_work *next; // the loop's
    bool queued;            // the loop's
};

// run() is called soon on the loop's thread. Work that is queued already stays queued once; it may
// be posted again from the moment run() begins. Any thread, no allocation.
void loop_post(struct loop *loop, struct loop_work *work);
