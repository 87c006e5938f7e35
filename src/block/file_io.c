// The system calls under a file's requests, as they are: they take as long as they take. With
// O_DIRECT the logical block is what the host needs for it, so every request is aligned in the
// image; buffers that are not aligned in memory pass through a bounce buffer.
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/log.h"
#include "block/file_impl.h"
#include "host/clock.h"

#define BOUNCE_BYTES (256 * 1024) // per request that is not aligned in memory
#define AT_ONCE_BYTES (256 * 1024)
#define WRITE_SLOW_NS 1000000 // more than copying takes

// --- System calls ---

struct cursor cursor_of(const struct block_request *r)
{
    return (struct cursor){
        .iov = r->iov, .left = r->iovs, .skip = r->skip, .offset = r->offset, .bytes_left = r->len};
}

void cursor_advance(struct cursor *c, uint64_t done)
{
    c->offset += done;
    c->skip += done;
    c->bytes_left -= done;
    while (c->left && c->skip >= c->iov->iov_len) {
        c->skip -= c->iov->iov_len;
        c->iov++;
        c->left--;
    }
}

unsigned cursor_chunk(const struct cursor *c, struct iovec *chunk)
{
    unsigned n = c->left < FILE_BUFFERS ? c->left : FILE_BUFFERS;

    memcpy(chunk, c->iov, n * sizeof *chunk);
    chunk[0].iov_base = (char *)chunk[0].iov_base + c->skip;
    chunk[0].iov_len -= c->skip;
    uint64_t left = c->bytes_left;
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
    while (c.left && c.bytes_left) {
        size_t part = min_u64(c.iov->iov_len - c.skip, c.bytes_left);
        memset((char *)c.iov->iov_base + c.skip, 0, part);
        cursor_advance(&c, part);
    }
    return 0;
}

// Moves all bytes of the buffers; 0 or an errno value. A read that meets the end of the file means
// that somebody has cut it.
static int transfer(struct bfile *file, bool write, struct cursor c)
{
    cursor_advance(&c, 0);
    while (c.left && c.bytes_left) {
        struct iovec chunk[FILE_BUFFERS];
        unsigned n = cursor_chunk(&c, chunk);
        ssize_t done = write ? pwritev(file->fd, chunk, (int)n, (off_t)c.offset)
                             : preadv(file->fd, chunk, (int)n, (off_t)c.offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0 && !write && file->grows)
            return clear(c);
        if (done <= 0)
            return done < 0 ? errno : EIO;
        cursor_advance(&c, (size_t)done);
    }
    return 0;
}

// --- O_DIRECT ---

bool file_aligned(const struct bfile *file, const struct block_request *r)
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
        cursor_advance(c, part);
    }
}

// Reads may be unaligned in the file, too: they are widened. Writes are not (limits).
static int transfer_bounced(struct bfile *file, const struct block_request *r, bool write)
{
    struct cursor c = cursor_of(r);
    uint64_t block = file->limits.logical_block;
    char *bounce = aligned_alloc(DIRECT_ALIGN_MAX, BOUNCE_BYTES);
    int error = bounce ? 0 : ENOMEM;

    cursor_advance(&c, 0);
    while (!error && c.bytes_left) {
        uint64_t before = c.offset % block, part = min_u64(BOUNCE_BYTES - before, c.bytes_left);
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

    if (file->direct && !file_aligned(file, r))
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
int file_write_zeroes(struct bfile *file, uint64_t offset, uint64_t len, bool punch)
{
    int error = punch ? EOPNOTSUPP
                      : allocate(file->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, len);

    if (cannot(error))
        error = punch_hole(file->fd, offset, len);
    return cannot(error) ? write_zeroes_slowly(file, offset, len) : error;
}

void file_punch_hole(struct bfile *file, uint64_t offset, uint64_t len)
{
    (void)punch_hole(file->fd, offset, len);
}

// Discarding is advice: a host that cannot is no error.
static int discard(struct bfile *file, uint64_t offset, uint64_t len)
{
    int error = punch_hole(file->fd, offset, len);

    return cannot(error) ? 0 : error;
}

int file_sync(struct bfile *file)
{
    return !file->transient && fdatasync(file->fd) < 0 ? errno : 0;
}

int file_allowed(const struct bfile *file, const struct block_request *r)
{
    if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH && file->limits.read_only)
        return EROFS;
    return range_within(r->offset, r->len, file->grows ? INT64_MAX : file->limits.size_bytes)
               ? 0
               : EINVAL;
}

int file_perform(struct bfile *file, const struct block_request *r)
{
    int error = file_allowed(file, r);

    if (error)
        return error;
    switch (r->op) {
    case BLOCK_READ:
    case BLOCK_WRITE: return read_or_write(file, r);
    case BLOCK_FLUSH: return file_sync(file);
    case BLOCK_DISCARD: return r->len ? discard(file, r->offset, r->len) : 0;
    case BLOCK_WRITE_ZEROES: return r->len ? file_write_zeroes(file, r->offset, r->len, true) : 0;
    }
    return EINVAL;
}

static const char *op_name(enum block_op op)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "write of zeros"};
    return (unsigned)op < ARRAY_LEN(names) ? names[op] : "request";
}

err_t file_result(struct bfile *file, const struct block_request *r, int error)
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

// --- Without waiting ---

// Writes have no RWF_NOWAIT where it would be of use. Most are copied into memory, but one may have
// to wait while the host has too much to bring to its disks. Then writes are left to the threads,
// for so long that waiting costs the callers a twentieth of their time at most.
static bool writes_wait(const struct bfile *file, uint64_t now)
{
    return now < __atomic_load_n(&file->writes_wait_until, __ATOMIC_RELAXED);
}

static ssize_t write_timed(struct bfile *file, const struct iovec *iov, unsigned n, uint64_t offset)
{
    uint64_t start = host_now(), took;

    if (writes_wait(file, start))
        return -1;
    ssize_t done = pwritev(file->fd, iov, (int)n, (off_t)offset);
    took = host_now() - start;
    if (took > WRITE_SLOW_NS)
        __atomic_store_n(&file->writes_wait_until, start + 20 * took, __ATOMIC_RELAXED);
    return done;
}

static ssize_t read_cached(struct bfile *file, const struct iovec *iov, unsigned n, uint64_t offset)
{
    if (__atomic_load_n(&file->waits_always, __ATOMIC_RELAXED))
        return -1;
    ssize_t done = preadv2(file->fd, iov, (int)n, (off_t)offset, RWF_NOWAIT);
    if (done < 0 && errno == EOPNOTSUPP)
        __atomic_store_n(&file->waits_always, true, __ATOMIC_RELAXED);
    return done;
}

// What the page cache holds or takes is copied here and now: that is less than waking a thread
// costs. With O_DIRECT the call would wait for the disk. What came back short is done again by
// those who know what to make of it.
bool bfile_at_once(struct bfile *file, const struct block_request *r, err_t *result)
{
    struct iovec iov[FILE_BUFFERS];
    struct cursor c = cursor_of(r);

    if ((r->op != BLOCK_READ && r->op != BLOCK_WRITE) || file->direct || !r->len ||
        r->len > AT_ONCE_BYTES || file_allowed(file, r))
        return false;
    cursor_advance(&c, 0);
    unsigned n = cursor_chunk(&c, iov);
    ssize_t done = r->op == BLOCK_READ ? read_cached(file, iov, n, c.offset)
                                       : write_timed(file, iov, n, c.offset);
    *result = OK;
    return done == (ssize_t)r->len;
}
