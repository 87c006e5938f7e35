// Files under disk images: regular files and block devices.
//
// The file is locked for as long as it is open (open file description locks: one writer or many
// readers, among programs that ask). Reads, and writes past the page cache, go through io_uring
// where the host has it; all else is done by a few threads with ordinary blocking calls, since
// io_uring would only hand it to threads of the kernel's.
#include "block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/file_impl.h"

// --- Requests ---

void bfile_submit(struct bfile *file, struct block_request *r)
{
    r->answered = false;
    __atomic_fetch_add(&file->in_flight, 1, __ATOMIC_RELAXED);
    if (!file->ring || !file_uring_submit(file->ring, r))
        pool_submit(file, r);
}

void bfile_answer(struct bfile *file, struct block_request *r, err_t result)
{
    r->answered = true;
    r->result = result;
    __atomic_fetch_add(&file->in_flight, 1, __ATOMIC_RELAXED);
    pool_submit(file, r);
}

void file_ended(struct bfile *file, unsigned count)
{
    if (__atomic_sub_fetch(&file->in_flight, count, __ATOMIC_ACQ_REL))
        return;
    pthread_mutex_lock(&file->lock);
    pthread_cond_broadcast(&file->idle);
    pthread_mutex_unlock(&file->lock);
}

void bfile_drain(struct bfile *file)
{
    pthread_mutex_lock(&file->lock);
    while (__atomic_load_n(&file->in_flight, __ATOMIC_ACQUIRE))
        pthread_cond_wait(&file->idle, &file->lock);
    pthread_mutex_unlock(&file->lock);
}

void bfile_close(struct bfile *file)
{
    if (!file)
        return;
    bfile_drain(file);
    file_uring_free(file->ring);
    pool_stop(file);
    pthread_cond_destroy(&file->work);
    pthread_cond_destroy(&file->idle);
    pthread_mutex_destroy(&file->lock);
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

const char *bfile_io(const struct bfile *file)
{
    return file->ring ? "io_uring" : "threads";
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

    return told(file, "read", file_perform(file, &r), e);
}

err_t bfile_write(struct bfile *file, uint64_t offset, const void *data, size_t len,
                  struct error *e)
{
    struct iovec iov = {(void *)data, len};
    struct block_request r = {BLOCK_WRITE, offset, len, &iov, 1};

    return told(file, "write", file_perform(file, &r), e);
}

err_t bfile_sync(struct bfile *file, struct error *e)
{
    return told(file, "flush", file_sync(file), e);
}

err_t bfile_zero(struct bfile *file, uint64_t offset, uint64_t len, bool punch, struct error *e)
{
    return len ? told(file, "write of zeros", file_write_zeroes(file, offset, len, punch), e) : OK;
}

void bfile_discard(struct bfile *file, uint64_t offset, uint64_t len)
{
    if (len)
        file_punch_hole(file, offset, len);
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

static int open_flags(const struct bfile_options *options)
{
    return O_CLOEXEC | O_NONBLOCK | (options->read_only ? O_RDONLY : O_RDWR) |
           (options->direct ? O_DIRECT : 0);
}

static err_t open_file(struct bfile *file, const char *path, const struct bfile_options *options,
                       struct error *e)
{
    file->direct = options->direct;
    file->fd = open(path, open_flags(options));
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

// The ring has the file opened once more: the kernel takes a ring apart some time after its end,
// and the lock must not last that long.
static void open_ring(struct bfile *file, const char *path, const struct bfile_options *options)
{
    int fd = open(path, open_flags(options));
    struct stat st, again;

    if (fd >= 0 && fstat(file->fd, &st) == 0 && fstat(fd, &again) == 0 &&
        st.st_dev == again.st_dev && st.st_ino == again.st_ino)
        file->ring = file_uring_new(file, fd);
    if (fd >= 0)
        close(fd);
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
        err = pool_start(file, e);
    if (err != OK) {
        bfile_close(file);
        return err;
    }
    if (!options->threads)
        open_ring(file, path, options);
    *out = file;
    return OK;
}
