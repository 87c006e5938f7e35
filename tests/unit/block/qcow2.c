// qcow2 images: what is read back, what shows through, what is refused, what is repaired.
#include "block/qcow2.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/log.h"
#include "block/chain.h"
#include "block/copy.h"
#include "block/sync.h"
#include "test.h"

#define DISK_BYTES (1 * MIB)
#define CLUSTER (64 * KIB)

static char folder[] = "/tmp/berth-qcow2-XXXXXX";
static uint8_t data[DISK_BYTES], back[DISK_BYTES];

static const char *path_of(const char *name)
{
    static char paths[4][64];
    static unsigned next;
    char *path = paths[next++ % ARRAY_LEN(paths)];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void make_file(const char *name, uint64_t bytes, int fill)
{
    int fd = open(path_of(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    memset(back, fill, sizeof back);
    CHECK(!fill || pwrite(fd, back, bytes, 0) == (ssize_t)bytes);
    close(fd);
}

static void make(const char *name, struct qcow2_create create)
{
    struct error e = {0};

    make_file(name, 0, 0);
    create.size_bytes = create.size_bytes ? create.size_bytes : DISK_BYTES;
    CHECK(qcow2_create(path_of(name), &create, &e) == OK);
    CHECK_STR(e.text, "");
}

// NULL, and the words in e, when it is refused.
static struct block *open_with(const char *name, struct block_options options, struct error *e)
{
    struct block *block = NULL;

    *e = (struct error){0};
    return block_open(path_of(name), &options, &block, e) == OK ? block : NULL;
}

static struct block *open_disk(const char *name)
{
    struct error e;
    struct block *block = open_with(name, (struct block_options){0}, &e);

    CHECK_STR(e.text, "");
    return block;
}

static void poke(const char *name, uint64_t at, uint64_t value, unsigned bytes)
{
    uint8_t out[8];
    int fd = open(path_of(name), O_RDWR | O_CLOEXEC);

    store_be64(out, value << (64 - 8 * bytes));
    CHECK(pwrite(fd, out, bytes, (off_t)at) == (ssize_t)bytes);
    close(fd);
}

static uint64_t peek(const char *name, uint64_t at)
{
    uint8_t in[8];
    int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);

    CHECK(pread(fd, in, sizeof in, (off_t)at) == sizeof in);
    close(fd);
    return load_be64(in);
}

static void write_fill(struct block *block, uint64_t offset, uint64_t len, int fill)
{
    memset(data, fill, len);
    CHECK_EQ(block_write(block, offset, data, len, NULL), OK);
}

// Whether all of a range has one value.
static bool reads(struct block *block, uint64_t offset, uint64_t len, int fill)
{
    memset(data, fill, len);
    return block_read(block, offset, back, len, NULL) == OK && !memcmp(data, back, len);
}

static uint64_t errors_in(const char *name, enum qcow2_repair how)
{
    struct qcow2_check check = {0};
    struct error e;
    struct block *block = open_with(
        name, (struct block_options){.repair = true, .read_only = !how, .no_backing = true}, &e);

    CHECK(block && qcow2_check(qcow2_of(block), how, &check, &e) == OK);
    block_close(block);
    return check.errors + check.leaks;
}

// --- reading and writing

static void round_trip(struct qcow2_create create)
{
    make("disk", create);
    struct block *block = open_disk("disk");
    write_fill(block, 512, 70000 / 512 * 512, 'a');
    write_fill(block, 300 * KIB, 4 * KIB, 'b');
    CHECK_EQ(block_request(block, BLOCK_WRITE_ZEROES, 20 * KIB, 3 * KIB, NULL), OK);
    block_close(block);
    block = open_disk("disk");
    CHECK(reads(block, 0, 512, 0));
    CHECK(reads(block, 512, 20 * KIB - 512, 'a'));
    CHECK(reads(block, 20 * KIB, 3 * KIB, 0));
    CHECK(reads(block, 23 * KIB, 44 * KIB, 'a'));
    CHECK(reads(block, 300 * KIB, 4 * KIB, 'b'));
    CHECK(reads(block, 304 * KIB, DISK_BYTES - 304 * KIB, 0));
    block_close(block);
    CHECK_EQ(errors_in("disk", QCOW2_REPAIR_NONE), 0);
}

static void qcow2_reads_back_what_was_written(void)
{
    round_trip((struct qcow2_create){0});
    round_trip((struct qcow2_create){.version = 2, .cluster_bytes = 512});
    round_trip((struct qcow2_create){.cluster_bytes = 2 * MIB, .refcount_bits = 1});
    round_trip((struct qcow2_create){.cluster_bytes = 16 * KIB, .extended_l2 = true});
    round_trip((struct qcow2_create){.cluster_bytes = 4 * KIB, .lazy_refcounts = true});
}

static void qcow2_writes_past_the_end_fail_and_change_nothing(void)
{
    make("disk", (struct qcow2_create){0});
    struct block *block = open_disk("disk");
    CHECK_EQ(block_write(block, DISK_BYTES - 512, data, 1024, NULL), ERR_IO);
    CHECK_EQ(block_write(block, UINT64_MAX - 511, data, 512, NULL), ERR_IO);
    CHECK(reads(block, DISK_BYTES - 512, 512, 0));
    block_close(block);
}

struct counted {
    struct block_request io;
    struct iovec iov;
    unsigned done; // how often
};

static void count_done(struct block_request *io, err_t result)
{
    struct counted *c = container_of(io, struct counted, io);

    __atomic_fetch_add(&c->done, result == OK ? 1 : 100, __ATOMIC_RELAXED);
}

static void submit_counted(struct block *block, struct counted *c, enum block_op op, uint64_t at)
{
    c->iov = (struct iovec){data + at, op == BLOCK_WRITE ? 512 : 0};
    c->io = (struct block_request){.op = op,
                                   .offset = op == BLOCK_WRITE ? at : 0,
                                   .len = c->iov.iov_len,
                                   .iov = &c->iov,
                                   .iovs = 1,
                                   .done = count_done};
    block->type->submit(block, &c->io);
}

static void qcow2_answers_each_request_once_whatever_waits_beside_it(void)
{
    make("disk", (struct qcow2_create){.cluster_bytes = 512});
    struct block *block = open_disk("disk");
    struct counted c[64] = {0};
    for (unsigned i = 0; i < DISK_BYTES; i++)
        data[i] = (uint8_t)(i / 512 + 1);
    for (unsigned round = 0; round < 15; round++) {
        memset(c, 0, sizeof c);
        for (unsigned i = 0; i < ARRAY_LEN(c); i++) // of new clusters, so that all go to the queue
            submit_counted(block, &c[i], i % 5 == 1 ? BLOCK_FLUSH : BLOCK_WRITE,
                           (round * ARRAY_LEN(c) + i) * 1024);
        block->type->drain(block);
        for (unsigned i = 0; i < ARRAY_LEN(c); i++)
            CHECK_EQ(c[i].done, 1);
    }
    memcpy(back, data, sizeof back);
    for (unsigned i = 0; i < 64; i++) {
        CHECK(block_read(block, i * 1024, data, 512, NULL) == OK);
        CHECK(i % 5 == 1 || !memcmp(data, back + i * 1024, 512));
    }
    block_close(block);
    CHECK_EQ(errors_in("disk", QCOW2_REPAIR_NONE), 0);
}

static void qcow2_unpacks_zlib_and_zstd(void)
{
    for (int zstd = 0; zstd < 2; zstd++) {
        make("disk", (struct qcow2_create){.zstd = zstd});
        struct block *block = open_disk("disk");
        struct block_extent extent;
        for (unsigned i = 0; i < CLUSTER; i++)
            data[i] = (uint8_t)(i / 100);
        CHECK_EQ(qcow2_write_compressed(qcow2_of(block), CLUSTER, data, NULL), OK);
        CHECK_EQ(block_read(block, CLUSTER, back, CLUSTER, NULL), OK);
        CHECK(!memcmp(data, back, CLUSTER));
        CHECK_EQ(block_map(block, CLUSTER, CLUSTER, &extent, NULL), OK);
        CHECK(extent.compressed && extent.len == CLUSTER);
        // A write into it gives it a place of its own.
        write_fill(block, CLUSTER + 4096, 512, 'x');
        CHECK_EQ(block_read(block, CLUSTER, back, 512, NULL), OK);
        CHECK(back[0] == 0 && back[511] == 5);
        CHECK(reads(block, CLUSTER + 4096, 512, 'x'));
        block_close(block);
        CHECK_EQ(errors_in("disk", QCOW2_REPAIR_NONE), 0);
    }
}

// --- backing files

static void qcow2_shows_its_backing_file_where_it_has_nothing(void)
{
    CHECK(mkdir(path_of("sub"), 0700) == 0);
    make_file("sub/base", DISK_BYTES / 2, 'b');
    // The name is relative to the overlay's folder, not to the process's.
    make("sub/over", (struct qcow2_create){.backing = "base", .backing_format = "raw"});
    struct block *block = open_disk("sub/over");
    CHECK(reads(block, 0, DISK_BYTES / 2, 'b'));
    CHECK(reads(block, DISK_BYTES / 2, DISK_BYTES / 2, 0));
    write_fill(block, 4096, 512, 'o');
    CHECK(reads(block, 0, 4096, 'b'));
    CHECK(reads(block, 4096, 512, 'o'));
    CHECK(reads(block, 4608, CLUSTER - 4608, 'b'));
    CHECK_EQ(block_request(block, BLOCK_DISCARD, 0, 2 * CLUSTER, NULL), OK);
    CHECK(!reads(block, 0, 512, 'o'));
    CHECK_EQ(block_request(block, BLOCK_WRITE_ZEROES, 0, 2 * CLUSTER, NULL), OK);
    CHECK(reads(block, 0, 2 * CLUSTER, 0));
    block_close(block);
    CHECK_EQ(errors_in("sub/over", QCOW2_REPAIR_NONE), 0);
}

static void qcow2_keeps_others_from_writing_its_backing_file(void)
{
    struct error e;

    make("base", (struct qcow2_create){0});
    make("over", (struct qcow2_create){.backing = "base", .backing_format = "qcow2"});
    make("over2", (struct qcow2_create){.backing = "base", .backing_format = "qcow2"});
    struct block *one = open_disk("over"), *two = open_disk("over2");
    CHECK(one && two); // readers share it
    CHECK(!open_with("base", (struct block_options){0}, &e) && e.code == ERR_BUSY);
    CHECK(!open_with("over", (struct block_options){0}, &e) && e.code == ERR_BUSY);
    CHECK(!open_with("over", (struct block_options){.read_only = true}, &e));
    block_close(one);
    block_close(two);
    struct block *base = open_disk("base");
    CHECK(!open_with("over", (struct block_options){.read_only = true}, &e) && e.code == ERR_BUSY);
    CHECK(strstr(e.text, "its backing file"));
    block_close(base);
}

static void qcow2_refuses_circles_of_backing_files(void)
{
    struct error e;

    make("a", (struct qcow2_create){.backing = "b", .backing_format = "qcow2"});
    make("b", (struct qcow2_create){.backing = "a", .backing_format = "qcow2"});
    make("c", (struct qcow2_create){.backing = "c"});
    CHECK(!open_with("a", (struct block_options){.read_only = true}, &e));
    CHECK(strstr(e.text, "in a circle"));
    CHECK(!open_with("c", (struct block_options){0}, &e));
    CHECK(strstr(e.text, "circle") || e.code == ERR_BUSY);
}

static void qcow2_refuses_chains_without_end(void)
{
    char name[16] = "", above[16];
    struct error e;

    for (unsigned i = 0; i <= CHAIN_DEPTH_MAX; i++) {
        strcpy(above, name);
        snprintf(name, sizeof name, "chain%u", i);
        make(name, (struct qcow2_create){.cluster_bytes = 512,
                                         .size_bytes = 512,
                                         .backing = i ? above : NULL,
                                         .backing_format = i ? "qcow2" : NULL});
    }
    CHECK(!open_with(name, (struct block_options){.read_only = true}, &e));
    CHECK_EQ(e.code, ERR_CORRUPT);
    CHECK(strstr(e.text, "its backing file: "));
    struct block *block = open_with(above, (struct block_options){.read_only = true}, &e);
    CHECK(block && reads(block, 0, 512, 0));
    block_close(block);
}

static void qcow2_snapshot_mode_changes_no_file(void)
{
    struct error e;

    make_file("base", DISK_BYTES, 'b');
    struct block *block =
        open_with("base", (struct block_options){.format = "raw", .snapshot = true}, &e);
    CHECK_STR(e.text, "");
    write_fill(block, 0, 3 * CLUSTER, 'w');
    CHECK_EQ(block_request(block, BLOCK_FLUSH, 0, 0, NULL), OK);
    CHECK(reads(block, 0, 3 * CLUSTER, 'w') && reads(block, 3 * CLUSTER, CLUSTER, 'b'));
    block_close(block);
    block = open_with("base", (struct block_options){.format = "raw"}, &e);
    CHECK(reads(block, 0, DISK_BYTES, 'b'));
    block_close(block);
}

// --- snapshots, size, copies

static void qcow2_snapshots_keep_their_content(void)
{
    make("disk", (struct qcow2_create){.cluster_bytes = 4096});
    struct block *block = open_disk("disk");
    struct qcow2 *q = qcow2_of(block);
    struct error e;
    write_fill(block, 0, 100 * KIB, '1');
    CHECK_EQ(qcow2_snapshot_create(q, "one", &e), OK);
    write_fill(block, 50 * KIB, 100 * KIB, '2');
    CHECK_EQ(qcow2_snapshot_create(q, "two", &e), OK);
    CHECK_EQ(qcow2_snapshot_create(q, "two", &e), ERR_EXISTS);
    write_fill(block, 0, 200 * KIB, '3');
    CHECK_EQ(qcow2_snapshot_apply(q, "one", &e), OK);
    CHECK(reads(block, 0, 100 * KIB, '1') && reads(block, 100 * KIB, 100 * KIB, 0));
    CHECK_EQ(qcow2_snapshot_delete(q, "one", &e), OK);
    CHECK_EQ(qcow2_snapshot_apply(q, "one", &e), ERR_NOT_FOUND);
    CHECK_EQ(qcow2_snapshot_apply(q, "2", &e), OK); // by its id
    CHECK(reads(block, 0, 50 * KIB, '1') && reads(block, 50 * KIB, 100 * KIB, '2'));
    CHECK_EQ(qcow2_snapshot_delete(q, "two", &e), OK);
    block_close(block);
    CHECK_EQ(errors_in("disk", QCOW2_REPAIR_NONE), 0);
}

static void qcow2_growth_after_a_cut_reads_as_zeros(void)
{
    make("disk", (struct qcow2_create){.cluster_bytes = 512});
    struct block *block = open_disk("disk");
    write_fill(block, 0, DISK_BYTES, 'x');
    CHECK_EQ(qcow2_resize(qcow2_of(block), 100 * KIB, false, NULL), ERR_INVALID);
    CHECK_EQ(qcow2_resize(qcow2_of(block), 100 * KIB, true, NULL), OK);
    CHECK_EQ(block_write(block, 100 * KIB, data, 512, NULL), ERR_IO);
    CHECK_EQ(qcow2_resize(qcow2_of(block), 64 * MIB, false, NULL), OK);
    CHECK(reads(block, 0, 100 * KIB, 'x') && reads(block, 100 * KIB, 800 * KIB, 0));
    write_fill(block, 64 * MIB - 512, 512, 'y');
    block_close(block);
    CHECK_EQ(errors_in("disk", QCOW2_REPAIR_NONE), 0);
}

static void qcow2_copies_leave_out_zeros(void)
{
    struct block_extent extent;
    struct error e;

    make_file("raw", DISK_BYTES, 0);
    struct block *from = open_with("raw", (struct block_options){.format = "raw"}, &e);
    write_fill(from, CLUSTER, CLUSTER, 'x');
    write_fill(from, 4 * CLUSTER, CLUSTER, 0);
    make("copy", (struct qcow2_create){0});
    struct block *to = open_disk("copy");
    const struct block_copy copy = {
        .from = from, .to = to, .target_is_zero = true, .depth = UINT32_MAX};
    CHECK_EQ(block_copy(&copy, &e), OK);
    CHECK(reads(to, CLUSTER, CLUSTER, 'x'));
    CHECK_EQ(block_map(to, 2 * CLUSTER, DISK_BYTES - 2 * CLUSTER, &extent, &e), OK);
    CHECK(!extent.allocated && extent.len == DISK_BYTES - 2 * CLUSTER);
    block_close(from);
    block_close(to);
}

static void qcow2_rebase_keeps_the_content(void)
{
    struct error e;

    make_file("old", DISK_BYTES, 'o');
    make_file("new", DISK_BYTES / 2, 'o');
    poke("new", 5 * CLUSTER, 0x4e4e4e4e4e4e4e4e, 8);
    make("over", (struct qcow2_create){.backing = "old", .backing_format = "raw"});
    struct block *block = open_disk("over");
    struct block *base =
        open_with("new", (struct block_options){.format = "raw", .read_only = true}, &e);
    write_fill(block, CLUSTER, 512, 'w');
    CHECK_EQ(block_rebase(block, base, NULL, NULL, &e), OK);
    CHECK_EQ(qcow2_set_backing(qcow2_of(block), "new", "raw", &e), OK);
    block_close(base);
    block_close(block);
    block = open_disk("over");
    CHECK(reads(block, 0, CLUSTER, 'o') && reads(block, CLUSTER, 512, 'w'));
    CHECK(reads(block, 2 * CLUSTER, DISK_BYTES - 2 * CLUSTER, 'o'));
    struct block_extent extent;
    CHECK(block_map(block, 0, CLUSTER, &extent, &e) == OK && extent.depth == 1);
    CHECK(block_map(block, 5 * CLUSTER, CLUSTER, &extent, &e) == OK && extent.depth == 0);
    block_close(block);
}

// --- what is refused

static void refuses(uint64_t at, uint64_t value, unsigned bytes, err_t code, const char *words)
{
    struct error e;

    make("bad", (struct qcow2_create){0});
    poke("bad", at, value, bytes);
    struct block *block = open_with("bad", (struct block_options){.format = "qcow2"}, &e);
    CHECK(!block);
    CHECK_EQ(e.code, code);
    if (!strstr(e.text, words))
        CHECK_STR(e.text, words);
    block_close(block);
}

static void qcow2_refuses_headers_that_cannot_be_with_words(void)
{
    refuses(4, 9, 4, ERR_UNSUPPORTED, "version 9");
    refuses(20, 63, 4, ERR_CORRUPT, "2^63");
    refuses(24, INT64_MAX, 8, ERR_CORRUPT, "larger than any file");
    refuses(24, UINT64_MAX, 8, ERR_CORRUPT, "larger than any file");
    refuses(24, 1ull << 50, 8, ERR_CORRUPT, "L1 table is smaller");
    refuses(36, UINT32_MAX, 4, ERR_CORRUPT, "L1 table is larger");
    refuses(40, 1, 8, ERR_CORRUPT, "L1 table");
    refuses(40, 1ull << 40, 8, ERR_CORRUPT, "beyond the end of the file");
    refuses(40, UINT64_MAX << 16, 8, ERR_CORRUPT, "L1 table");
    refuses(48, 0, 8, ERR_CORRUPT, "refcount table");
    refuses(56, UINT32_MAX, 4, ERR_CORRUPT, "refcount table");
    refuses(60, UINT32_MAX, 4, ERR_CORRUPT, "snapshot table");
    refuses(96, 7, 4, ERR_CORRUPT, "wider than 64 bits");
    refuses(100, 1 << 30, 4, ERR_CORRUPT, "header of");
    refuses(32, 1, 4, ERR_UNSUPPORTED, "AES");
    refuses(8, 1ull << 62 | 1, 8, ERR_CORRUPT, "backing file's name");
}

static void qcow2_refuses_unknown_features_by_their_names(void)
{
    refuses(72, 4, 8, ERR_UNSUPPORTED, "external data file");
    refuses(72, 1ull << 60, 8, ERR_UNSUPPORTED, "bit 60");
    // The image's own table of names: make bit 1's row speak for bit 17.
    struct error e;
    make("bad", (struct qcow2_create){0});
    for (uint64_t at = 112; at < 1024; at += 2) {
        if (peek("bad", at) >> 48 == 0x0001) {
            poke("bad", at, 0x0011, 2);
            poke("bad", at + 2, 0x77617270ull << 32, 8); // "warp"
            break;
        }
    }
    poke("bad", 72, 1ull << 17, 8);
    CHECK(!open_with("bad", (struct block_options){0}, &e));
    if (!strstr(e.text, "warp (bit 17)"))
        CHECK_STR(e.text, "warp (bit 17)");
}

// --- damage

static void be_silent(enum log_level level, const char *line)
{
}

static void qcow2_stops_writing_an_image_that_contradicts_itself(void)
{
    struct error e;

    make("bad", (struct qcow2_create){0});
    struct block *block = open_disk("bad");
    write_fill(block, 0, CLUSTER, 'x');
    block_close(block);
    uint64_t l2 = peek("bad", peek("bad", 40)) & BITS(55, 9);
    poke("bad", l2 + 8, BIT(63) | peek("bad", 40), 8); // cluster 1 of the disk is the L1 table
    block = open_disk("bad");
    CHECK_EQ(block_write(block, CLUSTER, data, 512, NULL), ERR_IO);
    CHECK_EQ(block_write(block, 0, data, 512, NULL), ERR_IO);
    CHECK(reads(block, 0, 512, 'x'));
    block_close(block);
    CHECK(peek("bad", 72) & 2); // the corrupt bit
    CHECK(!open_with("bad", (struct block_options){0}, &e));
    CHECK(e.code == ERR_CORRUPT && strstr(e.text, "berth disk check"));
    block = open_with("bad", (struct block_options){.read_only = true}, &e);
    CHECK(block && reads(block, 0, 512, 'x'));
    block_close(block);
}

static void qcow2_follows_no_table_out_of_the_file(void)
{
    static const uint64_t outside[] = {1ull << 40, BITS(55, 16), 64 * CLUSTER};
    struct error e;

    for (unsigned i = 0; i < ARRAY_LEN(outside); i++) {
        make("bad", (struct qcow2_create){0});
        struct block *block = open_disk("bad");
        write_fill(block, 0, CLUSTER, 'x');
        block_close(block);
        uint64_t l1 = peek("bad", 40), counts = peek("bad", 48);
        poke("bad", l1, BIT(63) | outside[i], 8);
        block = open_disk("bad");
        CHECK_EQ(block_read(block, 0, back, 512, &e), ERR_IO);
        CHECK(strstr(e.text, "a read at byte 0 failed"));
        block_close(block);
        CHECK(errors_in("bad", QCOW2_REPAIR_NONE) > 0);
        poke("bad", counts, outside[i], 8); // the block of reference counts
        block = open_with("bad", (struct block_options){0}, &e);
        CHECK(!block || block_write(block, 8 * CLUSTER, data, 512, &e) == ERR_IO);
        CHECK(e.text[0]);
        block_close(block);
        struct stat st;
        CHECK(stat(path_of("bad"), &st) == 0 && (uint64_t)st.st_size < 64 * CLUSTER);
    }
}

static void qcow2_grows_to_what_its_tables_hold(void)
{
    struct error e = {0};

    make("disk", (struct qcow2_create){.cluster_bytes = 512});
    struct block *block = open_disk("disk");
    CHECK_EQ(qcow2_resize(qcow2_of(block), INT64_MAX - 511, false, &e), ERR_INVALID);
    CHECK(strstr(e.text, "needs larger clusters than 512 bytes"));
    CHECK_EQ(qcow2_resize(qcow2_of(block), UINT64_MAX - 511, false, &e), ERR_INVALID);
    CHECK_EQ(block->limits.size_bytes, DISK_BYTES);
    block_close(block);
    make("disk", (struct qcow2_create){.cluster_bytes = 2 * MIB});
    block = open_disk("disk");
    CHECK_EQ(qcow2_resize(qcow2_of(block), INT64_MAX - 511, false, &e), ERR_INVALID);
    CHECK(strstr(e.text, "more than a qcow2 image holds"));
    block_close(block);
}

static void qcow2_repairs_counts_when_a_dirty_image_is_opened(void)
{
    make("disk", (struct qcow2_create){.lazy_refcounts = true});
    struct block *block = open_disk("disk");
    write_fill(block, 0, 4 * CLUSTER, 'x');
    block_close(block);
    uint64_t counts = peek("disk", peek("disk", 48));
    poke("disk", counts + 8, 0, 8);
    poke("disk", 72, 1, 8);
    CHECK(errors_in("disk", QCOW2_REPAIR_NONE) > 0);
    block = open_disk("disk");
    CHECK(reads(block, 0, 4 * CLUSTER, 'x'));
    block_close(block);
    CHECK_EQ(errors_in("disk", QCOW2_REPAIR_NONE), 0);
    CHECK_EQ(peek("disk", 72) & 1, 0);
}

static void qcow2_check_builds_lost_counts_anew(void)
{
    make("disk", (struct qcow2_create){.cluster_bytes = 512});
    struct block *block = open_disk("disk");
    write_fill(block, 0, 300 * KIB, 'x');
    block_close(block);
    poke("disk", peek("disk", 48), 0, 8);
    CHECK(errors_in("disk", QCOW2_REPAIR_NONE) > 0);
    CHECK(errors_in("disk", QCOW2_REPAIR_ALL) > 0);
    CHECK_EQ(errors_in("disk", QCOW2_REPAIR_NONE), 0);
    block = open_disk("disk");
    CHECK(reads(block, 0, 300 * KIB, 'x'));
    block_close(block);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(qcow2_reads_back_what_was_written),
        TEST(qcow2_writes_past_the_end_fail_and_change_nothing),
        TEST(qcow2_answers_each_request_once_whatever_waits_beside_it),
        TEST(qcow2_unpacks_zlib_and_zstd),
        TEST(qcow2_shows_its_backing_file_where_it_has_nothing),
        TEST(qcow2_keeps_others_from_writing_its_backing_file),
        TEST(qcow2_refuses_circles_of_backing_files),
        TEST(qcow2_refuses_chains_without_end),
        TEST(qcow2_snapshot_mode_changes_no_file),
        TEST(qcow2_snapshots_keep_their_content),
        TEST(qcow2_growth_after_a_cut_reads_as_zeros),
        TEST(qcow2_copies_leave_out_zeros),
        TEST(qcow2_rebase_keeps_the_content),
        TEST(qcow2_refuses_headers_that_cannot_be_with_words),
        TEST(qcow2_refuses_unknown_features_by_their_names),
        TEST(qcow2_stops_writing_an_image_that_contradicts_itself),
        TEST(qcow2_follows_no_table_out_of_the_file),
        TEST(qcow2_grows_to_what_its_tables_hold),
        TEST(qcow2_repairs_counts_when_a_dirty_image_is_opened),
        TEST(qcow2_check_builds_lost_counts_anew),
    };
    char command[64];

    if (!mkdtemp(folder))
        return 1;
    log_to(be_silent, LOG_ERROR);
    int status = test_main(tests, ARRAY_LEN(tests));
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) || status;
}
