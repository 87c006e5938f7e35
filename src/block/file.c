// Files under disk images: regular files and block devices, served by a few threads that make
// ordinary blocking calls.
//
// The file is locked for as long as it is open (open file description locks: one writer or many
// readers, among programs that ask). With O_DIRECT the logical block is what the host needs for it,
// so every request is aligned in the image; buffers that are not aligned in memory pass through a
// bounce buffer. Not done here: io_uring, queue depth beyond the threads.
#include "block/file.h"

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
#include "base/checked.h"
#include "base/log.h"
#include "host/thread.h"

#define THREADS 4
#define CHUNK_BUFFERS 64          // buffers passed to one system call
#define BOUNCE_BYTES (256 * 1024) // per request that is not aligned in memory
#define DIRECT_ALIGN_MAX 4096

struct bfile {
    int fd;
    bool direct, grows, transient;
    bool complained; // an I/O error has been logged
    bool stop;
    unsigned in_flight; // submitted, and done() has not returned
    struct block_limits limits;
    char name[64]; // for messages
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
    uint64_t skip; // bytes of the first that are done, or not ours
    uint64_t offset;
    uint64_t todo; // bytes
};

static struct cursor cursor_of(const struct block_request *r)
{
    return (struct cursor){
        .iov = r->iov, .left = r->iovs, .skip = r->skip, .offset = r->offset, .todo = r->len};
}

static void advance(struct cursor *c, uint64_t done)
{
    c->offset += done;
    c->skip += done;
    c->todo -= done;
    while (c->left && c->skip >= c->iov->iov_len) {
        c->skip -= c->iov->iov_len;
        c->iov++;
        c->left--;
    }
}

static unsigned next_chunk(const struct cursor *c, struct iovec *chunk)
{
    unsigned n = c->left < CHUNK_BUFFERS ? c->left : CHUNK_BUFFERS;

    memcpy(chunk, c->iov, n * sizeof *chunk);
    chunk[0].iov_base = (char *)chunk[0].iov_base + c->skip;
    chunk[0].iov_len -= c->skip;
    uint64_t left = c->todo;
    for (unsigned i = 0; i < n; i++) {
        chunk[i].iov_len = min_u64(chunk[i].iov_len, left);
        left -= chunk[i].iov_len;
        if (!left)
            return i + 1;
    }
    return n;
}

// What lies beyond the end of a format's file.
static int clear(struct cursor c)
{
    while (c.left && c.todo) {
        size_t part = min_u64(c.iov->iov_len - c.skip, c.todo);
        memset((char *)c.iov->iov_base + c.skip, 0, part);
        advance(&c, part);
    }
    return 0;
}

// Moves all bytes of the buffers; 0 or an errno value. A read that meets the end of the file means
// that somebody has cut it.
static int transfer(struct bfile *file, bool write, struct cursor c)
{
    advance(&c, 0);
    while (c.left && c.todo) {
        struct iovec chunk[CHUNK_BUFFERS];
        unsigned n = next_chunk(&c, chunk);
        ssize_t done = write ? pwritev(file->fd, chunk, (int)n, (off_t)c.offset)
                             : preadv(file->fd, chunk, (int)n, (off_t)c.offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0 && !write && file->grows)
            return clear(c);
        if (done <= 0)
            return done < 0 ? errno : EIO;
        advance(&c, (size_t)done);
    }
    return 0;
}

// --- O_DIRECT ---

static bool aligned(const struct bfile *file, const struct block_request *r)
{
    uint64_t all = r->skip | r->offset | r->len;

    for (unsigned i = 0; i < r->iovs; i++)
        all |= (uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
    return all % file->limits.logical_block == 0;
}

// Copies between the bounce buffer and the request's buffers at a cursor, which it advances.
static void copy(struct cursor *c, char *bounce, uint64_t len, bool to_bounce)
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

// Reads may be unaligned in the file, too: they are widened. Writes are not (limits).
static int transfer_bounced(struct bfile *file, const struct block_request *r, bool write)
{
    struct cursor c = cursor_of(r);
    uint64_t block = file->limits.logical_block;
    char *bounce = aligned_alloc(DIRECT_ALIGN_MAX, BOUNCE_BYTES);
    int error = bounce ? 0 : ENOMEM;

    advance(&c, 0);
    while (!error && c.todo) {
        uint64_t before = c.offset % block, part = min_u64(BOUNCE_BYTES - before, c.todo);
        struct iovec iov = {bounce, (before + part + block - 1) / block * block};
        struct cursor whole = {&iov, 1, 0, c.offset - before, iov.iov_len};
        if (write && (before || part != iov.iov_len))
            error = EINVAL;
        else if (write)
            copy(&c, bounce, part, true);
        error = error ? error : transfer(file, write, whole);
        if (!write && !error)
            copy(&c, bounce + before, part, false);
    }
    free(bounce);
    return error;
}

// --- Requests ---

static int read_or_write(struct bfile *file, const struct block_request *r)
{
    bool write = r->op == BLOCK_WRITE;

    if (file->direct && !aligned(file, r))
        return transfer_bounced(file, r, write);
    return transfer(file, write, cursor_of(r));
}

static int allocate(int fd, int mode, uint64_t offset, uint64_t len)
{
    while (fallocate(fd, mode, (off_t)offset, (off_t)len) < 0) {
        if (errno != EINTR)
            return errno;
    }
    return 0;
}

static int punch_hole(int fd, uint64_t offset, uint64_t len)
{
    return allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len);
}

static int write_zeroes_slowly(struct bfile *file, uint64_t offset, uint64_t len)
{
    static const char zeroes[64 * 1024] __attribute__((aligned(DIRECT_ALIGN_MAX)));
    int error = 0;

    for (uint64_t done = 0; !error && done < len; done += sizeof zeroes) {
        struct iovec iov = {(void *)zeroes, min_u64(sizeof zeroes, len - done)};
        error = transfer(file, true, (struct cursor){&iov, 1, 0, offset + done, iov.iov_len});
    }
    return error;
}

static bool cannot(int error)
{
    return error == EOPNOTSUPP || error == ENODEV;
}

// Where the host cannot punch holes, zeros are written.
static int write_zeroes(struct bfile *file, uint64_t offset, uint64_t len, bool punch)
{
    int error = punch ? EOPNOTSUPP
                      : allocate(file->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, len);

    if (cannot(error))
        error = punch_hole(file->fd, offset, len);
    return cannot(error) ? write_zeroes_slowly(file, offset, len) : error;
}

// Discarding is advice: a host that cannot is no error.
static int discard(struct bfile *file, uint64_t offset, uint64_t len)
{
    int error = punch_hole(file->fd, offset, len);

    return cannot(error) ? 0 : error;
}

static int sync_now(struct bfile *file)
{
    return !file->transient && fdatasync(file->fd) < 0 ? errno : 0;
}

static int perform(struct bfile *file, const struct block_request *r)
{
    if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH && file->limits.read_only)
        return EROFS;
    if (!range_within(r->offset, r->len, file->grows ? INT64_MAX : file->limits.size_bytes))
        return EINVAL;
    switch (r->op) {
    case BLOCK_READ:
    case BLOCK_WRITE: return read_or_write(file, r);
    case BLOCK_FLUSH: return sync_now(file);
    case BLOCK_DISCARD: return r->len ? discard(file, r->offset, r->len) : 0;
    case BLOCK_WRITE_ZEROES: return r->len ? write_zeroes(file, r->offset, r->len, true) : 0;
    }
    return EINVAL;
}

static const char *op_name(enum block_op op)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "write of zeros"};
    return (unsigned)op < ARRAY_LEN(names) ? names[op] : "request";
}

static err_t result_of(struct bfile *file, const struct block_request *r, int error)
{
    if (error == 0)
        return OK;
    if (!__atomic_exchange_n(&file->complained, true, __ATOMIC_RELAXED))
        log_line(LOG_ERROR,
                 "disk %s: a %s failed: %s (its guest gets an I/O error; further failures are not "
                 "logged)",
                 file->name, op_name(r->op), strerror(error));
    return error == ENOSPC || error == EDQUOT ? ERR_NO_MEMORY : ERR_IO;
}

// --- Threads ---

// Waits for a request; NULL when it is time to stop.
static struct block_request *take(struct bfile *file)
{
    struct block_request *r;

    pthread_mutex_lock(&file->lock);
    while (!file->head && !file->stop)
        pthread_cond_wait(&file->work, &file->lock);
    r = file->head;
    if (r) {
        file->head = r->next;
        if (!file->head)
            file->tail = &file->head;
    }
    pthread_mutex_unlock(&file->lock);
    return r;
}

static void ended(struct bfile *file)
{
    pthread_mutex_lock(&file->lock);
    if (--file->in_flight == 0)
        pthread_cond_broadcast(&file->idle);
    pthread_mutex_unlock(&file->lock);
}

static void worker(void *opaque)
{
    struct bfile *file = opaque;
    struct block_request *r;

    host_thread_confine(HOST_THREAD_BLOCK);
    while ((r = take(file))) {
        r->done(r, r->answered ? r->result : result_of(file, r, perform(file, r)));
        ended(file);
    }
}

static void enqueue(struct bfile *file, struct block_request *r)
{
    r->next = NULL;
    pthread_mutex_lock(&file->lock);
    *file->tail = r;
    file->tail = &r->next;
    file->in_flight++;
    pthread_cond_signal(&file->work);
    pthread_mutex_unlock(&file->lock);
}

void bfile_submit(struct bfile *file, struct block_request *r)
{
    r->answered = false;
    enqueue(file, r);
}

void bfile_answer(struct bfile *file, struct block_request *r, err_t result)
{
    r->answered = true;
    r->result = result;
    enqueue(file, r);
}

void bfile_drain(struct bfile *file)
{
    pthread_mutex_lock(&file->lock);
    while (file->in_flight)
        pthread_cond_wait(&file->idle, &file->lock);
    pthread_mutex_unlock(&file->lock);
}

void bfile_close(struct bfile *file)
{
    if (!file)
        return;
    bfile_drain(file);
    pthread_mutex_lock(&file->lock);
    file->stop = true;
    pthread_cond_broadcast(&file->work);
    pthread_mutex_unlock(&file->lock);
    for (unsigned i = 0; i < THREADS; i++)
        host_thread_join(&file->threads[i]);
    pthread_cond_destroy(&file->work);
    pthread_cond_destroy(&file->idle);
    pthread_mutex_destroy(&file->lock);
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

// --- Blocking ---

static err_t told(struct bfile *file, const char *what, int error, struct error *e)
{
    if (!error)
        return OK;
    return error_set(e, error == ENOSPC || error == EDQUOT ? ERR_NO_MEMORY : ERR_IO,
                     "%s: a %s failed: %s", file->name, what, strerror(error));
}

err_t bfile_read(struct bfile *file, uint64_t offset, void *data, size_t len, struct error *e)
{
    struct iovec iov = {data, len};
    struct block_request r = {BLOCK_READ, offset, len, &iov, 1};

    return told(file, "read", perform(file, &r), e);
}

err_t bfile_write(struct bfile *file, uint64_t offset, const void *data, size_t len,
                  struct error *e)
{
    struct iovec iov = {(void *)data, len};
    struct block_request r = {BLOCK_WRITE, offset, len, &iov, 1};

    return told(file, "write", perform(file, &r), e);
}

err_t bfile_sync(struct bfile *file, struct error *e)
{
    return told(file, "flush", sync_now(file), e);
}

err_t bfile_zero(struct bfile *file, uint64_t offset, uint64_t len, bool punch, struct error *e)
{
    return len ? told(file, "write of zeros", write_zeroes(file, offset, len, punch), e) : OK;
}

void bfile_discard(struct bfile *file, uint64_t offset, uint64_t len)
{
    if (len)
        punch_hole(file->fd, offset, len);
}

uint64_t bfile_extent(struct bfile *file, uint64_t offset, uint64_t len, bool *data)
{
    off_t start = lseek(file->fd, (off_t)offset, SEEK_DATA);
    bool hole = start < 0 ? errno == ENXIO : (uint64_t)start > offset;

    *data = !hole;
    if (start < 0)
        return len; // a hole up to the end, or a host that does not know
    off_t end = hole ? start : lseek(file->fd, (off_t)offset, SEEK_HOLE);
    return end > (off_t)offset ? min_u64(len, (uint64_t)end - offset) : len;
}

uint64_t bfile_length(struct bfile *file)
{
    struct stat st;

    if (fstat(file->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return file->limits.size_bytes;
    return (uint64_t)st.st_size;
}

err_t bfile_set_length(struct bfile *file, uint64_t len, struct error *e)
{
    if (ftruncate(file->fd, (off_t)len) == 0)
        return OK;
    return error_set(e, errno == ENOSPC || errno == EFBIG ? ERR_NO_MEMORY : ERR_IO,
                     "%s: its length cannot be changed: %s", file->name, strerror(errno));
}

const struct block_limits *bfile_limits(const struct bfile *file)
{
    return &file->limits;
}

// --- Opening ---

static err_t open_file(struct bfile *file, const char *path, const struct bfile_options *options,
                       struct error *e)
{
    int flags = O_CLOEXEC | O_NONBLOCK | (options->read_only ? O_RDONLY : O_RDWR);

    file->direct = options->direct;
    file->fd = open(path, flags | (options->direct ? O_DIRECT : 0));
    if (file->fd >= 0)
        return OK;
    if (errno == EINVAL && options->direct)
        return error_set(e, ERR_UNSUPPORTED, "%s: this file system has no direct I/O; leave it off",
                         path);
    if ((errno == EACCES || errno == EROFS) && !options->read_only)
        return error_set(e, ERR_DENIED, "%s: cannot be written (%s); attach it read-only?", path,
                         strerror(errno));
    return error_set(e, err_from_errno(errno), "%s: %s", path, strerror(errno));
}

static err_t lock_file(struct bfile *file, const char *path, struct error *e)
{
    struct flock whole = {.l_type = file->limits.read_only ? F_RDLCK : F_WRLCK,
                          .l_whence = SEEK_SET};

    if (fcntl(file->fd, F_OFD_SETLK, &whole) == 0)
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

static err_t measure(struct bfile *file, const char *path, struct error *e)
{
    struct block_limits *limits = &file->limits;
    struct stat st;
    int sector = 512;
    unsigned physical = 4096;
    uint64_t size;

    if (fstat(file->fd, &st) < 0)
        return error_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error_set(e, ERR_INVALID, "%s: not a file or a block device", path);
    size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) &&
        (ioctl(file->fd, BLKGETSIZE64, &size) < 0 || ioctl(file->fd, BLKSSZGET, &sector) < 0 ||
         ioctl(file->fd, BLKPBSZGET, &physical) < 0))
        return error_set(e, ERR_IO, "%s: its size cannot be read: %s", path, strerror(errno));
    if (file->direct && S_ISREG(st.st_mode))
        sector = (int)direct_block(file->fd);
    limits->size_bytes = size;
    limits->logical_block = sector == 4096 ? 4096 : 512;
    limits->physical_block = physical == 512 && sector == 512 ? 512 : 4096;
    limits->discard = limits->write_zeroes = !limits->read_only;
    return OK;
}

static err_t start_threads(struct bfile *file, struct error *e)
{
    for (unsigned i = 0; i < THREADS; i++) {
        err_t err = host_thread_start(&file->threads[i], "disk", worker, file, e);
        if (err != OK)
            return err;
    }
    return OK;
}

static struct bfile *file_new(const char *path, const struct bfile_options *options)
{
    struct bfile *file = calloc(1, sizeof *file);

    if (!file)
        return NULL;
    file->limits.read_only = options->read_only;
    file->grows = options->grows;
    file->transient = options->transient;
    // The end of a path says more than its start.
    if (strlen(path) >= sizeof file->name)
        path += strlen(path) - (sizeof file->name - 1);
    memcpy(file->name, path, strlen(path));
    file->fd = -1;
    file->tail = &file->head;
    pthread_mutex_init(&file->lock, NULL);
    pthread_cond_init(&file->work, NULL);
    pthread_cond_init(&file->idle, NULL);
    return file;
}

err_t bfile_open(const char *path, const struct bfile_options *options, struct bfile **out,
                 struct error *e)
{
    struct bfile *file = file_new(path, options);
    err_t err;

    if (!file)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", path);
    err = open_file(file, path, options, e);
    if (err == OK && !options->unlocked)
        err = lock_file(file, path, e);
    if (err == OK)
        err = measure(file, path, e);
    if (err == OK)
        err = start_threads(file, e);
    if (err != OK) {
        bfile_close(file);
        return err;
    }
    *out = file;
    return OK;
}
