// Opens qcow2 images that somebody has damaged on purpose, and does with them what guests and tools
// can do. Nothing may crash, hang, leak or take more memory than a sound image.
//
// The input: which sound image to begin with, words to put over its header and tables, and a list
// of actions with their operands.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/log.h"
#include "block/qcow2.h"
#include "block/sync.h"
#include "input.h"
#include "standalone.h"

#define DISK_BYTES (256 * KIB)
#define IO_BYTES (64 * KIB)
#define DAMAGES 12

static uint8_t buffer[IO_BYTES];

// --- sound images

static const struct qcow2_create kinds[] = {
    {.size_bytes = DISK_BYTES, .cluster_bytes = 512},
    {.size_bytes = DISK_BYTES, .cluster_bytes = 512, .version = 2},
    {.size_bytes = DISK_BYTES, .cluster_bytes = 4096, .zstd = true},
    {.size_bytes = DISK_BYTES, .cluster_bytes = 16384, .extended_l2 = true},
    {.size_bytes = DISK_BYTES, .cluster_bytes = 1024, .lazy_refcounts = true, .refcount_bits = 1},
    {.size_bytes = DISK_BYTES, .cluster_bytes = 1024, .refcount_bits = 64, .backing = "/dev/null"},
};

enum use { WRITE, READ, REPAIR };

static err_t open_path(int fd, enum use use, struct block **out)
{
    const struct block_options options = {.format = "qcow2",
                                          .no_backing = true,
                                          .threads = true,
                                          .read_only = use == READ,
                                          .repair = use == REPAIR};
    char path[40];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return block_open(path, &options, out, NULL);
}

static bool make_sound(int fd, const struct qcow2_create *kind)
{
    struct block *block;
    char path[40];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (qcow2_create(path, kind, NULL) != OK || open_path(fd, WRITE, &block) != OK)
        return false;
    memset(buffer, 'x', sizeof buffer);
    bool good =
        qcow2_write_compressed(qcow2_of(block), 128 * KIB, buffer, NULL) == OK &&
        block_write(block, 3000 / 512 * 512, buffer, 20 * KIB, NULL) == OK &&
        (kind->refcount_bits == 1 || qcow2_snapshot_create(qcow2_of(block), "one", NULL) == OK) &&
        block_write(block, 8 * KIB, buffer, 30 * KIB, NULL) == OK &&
        block_request(block, BLOCK_WRITE_ZEROES, 64 * KIB, 32 * KIB, NULL) == OK;
    block_close(block);
    return good;
}

// --- damage

// Values that were seen to matter: near limits, and pointers from one structure to another.
static uint64_t value_of(struct input *in)
{
    static const uint64_t special[] = {
        0,          1,          511,        512,        INT64_MAX,  INT64_MAX - 511,
        UINT64_MAX, 1ull << 62, 1ull << 55, 1ull << 32, UINT32_MAX,
    };
    uint64_t kind = take(in, 1);

    if (kind < 64)
        return special[kind % ARRAY_LEN(special)];
    if (kind < 192)
        return (take(in, 1) * 512) | (kind & 1 ? 1ull << 63 : 0) |
               (kind % 16 == 2 ? 1ull << 62 : 0);
    return take(in, 8);
}

static void damage(int fd, struct input *in)
{
    uint64_t count = take(in, 1) % DAMAGES, length = (uint64_t)lseek(fd, 0, SEEK_END);
    uint8_t bytes[8];

    while (count--) {
        bool header = take(in, 1) < 128;
        uint64_t at = header ? take(in, 1) % 112 : take(in, 3) % length / 8 * 8;
        unsigned size = header && take(in, 1) % 2 ? 4 : 8;
        uint64_t value = value_of(in);
        store_be64(bytes, size == 4 ? value << 32 : value);
        if (pwrite(fd, bytes, size, (off_t)at) < 0)
            return;
    }
    if (take(in, 1) < 16 && ftruncate(fd, (off_t)(take(in, 2) % length)) < 0)
        return;
}

// --- actions

static uint64_t place(const struct block *block, struct input *in, uint64_t *len)
{
    uint64_t size = block->limits.size_bytes, near = take(in, 1);
    uint64_t at = near < 200   ? take(in, 2) * 512
                  : near < 228 ? size - take(in, 2) * 512
                               : take(in, 8);

    *len = take(in, 1) * 256 / 512 * 512;
    return at / 512 * 512;
}

static void say(void *opaque, bool leak, const char *words)
{
}

static void act_on_structure(struct qcow2 *q, uint64_t action, struct input *in)
{
    struct qcow2_check check = {.found = say};
    struct qcow2_snapshot *list = NULL;
    struct qcow2_info info;
    unsigned count;
    err_t err = OK;

    switch (action % 9) {
    case 0: err = qcow2_check(q, (enum qcow2_repair)(take(in, 1) % 3), &check, NULL); break;
    case 1: err = qcow2_snapshot_create(q, take(in, 1) % 2 ? "two" : "three", NULL); break;
    case 2: err = qcow2_snapshot_apply(q, take(in, 1) % 2 ? "one" : "two", NULL); break;
    case 3: err = qcow2_snapshot_delete(q, take(in, 1) % 2 ? "one" : "two", NULL); break;
    case 4: err = qcow2_snapshots(q, &list, &count, NULL); break;
    case 5: err = qcow2_resize(q, take(in, 2) * 512, true, NULL); break;
    case 6: err = qcow2_set_backing(q, take(in, 1) % 2 ? "a" : "", "raw", NULL); break;
    case 7: err = take(in, 1) % 4 ? OK : qcow2_empty(q, NULL); break;
    case 8: err = qcow2_snapshot_show(q, take(in, 1) % 2 ? "one" : "1", NULL); break;
    }
    (void)err;
    free(list);
    qcow2_get_info(q, &info);
}

static void act(struct block *block, struct input *in)
{
    uint64_t action = take(in, 1), len, at;
    struct block_extent extent;
    struct block_request r;
    struct iovec iov;
    err_t err = OK;

    if (action >= 192) {
        act_on_structure(qcow2_of(block), action, in);
        return;
    }
    at = place(block, in, &len);
    switch (action % 8) {
    case 0: err = block_read(block, at, buffer, len, NULL); break;
    case 1:
        iov = (struct iovec){buffer, len};
        r = (struct block_request){
            .op = BLOCK_READ, .offset = at, .len = len, .iov = &iov, .iovs = 1};
        if (!block_at_once(block, &r, &err))
            err = block_read(block, at, buffer, len, NULL);
        break;
    case 2:
    case 3: err = block_write(block, at, buffer, len, NULL); break;
    case 4: err = block_request(block, BLOCK_WRITE_ZEROES, at, len, NULL); break;
    case 5: err = block_request(block, BLOCK_DISCARD, at, len, NULL); break;
    case 6: err = block_request(block, BLOCK_FLUSH, 0, 0, NULL); break;
    case 7:
        if (at < block->limits.size_bytes)
            err = block_map(block, at, min_u64(len + 512, block->limits.size_bytes - at), &extent,
                            NULL);
        break;
    }
    (void)err;
}

static void silent(enum log_level level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    struct block *block;

    log_to(silent, LOG_ERROR);
    if (fd < 0 || !make_sound(fd, &kinds[take(&in, 1) % ARRAY_LEN(kinds)]))
        abort();
    damage(fd, &in);
    enum use use = (enum use)(take(&in, 1) % 3);
    for (unsigned opens = 0; opens < 3 && input_left(&in) && open_path(fd, use, &block) == OK;
         opens++) {
        for (unsigned i = 0; i < 40 && input_left(&in); i++)
            act(block, &in);
        block_close(block);
    }
    close(fd);
    return 0;
}
