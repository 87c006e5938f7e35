// Runs test cases on the host's CPU. A forked child, alone in a seccomp filter that allows it
// nothing but to return from signals and to exit, maps the world and sends itself a signal; each
// case is entered by returning from a signal handler with the case's registers in the frame, and
// ends in the next signal (INT3 or a fault), whose frame holds the outcome.
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/bytes.h"
#include "cpu/cpuid.h"
#include "oracle.h"

#define XSAVE_HEADER 512
#define SW_RESERVED 464 // of the legacy area: the kernel's own words
#define SW_XSTATE_SIZE (SW_RESERVED + 16)
#define FRAME_XSTATE 7

// Where the child is. One child runs at a time, and a signal handler has no other way to its state.
static struct {
    struct test_case *cases;
    size_t count;
    size_t *next; // shared: how far it got
    bool running; // cases[*next] has been entered
    uint8_t data[WORLD_DATA_BYTES];
    uint8_t xsave[XSAVE_BYTES]; // in the host's layout
    struct xsave_layout layout;
} child;

static const int gregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                              REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                              REG_R12, REG_R13, REG_R14, REG_R15};

static size_t frame_bytes(const uint8_t *fp)
{
    size_t size = load_le32(fp + SW_XSTATE_SIZE);
    return size < XSAVE_BYTES ? size : XSAVE_BYTES;
}

static void capture(struct test_case *c, const ucontext_t *u)
{
    const greg_t *g = u->uc_mcontext.gregs;
    struct outcome *o = &c->host;
    for (unsigned i = 0; i < 16; i++)
        o->regs.gpr[i] = (uint64_t)g[gregs[i]];
    o->regs.rip = (uint64_t)g[REG_RIP];
    o->regs.rflags = (uint64_t)g[REG_EFL];
    const uint8_t *fp = (const uint8_t *)u->uc_mcontext.fpregs;
    memset(o->regs.xsave, 0, XSAVE_BYTES);
    memcpy(o->regs.xsave, fp, frame_bytes(fp));
    xsave_move(o->regs.xsave, &child.layout, &xsave_layout_state);
    o->vector = (uint32_t)g[REG_TRAPNO];
    o->error = (uint32_t)g[REG_ERR];
    o->cr2 = (uint64_t)g[REG_CR2];
    o->selector[SEG_CS] = (uint16_t)g[REG_CSGSFS];
    o->selector[SEG_SS] = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
    __asm__ volatile("mov %%ds, %0" : "=r"(o->selector[SEG_DS]));
    __asm__ volatile("mov %%es, %0" : "=r"(o->selector[SEG_ES]));
    __asm__ volatile("mov %%fs, %0" : "=r"(o->selector[SEG_FS]));
    __asm__ volatile("mov %%gs, %0" : "=r"(o->selector[SEG_GS]));
    memcpy(o->data, (void *)WORLD_DATA, WORLD_DATA_BYTES);
}

// 64-bit code ignores DS and ES; 32-bit code must find them usable. Nothing in the child needs FS.
static void set_segments(void)
{
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %1, %%fs\n\tmov %1, %%gs"
                     :
                     : "r"(SELECTOR_DATA), "r"(0));
}

// The kernel leaves AC to the handler, whose own accesses need not be aligned.
static inline void clear_ac(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandl $0xfffbffff, (%%rsp)\n\tpopfq\n\t"
                     "lea 128(%%rsp), %%rsp"
                     :
                     :
                     : "cc", "memory");
}

static void enter(const struct test_case *c, ucontext_t *u)
{
    greg_t *g = u->uc_mcontext.gregs;
    uint8_t *fp = (uint8_t *)u->uc_mcontext.fpregs;
    set_segments();
    memset((void *)(WORLD_CODE + CODE_BYTES), 0xcc, PAGE - CODE_BYTES);
    memcpy((void *)WORLD_CODE, c->code, CODE_BYTES);
    memcpy((void *)WORLD_DATA, child.data, WORLD_DATA_BYTES);
    memcpy((uint8_t *)WORLD_DATA + c->patch_at, c->patch, c->patch_len);
    for (unsigned i = 0; i < 16; i++)
        g[gregs[i]] = (greg_t)c->in.gpr[i];
    g[REG_RIP] = (greg_t)c->in.rip;
    g[REG_EFL] = (greg_t)c->in.rflags;
    uint64_t selectors = c->mode == 8 ? SELECTOR_CODE64 : SELECTOR_CODE32;
    g[REG_CSGSFS] = (greg_t)(selectors | (uint64_t)SELECTOR_DATA << 48);
    memcpy(child.xsave, c->in.xsave, XSAVE_BYTES);
    xsave_move(child.xsave, &xsave_layout_state, &child.layout);
    memcpy(fp, child.xsave, SW_RESERVED);
    memcpy(fp + XSAVE_HEADER, child.xsave + XSAVE_HEADER, frame_bytes(fp) - XSAVE_HEADER);
}

// Without the C library, whose thread data FS no longer points to.
_Noreturn static void leave(void)
{
    for (;;)
        __asm__ volatile("syscall" : : "a"(SYS_exit_group), "D"(0) : "rcx", "r11", "memory");
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    clear_ac();
    if (child.running) {
        capture(&child.cases[*child.next], u);
        ++*child.next;
    }
    child.running = true;
    if (*child.next == child.count)
        leave();
    enter(&child.cases[*child.next], u);
}

static bool map(uint64_t at, size_t len, int prot)
{
    void *p = mmap((void *)at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return p == (void *)at;
}

static bool make_world(void)
{
    if (!map(WORLD_CODE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) ||
        !map(WORLD_DATA, WORLD_DATA_BYTES, PROT_READ | PROT_WRITE) ||
        !map(WORLD_READ_ONLY, PAGE, PROT_READ | PROT_WRITE))
        return false;
    world_data(child.data);
    memcpy((void *)WORLD_READ_ONLY, child.data, PAGE);
    return mprotect((void *)WORLD_READ_ONLY, PAGE, PROT_READ) == 0;
}

static bool catch_signals(void)
{
    static uint8_t stack[65536];
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGUSR1};
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_signal,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    if (sigaltstack(&alternate, NULL) != 0)
        return false;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        if (sigaction(signals[i], &action, NULL) != 0)
            return false;
    }
    return true;
}

static bool lock_in(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return false;
    bool ok = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(rt_sigreturn), 0) == 0 &&
              seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(exit_group), 0) == 0 &&
              seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 0) == 0 &&
              seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(rt_sigprocmask), 0) == 0 &&
              seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(gettid), 0) == 0 &&
              seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(getpid), 0) == 0 &&
              seccomp_load(filter) == 0;
    seccomp_release(filter);
    return ok;
}

static void child_main(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(60);
    if (!make_world() || !catch_signals() || !lock_in())
        _exit(2);
    raise(SIGUSR1);
    _exit(3);
}

bool host_run(struct test_case *cases, size_t count)
{
    struct cpuid_table host;
    cpuid_read_host(&host);
    xsave_layout_of(&host, &child.layout);
    child.cases = cases;
    child.count = count;
    child.next = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (child.next == MAP_FAILED)
        return false;
    bool ok = true;
    while (ok && *child.next < count) {
        size_t before = *child.next;
        child.running = false;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0)
            child_main();
        int status;
        ok = pid > 0 && waitpid(pid, &status, 0) == pid;
        if (!ok || *child.next == count)
            break;
        // A case killed its child: it has no outcome.
        cases[*child.next].host.vector = UINT32_MAX;
        ok = !(WIFEXITED(status) && WEXITSTATUS(status) == 2) || *child.next != before;
        ++*child.next;
    }
    munmap(child.next, PAGE);
    return ok;
}
