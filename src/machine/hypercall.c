#include "machine/hypercall.h"

#include "machine/vm_impl.h"

#define IPI_VECTOR 0xffu
#define IPI_DELIVERY_SHIFT 8
#define IPI_ASSERT BIT(14)
#define IPI_LEVEL BIT(15)
#define IPI_DELIVERY (7u << IPI_DELIVERY_SHIFT)
#define IPI_ALLOWED (IPI_VECTOR | IPI_DELIVERY | IPI_ASSERT | IPI_LEVEL)

// A processor's APIC id is its vCPU's index.
static bool known_vcpu(const struct vm *vm, uint64_t apic_id)
{
    return apic_id < vm->vcpus;
}

static uint64_t send_ipi(struct vm *vm, const uint64_t arg[4], bool wide)
{
    unsigned width = wide ? 64 : 32;
    uint64_t first = (uint32_t)arg[2], command = arg[3];
    struct apic_message m = {
        .wide = true,
        .delivery = (uint8_t)((command & IPI_DELIVERY) >> IPI_DELIVERY_SHIFT),
        .vector = (uint8_t)command,
        .trigger = (command & IPI_LEVEL) != 0,
        .level = 1,
    };
    if (command & ~(uint64_t)IPI_ALLOWED || (m.delivery != APIC_FIXED && m.delivery != APIC_NMI))
        return (uint64_t)KVM_CALL_INVALID;
    uint64_t taken = 0;
    irq_lock(&vm->irq);
    for (unsigned i = 0; i < 2 * width; i++) {
        if (!(arg[i / width] >> i % width & 1) || !known_vcpu(vm, first + i))
            continue;
        m.dest = (uint32_t)first + i;
        taken += apic_send(&vm->irq.router, &m, 0);
    }
    irq_unlock(&vm->irq);
    return taken;
}

uint64_t hypercall_answer(struct vm *vm, uint64_t call, const uint64_t arg[4], bool wide)
{
    switch (call) {
    case KVM_CALL_KICK_CPU:
        if (known_vcpu(vm, arg[1]))
            vcpu_unhalt(&vm->vcpu[arg[1]]);
        return 0;
    case KVM_CALL_SEND_IPI: return send_ipi(vm, arg, wide);
    default: return (uint64_t)KVM_CALL_UNKNOWN;
    }
}
