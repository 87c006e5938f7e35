// The nursery: a copy of the process from before it had anything to hide, which makes cages. It
// keeps one socket. A cage begins as a child of it and gives up what it has step by step: signals,
// descriptors, system calls, and in assembly (cage_entry.S) its address space. clone(2),
// seccomp(2), seccomp_unotify(2), sigaltstack(2), rseq(2).
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/cage_impl.h"
#include "host/isolate.h"
#include "host/passing.h"

#define SOCKET 3 // the nursery's, and a cage's while it begins

// --- filters

// All addresses that filters name lie in one page.
static uint32_t low(uint64_t area, const char *label)
{
    return (uint32_t)(area + CAGE_TEXT + (uint64_t)(label - cage_code));
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_HIGH(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
#define IF(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), yes, no)
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)

// Both threads: reports become notifications. Every filter of a thread has its say, and the
// strictest wins; this one forbids nothing.
static int install_listener(uint64_t area)
{
    struct sock_filter insns[] = {
        LOAD(arch),
        IF(AUDIT_ARCH_X86_64, 0, 5),
        LOAD_HIGH(instruction_pointer),
        IF(area >> 32, 0, 3),
        LOAD(instruction_pointer),
        IF(low(area, cage_after_mapper), 2, 0),
        IF(low(area, cage_after_runner), 1, 0),
        RETURN(SECCOMP_RET_ALLOW),
        RETURN(SECCOMP_RET_USER_NOTIF),
    };
    const struct sock_fprog program = {ARRAY_LEN(insns), insns};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                        &program);
}

// A thread that moves itself to other CPUs, and to those only that we said.
#define IF_MOVES(area, yes, no)                                                           \
    LOAD(args[0]), IF(0, 0, (no) + 4), LOAD_HIGH(args[2]), IF((area) >> 32, 0, (no) + 2), \
        LOAD(args[2]), IF((uint32_t)(area) + CAGE_CPUS_SET, yes, no)

// The mapper: reports, maps pages of the one file, and moves.
static void make_mapper_filter(uint64_t area, struct cage_words *words)
{
    const struct sock_filter insns[] = {
        LOAD(arch),
        IF(AUDIT_ARCH_X86_64, 0, 19),
        LOAD_HIGH(instruction_pointer),
        IF(area >> 32, 0, 17),
        LOAD(instruction_pointer),
        IF(low(area, cage_after_mapper), 16, 0),
        IF(low(area, cage_after_map), 0, 14),
        LOAD(nr),
        IF(SYS_munmap, 13, 0),
        IF(SYS_mmap, 0, 4),
        LOAD(args[3]),
        IF(MAP_SHARED | MAP_FIXED, 0, 9),
        LOAD(args[4]),
        IF(CAGE_RAM_FD, 8, 7),
        IF(SYS_sched_setaffinity, 0, 6),
        IF_MOVES(area, 1, 0),
        RETURN(SECCOMP_RET_KILL_PROCESS),
        RETURN(SECCOMP_RET_ALLOW),
    };
    _Static_assert(sizeof insns <= sizeof words->mapper_filter, "room");
    memcpy(words->mapper_filter, insns, sizeof insns);
    words->mapper = (struct sock_fprog){ARRAY_LEN(insns), words->mapper_filter};
}

// The runner: reports, returns from signals, and moves. Anything else becomes a signal.
static void make_runner_filter(uint64_t area, struct cage_words *words)
{
    const struct sock_filter insns[] = {
        LOAD(arch),
        IF(AUDIT_ARCH_X86_64, 0, 16),
        LOAD_HIGH(instruction_pointer),
        IF(area >> 32, 0, 14),
        LOAD(instruction_pointer),
        IF(low(area, cage_after_runner), 13, 0),
        IF(low(area, cage_after_move), 3, 0),
        IF(low(area, cage_after_return), 0, 10),
        LOAD(nr),
        IF(SYS_rt_sigreturn, 9, 8),
        LOAD(nr),
        IF(SYS_sched_setaffinity, 0, 6),
        IF_MOVES(area, 1, 0),
        RETURN(SECCOMP_RET_TRAP),
        RETURN(SECCOMP_RET_ALLOW),
    };
    _Static_assert(sizeof insns <= sizeof words->runner_filter, "room");
    memcpy(words->runner_filter, insns, sizeof insns);
    words->runner = (struct sock_fprog){ARRAY_LEN(insns), words->runner_filter};
}

// --- a cage's beginning

// As the kernel takes it; the C library's would put its own restorer in.
struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};

static bool map_part(uint64_t at, uint64_t len, int prot, int area_fd, uint64_t area)
{
    return mmap((void *)(area + at), len, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, area_fd,
                (off_t)at) == (void *)(area + at);
}

static bool map_area(uint64_t area, int area_fd)
{
    void *text = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, area_fd, CAGE_TEXT);
    if (text == MAP_FAILED)
        return false;
    memcpy(text, cage_code, (size_t)(cage_code_end - cage_code));
    return map_part(CAGE_TEXT, PAGE_SIZE, PROT_READ | PROT_EXEC, area_fd, area) &&
           map_part(CAGE_COMMANDS, CAGE_WORDS - CAGE_COMMANDS, PROT_READ, area_fd, area) &&
           map_part(CAGE_WORDS, CAGE_USED - CAGE_WORDS, PROT_READ | PROT_WRITE, area_fd, area);
}

static void fill_words(uint64_t area)
{
    struct cage_words *words = (struct cage_words *)(area + CAGE_WORDS);
    words->stack = CAGE_STACK_T(area);
    words->mask = ~CAGE_SIGNALS;
    make_mapper_filter(area, words);
    make_runner_filter(area, words);
}

static bool handle_signals(uint64_t area)
{
    const struct kernel_sigaction action = {.handler = area + (uint64_t)(cage_handler - cage_code),
                                            .flags = SA_SIGINFO | SA_ONSTACK |
                                                     0x04000000 /* SA_RESTORER */,
                                            .restorer = area, // never used, but the kernel insists
                                            .mask = ~0ull};
    for (int n = 1; n < 64; n++) {
        if ((CAGE_SIGNALS & CAGE_SIGNAL(n)) && syscall(SYS_rt_sigaction, n, &action, NULL, 8) < 0)
            return false;
    }
    return true;
}

// Addresses of the C library's that the kernel would write to, once they are somebody else's.
static void forget_libc(void)
{
    uint8_t *thread = __builtin_thread_pointer();
    for (unsigned len = 32; __rseq_size && len <= 4096; len += 4) {
        if (syscall(SYS_rseq, thread + __rseq_offset, len, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0)
            break;
    }
    syscall(SYS_set_robust_list, NULL, 24);
    syscall(SYS_set_tid_address, NULL);
}

// What stays: the socket, and the file of RAM under the number that the filter knows.
static bool keep_descriptors(int ram)
{
    return (ram == CAGE_RAM_FD || dup3(ram, CAGE_RAM_FD, O_CLOEXEC) >= 0) &&
           close_range(CAGE_RAM_FD + 1, SOCKET - 1, 0) == 0 && close_range(SOCKET + 1, ~0u, 0) == 0;
}

static void report_failure(const struct cage_request *request, const char *what)
{
    struct cage_report report = {.index = request->index, .error = errno};
    snprintf(report.what, sizeof report.what, "%s", what);
    passing_send(SOCKET, &report, sizeof report, -1, 0);
}

static _Noreturn void give_up(const struct cage_request *request, const char *what)
{
    report_failure(request, what);
    _exit(1);
}

// The steps that may be refused, each with its name for the person.
static _Noreturn void become_cage(pid_t nursery, const struct cage_request *request, int ram,
                                  int area_fd)
{
    const uint64_t area = request->area;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != nursery)
        _exit(1);
    if (!map_area(area, area_fd))
        give_up(request, "mapping its area");
    fill_words(area);
    if (!handle_signals(area))
        give_up(request, "handling signals");
    if (request->trap_tsc && prctl(PR_SET_TSC, PR_TSC_SIGSEGV) < 0)
        give_up(request, "trapping RDTSC");
    struct cage_report report = {.index = request->index, .pid = getpid()};
    report.cpuid_traps = syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) == 0;
    forget_libc();
    if (!keep_descriptors(ram))
        give_up(request, "closing descriptors");
    int listener = install_listener(area);
    if (listener < 0)
        give_up(request, "a filter with notifications");
    int pidfd = (int)syscall(SYS_pidfd_open, report.pid, 0);
    if (pidfd < 0)
        give_up(request, "a pidfd");
    if (passing_send(SOCKET, &report, sizeof report, listener, 0) < 0 ||
        passing_send(SOCKET, &report, sizeof report, pidfd, 0) < 0)
        _exit(1);
    close_range(CAGE_RAM_FD + 1, ~0u, 0);
    void (*enter)(void) = (void (*)(void))(area + (uint64_t)(cage_entry - cage_code));
    enter();
    _exit(1);
}

// --- the nursery

static void woken(int signal)
{
}

// Out of reach of the terminal, with nothing but its socket and no way to get more.
static void settle(int socket, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    setsid();
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGCHLD, woken);
    if (socket != SOCKET && dup3(socket, SOCKET, O_CLOEXEC) < 0)
        _exit(1);
    close_range(0, SOCKET - 1, 0);
    close_range(SOCKET + 1, ~0u, 0);
    prctl(PR_SET_DUMPABLE, 0); // no core, that is the guest's memory, and no debuggers
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_NAME, "berth-cages");
    isolate_drop_capabilities(0);
}

// One descriptor, or -1 when the other end is closed or wants no more cages.
static int receive(struct cage_request *request)
{
    int fd;
    unsigned count;
    ssize_t n = passing_receive(SOCKET, request, sizeof *request, &fd, 1, &count, 0);
    return n == sizeof *request && count == 1 ? fd : -1;
}

// From here on it can only do what follows.
static void confine(void)
{
    struct sock_filter insns[] = {
        LOAD(arch),
        IF(AUDIT_ARCH_X86_64, 0, 8),
        LOAD(nr),
        IF(SYS_ppoll, 7, 0),
        IF(SYS_read, 6, 0),
        IF(SYS_write, 5, 0),
        IF(SYS_wait4, 4, 0),
        IF(SYS_rt_sigreturn, 3, 0),
        IF(SYS_restart_syscall, 2, 0),
        IF(SYS_exit, 1, 0),
        RETURN(SECCOMP_RET_KILL_PROCESS),
        RETURN(SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {ARRAY_LEN(insns), insns};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        syscall(SYS_exit, 1);
}

// Says which cages have ended, and how, until the other end is closed.
static _Noreturn void wait_for_the_end(void)
{
    const uint64_t none = 0;
    struct cage_end end;
    char byte;
    confine();
    for (;;) {
        while ((end.pid = (int32_t)syscall(SYS_wait4, -1, &end.status, WNOHANG, NULL)) > 0)
            (void)!syscall(SYS_write, SOCKET, &end, sizeof end);
        struct pollfd other = {.fd = SOCKET, .events = POLLIN};
        if (syscall(SYS_ppoll, &other, 1, NULL, &none, 8) > 0 &&
            syscall(SYS_read, SOCKET, &byte, 1) <= 0)
            break;
    }
    syscall(SYS_exit, 0);
    __builtin_unreachable();
}

_Noreturn void cage_nursery(int socket, pid_t parent)
{
    struct cage_request request;
    settle(socket, parent);
    pid_t self = getpid();
    for (;;) {
        int ram = receive(&request);
        int area_fd = ram < 0 ? -1 : receive(&request);
        if (area_fd < 0)
            wait_for_the_end();
        pid_t child = fork();
        if (child == 0)
            become_cage(self, &request, ram, area_fd);
        if (child < 0)
            report_failure(&request, "a process");
        close(ram);
        close(area_fd);
    }
}
