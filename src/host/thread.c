// Threads and their confinement. pthreads(7). Signals stay with the main thread: others block all
// of them, so a handler never runs on a vCPU's stack (faults of their own are still delivered to
// them).
#include "host/thread.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static void (*guard)(enum host_thread_class thread_class);

static void *enter(void *opaque)
{
    struct host_thread *thread = opaque;
    pthread_setname_np(pthread_self(), thread->name);
    thread->run(thread->opaque);
    return NULL;
}

err_t host_thread_start(struct host_thread *thread, const char *name, void (*run)(void *opaque),
                        void *opaque, struct error *e)
{
    snprintf(thread->name, sizeof thread->name, "%s", name);
    thread->run = run;
    thread->opaque = opaque;

    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGTRAP);
    sigdelset(&all, SIGABRT);
    sigdelset(&all, SIGSYS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, HOST_THREAD_STACK);
    int failed = pthread_create(&thread->id, &attr, enter, thread);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return error_set(e, err_from_errno(failed), "cannot start thread %s: %s", name,
                         strerror(failed));
    thread->started = true;
    return OK;
}

void host_thread_join(struct host_thread *thread)
{
    if (!thread->started)
        return;
    pthread_join(thread->id, NULL);
    thread->started = false;
}

void host_thread_confine(enum host_thread_class thread_class)
{
    if (guard)
        guard(thread_class);
}

void host_thread_guard(void (*new_guard)(enum host_thread_class thread_class))
{
    guard = new_guard;
}
