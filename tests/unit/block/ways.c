// The ways in which an image's requests reach the host: io_uring, threads, and at once.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/block.h"
#include "block/sync.h"
#include "host/uring.h"
#include "test.h"

#define IMAGE_BYTES (4 * MIB)
#define REQUESTS 1000 // more than any ring holds
#define BLOCK_BYTES 4096

static bool uring_here(void)
{
    struct error e;

    return uring_probe(&e) == OK;
}

static struct block *open_new(char path[64], struct block_options options)
{
    struct block *block = NULL;
    struct error e;
    int fd;

    strcpy(path, "/var/tmp/berth-ways-XXXXXX"); // on a disk: /tmp may have no direct I/O
    fd = mkstemp(path);
    CHECK(fd >= 0 && ftruncate(fd, IMAGE_BYTES) == 0);
    close(fd);
    options.format = "raw";
    if (block_open(path, &options, &block, &e) != OK)
        CHECK(options.direct && e.code == ERR_UNSUPPORTED);
    return block;
}

static void drop(struct block *block, const char *path)
{
    block_close(block);
    unlink(path);
}

struct many {
    struct block_request io[REQUESTS];
    struct iovec iov[REQUESTS][3];
    uint8_t *data;
    unsigned good, bad;
};

static void count(struct block_request *r, err_t result)
{
    struct many *m = r->opaque;

    __atomic_fetch_add(result == OK ? &m->good : &m->bad, 1, __ATOMIC_RELAXED);
}

// Every request goes to a block of its own, in three buffers of which the first is not all its own.
static void send_all(struct block *block, struct many *m, enum block_op op)
{
    for (unsigned i = 0; i < REQUESTS; i++) {
        uint8_t *at = m->data + (size_t)i * BLOCK_BYTES;
        m->iov[i][0] = (struct iovec){at - 512, 1024};
        m->iov[i][1] = (struct iovec){at + 512, 1536};
        m->iov[i][2] = (struct iovec){at + 2048, 4096};
        m->io[i] = (struct block_request){.op = op,
                                          .offset = (uint64_t)i * 7 % REQUESTS * BLOCK_BYTES,
                                          .len = BLOCK_BYTES,
                                          .iov = m->iov[i],
                                          .iovs = 3,
                                          .skip = 512,
                                          .done = count,
                                          .opaque = m};
        block->type->submit(block, &m->io[i]);
    }
    block->type->drain(block);
}

static void many_at_once(struct block_options options)
{
    size_t bytes = (REQUESTS + 2) * (size_t)BLOCK_BYTES;
    struct many *m = calloc(1, sizeof *m);
    uint8_t *memory = aligned_alloc(BLOCK_BYTES, bytes);
    char path[64];
    struct block *block = open_new(path, options);

    m->data = memory + BLOCK_BYTES;
    if (block) {
        for (unsigned i = 0; i < REQUESTS; i++)
            memset(m->data + (size_t)i * BLOCK_BYTES, (int)(i % 251), BLOCK_BYTES);
        send_all(block, m, BLOCK_WRITE);
        CHECK_EQ(m->good, REQUESTS);
        memset(memory, 0xee, bytes);
        send_all(block, m, BLOCK_READ);
        CHECK_EQ(m->good, 2 * REQUESTS);
        unsigned wrong = 0;
        for (size_t i = 0; i < REQUESTS * (size_t)BLOCK_BYTES; i++)
            wrong += m->data[i] != i / BLOCK_BYTES % 251;
        CHECK_EQ(wrong, 0);
        CHECK_EQ(memory[0], 0xee);
        CHECK(block_request(block, BLOCK_FLUSH, 0, 0, NULL) == OK);
    }
    drop(block, path);
    free(memory);
    free(m);
}

static void every_way_carries_more_requests_than_fit_in_a_ring(void)
{
    for (unsigned i = 0; i < 4; i++)
        many_at_once((struct block_options){.threads = i & 1, .direct = i & 2});
}

// As container run-times do.
static bool refuse_uring(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {ARRAY_LEN(rules), rules};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

// In a process of its own: whether a disk works, by threads.
static bool works_without_a_ring(void)
{
    char path[64], data[4096] = "text", back[4096];
    struct error e;

    if (!refuse_uring() || uring_probe(&e) != ERR_UNSUPPORTED)
        return false;
    struct block *block = open_new(path, (struct block_options){0});
    bool good =
        !strcmp(block->io, "threads") && block_write(block, 4096, data, sizeof data, &e) == OK &&
        block_read(block, 4096, back, sizeof back, &e) == OK && !memcmp(data, back, sizeof data);
    drop(block, path);
    return good;
}

static void threads_do_the_work_where_io_uring_is_refused(void)
{
    int status = 1;
    pid_t child = fork();

    if (child == 0)
        _exit(works_without_a_ring() ? 0 : 1);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void the_ring_is_used_where_the_host_has_one(void)
{
    char path[64];
    struct block *block = open_new(path, (struct block_options){0});

    CHECK(strcmp(block->io, uring_here() ? "io_uring" : "threads") == 0);
    drop(block, path);
    block = open_new(path, (struct block_options){.threads = true});
    CHECK(strcmp(block->io, "threads") == 0);
    drop(block, path);
}

// The file is cut behind the disk's back: what is not there is an error, on either way.
static void what_comes_back_short_is_an_error(void)
{
    for (unsigned i = 0; i < 2; i++) {
        static char data[8192];
        char path[64];
        struct error e;
        struct block *block = open_new(path, (struct block_options){.threads = i});
        CHECK(truncate(path, 4096) == 0);
        CHECK(block_read(block, 0, data, 4096, &e) == OK);
        CHECK(block_read(block, 0, data, 8192, &e) == ERR_IO);
        drop(block, path);
    }
}

static bool ask_at_once(struct block *block, enum block_op op, uint64_t len)
{
    static char data[64 * KIB];
    struct iovec iov = {data, sizeof data};
    err_t result = ERR_IO;

    data[0] = 0;
    bool answered = block_at_once(
        block,
        &(struct block_request){.op = op, .offset = 8192, .len = len, .iov = &iov, .iovs = 1},
        &result);
    return answered && result == OK && (op != BLOCK_READ || data[0] == 'x');
}

static void what_the_host_has_or_takes_in_memory_is_answered_at_once(void)
{
    char path[64], data[4096];
    struct error e;
    struct block *block = open_new(path, (struct block_options){0});

    memset(data, 'x', sizeof data);
    CHECK(block_write(block, 8192, data, sizeof data, &e) == OK);
    CHECK(ask_at_once(block, BLOCK_READ, 4096));
    CHECK(!ask_at_once(block, BLOCK_FLUSH, 0));
    // Unless this host is so slow that writes are left to the threads.
    if (ask_at_once(block, BLOCK_WRITE, 4096)) {
        CHECK(block_read(block, 8192, data, sizeof data, &e) == OK);
        CHECK_EQ(data[0], 0);
    }
    drop(block, path);
    block = open_new(path, (struct block_options){.direct = true});
    if (block) {
        CHECK(!ask_at_once(block, BLOCK_READ, 4096));
        CHECK(!ask_at_once(block, BLOCK_WRITE, 4096));
    }
    drop(block, path);
}

// Whoever gets hold of a ring can do with it what it is for, and nothing else.
static void a_ring_does_what_it_was_made_for_and_nothing_else(void)
{
    static const uint8_t ops[] = {IORING_OP_READV};
    struct uring_result result;
    struct uring u = {0};
    struct error e;
    uint64_t value = 0;
    struct iovec iov = {&value, sizeof value};
    int bell = eventfd(5, EFD_CLOEXEC);

    if (uring_open(&u, 4, &bell, 1, ops, 1, &e) != OK) {
        printf("# no io_uring: %s\n", e.text);
        close(bell);
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        struct io_uring_sqe *sqe = uring_next(&u, 0);
        sqe->opcode = i ? IORING_OP_WRITEV : IORING_OP_READV;
        sqe->addr = (uintptr_t)&iov;
        sqe->len = 1;
        sqe->user_data = i;
        CHECK_EQ(uring_enter(&u, true), 0);
        CHECK(uring_take(&u, &result));
        CHECK_EQ(result.user_data, i);
        CHECK_EQ(result.result, i ? -EACCES : (int)sizeof value);
    }
    CHECK_EQ(value, 5);
    CHECK(!uring_take(&u, &result));
    uring_close(&u);
    close(bell);
}

TEST_MAIN(TEST(every_way_carries_more_requests_than_fit_in_a_ring),
          TEST(the_ring_is_used_where_the_host_has_one),
          TEST(threads_do_the_work_where_io_uring_is_refused),
          TEST(what_comes_back_short_is_an_error),
          TEST(what_the_host_has_or_takes_in_memory_is_answered_at_once),
          TEST(a_ring_does_what_it_was_made_for_and_nothing_else))
