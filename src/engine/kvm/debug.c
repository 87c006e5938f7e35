// Stopping a guest for a debugger: points in KVM's copy of the debug registers, INT3, single steps.
// Sources: Linux Documentation/virt/kvm/api.rst, section 4.87 (KVM_SET_GUEST_DEBUG). Not
// offered: points at ports.
#include <errno.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_impl.h"
#include "engine/watch.h"

#define VEC_DB 1
#define VEC_BP 3
#define DR6_STEP BIT(14)

err_t kvm_watch(struct engine_vcpu *v, const struct engine_watch *watch, struct error *e)
{
    const struct engine_watch nothing = {0};
    struct kvm_guest_debug debug = {0};
    watch = watch ? watch : &nothing;
    err_t err = engine_watch_check(watch, e);
    if (err)
        return err;
    if (watch->step)
        debug.control |= KVM_GUESTDBG_SINGLESTEP | (v->vm->guest_debug & KVM_GUESTDBG_BLOCKIRQ);
    if (watch->int3)
        debug.control |= KVM_GUESTDBG_USE_SW_BP;
    if (watch->pass)
        debug.control |= KVM_GUESTDBG_INJECT_BP;
    if (watch->points)
        debug.control |= KVM_GUESTDBG_USE_HW_BP;
    if (debug.control)
        debug.control |= KVM_GUESTDBG_ENABLE;
    for (unsigned i = 0; i < watch->points; i++)
        debug.arch.debugreg[i] = watch->point[i].at;
    debug.arch.debugreg[7] = engine_watch_dr7(watch);
    if (ioctl(v->fd, KVM_SET_GUEST_DEBUG, &debug) < 0)
        return kvm_failed(e, errno, "watch the guest for a debugger");
    debug.control &= ~(uint32_t)KVM_GUESTDBG_INJECT_BP;
    v->debug = debug;
    v->points = watch->points;
    return OK;
}

// KVM ties a step to where the vCPU stood when it was asked for.
void kvm_step_from_here(struct engine_vcpu *v)
{
    if (v->debug.control & KVM_GUESTDBG_SINGLESTEP && ioctl(v->fd, KVM_SET_GUEST_DEBUG, &v->debug))
        kvm_log_failed("step the guest for a debugger");
}

void kvm_stopped(struct engine_vcpu *v, struct engine_stop *out)
{
    *out = v->stop;
}

void kvm_note_stop(struct engine_vcpu *v)
{
    const struct kvm_debug_exit_arch *debug = &v->run->debug.arch;
    v->stop = (struct engine_stop){.at = debug->pc, .point = -1};
    v->stop.int3 = debug->exception == VEC_BP;
    v->stop.step = debug->exception == VEC_DB && debug->dr6 & DR6_STEP;
    for (unsigned i = 0; debug->exception == VEC_DB && i < v->points; i++)
        if (debug->dr6 >> i & 1)
            v->stop.point = (int)i;
}
