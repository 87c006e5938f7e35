// Cages as the VM's process sees them: it starts the nursery, has it make cages, and drives them.
// What a cage reports comes as notifications from the kernel, so that a thread of a cage is stopped
// is a fact and no claim of the code in it; registers are in the frame of the signal that stopped
// it, in memory that is shared with the cage, and only as good as the code wants them to be.
// seccomp_unotify(2), pidfd_send_signal(2), sigaltstack(2); the frame: the kernel's
// asm/sigcontext.h and Intel SDM vol. 1, chapter 13 (XSAVE area).
#include "host/cage.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/bits.h"
#include "host/cage_impl.h"
#include "host/passing.h"
#include "host/random.h"
#include "host/usage.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS // Linux 6.6
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1
#endif
#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

#define BIRTH_MS 30000 // in which a cage is made, on a very busy host
#define END_MS 1000    // that we wait so that nobody else has to collect what remains
#define LOOK_MS 500    // how long code runs before we see whether it can still be stopped
#define DEAF_NS (200 * NS_PER_MS) // of CPU time, in which code that was sent a signal has stopped

// The XSAVE area within a signal's frame.
#define FX_MXCSR 24
#define FX_MXCSR_MASK 28
#define FX_SOFTWARE 464 // the kernel's words, to the end of the legacy part
#define XSAVE_HEADER 512
#define XSAVE_EXTENDED 576

#define RFLAGS_KEPT 0x40dd5u   // AC OF DF TF SF ZF AF PF CF
#define RFLAGS_APART 0x204000u // ID NT, which a return from a signal does not touch
#define USER_CS 0x33
#define USER_SS 0x2b
#define UC_RESTORE 7 // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS

struct cages {
    int socket;
    uint64_t area;
    struct cage **cage;
    unsigned count;
    bool cpuid_traps;
    bool complete;        // the nursery tells of ends
    pthread_mutex_t ends; // guards the socket, once all cages are made, and how they ended
};

struct cage {
    uint64_t area;
    uint8_t *memory; // CAGE_USED bytes of the area, as we see them
    int listener, pidfd;
    pid_t pid, runner;             // the mapper's number is the process's
    uint64_t mapper_id, runner_id; // notifications that they wait for the answer to
    uint64_t context;              // the frame's parts, by their addresses in the cage
    uint64_t info, fpstate;
    uint8_t *xsave; // the last, as we see it
    uint32_t xsave_bytes;
    uint64_t xfeatures;
    uint32_t mxcsr_mask;
    uint8_t software[XSAVE_HEADER - FX_SOFTWARE];
    atomic_bool lost;
    bool killed; // by us, because of what it did
    bool ended;  // and this is how, of wait(2)
    int status;
    struct cages *cages;
    _Atomic ns_t used; // CPU time
    struct cage_regs regs;
};

// --- the nursery

static err_t check_host(struct error *e)
{
    const uint32_t notify = SECCOMP_RET_USER_NOTIF;
    struct seccomp_notif_sizes sizes;
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
        return error_set(e, ERR_UNSUPPORTED,
                         "this host's CPU or kernel has no instructions for FS and GS bases");
    if (getauxval(AT_MINSIGSTKSZ) > CAGE_STACK_SIZE / 2)
        return error_set(e, ERR_UNSUPPORTED,
                         "this CPU's registers need %lu bytes, more than a cage has",
                         getauxval(AT_MINSIGSTKSZ));
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &notify) < 0 ||
        syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0 ||
        sizes.seccomp_notif > sizeof(struct seccomp_notif) ||
        sizes.seccomp_notif_resp > sizeof(struct seccomp_notif_resp))
        return error_set(e, ERR_UNSUPPORTED, "this kernel's seccomp has no notifications");
    return OK;
}

err_t cages_start(struct cages **out, struct error *e)
{
    int pair[2];
    uint32_t place;
    err_t err = check_host(e);
    if (err)
        return err;
    struct cages *cages = calloc(1, sizeof *cages);
    if (!cages)
        return error_set(e, ERR_NO_MEMORY, "no memory for cages");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        err = error_set(e, err_from_errno(errno), "no sockets for cages: %s", strerror(errno));
        free(cages);
        return err;
    }
    host_random(&place, sizeof place);
    cages->area = BIT(45) + (place % (BIT(45) / CAGE_AREA_BYTES)) * CAGE_AREA_BYTES;
    cages->socket = pair[0];
    pthread_mutex_init(&cages->ends, NULL);
    pid_t parent = getpid();
    pid_t nursery = fork();
    if (nursery == 0)
        cage_nursery(pair[1], parent);
    int error = errno;
    close(pair[1]);
    if (nursery < 0) {
        cages_free(cages);
        return error_set(e, ERR_UNSUPPORTED, "no process for cages: %s", strerror(error));
    }
    *out = cages;
    return OK;
}

int cages_socket(const struct cages *cages)
{
    return cages->socket;
}

bool cages_trap_cpuid(const struct cages *cages)
{
    return cages->cpuid_traps;
}

// Until a process has ended, so that it is not left to others to collect.
static void wait_for_end(int fd)
{
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    poll(&ended, 1, END_MS);
}

static void end_nursery(struct cages *cages)
{
    if (cages->socket < 0)
        return;
    shutdown(cages->socket, SHUT_WR);
    wait_for_end(cages->socket);
    close(cages->socket);
    cages->socket = -1;
}

void cages_complete(struct cages *cages)
{
    cages->complete = true;
    if (cages->count && cages->socket >= 0)
        passing_send(cages->socket, "", 1, -1, 0);
    else
        end_nursery(cages);
}

// --- reports

static void kill_cage(struct cage *cage)
{
    cage->lost = true;
    syscall(SYS_pidfd_send_signal, cage->pidfd, SIGKILL, NULL, 0);
}

// Because of what its code did.
static void punish(struct cage *cage)
{
    cage->killed |= !cage->lost;
    kill_cage(cage);
}

// Of one that has ended what was last heard: its number may be somebody else's.
uint64_t cage_cpu_ns(struct cage *cage)
{
    uint64_t used, known = cage->used;
    if (cage->lost || !host_usage_cpu(cage->pid, &used))
        return known;
    while (used > known && !atomic_compare_exchange_weak(&cage->used, &known, used))
        ;
    return used > known ? used : known;
}

void cage_kick(struct cage *cage)
{
    syscall(SYS_pidfd_send_signal, cage->pidfd, CAGE_KICK, NULL, 0);
}

// Says go on to a thread that waits.
static bool answer(struct cage *cage, uint64_t id)
{
    struct seccomp_notif_resp go = {.id = id};
    return ioctl(cage->listener, SECCOMP_IOCTL_NOTIF_SEND, &go) == 0;
}

// The next report. False: none in that time, or the process has ended (and is lost).
static bool receive(struct cage *cage, int ms, struct seccomp_notif *out)
{
    for (;;) {
        struct pollfd ready = {.fd = cage->listener, .events = POLLIN};
        int n = poll(&ready, 1, ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        *out = (struct seccomp_notif){0};
        if ((ready.revents & POLLIN) && ioctl(cage->listener, SECCOMP_IOCTL_NOTIF_RECV, out) == 0)
            return true;
        if (ready.revents & POLLHUP) {
            cage->lost = true;
            return false;
        }
    }
}

// Of code that has run for long: whether it can still be stopped. It could have blocked all signals
// by a return from one that never was.
static void look_after(struct cage *cage, ns_t *asked_at)
{
    ns_t now = cage_cpu_ns(cage);
    if (!*asked_at) {
        *asked_at = now ? now : 1;
        cage_kick(cage);
    } else if (now > *asked_at + DEAF_NS) {
        punish(cage);
    }
}

// The next report must be this thread's. False: the cage is lost. The mapper may take its time.
static bool receive_from(struct cage *cage, pid_t thread, struct seccomp_notif *out)
{
    ns_t asked_at = 0;
    while (!receive(cage, LOOK_MS, out)) {
        if (cage->lost)
            return false;
        if (thread == cage->runner)
            look_after(cage, &asked_at);
    }
    if (out->pid == (uint32_t)thread)
        return true;
    punish(cage);
    return false;
}

// --- making a cage

static void *at(const struct cage *cage, uint64_t address)
{
    return cage->memory + (address - cage->area);
}

static bool on_stack(const struct cage *cage, uint64_t address, uint64_t bytes)
{
    uint64_t from = cage->area + CAGE_STACK;
    return address >= from && bytes <= CAGE_STACK_SIZE && address - from <= CAGE_STACK_SIZE - bytes;
}

// The kernel puts every frame at the same place, since its stack counts as empty until the handler
// has returned. No guest code has run yet, so the first one is true.
static bool learn_frame(struct cage *cage, const struct seccomp_notif *n)
{
    cage->info = n->data.args[1];
    cage->context = n->data.args[2];
    if (!on_stack(cage, cage->info, sizeof(siginfo_t)) ||
        !on_stack(cage, cage->context, sizeof(ucontext_t)))
        return false;
    const ucontext_t *context = at(cage, cage->context);
    cage->fpstate = (uint64_t)context->uc_mcontext.fpregs;
    if (context->uc_flags != UC_RESTORE || !on_stack(cage, cage->fpstate, XSAVE_EXTENDED))
        return false;
    cage->xsave = at(cage, cage->fpstate);
    memcpy(&cage->mxcsr_mask, cage->xsave + FX_MXCSR_MASK, 4);
    memcpy(cage->software, cage->xsave + FX_SOFTWARE, sizeof cage->software);
    memcpy(&cage->xfeatures, cage->software + 8, 8);
    memcpy(&cage->xsave_bytes, cage->software + 16, 4);
    return cage->xsave_bytes >= XSAVE_EXTENDED &&
           on_stack(cage, cage->fpstate, cage->xsave_bytes + 4ull);
}

// Both threads report once when they are ready.
static bool await_threads(struct cage *cage)
{
    struct seccomp_notif n;
    for (int i = 0; i < 2; i++) {
        if (!receive(cage, BIRTH_MS, &n))
            return false;
        if (n.pid == (uint32_t)cage->pid) {
            cage->mapper_id = n.id;
        } else {
            cage->runner = (pid_t)n.pid;
            cage->runner_id = n.id;
            if (!learn_frame(cage, &n))
                return false;
        }
    }
    return cage->mapper_id && cage->runner_id;
}

// One report of a cage that is made: its notifications' descriptor, then its pidfd.
static err_t hear(struct cages *cages, struct error *e)
{
    int fd;
    unsigned count = 0;
    struct cage_report report;
    struct pollfd ready = {.fd = cages->socket, .events = POLLIN};
    if (poll(&ready, 1, BIRTH_MS) <= 0 ||
        passing_receive(cages->socket, &report, sizeof report, &fd, 1, &count, 0) != sizeof report)
        return error_set(e, ERR_UNSUPPORTED, "a cage did not come to life");
    if (report.error || count != 1)
        return error_set(e, ERR_UNSUPPORTED, "this host refuses cages: %.34s: %s", report.what,
                         strerror(report.error));
    struct cage *cage = cages->cage[report.index];
    cage->pid = report.pid;
    cages->cpuid_traps = report.cpuid_traps;
    if (cage->listener >= 0) {
        cage->pidfd = fd;
        if (syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0)
            return OK;
        return error_set(e, ERR_UNSUPPORTED, "this host refuses cages: signals by a pidfd: %s",
                         strerror(errno));
    }
    cage->listener = fd;
    uint64_t flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;
    ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags); // an older kernel is slower
    return OK;
}

static err_t ask(struct cages *cages, uint32_t index, bool trap_tsc, int ram_fd, struct error *e)
{
    struct cage *cage = cages->cage[index];
    const struct cage_request request = {.area = cages->area, .index = index, .trap_tsc = trap_tsc};
    int area_fd = memfd_create("berth-cage", MFD_CLOEXEC);
    if (area_fd >= 0 && ftruncate(area_fd, CAGE_USED) == 0)
        cage->memory = mmap(NULL, CAGE_USED, PROT_READ | PROT_WRITE, MAP_SHARED, area_fd, 0);
    err_t err = OK;
    if (cage->memory == MAP_FAILED)
        err = error_set(e, err_from_errno(errno), "no memory for a cage: %s", strerror(errno));
    else if (passing_send(cages->socket, &request, sizeof request, ram_fd, 0) < 0 ||
             passing_send(cages->socket, &request, sizeof request, area_fd, 0) < 0)
        err = error_set(e, ERR_UNSUPPORTED, "cannot ask for a cage: %s", strerror(errno));
    close(area_fd);
    return err;
}

static void free_cage(struct cage *cage)
{
    close(cage->pidfd);
    close(cage->listener);
    if (cage->memory != MAP_FAILED)
        munmap(cage->memory, CAGE_USED);
    free(cage);
}

static err_t add_empty(struct cages *cages, struct error *e)
{
    struct cage **grown = realloc(cages->cage, (cages->count + 1) * sizeof *grown);
    struct cage *cage = calloc(1, sizeof *cage);
    if (grown)
        cages->cage = grown;
    if (!grown || !cage) {
        free(cage);
        return error_set(e, ERR_NO_MEMORY, "no memory for cages");
    }
    *cage = (struct cage){
        .cages = cages, .area = cages->area, .memory = MAP_FAILED, .listener = -1, .pidfd = -1};
    cages->cage[cages->count++] = cage;
    return OK;
}

// Until then they would count among the processes of the user.
static void end_all(struct cages *cages)
{
    for (unsigned i = 0; i < cages->count; i++) {
        if (cages->cage[i]->pidfd >= 0)
            kill_cage(cages->cage[i]);
    }
    end_nursery(cages);
    for (unsigned i = 0; i < cages->count; i++) {
        if (cages->cage[i]->pidfd >= 0)
            wait_for_end(cages->cage[i]->pidfd);
    }
}

// All at once, since each is busy with itself for a while.
err_t cages_make(struct cages *cages, unsigned n, int ram_fd, bool trap_tsc, struct cage **out,
                 struct error *e)
{
    const unsigned first = cages->count;
    err_t err = OK;
    for (unsigned i = 0; !err && i < n; i++)
        err = add_empty(cages, e);
    for (unsigned i = 0; !err && i < n; i++)
        err = ask(cages, first + i, trap_tsc, ram_fd, e);
    for (unsigned i = 0; !err && i < 2 * n; i++)
        err = hear(cages, e);
    for (unsigned i = 0; !err && i < n; i++) {
        out[i] = cages->cage[first + i];
        if (!await_threads(out[i]))
            err = error_set(e, ERR_UNSUPPORTED,
                            out[i]->lost ? "a cage ended as it began: is the number of processes "
                                           "and threads limited (ulimit -u, pids.max)?"
                                         : "a cage did not come to life: this kernel is not as "
                                           "we know them");
    }
    if (err)
        end_all(cages);
    return err;
}

void cages_free(struct cages *cages)
{
    if (!cages)
        return;
    end_all(cages);
    for (unsigned i = 0; i < cages->count; i++)
        free_cage(cages->cage[i]);
    free(cages->cage);
    free(cages);
}

err_t cages_probe(struct error *e)
{
    struct cages *cages = NULL;
    struct cage *cage;
    int ram = memfd_create("probe", MFD_CLOEXEC);
    if (ram < 0)
        return error_set(e, err_from_errno(errno), "no file in memory: %s", strerror(errno));
    err_t err = cages_start(&cages, e);
    if (!err)
        err = cages_make(cages, 1, ram, false, &cage, e);
    cages_free(cages);
    close(ram);
    return err;
}

uint64_t cages_cpu_ns(const struct cages *cages)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < cages->count; i++)
        sum += cage_cpu_ns(cages->cage[i]);
    return sum;
}

uint64_t cage_area(const struct cage *cage)
{
    return cage->area;
}

// --- mappings

static struct cage_commands *commands(const struct cage *cage)
{
    return (struct cage_commands *)(cage->memory + CAGE_COMMANDS);
}

static void forget_all(struct cage *cage)
{
    struct cage_commands *list = commands(cage);
    const uint64_t behind = cage->area + CAGE_AREA_BYTES;
    list->command[0] = (struct cage_command){.call = SYS_munmap, .bytes = cage->area};
    list->command[1] = (struct cage_command){
        .call = SYS_munmap, .address = behind, .bytes = CAGE_END_OF_SPACE - behind};
    list->count = 2;
}

// Lets the mapper do what is in the list. False: something of it was refused.
static bool let_map(struct cage *cage)
{
    struct seccomp_notif n;
    if (!answer(cage, cage->mapper_id) || !receive_from(cage, cage->pid, &n)) {
        kill_cage(cage); // it had ended: its code did not run meanwhile
        return true;
    }
    cage->mapper_id = n.id;
    commands(cage)->count = 0;
    return n.data.args[0] == 0;
}

// Instead of what was asked for. False, for the caller to return.
static bool empty(struct cage *cage)
{
    forget_all(cage);
    if (!let_map(cage))
        punish(cage); // though nothing of it has run
    return false;
}

bool cage_flush(struct cage *cage)
{
    return cage->lost || !commands(cage)->count || let_map(cage) || empty(cage);
}

// What continues the last command is made part of it.
static bool add(struct cage *cage, struct cage_command command)
{
    if (cage->lost)
        return true;
    struct cage_commands *list = commands(cage);
    struct cage_command *last = list->count ? &list->command[list->count - 1] : NULL;
    if (last && last->call == command.call && last->prot == command.prot &&
        last->address + last->bytes == command.address &&
        (command.call == SYS_munmap || last->offset + last->bytes == command.offset)) {
        last->bytes += command.bytes;
        return true;
    }
    if (list->count == CAGE_COMMANDS_MAX && !cage_flush(cage))
        return false;
    list->command[list->count++] = command;
    return true;
}

bool cage_map(struct cage *cage, uint64_t address, uint64_t len, uint64_t ram_offset, unsigned prot)
{
    if (!cage->lost && address + len > CAGE_END_OF_SPACE) // some kernels would do it
        return empty(cage);
    return add(cage, (struct cage_command){.call = SYS_mmap,
                                           .address = address,
                                           .bytes = len,
                                           .prot = prot, // by the same numbers
                                           .flags = MAP_SHARED | MAP_FIXED,
                                           .offset = ram_offset});
}

bool cage_unmap(struct cage *cage, uint64_t address, uint64_t len)
{
    if (address >= CAGE_END_OF_SPACE)
        return true;
    return add(cage, (struct cage_command){.call = SYS_munmap,
                                           .address = address,
                                           .bytes = min_u64(len, CAGE_END_OF_SPACE - address)});
}

static struct cage_cpus *cpus_of(const struct cage *cage)
{
    return (struct cage_cpus *)(cage->memory + CAGE_CPUS);
}

void cage_move(struct cage *cage, const cpu_set_t *cpus)
{
    cpus_of(cage)->set = *cpus;
    cpus_of(cage)->move = 1;
    add(cage, (struct cage_command){.call = SYS_sched_setaffinity,
                                    .bytes = CAGE_CPUS_BYTES,
                                    .prot = cage->area + CAGE_CPUS_SET});
}

// --- running

struct cage_regs *cage_regs(struct cage *cage)
{
    return &cage->regs;
}

uint8_t *cage_xsave(struct cage *cage, size_t *bytes)
{
    *bytes = cage->xsave_bytes;
    return cage->xsave;
}

// Where the kernel keeps them in a frame, in the order of their numbers.
static const uint8_t gregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};

static uint64_t canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16);
}

// An image that XRSTOR takes: anything else would make the return from the signal fail.
static void put_xsave(struct cage *cage)
{
    uint64_t xstate_bv;
    uint32_t mxcsr;
    uint8_t *image = cage->xsave;
    memcpy(&mxcsr, image + FX_MXCSR, 4);
    mxcsr &= cage->mxcsr_mask;
    memcpy(image + FX_MXCSR, &mxcsr, 4);
    memcpy(image + FX_SOFTWARE, cage->software, sizeof cage->software);
    memcpy(&xstate_bv, image + XSAVE_HEADER, 8);
    xstate_bv &= cage->xfeatures;
    memcpy(image + XSAVE_HEADER, &xstate_bv, 8);
    memset(image + XSAVE_HEADER + 8, 0, XSAVE_EXTENDED - XSAVE_HEADER - 8);
    const uint32_t end_mark = 0x46505845; // FP_XSTATE_MAGIC2
    memcpy(image + cage->xsave_bytes, &end_mark, 4);
}

// The whole frame anew, since the code may have written to it.
static void put_frame(struct cage *cage)
{
    const struct cage_regs *regs = &cage->regs;
    ucontext_t *context = at(cage, cage->context);
    greg_t *g = context->uc_mcontext.gregs;
    context->uc_flags = UC_RESTORE;
    context->uc_link = NULL;
    context->uc_stack = CAGE_STACK_T(cage->area);
    const uint64_t mask = ~CAGE_SIGNALS;
    memcpy(&context->uc_sigmask, &mask, sizeof mask);
    context->uc_mcontext.fpregs = (fpregset_t)cage->fpstate;
    for (unsigned i = 0; i < 16; i++)
        g[gregs[i]] = (greg_t)regs->gpr[i];
    g[REG_RIP] = (greg_t)regs->rip;
    g[REG_EFL] = (greg_t)(regs->rflags & RFLAGS_KEPT);
    g[REG_CSGSFS] = USER_CS | (greg_t)USER_SS << 48;
    struct cage_words *words = (struct cage_words *)(cage->memory + CAGE_WORDS);
    words->fs_base = canonical(regs->fs_base);
    words->gs_base = canonical(regs->gs_base);
    words->flags = regs->rflags & RFLAGS_APART;
    put_xsave(cage);
}

static void take_frame(struct cage *cage)
{
    struct cage_regs *regs = &cage->regs;
    const ucontext_t *context = at(cage, cage->context);
    const greg_t *g = context->uc_mcontext.gregs;
    const struct cage_words *words = (const struct cage_words *)(cage->memory + CAGE_WORDS);
    for (unsigned i = 0; i < 16; i++)
        regs->gpr[i] = (uint64_t)g[gregs[i]];
    regs->rip = (uint64_t)g[REG_RIP];
    regs->rflags = (uint64_t)g[REG_EFL];
    regs->cs = (uint16_t)g[REG_CSGSFS];
    regs->ss = (uint16_t)(g[REG_CSGSFS] >> 48);
    memcpy(regs->data, words->selector, sizeof regs->data);
    regs->fs_base = words->fs_base;
    regs->gs_base = words->gs_base;
}

// A system call, or the ways to make one that 64-bit code has no use for: INT 0x80 is left to the
// caller to see, and of the page of old system calls only that it was called.
static void take_call(struct cage *cage, const siginfo_t *info, struct cage_stop *out)
{
    struct cage_regs *regs = &cage->regs;
    uint64_t from = (uint64_t)info->si_call_addr;
    if (info->si_arch != AUDIT_ARCH_X86_64) {
        regs->rip -= 2;
        *out = (struct cage_stop){.kind = CAGE_TRAP, .trap = 13, .error = 0x80 << 3 | 2};
    } else if (from >> 63) {
        regs->rip = from;
        regs->gpr[4] -= 8;
        *out = (struct cage_stop){.kind = CAGE_FAULT, .error = 0x15, .address = from};
    } else {
        out->kind = CAGE_SYSCALL;
    }
}

static void classify(struct cage *cage, struct cage_stop *out)
{
    const ucontext_t *context = at(cage, cage->context);
    const greg_t *g = context->uc_mcontext.gregs;
    const siginfo_t *info = at(cage, cage->info);
    *out = (struct cage_stop){
        .kind = CAGE_TRAP, .trap = (uint8_t)g[REG_TRAPNO], .error = (uint32_t)g[REG_ERR]};
    if (info->si_signo == CAGE_KICK) {
        *out = (struct cage_stop){.kind = CAGE_KICKED};
    } else if (info->si_signo == SIGSYS) {
        take_call(cage, info, out);
    } else if (out->trap == 1) {
        out->error = info->si_code == TRAP_TRACE;
    } else if (info->si_signo == SIGSEGV && out->trap == 14) {
        out->kind = CAGE_FAULT;
        out->address = (uint64_t)g[REG_CR2];
    }
}

// How a cage has ended comes from the nursery, perhaps after how others have.
static void hear_of_end(struct cages *cages, const struct cage *cage)
{
    struct pollfd ready = {.fd = cages->socket, .events = POLLIN};
    struct cage_end end;
    while (!cage->ended && poll(&ready, 1, BIRTH_MS) > 0 &&
           read(cages->socket, &end, sizeof end) == sizeof end) {
        for (unsigned i = 0; i < cages->count; i++) {
            struct cage *other = cages->cage[i];
            if (other->pid == end.pid) {
                other->status = end.status;
                other->ended = true;
            }
        }
    }
}

// Of one that is lost: was it the host's doing? The code in a cage can end it, but not by SIGKILL.
static bool host_ended(struct cage *cage)
{
    if (cage->killed || !cage->cages->complete)
        return false;
    pthread_mutex_lock(&cage->cages->ends);
    hear_of_end(cage->cages, cage);
    pthread_mutex_unlock(&cage->cages->ends);
    return !cage->ended || (WIFSIGNALED(cage->status) && WTERMSIG(cage->status) == SIGKILL);
}

// A stop in the area is nothing that the code's own program could do. 32-bit code beyond 4 GiB is
// the kernel's way back from SYSENTER and from 32-bit code's SYSCALL, which forgets where they
// were.
static bool await_stop(struct cage *cage, struct cage_stop *out)
{
    struct seccomp_notif n;
    if (!receive_from(cage, cage->runner, &n))
        return false;
    cage->runner_id = n.id;
    cpus_of(cage)->move = 0;
    bool frame = n.data.args[1] == cage->info && n.data.args[2] == cage->context;
    if (frame)
        take_frame(cage);
    if (!frame || cage->regs.rip - cage->area < CAGE_AREA_BYTES ||
        (cage->regs.cs != USER_CS && cage->regs.rip >> 32)) {
        punish(cage);
        return false;
    }
    classify(cage, out);
    return !cage->lost;
}

bool cage_run(struct cage *cage, struct cage_stop *out)
{
    if (!cage_flush(cage))
        return false;
    if (!cage->lost)
        put_frame(cage);
    if (cage->lost || !answer(cage, cage->runner_id) || !await_stop(cage, out)) {
        out->kind = host_ended(cage) ? CAGE_FAILED : CAGE_LOST;
        kill_cage(cage);
    }
    return true;
}
