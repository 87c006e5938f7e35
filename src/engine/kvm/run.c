// Running a vCPU: what is told to KVM before it enters the guest, and what its exits ask for.
// Source: Linux Documentation/virt/kvm/api.rst, section 5 (the shared page). Where the local APICs
// are in user space, INTR, CR8 and HLT pass through here; else at most the PIC's interrupts and the
// ends of the IOAPIC's.
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_impl.h"

static bool leave(struct engine_vcpu *v, enum engine_exit exit)
{
    v->exit = exit;
    return false;
}

static bool __attribute__((format(printf, 2, 3))) fail(struct engine_vcpu *v, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(v->error, sizeof v->error, fmt, args);
    va_end(args);
    return leave(v, ENGINE_FAILED);
}

static bool fail_ioctl(struct engine_vcpu *v, const char *what)
{
    struct error e = {0};
    (void)!kvm_failed(&e, errno, what);
    return fail(v, "%s", e.text);
}

// --- before entry

// Without system management mode, SMIs go nowhere.
void kvm_deliver_nmi(struct engine_vcpu *v)
{
    const uint32_t both = PENDING_NMI | PENDING_SMI;
    uint32_t pending = __atomic_fetch_and(&v->pending, ~both, __ATOMIC_SEQ_CST) & both;
    if (v->vm->spaces < 2)
        pending &= ~(uint32_t)PENDING_SMI;
    if (pending & PENDING_NMI && ioctl(v->fd, KVM_NMI) < 0)
        kvm_log_failed("give the guest an NMI");
    if (pending & PENDING_SMI && ioctl(v->fd, KVM_SMI) < 0)
        kvm_log_failed("give the guest an SMI");
    v->nmi |= pending != 0;
}

static bool intr(const struct engine_vcpu *v)
{
    return __atomic_load_n(&v->intr, __ATOMIC_SEQ_CST);
}

// An NMI wakes a halted vCPU unless it stands in an NMI's handler, an SMI unless in an SMI's.
static bool nmi_wakes(struct engine_vcpu *v)
{
    struct kvm_vcpu_events events;
    if (!v->nmi)
        return false;
    if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
        return false;
    return (!events.nmi.masked && (events.nmi.pending || events.nmi.injected)) ||
           (!events.smi.smm && events.smi.pending);
}

static bool chips_here(const struct engine_vcpu *v)
{
    return v->vm->chips == ENGINE_CHIPS_NONE;
}

// An interrupt that can be taken is acknowledged only now, so that it is never lost on the way.
static bool inject(struct engine_vcpu *v)
{
    bool can = v->activity == CPU_HALTED && chips_here(v) ? v->open : v->ready;
    v->run->request_interrupt_window = 0;
    if (v->debug.control & KVM_GUESTDBG_SINGLESTEP)
        return true;
    if (can && intr(v)) {
        int vector = v->vm->up->intr_ack(v->vm->opaque, v->index);
        const struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};
        if (vector >= 0 && ioctl(v->fd, KVM_INTERRUPT, &interrupt) < 0)
            return fail_ioctl(v, "inject an interrupt");
        if (vector >= 0) {
            v->counter[COUNTER_INTERRUPTS]++;
            v->activity = CPU_RUNNING;
            v->ready = false;
            v->external = chips_here(v) ? -1 : vector;
        }
    }
    v->run->request_interrupt_window = intr(v);
    return true;
}

// With the local APIC in the kernel, vCPUs wait there. A vCPU that sleeps says nothing of an
// interrupt window, so whether it would take the PIC's interrupt is asked before it may sleep.
static bool prepare_waiting_inside(struct engine_vcpu *v)
{
    if (v->vm->chips == ENGINE_CHIPS_ALL)
        return true;
    if (intr(v) && v->stale)
        __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    return inject(v);
}

// False: there is nothing to run, v->exit says what it is.
static bool prepare(struct engine_vcpu *v)
{
    bool kicked = __atomic_load_n(&v->pending, __ATOMIC_SEQ_CST) & PENDING_KICK;
    if (kicked && !v->incomplete) {
        __atomic_fetch_and(&v->pending, ~(uint32_t)PENDING_KICK, __ATOMIC_SEQ_CST);
        return leave(v, ENGINE_KICKED);
    }
    if (kicked) // only finish the access that the guest has begun
        __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    kvm_deliver_nmi(v);
    if (v->activity == CPU_SHUTDOWN)
        return leave(v, ENGINE_SHUTDOWN);
    if (!chips_here(v))
        return prepare_waiting_inside(v);
    if (v->activity == CPU_WAIT_FOR_SIPI)
        return leave(v, ENGINE_HALTED);
    if (v->activity == CPU_HALTED && nmi_wakes(v))
        v->activity = CPU_RUNNING;
    if (!inject(v))
        return false;
    if (v->activity == CPU_HALTED)
        return leave(v, ENGINE_HALTED);
    v->nmi = false;
    v->cr8 = v->vm->up->cr8_read(v->vm->opaque, v->index);
    v->run->cr8 = v->cr8;
    return true;
}

// --- exits

static void do_port(struct engine_vcpu *v)
{
    const struct engine_upcalls *up = v->vm->up;
    uint16_t port = v->run->io.port;
    unsigned size = v->run->io.size;
    char *data = (char *)v->run + v->run->io.data_offset;
    for (uint32_t i = 0; i < v->run->io.count; i++, data += size) {
        uint64_t value = 0;
        if (v->run->io.direction == KVM_EXIT_IO_IN) {
            value = up->pio_read(v->vm->opaque, v->index, port, size);
            memcpy(data, &value, size);
        } else {
            memcpy(&value, data, size);
            up->pio_write(v->vm->opaque, v->index, port, size, value);
        }
    }
}

// KVM may ask for 3, 5, 6 or 7 bytes where an access crosses a page: the machine sees powers of
// two.
static void do_mmio(struct engine_vcpu *v)
{
    const struct engine_upcalls *up = v->vm->up;
    gpa_t at = v->run->mmio.phys_addr;
    uint8_t *data = v->run->mmio.data;
    uint32_t left = v->run->mmio.len <= 8 ? v->run->mmio.len : 8;
    while (left) {
        unsigned size = 1u << (31 - __builtin_clz(left));
        uint64_t value = 0;
        if (v->run->mmio.is_write) {
            memcpy(&value, data, size);
            up->mmio_write(v->vm->opaque, v->index, at, size, value);
        } else {
            value = up->mmio_read(v->vm->opaque, v->index, at, size);
            memcpy(data, &value, size);
        }
        at += size;
        data += size;
        left -= size;
    }
}

static void do_msr(struct engine_vcpu *v, bool write)
{
    const struct engine_upcalls *up = v->vm->up;
    uint32_t msr = v->run->msr.index;
    uint64_t value = v->run->msr.data;
    err_t err = OK;
    if (write && !kvm_write_tsc(v, msr, value))
        err = up->msr_write(v->vm->opaque, v->index, msr, value);
    else if (!write && msr == MSR_TSC_ADJUST)
        value = v->adjust;
    else if (!write && msr == KVM_AMD_HWCR)
        value = KVM_AMD_HWCR_TSC;
    else if (!write)
        err = up->msr_read(v->vm->opaque, v->index, msr, &value);
    v->run->msr.data = value;
    v->run->msr.error = err != OK;
}

static bool internal_error(struct engine_vcpu *v)
{
    static const char *const names[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "it cannot emulate the instruction",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "exceptions came together",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "an event could not be delivered",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "the CPU gave an unexpected exit reason"};
    struct kvm_regs regs = {0};
    (void)ioctl(v->fd, KVM_GET_REGS, &regs);
    uint32_t error = v->run->internal.suberror;
    const char *name = error < ARRAY_LEN(names) && names[error] ? names[error] : "internal error";
    return fail(v, "KVM gave up at RIP %#llx: %s (%u); --engine translate may run this guest",
                (unsigned long long)regs.rip, name, error);
}

// True: the guest goes on.
static bool handle(struct engine_vcpu *v)
{
    switch (v->run->exit_reason) {
    case KVM_EXIT_IO:
        v->counter[COUNTER_PORTS]++;
        v->incomplete = true;
        do_port(v);
        return true;
    case KVM_EXIT_MMIO:
        v->counter[COUNTER_MMIO]++;
        v->incomplete = true;
        do_mmio(v);
        return true;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        v->counter[COUNTER_MSRS]++;
        v->incomplete = true;
        do_msr(v, v->run->exit_reason == KVM_EXIT_X86_WRMSR);
        return true;
    case KVM_EXIT_HLT:
        v->counter[COUNTER_HALTS]++;
        v->activity = CPU_HALTED;
        return true;
    case KVM_EXIT_IOAPIC_EOI:
        v->counter[COUNTER_EOIS]++;
        v->vm->up->eoi(v->vm->opaque, v->index, v->run->eoi.vector);
        return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN: v->counter[COUNTER_WINDOWS]++; return true;
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR: return true;
    case KVM_EXIT_DIRTY_RING_FULL:
        return kvm_ring_harvest(v->vm) == OK || fail_ioctl(v, "empty its log of changed pages");
    case KVM_EXIT_DEBUG: kvm_note_stop(v); return leave(v, ENGINE_STOPPED);
    case KVM_EXIT_SHUTDOWN: v->activity = CPU_SHUTDOWN; return true;
    case KVM_EXIT_INTERNAL_ERROR: return internal_error(v);
    case KVM_EXIT_FAIL_ENTRY:
        return fail(v, "the CPU refused to enter the guest (reason %#llx); dmesg may say more",
                    (unsigned long long)v->run->fail_entry.hardware_entry_failure_reason);
    default:
        return fail(v,
                    "KVM left the guest for a reason that Berth does not know (%u); "
                    "--engine translate may run this guest",
                    v->run->exit_reason);
    }
}

// The page is shared with KVM only, but what it says about the guest is looked at once.
// A vector of the PIC's has not been delivered only while nothing has changed: interrupts are
// enabled, there is no room for another one, and a signal ended the run.
static void after_exit(struct engine_vcpu *v, bool interrupted)
{
    v->incomplete = v->stale = false;
    v->ready = v->run->ready_for_interrupt_injection;
    v->open = v->run->if_flag;
    if (!interrupted || v->ready || !v->open)
        v->external = -1;
    if (!chips_here(v))
        return;
    uint8_t cr8 = v->run->cr8 & 15;
    if (cr8 != v->cr8)
        v->vm->up->cr8_write(v->vm->opaque, v->index, cr8);
    v->cr8 = cr8;
}

// inside is set before pending and intr are looked at, and poke() (engine.c) sets those first:
// either this thread sees them, or the other one sees that it must send the signal.
static bool step(struct engine_vcpu *v)
{
    __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&v->inside, true, __ATOMIC_SEQ_CST);
    bool enter = prepare(v);
    int result = enter ? ioctl(v->fd, KVM_RUN, 0) : 0;
    int number = errno;
    __atomic_store_n(&v->inside, false, __ATOMIC_SEQ_CST);
    if (!enter)
        return false;
    v->counter[COUNTER_EXITS]++;
    after_exit(v, result != 0);
    if (result == 0)
        return handle(v);
    v->counter[COUNTER_SIGNALS]++;
    errno = number;
    return number == EINTR || number == EAGAIN || fail_ioctl(v, "run the guest");
}

enum engine_exit kvm_run(struct engine_vcpu *v)
{
    kvm_step_from_here(v);
    while (step(v)) {
    }
    return v->exit;
}
