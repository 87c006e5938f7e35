// The event loop: epoll for descriptors, one timerfd for all timers, one eventfd to wake it.
// epoll(7), timerfd_create(2), eventfd(2).
//
// Not modelled: edge triggering, priorities. Timers are a sorted list: a VM has a few dozen of them
// and sets the nearest ones most often, so the walk is short and nothing is allocated.
#include "host/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "host/clock.h"

#define BATCH 32

struct loop {
    int epoll_fd;
    int timer_fd;
    int wake_fd;
    atomic_bool stopping;

    pthread_mutex_t lock;      // timers and work
    struct loop_timer *timers; // by when, earliest first
    uint64_t programmed;       // deadline in timer_fd
    struct loop_work *work, **work_end;

    struct loop_fd *always; // files that epoll refuses
    struct epoll_event batch[BATCH];
    int batch_len;
};

// The loop's own two sources are told from the callers' by the address of their descriptor.
static err_t watch(struct loop *loop, int *fd, struct error *e)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &event) < 0)
        return error_set(e, ERR_IO, "cannot watch an event source: %s", strerror(errno));
    return OK;
}

err_t loop_new(struct loop **out, struct error *e)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return error_set(e, ERR_NO_MEMORY, "no memory for the event loop");
    pthread_mutex_init(&loop->lock, NULL);
    loop->programmed = UINT64_MAX;
    loop->work_end = &loop->work;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err_t err = OK;
    if (loop->epoll_fd < 0 || loop->timer_fd < 0 || loop->wake_fd < 0)
        err = error_set(e, ERR_IO, "cannot create the event loop: %s", strerror(errno));
    if (!err)
        err = watch(loop, &loop->timer_fd, e);
    if (!err)
        err = watch(loop, &loop->wake_fd, e);
    if (err) {
        loop_free(loop);
        return err;
    }
    *out = loop;
    return OK;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    close_fd(loop->epoll_fd);
    close_fd(loop->timer_fd);
    close_fd(loop->wake_fd);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

// A full counter (EAGAIN) wakes the loop just as well.
static void wake(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t ignored = write(loop->wake_fd, &one, sizeof one);
    (void)ignored;
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stopping, true);
    wake(loop);
}

// --- descriptors

err_t loop_fd_add(struct loop *loop, struct loop_fd *fd, struct error *e)
{
    struct epoll_event event = {.events = fd->events, .data.ptr = fd};
    fd->always = false;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd->fd, &event) < 0) {
        if (errno != EPERM)
            return error_set(e, err_from_errno(errno), "cannot watch descriptor %d: %s", fd->fd,
                             strerror(errno));
        fd->always = true;
        fd->next = loop->always;
        loop->always = fd;
    }
    fd->added = true;
    return OK;
}

err_t loop_signals(struct loop *loop, struct loop_fd *fd, const int *signals, struct error *e)
{
    sigset_t set;
    sigemptyset(&set);
    for (; *signals; signals++)
        sigaddset(&set, *signals);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    fd->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    fd->events = EPOLLIN;
    if (fd->fd < 0)
        return error_set(e, ERR_IO, "cannot receive signals: %s", strerror(errno));
    return loop_fd_add(loop, fd, e);
}

void loop_fd_set(struct loop *loop, struct loop_fd *fd, uint32_t events)
{
    if (!fd->added || fd->events == events)
        return;
    fd->events = events;
    struct epoll_event event = {.events = events, .data.ptr = fd};
    if (!fd->always)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, fd->fd, &event);
}

void loop_fd_remove(struct loop *loop, struct loop_fd *fd)
{
    if (!fd->added)
        return;
    fd->added = false;
    if (!fd->always)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd->fd, NULL);
    for (struct loop_fd **p = &loop->always; *p; p = &(*p)->next) {
        if (*p == fd) {
            *p = fd->next;
            break;
        }
    }
    for (int i = 0; i < loop->batch_len; i++) {
        if (loop->batch[i].data.ptr == fd)
            loop->batch[i].data.ptr = NULL;
    }
}

// Each callback may remove any descriptor, so the walk starts over after one; a pass visits each
// file at most once because `visited` counts from the list's head.
static void run_always(struct loop *loop)
{
    for (unsigned visited = 0;; visited++) {
        struct loop_fd *fd = loop->always;
        for (unsigned i = 0; fd && i < visited; i++)
            fd = fd->next;
        if (!fd)
            return;
        if (fd->events)
            fd->ready(fd->opaque, fd->events);
    }
}

static bool always_ready(const struct loop *loop)
{
    for (const struct loop_fd *fd = loop->always; fd; fd = fd->next) {
        if (fd->events)
            return true;
    }
    return false;
}

// --- timers

static void timer_unlink(struct loop *loop, struct loop_timer *timer)
{
    if (!timer->armed)
        return;
    if (timer->prev)
        timer->prev->next = timer->next;
    else
        loop->timers = timer->next;
    if (timer->next)
        timer->next->prev = timer->prev;
    timer->armed = false;
}

static void timer_link(struct loop *loop, struct loop_timer *timer)
{
    struct loop_timer *before = NULL, *after = loop->timers;
    while (after && after->when <= timer->when) {
        before = after;
        after = after->next;
    }
    timer->prev = before;
    timer->next = after;
    if (before)
        before->next = timer;
    else
        loop->timers = timer;
    if (after)
        after->prev = timer;
    timer->armed = true;
}

// Only ever moves the descriptor's deadline forward here; a deadline that has gone away wakes the
// loop once for nothing, which is cheaper than a system call for every cancelled timer.
static void program_locked(struct loop *loop)
{
    if (!loop->timers || loop->timers->when >= loop->programmed)
        return;
    uint64_t when = loop->timers->when ? loop->timers->when : 1; // 0 would disarm
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)(when / NS_PER_SEC), .tv_nsec = (long)(when % NS_PER_SEC)}};
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
    loop->programmed = when;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t when)
{
    pthread_mutex_lock(&loop->lock);
    timer_unlink(loop, timer);
    if (when != NS_NEVER) {
        timer->when = when;
        timer_link(loop, timer);
        program_locked(loop);
    }
    pthread_mutex_unlock(&loop->lock);
}

// Fires what is due, a bounded number in one pass: a timer that re-arms itself in the past must not
// keep the loop from its descriptors.
static void run_timers(struct loop *loop)
{
    uint64_t now = host_now();
    pthread_mutex_lock(&loop->lock);
    for (int i = 0; i < BATCH && loop->timers && loop->timers->when <= now; i++) {
        struct loop_timer *timer = loop->timers;
        timer_unlink(loop, timer);
        pthread_mutex_unlock(&loop->lock);
        timer->fire(timer->opaque);
        pthread_mutex_lock(&loop->lock);
    }
    if (loop->programmed <= now) // it has expired
        loop->programmed = UINT64_MAX;
    program_locked(loop);
    pthread_mutex_unlock(&loop->lock);
}

// --- work

void loop_post(struct loop *loop, struct loop_work *work)
{
    pthread_mutex_lock(&loop->lock);
    bool first = !loop->work;
    if (!work->queued) {
        work->queued = true;
        work->next = NULL;
        *loop->work_end = work;
        loop->work_end = &work->next;
    }
    pthread_mutex_unlock(&loop->lock);
    if (first)
        wake(loop);
}

// Runs what was queued when it began; work that posts itself again waits for the next pass.
static void run_work(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    struct loop_work *last = container_of(loop->work_end, struct loop_work, next);
    bool more = loop->work != NULL;
    while (more) {
        struct loop_work *work = loop->work;
        more = work != last;
        loop->work = work->next;
        if (!loop->work)
            loop->work_end = &loop->work;
        work->queued = false;
        pthread_mutex_unlock(&loop->lock);
        work->run(work->opaque);
        pthread_mutex_lock(&loop->lock);
    }
    if (loop->work)
        wake(loop);
    pthread_mutex_unlock(&loop->lock);
}

// --- the loop

// Takes the loop's own two sources out of the batch and empties them.
static void drain(struct loop *loop)
{
    for (int i = 0; i < loop->batch_len; i++) {
        int *source = loop->batch[i].data.ptr;
        if (source != &loop->wake_fd && source != &loop->timer_fd)
            continue;
        uint64_t count;
        ssize_t ignored = read(*source, &count, sizeof count);
        (void)ignored;
        loop->batch[i].data.ptr = NULL;
    }
}

void loop_run(struct loop *loop)
{
    while (!atomic_load(&loop->stopping)) {
        int timeout = always_ready(loop) ? 0 : -1;
        int n = epoll_wait(loop->epoll_fd, loop->batch, BATCH, timeout);
        loop->batch_len = n < 0 ? 0 : n;
        drain(loop);
        run_timers(loop);
        run_work(loop);
        for (int i = 0; i < loop->batch_len; i++) {
            struct loop_fd *fd = loop->batch[i].data.ptr;
            if (fd)
                fd->ready(fd->opaque, loop->batch[i].events);
        }
        loop->batch_len = 0;
        run_always(loop);
    }
}
