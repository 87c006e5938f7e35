// Raw images: transfers, limits, locking, refusals.
#include "block/block.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/sync.h"
#include "test.h"

#define IMAGE_BYTES (1 * MIB)

struct image {
    char path[64];
    struct block *block;
};

static void make_image(struct image *image, off_t bytes)
{
    int fd;

    *image = (struct image){.path = "/tmp/berth-raw-XXXXXX"};
    fd = mkstemp(image->path);
    CHECK(fd >= 0 && ftruncate(fd, bytes) == 0);
    close(fd);
}

static err_t open_image(struct image *image, struct block_options options, struct error *e)
{
    return block_open(image->path, &options, &image->block, e);
}

static void drop_image(struct image *image)
{
    if (image->block)
        image->block->type->close(image->block);
    unlink(image->path);
}

static err_t request(struct image *image, enum block_op op, uint64_t offset, uint64_t len,
                     const struct iovec *iov, unsigned iovs)
{
    return block_run(image->block, (struct block_request){op, offset, len, iov, iovs}, NULL);
}

static void round_trip(struct block_options options, unsigned misalign)
{
    static _Alignas(4096) char out[3][8192], in[3][8192];
    struct iovec from[3], to[3];
    struct image image;
    struct error e;

    for (unsigned i = 0; i < 3; i++) {
        memset(out[i], 'a' + (int)i, sizeof out[i]);
        from[i] = (struct iovec){out[i] + misalign, 4096};
        to[i] = (struct iovec){in[i] + misalign, 4096};
    }
    make_image(&image, IMAGE_BYTES);
    if (open_image(&image, options, &e) == OK) {
        CHECK(request(&image, BLOCK_WRITE, 8192, 12288, from, 3) == OK);
        CHECK(request(&image, BLOCK_FLUSH, 0, 0, NULL, 0) == OK);
        CHECK(request(&image, BLOCK_READ, 8192, 12288, to, 3) == OK);
        CHECK(memcmp(out[1] + misalign, in[1] + misalign, 4096) == 0);
        CHECK(memcmp(out[2] + misalign, in[2] + misalign, 4096) == 0);
    } else {
        CHECK(options.direct && e.code == ERR_UNSUPPORTED);
    }
    drop_image(&image);
}

static void raw_reads_back_what_was_written(void)
{
    round_trip((struct block_options){0}, 0);
}

static void raw_direct_bounces_buffers_that_are_not_aligned(void)
{
    round_trip((struct block_options){.direct = true}, 0);
    round_trip((struct block_options){.direct = true}, 24);
}

static void raw_zeroes_and_discards_read_as_zero(void)
{
    static char data[65536], back[65536], zero[65536];
    struct iovec iov = {data, sizeof data}, to = {back, sizeof back};
    struct image image;

    memset(data, 0x5a, sizeof data);
    make_image(&image, IMAGE_BYTES);
    CHECK(open_image(&image, (struct block_options){0}, NULL) == OK);
    CHECK(image.block->limits.discard && image.block->limits.write_zeroes);
    CHECK(request(&image, BLOCK_WRITE, 0, sizeof data, &iov, 1) == OK);
    CHECK(request(&image, BLOCK_WRITE_ZEROES, 512, 32768, NULL, 0) == OK);
    CHECK(request(&image, BLOCK_DISCARD, 49152, 4096, NULL, 0) == OK);
    CHECK(request(&image, BLOCK_READ, 0, sizeof back, &to, 1) == OK);
    CHECK(memcmp(back, data, 512) == 0);
    CHECK(memcmp(back + 512, zero, 32768) == 0);
    CHECK(memcmp(back + 33280, data, 512) == 0);
    drop_image(&image);
}

static void raw_fails_requests_outside_the_image(void)
{
    char data[512];
    struct iovec iov = {data, sizeof data};
    struct image image;

    make_image(&image, IMAGE_BYTES);
    CHECK(open_image(&image, (struct block_options){0}, NULL) == OK);
    CHECK_EQ(image.block->limits.size_bytes, IMAGE_BYTES);
    CHECK(request(&image, BLOCK_READ, IMAGE_BYTES, 512, &iov, 1) == ERR_IO);
    CHECK(request(&image, BLOCK_WRITE, UINT64_MAX - 100, 512, &iov, 1) == ERR_IO);
    CHECK(truncate(image.path, 4096) == 0);
    CHECK(request(&image, BLOCK_READ, 8192, 512, &iov, 1) == ERR_IO);
    drop_image(&image);
}

static void raw_images_may_be_as_large_as_files(void)
{
    const uint64_t end = INT64_MAX - 511;
    char data[512] = "last";
    struct iovec iov = {data, sizeof data};
    struct image image;
    int fd = memfd_create("disk", MFD_CLOEXEC); // other file systems end sooner

    CHECK(fd >= 0 && ftruncate(fd, (off_t)end) == 0);
    image = (struct image){0};
    snprintf(image.path, sizeof image.path, "/proc/self/fd/%d", fd);
    CHECK(open_image(&image, (struct block_options){0}, NULL) == OK);
    CHECK_EQ(image.block->limits.size_bytes, end);
    CHECK(request(&image, BLOCK_READ, end - 512, 512, &iov, 1) == OK);
    CHECK(data[0] == 0);
    CHECK(request(&image, BLOCK_READ, end, 512, &iov, 1) == ERR_IO);
    CHECK(request(&image, BLOCK_WRITE, end - 256, 512, &iov, 1) == ERR_IO);
    block_close(image.block);
    close(fd);
}

static void raw_read_only_refuses_writes(void)
{
    char data[512] = {0};
    struct iovec iov = {data, sizeof data};
    struct image image;

    make_image(&image, IMAGE_BYTES);
    CHECK(chmod(image.path, 0444) == 0);
    CHECK(open_image(&image, (struct block_options){.read_only = true}, NULL) == OK);
    CHECK(image.block->limits.read_only && !image.block->limits.discard);
    CHECK(request(&image, BLOCK_WRITE, 0, 512, &iov, 1) == ERR_IO);
    CHECK(request(&image, BLOCK_READ, 0, 512, &iov, 1) == OK);
    drop_image(&image);
}

static void raw_image_has_one_writer_or_many_readers(void)
{
    struct image image, second;
    struct error e;

    make_image(&image, IMAGE_BYTES);
    second = image;
    CHECK(open_image(&image, (struct block_options){0}, NULL) == OK);
    CHECK(open_image(&second, (struct block_options){0}, &e) == ERR_BUSY);
    CHECK(open_image(&second, (struct block_options){.read_only = true}, &e) == ERR_BUSY);
    image.block->type->close(image.block);
    image.block = NULL;
    CHECK(open_image(&image, (struct block_options){.read_only = true}, NULL) == OK);
    CHECK(open_image(&second, (struct block_options){.read_only = true}, NULL) == OK);
    second.block->type->close(second.block);
    drop_image(&image);
}

static void raw_refuses_odd_sizes_and_odd_files_with_words(void)
{
    struct image image;
    struct error e;

    make_image(&image, 1000);
    CHECK(open_image(&image, (struct block_options){0}, &e) == ERR_INVALID);
    CHECK(strstr(e.text, "truncate -s %512") != NULL);
    drop_image(&image);
    make_image(&image, 0);
    CHECK(open_image(&image, (struct block_options){0}, &e) == ERR_INVALID);
    drop_image(&image);
    strcpy(image.path, "/tmp");
    CHECK(open_image(&image, (struct block_options){.read_only = true}, &e) == ERR_INVALID);
    strcpy(image.path, "/nonexistent/disk");
    CHECK(open_image(&image, (struct block_options){0}, &e) == ERR_NOT_FOUND);
}

static void raw_that_was_guessed_cannot_become_another_format(void)
{
    static char sector[512] = "QFI\xfb\0\0\0\3", none[512];
    struct iovec iov = {sector, sizeof sector}, split[] = {{sector, 3}, {sector + 3, 509}};
    struct image image;

    make_image(&image, IMAGE_BYTES);
    CHECK(open_image(&image, (struct block_options){0}, NULL) == OK);
    CHECK(request(&image, BLOCK_WRITE, 0, 512, &iov, 1) == ERR_DENIED);
    CHECK(request(&image, BLOCK_WRITE, 0, 512, split, 2) == ERR_DENIED);
    CHECK(request(&image, BLOCK_WRITE, 512, 512, &iov, 1) == OK);
    iov.iov_base = none;
    CHECK(request(&image, BLOCK_WRITE, 0, 512, &iov, 1) == OK);
    iov.iov_base = sector;
    block_close(image.block);
    CHECK(open_image(&image, (struct block_options){.format = "raw"}, NULL) == OK);
    CHECK(request(&image, BLOCK_WRITE, 0, 512, &iov, 1) == OK);
    drop_image(&image);
}

static unsigned completed;

static void count(struct block_request *r, err_t result)
{
    __atomic_fetch_add(&completed, result == OK, __ATOMIC_RELAXED);
}

static void raw_drain_waits_for_all_requests(void)
{
    static char data[64][512];
    struct block_request requests[64];
    struct iovec iov[64];
    struct image image;

    completed = 0;
    make_image(&image, IMAGE_BYTES);
    CHECK(open_image(&image, (struct block_options){0}, NULL) == OK);
    for (unsigned i = 0; i < 64; i++) {
        iov[i] = (struct iovec){data[i], 512};
        requests[i] = (struct block_request){.op = i & 1 ? BLOCK_WRITE : BLOCK_READ,
                                             .offset = i * 512ull,
                                             .len = 512,
                                             .iov = &iov[i],
                                             .iovs = 1,
                                             .done = count};
        image.block->type->submit(image.block, &requests[i]);
    }
    image.block->type->drain(image.block);
    CHECK_EQ(completed, 64);
    drop_image(&image);
}

TEST_MAIN(TEST(raw_reads_back_what_was_written),
          TEST(raw_direct_bounces_buffers_that_are_not_aligned),
          TEST(raw_zeroes_and_discards_read_as_zero), TEST(raw_fails_requests_outside_the_image),
          TEST(raw_images_may_be_as_large_as_files), TEST(raw_read_only_refuses_writes),
          TEST(raw_image_has_one_writer_or_many_readers),
          TEST(raw_refuses_odd_sizes_and_odd_files_with_words),
          TEST(raw_that_was_guessed_cannot_become_another_format),
          TEST(raw_drain_waits_for_all_requests))
