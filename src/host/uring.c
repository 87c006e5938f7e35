// See uring.h. The rings' indexes only grow; an entry is index & mask. What the kernel writes is
// read with acquire, what it reads is written with release.
#include "host/uring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEATURES (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE)
#define RULES_MAX 8

// The newest way that the kernel knows: completions do not interrupt the thread, which asks for
// them anyway.
static int setup(unsigned entries, struct io_uring_params *p)
{
    *p = (struct io_uring_params){.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN};
    int fd = (int)syscall(SYS_io_uring_setup, entries, p);
    if (fd >= 0 || errno != EINVAL)
        return fd;
    *p = (struct io_uring_params){.flags = IORING_SETUP_R_DISABLED};
    return (int)syscall(SYS_io_uring_setup, entries, p);
}

static int reg(const struct uring *u, unsigned what, const void *data, unsigned count)
{
    return syscall(SYS_io_uring_register, u->fd, what, data, count) < 0 ? errno : 0;
}

// Fixed files only, these operations only, and after this no more of io_uring_register(2).
static int restrict_to(const struct uring *u, const uint8_t *ops, unsigned op_count)
{
    struct io_uring_restriction rules[RULES_MAX] = {
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE}};
    unsigned n = 1;

    for (unsigned i = 0; i < op_count && n < RULES_MAX; i++)
        rules[n++] =
            (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = ops[i]};
    return reg(u, IORING_REGISTER_RESTRICTIONS, rules, n);
}

static int map(struct uring *u, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);

    u->entries = p->sq_entries;
    u->rings_bytes = sq > cq ? sq : cq;
    u->sqes_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
    u->rings = mmap(NULL, u->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                    IORING_OFF_SQ_RING);
    u->sqes = mmap(NULL, u->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                   IORING_OFF_SQES);
    return u->rings == MAP_FAILED || u->sqes == MAP_FAILED ? errno : 0;
}

static void *at(const struct uring *u, uint32_t offset)
{
    return (char *)u->rings + offset;
}

static void find_parts(struct uring *u, const struct io_uring_params *p)
{
    unsigned *array = at(u, p->sq_off.array);

    u->sq_tail = at(u, p->sq_off.tail);
    u->sq_mask = *(unsigned *)at(u, p->sq_off.ring_mask);
    u->cq_head = at(u, p->cq_off.head);
    u->cq_tail = at(u, p->cq_off.tail);
    u->cq_mask = *(unsigned *)at(u, p->cq_off.ring_mask);
    u->cqes = at(u, p->cq_off.cqes);
    for (unsigned i = 0; i < p->sq_entries; i++)
        array[i] = i;
}

err_t uring_open(struct uring *u, unsigned entries, const int *files, unsigned file_count,
                 const uint8_t *ops, unsigned op_count, struct error *e)
{
    struct io_uring_params p;
    int error = 0;

    *u = (struct uring){.fd = setup(entries, &p), .rings = MAP_FAILED, .sqes = MAP_FAILED};
    if (u->fd < 0)
        error = errno;
    else if ((p.features & FEATURES) != FEATURES)
        error = ENOSYS;
    if (!error)
        error = map(u, &p);
    if (!error)
        error = reg(u, IORING_REGISTER_FILES, files, file_count);
    if (!error)
        error = restrict_to(u, ops, op_count);
    if (!error)
        error = reg(u, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (!error) {
        find_parts(u, &p);
        return OK;
    }
    uring_close(u);
    if (error == ENOSYS)
        return error_set(e, ERR_UNSUPPORTED, "this kernel has none, or too old a one");
    return error_set(e, ERR_UNSUPPORTED, "the kernel or the container refuses it: %s",
                     strerror(error));
}

void uring_close(struct uring *u)
{
    if (!u->rings)
        return;
    if (u->rings != MAP_FAILED)
        munmap(u->rings, u->rings_bytes);
    if (u->sqes != MAP_FAILED)
        munmap(u->sqes, u->sqes_bytes);
    if (u->fd >= 0)
        close(u->fd);
    *u = (struct uring){0};
}

struct io_uring_sqe *uring_next(struct uring *u, unsigned file)
{
    struct io_uring_sqe *sqe = &u->sqes[(*u->sq_tail + u->prepared++) & u->sq_mask];

    *sqe = (struct io_uring_sqe){.fd = (int)file, .flags = IOSQE_FIXED_FILE};
    return sqe;
}

int uring_enter(struct uring *u, bool wait)
{
    unsigned tail = *u->sq_tail + u->prepared;

    __atomic_store_n(u->sq_tail, tail, __ATOMIC_RELEASE);
    long taken =
        syscall(SYS_io_uring_enter, u->fd, u->prepared, wait, IORING_ENTER_GETEVENTS, NULL, 0);
    int error = taken < 0 ? errno : 0;
    u->prepared -= taken > 0 ? (unsigned)taken : 0;
    // What the kernel left is taken back: uring_next() counts from the tail.
    __atomic_store_n(u->sq_tail, tail - u->prepared, __ATOMIC_RELEASE);
    return error;
}

bool uring_take(struct uring *u, struct uring_result *out)
{
    unsigned head = *u->cq_head;

    if (head == __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE))
        return false;
    const struct io_uring_cqe *cqe = &u->cqes[head & u->cq_mask];
    *out = (struct uring_result){cqe->user_data, cqe->res};
    __atomic_store_n(u->cq_head, head + 1, __ATOMIC_RELEASE);
    return true;
}

err_t uring_probe(struct error *e)
{
    static const uint8_t ops[] = {IORING_OP_READV};
    struct uring u;
    int file = STDERR_FILENO;
    err_t err = uring_open(&u, 1, &file, 1, ops, 1, e);

    if (err == OK)
        uring_close(&u);
    return err;
}
