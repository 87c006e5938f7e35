// Activity and events of a vCPU into KVM and back. Source: Linux Documentation/virt/kvm/api.rst,
// KVM_GET_VCPU_EVENTS, KVM_GET_MP_STATE. Whether a vCPU is halted or waits for SIPI is kept by the
// engine where the local APIC is not in the kernel: KVM then knows running vCPUs only. System
// management mode is KVM's, where the kernel has it.
#include <errno.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_impl.h"

#define VEC_DB 1
#define VEC_NMI_NUMBER 2

// AMD's CPUs know one kind of shadow, and KVM then says both: the stronger one does no harm.
static uint8_t shadow_from(uint8_t kvm)
{
    return kvm & KVM_X86_SHADOW_INT_MOV_SS ? 2 : kvm & KVM_X86_SHADOW_INT_STI ? 1 : 0;
}

static uint8_t shadow_to(uint8_t ours)
{
    return ours == 2 ? KVM_X86_SHADOW_INT_MOV_SS : ours == 1 ? KVM_X86_SHADOW_INT_STI : 0;
}

static void begun(struct cpu_state *out, uint8_t vector, enum cpu_event_type type)
{
    out->event_pending = 1;
    out->event_vector = vector;
    out->event_type = (uint8_t)type;
}

// What KVM has begun to deliver; at most one of them is.
static void get_begun(const struct kvm_vcpu_events *events, struct cpu_state *out)
{
    out->event_pending = out->event_vector = out->event_type = out->event_has_error = 0;
    out->event_error = 0;
    if (events->exception.injected) {
        begun(out, events->exception.nr, CPU_EVENT_EXCEPTION);
        out->event_has_error = events->exception.has_error_code;
        out->event_error = events->exception.has_error_code ? events->exception.error_code : 0;
    } else if (events->nmi.injected) {
        begun(out, VEC_NMI_NUMBER, CPU_EVENT_NMI);
    } else if (events->interrupt.injected) {
        begun(out, events->interrupt.nr,
              events->interrupt.soft ? CPU_EVENT_SOFT_INT : CPU_EVENT_INTR);
    }
}

// --- activity, where KVM keeps it

static void get_activity(struct engine_vcpu *v)
{
    struct kvm_mp_state state = {0};
    if (v->vm->chips == ENGINE_CHIPS_NONE || v->activity == CPU_SHUTDOWN)
        return;
    if (ioctl(v->fd, KVM_GET_MP_STATE, &state) < 0)
        kvm_log_failed("tell whether a vCPU runs");
    switch (state.mp_state) {
    case KVM_MP_STATE_HALTED: v->activity = CPU_HALTED; break;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: v->activity = CPU_WAIT_FOR_SIPI; break;
    default: v->activity = CPU_RUNNING;
    }
}

static err_t set_activity(struct engine_vcpu *v, struct error *e)
{
    static const uint32_t states[] = {[CPU_RUNNING] = KVM_MP_STATE_RUNNABLE,
                                      [CPU_HALTED] = KVM_MP_STATE_HALTED,
                                      [CPU_WAIT_FOR_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
                                      [CPU_SHUTDOWN] = KVM_MP_STATE_RUNNABLE};
    struct kvm_mp_state state = {.mp_state = states[v->activity]};
    if (v->vm->chips == ENGINE_CHIPS_NONE)
        return OK;
    return ioctl(v->fd, KVM_SET_MP_STATE, &state) < 0
               ? kvm_failed(e, errno, "say whether a vCPU runs")
               : OK;
}

// --- system management mode

static void get_smm(struct engine_vcpu *v, const struct kvm_vcpu_events *events,
                    struct cpu_state *out)
{
    bool has = v->vm->spaces > 1;
    out->smm = 0;
    if (has && events->smi.smm)
        out->smm = (uint8_t)(CPU_SMM | (events->smi.smm_inside_nmi ? CPU_SMM_IN_NMI : 0) |
                             (events->smi.latched_init ? CPU_SMM_INIT_WAITS : 0));
    out->smi_pending = has && events->smi.pending;
}

static err_t set_smm(struct engine_vcpu *v, const struct cpu_state *in,
                     struct kvm_vcpu_events *events, struct error *e)
{
    if (v->vm->spaces < 2)
        return in->smm
                   ? error_set(e, ERR_UNSUPPORTED,
                               "the guest is in system management mode, which this kernel's KVM "
                               "does not have; use one with CONFIG_KVM_SMM")
                   : OK;
    events->flags |= KVM_VCPUEVENT_VALID_SMM;
    events->smi.smm = in->smm & CPU_SMM;
    events->smi.smm_inside_nmi = in->smm & CPU_SMM_IN_NMI ? 1 : 0;
    events->smi.latched_init = in->smm & CPU_SMM_INIT_WAITS ? 1 : 0;
    events->smi.pending = in->smi_pending;
    return OK;
}

// --- all of it

void kvm_get_events(struct engine_vcpu *v, struct cpu_state *out)
{
    struct kvm_vcpu_events events = {0};
    kvm_deliver_nmi(v);
    get_activity(v); // first: KVM takes a waiting INIT or SIPI now
    if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
        kvm_log_failed("tell a vCPU's pending events");
    out->activity = v->activity;
    out->interrupt_shadow = shadow_from(events.interrupt.shadow);
    out->nmi_blocked = events.nmi.masked;
    out->nmi_pending = events.nmi.pending != 0;
    out->pending_dbg = 0;
    get_smm(v, &events, out);
    get_begun(&events, out);
    if (!out->event_pending && v->external >= 0)
        begun(out, (uint8_t)v->external, CPU_EVENT_INTR);
}

static void set_begun(const struct cpu_state *in, struct kvm_vcpu_events *events)
{
    switch (in->event_type) {
    case CPU_EVENT_EXCEPTION:
        events->exception.injected = 1;
        events->exception.nr = in->event_vector;
        events->exception.has_error_code = in->event_has_error;
        events->exception.error_code = in->event_error;
        break;
    case CPU_EVENT_NMI: events->nmi.injected = 1; break;
    default:
        events->interrupt.injected = 1;
        events->interrupt.nr = in->event_vector;
        events->interrupt.soft = in->event_type == CPU_EVENT_SOFT_INT;
    }
}

// A trap that was due at the next boundary: KVM has no place for it but the exception itself.
static err_t set_trap(struct engine_vcpu *v, const struct cpu_state *in,
                      struct kvm_vcpu_events *events, struct error *e)
{
    struct kvm_debugregs debug;
    if (ioctl(v->fd, KVM_GET_DEBUGREGS, &debug) < 0)
        return kvm_failed(e, errno, "read debug registers");
    debug.dr6 |= in->pending_dbg;
    events->exception.injected = 1;
    events->exception.nr = VEC_DB;
    return ioctl(v->fd, KVM_SET_DEBUGREGS, &debug) < 0 ? kvm_failed(e, errno, "set debug registers")
                                                       : OK;
}

err_t kvm_set_events(struct engine_vcpu *v, const struct cpu_state *in, struct error *e)
{
    struct kvm_vcpu_events events = {
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        .interrupt.shadow = shadow_to(in->interrupt_shadow),
        .nmi = {.pending = in->nmi_pending, .masked = in->nmi_blocked}};
    err_t err = OK;
    if (in->event_pending)
        set_begun(in, &events);
    else if (in->pending_dbg)
        err = set_trap(v, in, &events, e);
    if (!err)
        err = set_smm(v, in, &events, e);
    if (!err && ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events) < 0)
        err = kvm_failed(e, errno, "set pending events");
    v->activity = in->activity;
    v->external = -1;
    if (!err)
        err = set_activity(v, e);
    v->nmi = in->nmi_pending || in->smi_pending;
    __atomic_fetch_and(&v->pending, ~(uint32_t)(PENDING_NMI | PENDING_SMI), __ATOMIC_SEQ_CST);
    return err;
}
