// Raw disk images: a regular file or a block device, byte for byte, served by a few threads that
// make ordinary blocking calls.
//
// The image is locked for as long as it is open (open file description locks: one writer or many
// readers, among programs that ask). With O_DIRECT the logical block is what the host needs for it,
// so every request is aligned in the image; buffers that are not aligned in memory pass through a
// bounce buffer. Not done here: growing images, io_uring, queue depth beyond the threads.
#include "block/block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "host/thread.h"

#define THREADS 4
#define CHUNK_BUFFERS 64          // buffers passed to one system call
#define BOUNCE_BYTES (256 * 1024) // per request that is not aligned in memory
#define DIRECT_ALIGN_MAX 4096

struct raw {
    struct block block;
    int fd;
    bool direct;
    bool complained; // an I/O error has been logged
    bool stop;
    unsigned in_flight; // submitted, and done() has not returned
    pthread_mutex_t lock;
    pthread_cond_t work; // the queue has something, or stop
    pthread_cond_t idle; // in_flight is 0
    struct block_request *head, **tail;
    struct host_thread threads[THREADS];
};

// --- System calls ---

// How far a transfer has come.
struct cursor {
    const struct iovec *iov;
    unsigned left; // buffers
    size_t skip;   // bytes of the first that are done
    uint64_t offset;
};

static unsigned next_chunk(const struct cursor *c, struct iovec *chunk)
{
    unsigned n = c->left < CHUNK_BUFFERS ? c->left : CHUNK_BUFFERS;

    memcpy(chunk, c->iov, n * sizeof *chunk);
    chunk[0].iov_base = (char *)chunk[0].iov_base + c->skip;
    chunk[0].iov_len -= c->skip;
    return n;
}

static void advance(struct cursor *c, size_t done)
{
    c->offset += done;
    c->skip += done;
    while (c->left && c->skip >= c->iov->iov_len) {
        c->skip -= c->iov->iov_len;
        c->iov++;
        c->left--;
    }
}

// Moves all bytes of the buffers; 0 or an errno value. A read that meets the end of the file means
// that somebody has cut it.
static int transfer(int fd, bool write, const struct iovec *iov, unsigned iovs, uint64_t offset)
{
    struct cursor c = {.iov = iov, .left = iovs, .offset = offset};

    advance(&c, 0);
    while (c.left) {
        struct iovec chunk[CHUNK_BUFFERS];
        unsigned n = next_chunk(&c, chunk);
        ssize_t done = write ? pwritev(fd, chunk, (int)n, (off_t)c.offset)
                             : preadv(fd, chunk, (int)n, (off_t)c.offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        advance(&c, (size_t)done);
    }
    return 0;
}

// --- O_DIRECT ---

static bool aligned(const struct raw *raw, const struct iovec *iov, unsigned iovs)
{
    uintptr_t all = 0;

    for (unsigned i = 0; i < iovs; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return all % raw->block.limits.logical_block == 0;
}

// Copies between the bounce buffer and the request's buffers at a cursor, which it advances.
static void copy(struct cursor *c, char *bounce, size_t len, bool to_bounce)
{
    while (len) {
        char *at = (char *)c->iov->iov_base + c->skip;
        size_t part = min_u64(len, c->iov->iov_len - c->skip);
        if (to_bounce)
            memcpy(bounce, at, part);
        else
            memcpy(at, bounce, part);
        bounce += part;
        len -= part;
        advance(c, part);
    }
}

static int transfer_bounced(struct raw *raw, const struct block_request *r, bool write)
{
    struct cursor c = {.iov = r->iov, .left = r->iovs};
    char *bounce = aligned_alloc(DIRECT_ALIGN_MAX, BOUNCE_BYTES);
    int error = bounce ? 0 : ENOMEM;

    advance(&c, 0);
    for (uint64_t done = 0; !error && done < r->len;) {
        struct iovec part = {bounce, min_u64(BOUNCE_BYTES, r->len - done)};
        if (write)
            copy(&c, bounce, part.iov_len, true);
        error = transfer(raw->fd, write, &part, 1, r->offset + done);
        if (!write && !error)
            copy(&c, bounce, part.iov_len, false);
        done += part.iov_len;
    }
    free(bounce);
    return error;
}

// --- Requests ---

static int read_or_write(struct raw *raw, const struct block_request *r)
{
    bool write = r->op == BLOCK_WRITE;

    if (raw->direct && !aligned(raw, r->iov, r->iovs))
        return transfer_bounced(raw, r, write);
    return transfer(raw->fd, write, r->iov, r->iovs, r->offset);
}

static int punch_hole(int fd, uint64_t offset, uint64_t len)
{
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

    while (fallocate(fd, mode, (off_t)offset, (off_t)len) < 0) {
        if (errno != EINTR)
            return errno;
    }
    return 0;
}

// Where the host cannot punch holes, zeros are written.
static int write_zeroes(struct raw *raw, uint64_t offset, uint64_t len)
{
    static const char zeroes[64 * 1024] __attribute__((aligned(DIRECT_ALIGN_MAX)));
    int error = punch_hole(raw->fd, offset, len);

    if (error != EOPNOTSUPP && error != ENODEV)
        return error;
    error = 0;
    for (uint64_t done = 0; !error && done < len; done += sizeof zeroes) {
        struct iovec part = {(void *)zeroes, min_u64(sizeof zeroes, len - done)};
        error = transfer(raw->fd, true, &part, 1, offset + done);
    }
    return error;
}

// Discarding is advice: a host that cannot is no error.
static int discard(struct raw *raw, uint64_t offset, uint64_t len)
{
    int error = punch_hole(raw->fd, offset, len);

    return error == EOPNOTSUPP || error == ENODEV ? 0 : error;
}

static int perform(struct raw *raw, const struct block_request *r)
{
    if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH && raw->block.limits.read_only)
        return EROFS;
    if (r->offset > raw->block.limits.size_bytes ||
        r->len > raw->block.limits.size_bytes - r->offset)
        return EINVAL;
    switch (r->op) {
    case BLOCK_READ:
    case BLOCK_WRITE: return read_or_write(raw, r);
    case BLOCK_FLUSH: return fdatasync(raw->fd) < 0 ? errno : 0;
    case BLOCK_DISCARD: return r->len ? discard(raw, r->offset, r->len) : 0;
    case BLOCK_WRITE_ZEROES: return r->len ? write_zeroes(raw, r->offset, r->len) : 0;
    }
    return EINVAL;
}

static const char *op_name(enum block_op op)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "write of zeros"};
    return (unsigned)op < ARRAY_LEN(names) ? names[op] : "request";
}

static err_t result_of(struct raw *raw, const struct block_request *r, int error)
{
    if (error == 0)
        return OK;
    if (!__atomic_exchange_n(&raw->complained, true, __ATOMIC_RELAXED))
        log_line(LOG_ERROR,
                 "disk %s: a %s failed: %s (its guest gets an I/O error; further failures are not "
                 "logged)",
                 raw->block.name, op_name(r->op), strerror(error));
    return error == ENOSPC || error == EDQUOT ? ERR_NO_MEMORY : ERR_IO;
}

// --- Threads ---

// Waits for a request; NULL when it is time to stop.
static struct block_request *take(struct raw *raw)
{
    struct block_request *r;

    pthread_mutex_lock(&raw->lock);
    while (!raw->head && !raw->stop)
        pthread_cond_wait(&raw->work, &raw->lock);
    r = raw->head;
    if (r) {
        raw->head = r->next;
        if (!raw->head)
            raw->tail = &raw->head;
    }
    pthread_mutex_unlock(&raw->lock);
    return r;
}

static void ended(struct raw *raw)
{
    pthread_mutex_lock(&raw->lock);
    if (--raw->in_flight == 0)
        pthread_cond_broadcast(&raw->idle);
    pthread_mutex_unlock(&raw->lock);
}

static void worker(void *opaque)
{
    struct raw *raw = opaque;
    struct block_request *r;

    host_thread_confine(HOST_THREAD_BLOCK);
    while ((r = take(raw))) {
        err_t result = result_of(raw, r, perform(raw, r));
        r->done(r, result);
        ended(raw);
    }
}

static void raw_submit(struct block *block, struct block_request *r)
{
    struct raw *raw = container_of(block, struct raw, block);

    r->next = NULL;
    pthread_mutex_lock(&raw->lock);
    *raw->tail = r;
    raw->tail = &r->next;
    raw->in_flight++;
    pthread_cond_signal(&raw->work);
    pthread_mutex_unlock(&raw->lock);
}

static void raw_drain(struct block *block)
{
    struct raw *raw = container_of(block, struct raw, block);

    pthread_mutex_lock(&raw->lock);
    while (raw->in_flight)
        pthread_cond_wait(&raw->idle, &raw->lock);
    pthread_mutex_unlock(&raw->lock);
}

static void raw_close(struct block *block)
{
    struct raw *raw;

    if (!block)
        return;
    raw = container_of(block, struct raw, block);
    raw_drain(block);
    pthread_mutex_lock(&raw->lock);
    raw->stop = true;
    pthread_cond_broadcast(&raw->work);
    pthread_mutex_unlock(&raw->lock);
    for (unsigned i = 0; i < THREADS; i++)
        host_thread_join(&raw->threads[i]);
    pthread_cond_destroy(&raw->work);
    pthread_cond_destroy(&raw->idle);
    pthread_mutex_destroy(&raw->lock);
    if (raw->fd >= 0)
        close(raw->fd);
    free(raw);
}

static const struct block_type raw_type = {
    .name = "raw", .submit = raw_submit, .drain = raw_drain, .close = raw_close};

// --- Opening ---

static err_t open_file(struct raw *raw, const char *path, const struct block_options *options,
                       struct error *e)
{
    int flags = O_CLOEXEC | O_NONBLOCK | (options->read_only ? O_RDONLY : O_RDWR);

    raw->direct = options->direct;
    raw->fd = open(path, flags | (options->direct ? O_DIRECT : 0));
    if (raw->fd >= 0)
        return OK;
    if (errno == EINVAL && options->direct)
        return error_set(e, ERR_UNSUPPORTED, "%s: this file system has no direct I/O; leave it off",
                         path);
    if ((errno == EACCES || errno == EROFS) && !options->read_only)
        return error_set(e, ERR_DENIED, "%s: cannot be written (%s); attach it read-only?", path,
                         strerror(errno));
    return error_set(e, err_from_errno(errno), "%s: %s", path, strerror(errno));
}

static err_t lock_file(struct raw *raw, const char *path, struct error *e)
{
    struct flock whole = {.l_type = raw->block.limits.read_only ? F_RDLCK : F_WRLCK,
                          .l_whence = SEEK_SET};

    if (fcntl(raw->fd, F_OFD_SETLK, &whole) == 0)
        return OK;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(e, ERR_BUSY, "%s: in use by another virtual machine", path);
    return error_set(e, err_from_errno(errno), "%s: cannot be locked: %s", path, strerror(errno));
}

// The smallest block that O_DIRECT takes: the file system says by refusing a smaller one.
static uint32_t direct_block(int fd)
{
    char *probe = aligned_alloc(DIRECT_ALIGN_MAX, DIRECT_ALIGN_MAX);
    uint32_t block = DIRECT_ALIGN_MAX;

    if (probe && pread(fd, probe, 512, 512) >= 0)
        block = 512;
    free(probe);
    return block;
}

static err_t measure(struct raw *raw, const char *path, struct error *e)
{
    struct block_limits *limits = &raw->block.limits;
    struct stat st;
    int sector = 512;
    unsigned physical = 4096;
    uint64_t size;

    if (fstat(raw->fd, &st) < 0)
        return error_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error_set(e, ERR_INVALID, "%s: not a file or a block device", path);
    size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) &&
        (ioctl(raw->fd, BLKGETSIZE64, &size) < 0 || ioctl(raw->fd, BLKSSZGET, &sector) < 0 ||
         ioctl(raw->fd, BLKPBSZGET, &physical) < 0))
        return error_set(e, ERR_IO, "%s: its size cannot be read: %s", path, strerror(errno));
    if (raw->direct && S_ISREG(st.st_mode))
        sector = (int)direct_block(raw->fd);
    limits->size_bytes = size;
    limits->logical_block = sector == 4096 ? 4096 : 512;
    limits->physical_block = physical == 512 && sector == 512 ? 512 : 4096;
    limits->discard = limits->write_zeroes = !limits->read_only;
    if (size == 0 || size % limits->logical_block)
        return error_set(
            e, ERR_INVALID,
            "%s: its size of %llu bytes is not a multiple of %u; try: truncate -s %%%u %s", path,
            (unsigned long long)size, limits->logical_block, limits->logical_block, path);
    return OK;
}

static err_t start_threads(struct raw *raw, struct error *e)
{
    for (unsigned i = 0; i < THREADS; i++) {
        err_t err = host_thread_start(&raw->threads[i], "disk", worker, raw, e);
        if (err != OK)
            return err;
    }
    return OK;
}

static struct raw *raw_new(const char *path, const struct block_options *options)
{
    struct raw *raw = calloc(1, sizeof *raw);

    if (!raw)
        return NULL;
    raw->block.type = &raw_type;
    raw->block.limits.read_only = options->read_only;
    // The end of a path says more than its start.
    if (strlen(path) >= sizeof raw->block.name)
        path += strlen(path) - (sizeof raw->block.name - 1);
    memcpy(raw->block.name, path, strlen(path));
    raw->fd = -1;
    raw->tail = &raw->head;
    pthread_mutex_init(&raw->lock, NULL);
    pthread_cond_init(&raw->work, NULL);
    pthread_cond_init(&raw->idle, NULL);
    return raw;
}

err_t block_open_raw(const char *path, const struct block_options *options, struct block **out,
                     struct error *e)
{
    struct raw *raw = raw_new(path, options);
    err_t err;

    if (!raw)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", path);
    err = open_file(raw, path, options, e);
    if (err == OK)
        err = lock_file(raw, path, e);
    if (err == OK)
        err = measure(raw, path, e);
    if (err == OK)
        err = start_threads(raw, e);
    if (err != OK) {
        raw_close(&raw->block);
        return err;
    }
    *out = &raw->block;
    return OK;
}
