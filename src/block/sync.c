// See sync.h.
#include "block/sync.h"

#include <pthread.h>

struct waiter {
    struct block_request io;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    err_t result;
};

static void wake(struct block_request *io, err_t result)
{
    struct waiter *w = io->opaque;

    pthread_mutex_lock(&w->lock);
    w->result = result;
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

err_t block_run(struct block *block, struct block_request io, struct error *e)
{
    const char *what = io.op == BLOCK_READ ? "read" : io.op == BLOCK_WRITE ? "write" : "request";
    struct waiter w = {
        .io = io, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

    w.io.done = wake;
    w.io.opaque = &w;
    block->type->submit(block, &w.io);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    if (w.result == OK)
        return OK;
    return error_set(e, w.result, "%s: a %s at byte %llu failed%s", block->name, what,
                     (unsigned long long)io.offset,
                     w.result == ERR_NO_MEMORY ? ": no space left" : "");
}

err_t block_read(struct block *block, uint64_t offset, void *data, uint64_t len, struct error *e)
{
    struct iovec iov = {data, len};

    return block_run(block, (struct block_request){BLOCK_READ, offset, len, &iov, 1}, e);
}

err_t block_write(struct block *block, uint64_t offset, const void *data, uint64_t len,
                  struct error *e)
{
    struct iovec iov = {(void *)data, len};

    return block_run(block, (struct block_request){BLOCK_WRITE, offset, len, &iov, 1}, e);
}

err_t block_request(struct block *block, enum block_op op, uint64_t offset, uint64_t len,
                    struct error *e)
{
    return block_run(block, (struct block_request){.op = op, .offset = offset, .len = len}, e);
}

err_t block_map(struct block *block, uint64_t offset, uint64_t len, struct block_extent *out,
                struct error *e)
{
    if (block->type->map)
        return block->type->map(block, offset, len, out, e);
    *out = (struct block_extent){.len = len, .data = true, .allocated = true};
    return OK;
}
