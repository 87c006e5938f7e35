// VMCALL and VMMCALL: paravirtual calls, which the machine answers, where CPUID says that there are
// some. Sources: Linux Documentation/virt/kvm/x86/hypercalls.rst; Intel SDM vol. 3 VMCALL; AMD APM
// vol. 3 VMMCALL. Either instruction will do on every CPU model, as with KVM. And PAUSE, by which a
// vCPU says that it waits for another.
#include <sched.h>

#include "engine/translate/system_impl.h"

void sys_hypercall(struct tcpu *c, const struct insn *insn)
{
    static const uint8_t from[] = {RBX, RCX, RDX, RSI};
    bool wide = (c->mode & MODE_CODE_SIZE) == MODE_CODE64;
    uint64_t width = wide ? ~0ull : UINT32_MAX, arg[ARRAY_LEN(from)];
    if (!c->hypercalls)
        cpu_raise(c, VEC_UD, 0);
    for (unsigned i = 0; i < ARRAY_LEN(from); i++)
        arg[i] = c->s.gpr[from[i]] & width;
    uint64_t answer = (uint64_t)KVM_CALL_DENIED;
    if (!(c->mode & MODE_PROTECTED) || cpl(c) == 0) {
        fpu_to_memory(c);
        tvm_leave(c);
        answer = c->vm->up->hypercall(c->vm->opaque, c->index, c->s.gpr[RAX] & width, arg, wide);
        tvm_enter(c);
    }
    c->s.gpr[RAX] = answer & width;
}

// The one that it waits for may have no CPU of the host just now.
void sys_pause(struct tcpu *c, const struct insn *insn)
{
    if (c->vm->config.vcpus == 1 || c->hot.pauses-- > 1)
        return;
    c->hot.pauses = PAUSES_BEFORE_YIELD;
    c->counter[COUNTER_SPINS]++;
    fpu_to_memory(c);
    tvm_leave(c);
    sched_yield();
    tvm_enter(c);
}
