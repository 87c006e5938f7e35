// Linked with diskio in place of the C library's functions: every change of the image goes into a
// log as well, so that disk_cross.py can make the images that a host without power may leave
// behind. The log is the file that $POWER_LOG names. Records: a letter, then 64-bit words.
//
//     W OFFSET LENGTH, the data      a write has ended
//     Z OFFSET LENGTH                so has the release of a range, which reads as zeros
//     B                              a sync begins: what ended before it is on the medium
//     E NUMBER-OF-B                  ... when it ends
//     N REQUEST                      the storm's requests up to this one are flushed
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static uint64_t syncs;

ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
int __real_fallocate64(int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len);
int __wrap_fdatasync(int fd);
void power_note(uint64_t flushed);

static void put(const void *data, size_t len)
{
    if (log_fd < 0)
        log_fd = open(getenv("POWER_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (write(log_fd, data, len) != (ssize_t)len)
        abort();
}

static void record(char letter, uint64_t one, uint64_t two, unsigned words)
{
    uint64_t values[2] = {one, two};

    put(&letter, 1);
    put(values, 8 * words);
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
    pthread_mutex_lock(&lock);
    ssize_t done = __real_pwritev64(fd, iov, count, offset), left = done;
    if (done > 0)
        record('W', (uint64_t)offset, (uint64_t)done, 2);
    for (int i = 0; left > 0; left -= (ssize_t)iov[i++].iov_len)
        put(iov[i].iov_base, iov[i].iov_len < (size_t)left ? iov[i].iov_len : (size_t)left);
    pthread_mutex_unlock(&lock);
    return done;
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len)
{
    pthread_mutex_lock(&lock);
    int result = __real_fallocate64(fd, mode, offset, len);
    if (result == 0)
        record('Z', (uint64_t)offset, (uint64_t)len, 2);
    pthread_mutex_unlock(&lock);
    return result;
}

// Takes as long as a disk would, so that much happens meanwhile.
int __wrap_fdatasync(int fd)
{
    pthread_mutex_lock(&lock);
    uint64_t number = syncs++;
    record('B', 0, 0, 0);
    pthread_mutex_unlock(&lock);
    usleep(1000 + (unsigned)(number * 7919 % 3000));
    pthread_mutex_lock(&lock);
    record('E', number, 0, 1);
    pthread_mutex_unlock(&lock);
    return 0;
}

void power_note(uint64_t flushed)
{
    pthread_mutex_lock(&lock);
    record('N', flushed, 0, 1);
    pthread_mutex_unlock(&lock);
}
