// What the sandbox's system-call filters let through. A program for the build: it has libseccomp
// compile the lists below into the arrays that confine.c installs, so that starting
// a VM takes neither the library nor its time. seccomp(2), seccomp_export_bpf(3). The lists are
// what glibc and Berth use; they name the system call that would be missed.
//
//     gen-filters > sandbox_filters.h
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/types.h"
#include "host/sandbox_filter.h"
#include "host/thread.h"

#define CALL(name) SCMP_SYS(name)
#define CALLS_END (-1000000)

// Every thread: locks, its own memory, time, its end, and abort().
static const int common_calls[] = {CALL(futex),
                                   CALL(read),
                                   CALL(write),
                                   CALL(writev),
                                   CALL(munmap),
                                   CALL(madvise),
                                   CALL(brk),
                                   CALL(mremap),
                                   CALL(clock_gettime),
                                   CALL(clock_getres),
                                   CALL(clock_nanosleep),
                                   CALL(nanosleep),
                                   CALL(gettimeofday),
                                   CALL(time),
                                   CALL(poll),
                                   CALL(ppoll),
                                   CALL(rt_sigreturn),
                                   CALL(rt_sigprocmask),
                                   CALL(sigaltstack),
                                   CALL(restart_syscall),
                                   CALL(getrandom),
                                   CALL(gettid),
                                   CALL(getpid),
                                   CALL(sched_yield),
                                   CALL(timerfd_settime),
                                   CALL(rseq),
                                   CALL(set_robust_list),
                                   CALL(exit),
                                   CALL(exit_group),
                                   CALL(membarrier),
                                   CALL(sched_getaffinity),
                                   CALLS_END};

// The last lines: clients of the control socket, which was made before, and the sockets that they
// hand over.
static const int main_calls[] = {
    CALL(epoll_wait), CALL(epoll_pwait), CALL(epoll_ctl), CALL(close),
    CALL(readv),      CALL(fstat),       CALL(lseek),     CALL(memfd_create),
    CALL(accept4),    CALL(sendmsg),     CALL(recvmsg),   CALL(getsockopt),
    CALL(eventfd2),   CALL(ftruncate),   CALL(shutdown),  CALLS_END};

// A fault that is not translated code's gets its default action back, and so ends the process.
static const int vcpu_calls[] = {CALL(rt_sigaction), CALLS_END};

// Viewers of the screen come over sockets that are made elsewhere; libvncserver looks at who they
// are and waits with select.
static const int display_calls[] = {CALL(accept4),     CALL(close),      CALL(select),
                                    CALL(pselect6),    CALL(fcntl),      CALL(getpeername),
                                    CALL(getsockname), CALL(setsockopt), CALL(recvfrom),
                                    CALL(sendto),      CALL(shutdown),   CALLS_END};

static const int block_calls[] = {
    CALL(pread64),         CALL(pwrite64),  CALL(preadv),         CALL(pwritev),
    CALL(preadv2),         CALL(pwritev2),  CALL(fsync),          CALL(fdatasync),
    CALL(sync_file_range), CALL(fallocate), CALL(ftruncate),      CALL(lseek),
    CALL(fstat),           CALL(close),     CALL(io_uring_enter), CALLS_END};

// Packets between ports, clients of the control socket, and pairs of sockets for new ports.
static const int switch_calls[] = {
    CALL(epoll_wait), CALL(epoll_pwait), CALL(epoll_ctl),  CALL(close),   CALL(fstat),
    CALL(lseek),      CALL(accept4),     CALL(sendmsg),    CALL(fstatfs), CALL(recvmsg),
    CALL(recvmmsg),   CALL(getsockopt),  CALL(setsockopt), CALLS_END};

// And what libslirp does with the host's sockets.
static const int nat_calls[] = {
    CALL(bind),        CALL(listen),     CALL(accept),   CALL(connect),  CALL(getsockname),
    CALL(getpeername), CALL(sendto),     CALL(recvfrom), CALL(shutdown), CALL(fcntl),
    CALL(stat),        CALL(newfstatat), CALL(getuid),   CALL(geteuid),  CALLS_END};

// Preparing a VM: files, threads, memory, the event loop, a pty, and what confines threads later.
// This filter stays, so whatever a class of thread needs is in it as well.
static const int setup_calls[] = {CALL(open),
                                  CALL(openat),
                                  CALL(close),
                                  CALL(close_range),
                                  CALL(stat),
                                  CALL(fstat),
                                  CALL(newfstatat),
                                  CALL(statx),
                                  CALL(lstat),
                                  CALL(statfs),
                                  CALL(fstatfs),
                                  CALL(access),
                                  CALL(faccessat),
                                  CALL(faccessat2),
                                  CALL(readlink),
                                  CALL(readlinkat),
                                  CALL(lseek),
                                  CALL(readv),
                                  CALL(pread64),
                                  CALL(pwrite64),
                                  CALL(preadv),
                                  CALL(pwritev),
                                  CALL(preadv2),
                                  CALL(pwritev2),
                                  CALL(fsync),
                                  CALL(fdatasync),
                                  CALL(sync_file_range),
                                  CALL(fallocate),
                                  CALL(ftruncate),
                                  CALL(flock),
                                  CALL(fcntl),
                                  CALL(dup),
                                  CALL(dup2),
                                  CALL(dup3),
                                  CALL(pipe2),
                                  CALL(getcwd),
                                  CALL(getdents64),
                                  CALL(ioctl),
                                  CALL(memfd_create),
                                  CALL(mmap),
                                  CALL(mprotect),
                                  CALL(mlock),
                                  CALL(epoll_create1),
                                  CALL(epoll_wait),
                                  CALL(epoll_pwait),
                                  CALL(epoll_ctl),
                                  CALL(eventfd2),
                                  CALL(io_uring_setup),
                                  CALL(io_uring_register),
                                  CALL(io_uring_enter),
                                  CALL(timerfd_create),
                                  CALL(timerfd_gettime),
                                  CALL(signalfd4),
                                  CALL(rt_sigaction),
                                  CALL(rt_sigpending),
                                  CALL(rt_sigtimedwait),
                                  CALL(getppid),
                                  CALL(getuid),
                                  CALL(geteuid),
                                  CALL(getgid),
                                  CALL(getegid),
                                  CALL(uname),
                                  CALL(sysinfo),
                                  CALL(prctl),
                                  CALL(arch_prctl),
                                  CALL(prlimit64),
                                  CALL(getrlimit),
                                  CALL(setrlimit),
                                  CALL(getrusage),
                                  CALL(sched_setaffinity),
                                  CALL(getcpu),
                                  CALL(sched_getparam),
                                  CALL(sched_getscheduler),
                                  CALL(set_tid_address),
                                  CALL(seccomp),
                                  CALL(landlock_create_ruleset),
                                  CALL(landlock_restrict_self),
                                  CALL(fchdir), // an empty root, and no capabilities
                                  CALL(chroot),
                                  CALL(capget),
                                  CALL(capset),
                                  CALL(accept4), // no socket can be made, so it has none of its own
                                  CALL(sendmsg),
                                  CALL(recvmsg),
                                  CALL(getsockopt),
                                  CALL(setsockopt),
                                  CALL(getpeername),
                                  CALL(getsockname),
                                  CALL(recvfrom),
                                  CALL(sendto),
                                  CALL(shutdown),
                                  CALL(select),
                                  CALL(pselect6),
                                  CALLS_END};

static const int *const class_calls[] = {[HOST_THREAD_MAIN] = main_calls,
                                         [HOST_THREAD_VCPU] = vcpu_calls,
                                         [HOST_THREAD_DISPLAY] = display_calls,
                                         [HOST_THREAD_BLOCK] = block_calls};

// --- seccomp

// Rules that fail make the filter stricter, never looser; only one for a system call that this
// libseccomp does not know is expected, and harmless.
static int allow_list(scmp_filter_ctx filter, const int *calls)
{
    for (; *calls != CALLS_END; calls++) {
        int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, *calls, 0);
        if (result < 0 && result != -EDOM && result != -EEXIST)
            return result;
    }
    return 0;
}

static int allow_common(scmp_filter_ctx filter)
{
    int result = allow_list(filter, common_calls);
    if (!result) // abort() and raise(): signals to ourselves only
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(tgkill), 1,
                                  SCMP_A0(SCMP_CMP_EQ, FILTER_PID));
    return result;
}

// Memory may still be had, but none that can be executed.
static int allow_plain_memory(scmp_filter_ctx filter)
{
    const struct scmp_arg_cmp no_exec = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(mmap), 1, no_exec);
    if (!result)
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(mprotect), 1, no_exec);
    return result;
}

static int allow_ioctls(scmp_filter_ctx filter, const unsigned long *requests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(ioctl), 1,
                                      SCMP_A1(SCMP_CMP_EQ, requests[i]));
        if (result < 0)
            return result;
    }
    return 0;
}

// glibc's fstat: no path, only the descriptor.
static int allow_fstat(scmp_filter_ctx filter)
{
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(newfstatat), 1,
                            SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
}

// Devices answer their guest from the page cache, where that takes no waiting, and write to it.
static int allow_page_cache(scmp_filter_ctx filter)
{
    int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(preadv2), 1,
                                  SCMP_A5(SCMP_CMP_EQ, RWF_NOWAIT));
    return result ? result : seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(pwritev), 0);
}

// The main loop's part of the KVM engine: ranges of memory that move while the guest runs, and the
// log of changed pages.
static int allow_kvm_memory(scmp_filter_ctx filter)
{
    static const unsigned long requests[] = {KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG,
                                             KVM_RESET_DIRTY_RINGS};
    return allow_ioctls(filter, requests, ARRAY_LEN(requests));
}

// A display redraws what the guest has changed.
static int allow_kvm_log(scmp_filter_ctx filter)
{
    static const unsigned long requests[] = {KVM_GET_DIRTY_LOG, KVM_RESET_DIRTY_RINGS};
    return allow_ioctls(filter, requests, ARRAY_LEN(requests));
}

// What a vCPU of the KVM engine asks of it, by request: nothing that makes or maps anything.
static int allow_kvm(scmp_filter_ctx filter)
{
    static const unsigned long requests[] = {KVM_RUN,
                                             KVM_INTERRUPT,
                                             KVM_NMI,
                                             KVM_SMI,
                                             KVM_GET_REGS,
                                             KVM_SET_REGS,
                                             KVM_GET_SREGS2,
                                             KVM_SET_SREGS2,
                                             KVM_GET_DEBUGREGS,
                                             KVM_SET_DEBUGREGS,
                                             KVM_GET_XCRS,
                                             KVM_SET_XCRS,
                                             KVM_GET_XSAVE,
                                             KVM_GET_XSAVE2,
                                             KVM_SET_XSAVE,
                                             KVM_GET_MSRS,
                                             KVM_SET_MSRS,
                                             KVM_GET_VCPU_EVENTS,
                                             KVM_SET_VCPU_EVENTS,
                                             KVM_GET_MP_STATE,
                                             KVM_SET_MP_STATE,
                                             KVM_SET_DEVICE_ATTR,
                                             KVM_SET_GUEST_DEBUG,
                                             KVM_RESET_DIRTY_RINGS};
    return allow_ioctls(filter, requests, ARRAY_LEN(requests));
}

// Cages report to the vCPU that uses them, and go on when it answers.
static int allow_cages(scmp_filter_ctx filter)
{
    static const unsigned long requests[] = {SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND};
    return allow_ioctls(filter, requests, ARRAY_LEN(requests));
}

// What drives interrupt controllers in the kernel, on every thread that runs a device: lines,
// messages, doorbells. Guests also route and mask interrupts and mute the PIT; the main loop takes
// the chips' state when the VM pauses and gives it back, and scales the TSC of a guest that comes
// from a faster or slower host.
static int allow_irqchip(scmp_filter_ctx filter, enum host_thread_class thread_class)
{
    static const unsigned long drive[] = {KVM_IRQ_LINE, KVM_SIGNAL_MSI, KVM_IOEVENTFD};
    static const unsigned long wire[] = {KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_GET_PIT2,
                                         KVM_SET_PIT2};
    static const unsigned long state[] = {KVM_GET_IRQCHIP, KVM_SET_IRQCHIP,     KVM_GET_LAPIC,
                                          KVM_SET_LAPIC,   KVM_GET_MSRS,        KVM_SET_MSRS,
                                          KVM_SET_TSC_KHZ, KVM_REINJECT_CONTROL};
    int result = allow_ioctls(filter, drive, ARRAY_LEN(drive));
    if (!result && thread_class != HOST_THREAD_BLOCK)
        result = allow_ioctls(filter, wire, ARRAY_LEN(wire));
    if (!result && thread_class == HOST_THREAD_MAIN)
        result = allow_ioctls(filter, state, ARRAY_LEN(state));
    return result;
}

// Everyone asks whether standard error is a terminal before a line of log; the main loop also
// restores the terminal's modes and moves a frame buffer in KVM's map, and disks discard ranges of
// a block device.
static int allow_class_ioctls(scmp_filter_ctx filter, enum host_thread_class thread_class)
{
    static const unsigned long ask[] = {TCGETS};
    static const unsigned long terminal[] = {TCSETS, TCSETSW, TCSETSF};
    static const unsigned long disk[] = {BLKDISCARD, BLKZEROOUT};
    int result = allow_ioctls(filter, ask, ARRAY_LEN(ask));
    if (!result && thread_class == HOST_THREAD_MAIN)
        result = allow_ioctls(filter, terminal, ARRAY_LEN(terminal));
    if (!result && thread_class == HOST_THREAD_MAIN)
        result = allow_kvm_memory(filter);
    if (!result && thread_class == HOST_THREAD_DISPLAY)
        result = allow_kvm_log(filter);
    if (!result && thread_class == HOST_THREAD_BLOCK)
        result = allow_ioctls(filter, disk, ARRAY_LEN(disk));
    if (!result && thread_class == HOST_THREAD_VCPU)
        result = allow_kvm(filter);
    if (!result && thread_class == HOST_THREAD_VCPU)
        result = allow_cages(filter);
    if (!result)
        result = allow_irqchip(filter, thread_class);
    return result;
}

// Signals to cages: theirs are the only pidfds that there are, no class can make others, and what a
// signal carries is the kernel's to say.
static int allow_kicks(scmp_filter_ctx filter)
{
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(pidfd_send_signal), 2,
                            SCMP_A2(SCMP_CMP_EQ, 0), SCMP_A3(SCMP_CMP_EQ, 0));
}

// To other CPUs of the host: itself, and no other thread of the user's.
static int allow_moving(scmp_filter_ctx filter)
{
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(sched_setaffinity), 1,
                            SCMP_A0(SCMP_CMP_EQ, 0));
}

// The translator keeps its own GS base, and looks at it when a signal arrives.
static int allow_gs_base(scmp_filter_ctx filter)
{
    int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(arch_prctl), 1,
                                  SCMP_A0(SCMP_CMP_EQ, ARCH_GET_GS));
    if (!result)
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(arch_prctl), 1,
                                  SCMP_A0(SCMP_CMP_EQ, ARCH_SET_GS));
    return result;
}

// Threads, but no processes. clone3 hides its flags from the filter, so it is said not to exist,
// and glibc uses clone.
static int allow_threads(scmp_filter_ctx filter)
{
    int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    if (!result)
        result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), CALL(clone3), 0);
    return result;
}

// Bytes over sockets that are connected, without waiting for room.
static int allow_connected(scmp_filter_ctx filter)
{
    int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(sendto), 1, SCMP_A4(SCMP_CMP_EQ, 0));
    if (!result)
        result =
            seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(recvfrom), 1, SCMP_A4(SCMP_CMP_EQ, 0));
    return result;
}

// What a network card and its switch share: memory that cannot shrink, and a pair of sockets.
static int allow_window(scmp_filter_ctx filter)
{
    int result =
        seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_ADD_SEALS));
    if (!result)
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(socketpair), 1,
                                  SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    return result;
}

// A network's sockets: pairs for its ports, and for a way out those of the Internet.
static int allow_network(scmp_filter_ctx filter, enum host_thread_class thread_class)
{
    static const unsigned long requests[] = {FIONBIO, FIONREAD};
    const int writes = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_TMPFILE;
    int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(socketpair), 1,
                                  SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    if (!result)
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(fcntl), 1,
                                  SCMP_A1(SCMP_CMP_EQ, F_GET_SEALS));
    if (!result)
        result = allow_connected(filter);
    if (result || thread_class != HOST_THREAD_NAT)
        return result;
    result =
        seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_INET));
    if (!result)
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(socket), 1,
                                  SCMP_A0(SCMP_CMP_EQ, AF_INET6));
    if (!result) // the host's list of name servers, which libslirp follows
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(openat), 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, writes & ~O_DIRECTORY, 0));
    if (!result)
        result = allow_list(filter, nat_calls);
    return result ? result : allow_ioctls(filter, requests, ARRAY_LEN(requests));
}

static int network_filter(scmp_filter_ctx filter, enum host_thread_class thread_class)
{
    static const unsigned long ask[] = {TCGETS};
    int result = allow_common(filter);
    if (!result)
        result = allow_plain_memory(filter);
    if (!result)
        result = allow_list(filter, switch_calls);
    if (!result)
        result = allow_ioctls(filter, ask, ARRAY_LEN(ask));
    if (!result)
        result = allow_network(filter, thread_class);
    return result || thread_class == HOST_THREAD_NAT ? result : allow_fstat(filter);
}

static int setup_filter(scmp_filter_ctx filter, enum host_thread_class unused)
{
    int result = allow_common(filter);
    if (!result)
        result = allow_list(filter, setup_calls);
    if (!result)
        result = allow_window(filter);
    if (!result)
        result = allow_kicks(filter);
    return result ? result : allow_threads(filter);
}

static int class_filter(scmp_filter_ctx filter, enum host_thread_class thread_class)
{
    int result = allow_common(filter);
    if (!result)
        result = allow_plain_memory(filter);
    if (!result)
        result = allow_list(filter, class_calls[thread_class]);
    if (!result)
        result = allow_class_ioctls(filter, thread_class);
    if (!result && (thread_class == HOST_THREAD_MAIN || thread_class == HOST_THREAD_VCPU))
        result = allow_connected(filter);
    if (!result && thread_class == HOST_THREAD_MAIN)
        result = allow_window(filter);
    if (!result && thread_class != HOST_THREAD_BLOCK)
        result = allow_page_cache(filter);
    if (!result)
        result = thread_class == HOST_THREAD_VCPU ? allow_gs_base(filter) : allow_fstat(filter);
    if (!result && thread_class == HOST_THREAD_VCPU)
        result = allow_moving(filter);
    return result ? result : allow_kicks(filter);
}

// --- output

static int print_program(scmp_filter_ctx filter, const char *name)
{
    FILE *f = tmpfile();
    struct sock_filter insn;
    int result = f ? seccomp_export_bpf(filter, fileno(f)) : -errno;
    printf("static const struct sock_filter %s[] = {\n", name);
    if (f)
        rewind(f);
    while (!result && fread(&insn, sizeof insn, 1, f) == 1)
        printf("    {%#x, %u, %u, %#x},\n", insn.code, insn.jt, insn.jf, insn.k);
    printf("};\n");
    if (f)
        fclose(f);
    return result;
}

static int print_filter(const char *name,
                        int (*rules)(scmp_filter_ctx filter, enum host_thread_class thread_class),
                        enum host_thread_class thread_class)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return -ENOMEM;
    int result = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); // a tree, not a chain
    if (!result)
        result = rules(filter, thread_class);
    if (!result)
        result = print_program(filter, name);
    seccomp_release(filter);
    return result;
}

int main(void)
{
    const struct scmp_version *v = seccomp_version();
    printf("// Generated by src/host/sandbox_rules.c.\n#define FILTERS_MADE_BY \"libseccomp "
           "%u.%u.%u\"\n",
           v->major, v->minor, v->micro);
    int result = print_filter("setup_filter", setup_filter, HOST_THREAD_MAIN);
    if (!result)
        result = print_filter("main_filter", class_filter, HOST_THREAD_MAIN);
    if (!result)
        result = print_filter("vcpu_filter", class_filter, HOST_THREAD_VCPU);
    if (!result)
        result = print_filter("display_filter", class_filter, HOST_THREAD_DISPLAY);
    if (!result)
        result = print_filter("block_filter", class_filter, HOST_THREAD_BLOCK);
    if (!result)
        result = print_filter("switch_filter", network_filter, HOST_THREAD_SWITCH);
    if (!result)
        result = print_filter("nat_filter", network_filter, HOST_THREAD_NAT);
    if (result)
        fprintf(stderr, "gen-filters: %s\n", strerror(-result));
    return result ? 1 : 0;
}
