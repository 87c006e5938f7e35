// Threads that make a file's blocking calls. One that takes a request wakes the next when there is
// more: whoever submits wakes one at most, and none while one is on its way.
#include "block/file_impl.h"

static struct block_request *pop(struct bfile *file)
{
    struct block_request *r = file->head;

    file->head = r->next;
    if (!file->head)
        file->tail = &file->head;
    return r;
}

// With the lock held.
static void wake_one(struct bfile *file)
{
    if (file->woken || !file->resting)
        return;
    file->woken = true;
    pthread_cond_signal(&file->work);
}

// Waits for a request; NULL when it is time to stop.
static struct block_request *take(struct bfile *file)
{
    struct block_request *r = NULL;

    pthread_mutex_lock(&file->lock);
    while (!file->head && !file->stop) {
        file->resting++;
        pthread_cond_wait(&file->work, &file->lock);
        file->resting--;
        file->woken = false;
    }
    if (file->head) {
        r = pop(file);
        if (file->head)
            wake_one(file);
    }
    pthread_mutex_unlock(&file->lock);
    return r;
}

static void worker(void *opaque);

// Each starts the next one, so that a VM's start does not wait for all of them. Fewer do as well.
static err_t start_next(struct bfile *file, struct error *e)
{
    unsigned n = file->started;

    if (n == FILE_THREADS)
        return OK;
    file->started++; // the next one's from here on
    return host_thread_start(&file->threads[n], "disk", worker, file, e);
}

static void worker(void *opaque)
{
    struct bfile *file = opaque;
    struct block_request *r;
    struct error unused;

    (void)!start_next(file, &unused);
    host_thread_confine(HOST_THREAD_BLOCK);
    while ((r = take(file))) {
        r->done(r, r->answered ? r->result : file_result(file, r, file_perform(file, r)));
        file_ended(file, 1);
    }
}

void pool_submit(struct bfile *file, struct block_request *r)
{
    r->next = NULL;
    pthread_mutex_lock(&file->lock);
    *file->tail = r;
    file->tail = &r->next;
    wake_one(file);
    pthread_mutex_unlock(&file->lock);
}

err_t pool_start(struct bfile *file, struct error *e)
{
    return start_next(file, e);
}

void pool_stop(struct bfile *file)
{
    pthread_mutex_lock(&file->lock);
    file->stop = true;
    pthread_cond_broadcast(&file->work);
    pthread_mutex_unlock(&file->lock);
    for (unsigned i = 0; i < FILE_THREADS; i++) // when one has ended, it has started the next
        host_thread_join(&file->threads[i]);
}
