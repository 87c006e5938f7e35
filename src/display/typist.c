// The queue of keys, emptied by a timer of the main loop: one event at a time, later when the
// guest's keyboard is full.
#include "display/typist.h"

#include "host/clock.h"

#define EVENT_NS (20 * NS_PER_MS) // 25 characters a second: a BIOS buffers 15 and drops the rest

static void again(struct typist *t)
{
    loop_timer_set(t->loop, &t->timer, host_now() + EVENT_NS);
}

// The display is called without the lock: only this, on one thread, takes events out.
static void press_next(void *opaque)
{
    struct typist *t = opaque;
    pthread_mutex_lock(&t->lock);
    struct key_event event = t->waiting[t->head];
    bool any = t->count;
    pthread_mutex_unlock(&t->lock);
    if (!any)
        return;
    bool taken = t->display->ops->key(t->display->opaque, event.code, event.down);
    pthread_mutex_lock(&t->lock);
    if (taken) {
        t->head = (t->head + 1) % KEYS_MAX;
        t->count--;
    }
    if (t->count)
        again(t);
    pthread_mutex_unlock(&t->lock);
}

void typist_init(struct typist *t, struct loop *loop, const struct display *display)
{
    *t = (struct typist){
        .loop = loop, .display = display, .timer = {.fire = press_next, .opaque = t}};
    pthread_mutex_init(&t->lock, NULL);
}

void typist_release(struct typist *t)
{
    if (!t->loop)
        return;
    loop_timer_set(t->loop, &t->timer, NS_NEVER);
    pthread_mutex_destroy(&t->lock);
    *t = (struct typist){0};
}

err_t typist_press(struct typist *t, const struct key_event *event, uint32_t count, struct error *e)
{
    pthread_mutex_lock(&t->lock);
    bool fits = count <= KEYS_MAX - t->count, idle = !t->count;
    for (uint32_t i = 0; fits && i < count; i++)
        t->waiting[(t->head + t->count++) % KEYS_MAX] = event[i];
    if (fits && idle && count)
        loop_timer_set(t->loop, &t->timer, host_now());
    pthread_mutex_unlock(&t->lock);
    return fits ? OK
                : error_set(e, ERR_BUSY, "%u keys still wait to be typed; try again later", count);
}
