// Host exceptions in translated code: the guest divides by zero, breaks an alignment rule, has
// unmasked a floating-point exception, or uses an instruction that the decoder and CPUID know and
// this processor does not. The handler only notes where, and sends the thread through
// GATE_TRAP; nothing is decided on the signal stack.
//
// Signals elsewhere are not ours: they get the default action back and strike again.
#include <asm/prctl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

// The decoder has a name of its own for RIP.
enum { CONTEXT_RIP = REG_RIP, CONTEXT_TRAP = REG_TRAPNO, CONTEXT_RSP = REG_RSP };
#undef REG_RIP

#include "engine/translate/jit_impl.h"
#include "engine/translate/simd.h"

static struct tcpu *current_vcpu(void)
{
    uint64_t base = 0;
    if (syscall(SYS_arch_prctl, ARCH_GET_GS, &base) != 0 || !base)
        return NULL;
    struct tcpu *c = (struct tcpu *)(uintptr_t)base;
    return c->hot.self == c ? c : NULL;
}

static bool in_cache(const struct tcpu *c, uint64_t pc)
{
    const struct jit *jit = c->jit;
    return jit && pc - (uint64_t)(uintptr_t)jit->buf.exec < jit->buf.len;
}

// The shadow stack is full, and begins anew.
static bool in_guards(const struct tcpu *c, uint64_t address)
{
    uint64_t from_start = address - (uint64_t)(uintptr_t)c->jit->shadow;
    return from_start < SHADOW_ALL && from_start % SHADOW_STEP < PAGE_SIZE;
}

static void handle(int number, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct tcpu *c = current_vcpu();
    if (c && number == SIGILL && simd_refused(c, (uint64_t)regs[CONTEXT_RIP])) {
        regs[CONTEXT_RIP] = *(greg_t *)regs[CONTEXT_RSP]; // a stub keeps nothing on the stack
        regs[CONTEXT_RSP] += 8;
        return;
    }
    if (!c || !in_cache(c, (uint64_t)regs[CONTEXT_RIP])) {
        signal(number, SIG_DFL);
        return;
    }
    if (in_guards(c, (uint64_t)(uintptr_t)info->si_addr)) {
        regs[CONTEXT_RSP] = (greg_t)c->hot.shadow_base; // the instruction runs again
        return;
    }
    c->hot.trap_pc = (uint64_t)regs[CONTEXT_RIP];
    c->hot.trap_no = (uint32_t)regs[CONTEXT_TRAP];
    regs[CONTEXT_RIP] = (greg_t)(uintptr_t)c->jit->gate[GATE_TRAP];
}

void jit_attach(struct tcpu *c)
{
    static const int numbers[] = {SIGSEGV, SIGFPE, SIGBUS, SIGILL};
    fpu_to_memory(c); // the C library may use vector registers
    stack_t stack = {.ss_sp = c->jit->signal_stack, .ss_size = sizeof c->jit->signal_stack};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (unsigned i = 0; i < ARRAY_LEN(numbers); i++)
        sigaction(numbers[i], &action, NULL);
    c->hot.self = c;
    syscall(SYS_arch_prctl, ARCH_SET_GS, c);
    c->jit->attached = true;
}
