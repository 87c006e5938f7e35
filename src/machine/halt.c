// A vCPU that has halted: what ends the wait, and whether its thread looks for that before it
// sleeps.
//
// To wake a thread on another CPU of the host takes some 50 to 100 microseconds; one that still
// looks answers at once, but uses a CPU meanwhile. So how long it looks adapts: longer while waits
// are short, not at all once they are long. It never looks while the VM's vCPUs that are awake need
// all of the host's CPUs.
#include "host/clock.h"
#include "machine/vm_impl.h"

#define POLL_FIRST 10000 // ns
#define POLL_MAX 200000

// What ends a wait depends on how the processor waits: SIPI only by what the machine wants of it,
// HLT also by an NMI, by another processor's call and, with interrupts enabled, by an interrupt.
static bool must_wake(const struct vcpu *vcpu, const struct cpu_state *s)
{
    if (__atomic_load_n(&vcpu->attention, __ATOMIC_SEQ_CST) & ~VCPU_HOLD)
        return true;
    if (s->activity == CPU_WAIT_FOR_SIPI)
        return false;
    return __atomic_load_n(&vcpu->nmi, __ATOMIC_SEQ_CST) ||
           __atomic_load_n(&vcpu->vm->pvclock.unhalted[vcpu->index], __ATOMIC_SEQ_CST) ||
           (s->rflags & FLAG_IF && __atomic_load_n(&vcpu->intr, __ATOMIC_SEQ_CST));
}

static uint32_t poll_max(const struct vm *vm)
{
    if (!vm->poll_ns)
        return POLL_MAX;
    return vm->poll_ns == ENGINE_POLL_NEVER ? 0 : vm->poll_ns;
}

// True when what ends the wait has come.
static bool look_for_work(const struct vcpu *vcpu, const struct cpu_state *s, uint64_t since)
{
    while (!must_wake(vcpu, s)) {
        if (host_now() - since >= vcpu->poll_ns ||
            __atomic_load_n(&vcpu->vm->awake, __ATOMIC_RELAXED) > vcpu->host_cpus)
            return false;
        __builtin_ia32_pause();
    }
    return true;
}

static void sleep_until_woken(struct vcpu *vcpu, const struct cpu_state *s)
{
    uint64_t since = host_now();
    __atomic_fetch_sub(&vcpu->vm->awake, 1, __ATOMIC_RELAXED);
    steal_away(vcpu);
    pthread_mutex_lock(&vcpu->lock);
    vcpu->asleep = true;
    vcpu->woken_at = since;
    while (!must_wake(vcpu, s)) {
        vcpu->woken_at = 0;
        pthread_cond_wait(&vcpu->wake, &vcpu->lock);
    }
    vcpu->asleep = false;
    steal_rested(vcpu, (vcpu->woken_at ? vcpu->woken_at : host_now()) - since);
    pthread_mutex_unlock(&vcpu->lock);
    steal_back(vcpu);
    __atomic_fetch_add(&vcpu->vm->awake, 1, __ATOMIC_RELAXED);
}

uint32_t halt_next_poll(uint32_t poll_ns, uint32_t max, uint64_t waited)
{
    if (waited <= poll_ns)
        return poll_ns;
    if (waited > max)
        return 0;
    return (uint32_t)min_u64(poll_ns ? 2ull * poll_ns : POLL_FIRST, max);
}

static void wait_for_work(struct vcpu *vcpu, const struct cpu_state *s)
{
    uint64_t since = host_now();
    if (!look_for_work(vcpu, s, since))
        sleep_until_woken(vcpu, s);
    vcpu->poll_ns = halt_next_poll(vcpu->poll_ns, poll_max(vcpu->vm), host_now() - since);
}

void vcpu_halt(struct vcpu *vcpu, struct cpu_state *s)
{
    struct vm *vm = vcpu->vm;
    struct error e = {0};
    vm->engine->get(vcpu->engine, ENGINE_EVENTS | ENGINE_REGS, s);
    wait_for_work(vcpu, s);
    if (s->activity != CPU_HALTED ||
        !__atomic_exchange_n(&vm->pvclock.unhalted[vcpu->index], 0, __ATOMIC_SEQ_CST))
        return;
    s->activity = CPU_RUNNING;
    if (vm->engine->set(vcpu->engine, ENGINE_EVENTS, s, &e) != OK)
        vcpu_fail(vcpu, &e);
}
