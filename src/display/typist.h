// Presses keys one after another, as fast as a guest can follow: its keyboard buffers hold few
// keys.
#pragma once

#include <pthread.h>

#include "display/display.h"
#include "display/keys.h"
#include "host/loop.h"

struct typist {
    struct loop *loop;
    const struct display *display;
    struct loop_timer timer;
    pthread_mutex_t lock; // guards what follows
    struct key_event waiting[KEYS_MAX];
    uint32_t head, count;
};

// loop and display outlive the typist. release: on the loop's thread, or after it has ended.
void typist_init(struct typist *t, struct loop *loop, const struct display *display);
void typist_release(struct typist *t);

// Any thread. ERR_BUSY: so many keys wait already that these do not fit; then none is taken.
err_t typist_press(struct typist *t, const struct key_event *event, uint32_t count,
                   struct error *e);
