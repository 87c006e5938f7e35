// A file's reads, and with O_DIRECT its writes and flushes, through io_uring: one thread hands them
// to the kernel, as many at once as there are, and takes the results, as many at once as there are.
// What comes back short or failed is done again the slow way, which knows what to make of it.
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/file_impl.h"
#include "host/uring.h"

#define ENTRIES 128
#define SCRATCH 1024 // buffers whose list is not the request's own
#define RESULTS 32   // taken before their ends are counted

enum { FILE_IMAGE, FILE_BELL };

struct file_uring {
    struct bfile *file;
    struct uring ring;
    unsigned under_way; // in the kernel
    unsigned scratch_used;
    int bell; // eventfd: there is work for a thread that sleeps
    bool bell_armed;
    bool asleep; // guarded by lock, as what follows
    bool stop;
    struct block_request *head, **tail;
    pthread_mutex_t lock;
    struct host_thread thread;
    uint64_t rung; // what is read from the bell
    struct iovec bell_iov;
    struct iovec scratch[SCRATCH];
};

// --- To the kernel ---

static bool suits(const struct bfile *file, const struct block_request *r)
{
    if (r->op == BLOCK_FLUSH)
        return file->direct && !file->transient;
    return (r->op == BLOCK_READ || (r->op == BLOCK_WRITE && file->direct)) && r->len &&
           r->iovs <= FILE_BUFFERS && !file_allowed(file, r) &&
           (!file->direct || file_aligned(file, r));
}

bool file_uring_submit(struct file_uring *u, struct block_request *r)
{
    if (!suits(u->file, r))
        return false;
    r->next = NULL;
    pthread_mutex_lock(&u->lock);
    *u->tail = r;
    u->tail = &r->next;
    bool wake = u->asleep;
    u->asleep = false;
    pthread_mutex_unlock(&u->lock);
    if (wake)
        eventfd_write(u->bell, 1);
    return true;
}

static void prepare(struct file_uring *u, struct block_request *r)
{
    struct io_uring_sqe *sqe = uring_next(&u->ring, FILE_IMAGE);
    struct cursor c = cursor_of(r);

    sqe->user_data = (uintptr_t)r;
    u->under_way++;
    if (r->op == BLOCK_FLUSH) {
        sqe->opcode = IORING_OP_FSYNC;
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
        return;
    }
    cursor_advance(&c, 0);
    struct iovec *list = u->scratch + u->scratch_used;
    unsigned n = cursor_chunk(&c, list);
    u->scratch_used += n;
    sqe->opcode = r->op == BLOCK_WRITE ? IORING_OP_WRITEV : IORING_OP_READV;
    sqe->addr = (uintptr_t)list;
    sqe->len = n;
    sqe->off = c.offset;
}

static void arm_bell(struct file_uring *u)
{
    struct io_uring_sqe *sqe = uring_next(&u->ring, FILE_BELL);

    sqe->opcode = IORING_OP_READV;
    sqe->addr = (uintptr_t)&u->bell_iov;
    sqe->len = 1;
    u->bell_armed = true;
}

// Prepares what waits, as far as there is room; without, a result will make some.
static void prepare_all(struct file_uring *u)
{
    pthread_mutex_lock(&u->lock);
    while (u->head && u->under_way < ENTRIES - 1 && u->ring.prepared < ENTRIES - 1 &&
           u->scratch_used + FILE_BUFFERS <= SCRATCH) {
        struct block_request *r = u->head;
        u->head = r->next;
        if (!u->head)
            u->tail = &u->head;
        prepare(u, r);
    }
    u->asleep = !u->head;
    pthread_mutex_unlock(&u->lock);
}

// --- Back from it ---

static void ended(struct file_uring *u, struct block_request *r, int32_t result, unsigned *done)
{
    u->under_way--;
    if (result >= 0 && (uint32_t)result == (r->op == BLOCK_FLUSH ? 0 : r->len)) {
        r->done(r, OK);
        ++*done;
    } else {
        pool_submit(u->file, r);
    }
}

static void take_results(struct file_uring *u)
{
    struct uring_result result;
    unsigned done = 0;

    while (done < RESULTS && uring_take(&u->ring, &result)) {
        if (result.user_data)
            ended(u, (struct block_request *)(uintptr_t)result.user_data, result.result, &done);
        else
            u->bell_armed = false;
    }
    if (done)
        file_ended(u->file, done);
}

static bool stopped(struct file_uring *u)
{
    pthread_mutex_lock(&u->lock);
    bool stop = u->stop;
    pthread_mutex_unlock(&u->lock);
    return stop;
}

// Waits for results. False: the kernel is short of memory, for a moment.
static bool enter(struct file_uring *u)
{
    int error = uring_enter(&u->ring, true);

    pthread_mutex_lock(&u->lock);
    u->asleep = false; // what comes from now on needs no bell
    pthread_mutex_unlock(&u->lock);
    if (!u->ring.prepared)
        u->scratch_used = 0;
    if (error == EAGAIN || error == ENOMEM)
        usleep(1000);
    return error != EAGAIN && error != ENOMEM;
}

static void run(void *opaque)
{
    struct file_uring *u = opaque;

    host_thread_confine(HOST_THREAD_BLOCK);
    // The bell's answer goes to u, which lives until it has come.
    while (!stopped(u) || u->bell_armed) {
        if (!u->bell_armed)
            arm_bell(u);
        prepare_all(u);
        if (enter(u))
            take_results(u);
    }
}

// --- Life ---

static bool start(struct file_uring *u, int fd)
{
    static const uint8_t ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC};
    struct error unused;

    u->bell = eventfd(0, EFD_CLOEXEC);
    const int files[] = {[FILE_IMAGE] = fd, [FILE_BELL] = u->bell};
    return u->bell >= 0 &&
           uring_open(&u->ring, ENTRIES, files, ARRAY_LEN(files), ops, ARRAY_LEN(ops), &unused) ==
               OK &&
           host_thread_start(&u->thread, "disk-ring", run, u, &unused) == OK;
}

struct file_uring *file_uring_new(struct bfile *file, int fd)
{
    struct file_uring *u = calloc(1, sizeof *u);

    if (!u)
        return NULL;
    u->file = file;
    u->tail = &u->head;
    u->bell_iov = (struct iovec){&u->rung, sizeof u->rung};
    pthread_mutex_init(&u->lock, NULL);
    if (start(u, fd))
        return u;
    file_uring_free(u);
    return NULL;
}

void file_uring_free(struct file_uring *u)
{
    if (!u)
        return;
    pthread_mutex_lock(&u->lock);
    u->stop = true;
    pthread_mutex_unlock(&u->lock);
    if (u->bell >= 0)
        eventfd_write(u->bell, 1);
    host_thread_join(&u->thread);
    uring_close(&u->ring);
    if (u->bell >= 0)
        close(u->bell);
    pthread_mutex_destroy(&u->lock);
    free(u);
}
