// What the engine asks of the machine on a vCPU's thread: ports, memory-mapped I/O, MSRs,
// interrupts.
#include "device/irq/lapic.h"
#include "machine/hypercall.h"
#include "machine/pvclock.h"
#include "machine/vm_impl.h"

static const struct bus_locks locks = {device_lock_access, device_unlock};

static uint64_t pio_read(void *opaque, unsigned vcpu, uint16_t port, unsigned size)
{
    struct vm *vm = opaque;
    return bus_read(&vm->pio, &locks, port, size);
}

static void pio_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint64_t value)
{
    struct vm *vm = opaque;
    bus_write(&vm->pio, &locks, port, size, value);
}

// Each vCPU sees its own local APIC's page, wherever its APIC base says.
static bool is_lapic(struct vm *vm, unsigned vcpu, gpa_t at, unsigned size, uint64_t *offset)
{
    gpa_t base = lapic_base(vm->vcpu[vcpu].lapic);
    if (vm->irq.kept != ENGINE_CHIPS_NONE || at < base || at - base > LAPIC_PAGE_SIZE - size)
        return false;
    *offset = at - base;
    return true;
}

static uint64_t mmio_read(void *opaque, unsigned vcpu, gpa_t at, unsigned size)
{
    struct vm *vm = opaque;
    uint64_t offset;
    if (!is_lapic(vm, vcpu, at, size, &offset))
        return bus_read(&vm->mmio, &locks, at, size);
    irq_lock(&vm->irq);
    uint64_t value = lapic_read(vm->vcpu[vcpu].lapic, offset, size);
    irq_unlock(&vm->irq);
    return value;
}

static void mmio_write(void *opaque, unsigned vcpu, gpa_t at, unsigned size, uint64_t value)
{
    struct vm *vm = opaque;
    uint64_t offset;
    if (!is_lapic(vm, vcpu, at, size, &offset)) {
        bus_write(&vm->mmio, &locks, at, size, value);
        return;
    }
    irq_lock(&vm->irq);
    lapic_write(vm->vcpu[vcpu].lapic, offset, size, value);
    irq_unlock(&vm->irq);
}

static bool is_lapic_msr(uint32_t msr)
{
    return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
           (msr >= MSR_X2APIC_BASE && msr <= MSR_X2APIC_LAST);
}

static err_t msr_read(void *opaque, unsigned vcpu, uint32_t msr, uint64_t *value)
{
    struct vm *vm = opaque;
    if (!is_lapic_msr(msr))
        return pvclock_msr_read(vm, vcpu, msr, value);
    if (vm->irq.kept != ENGINE_CHIPS_NONE)
        return ERR_INVALID; // the engine refused it
    irq_lock(&vm->irq);
    err_t err = lapic_msr_read(vm->vcpu[vcpu].lapic, msr, value);
    irq_unlock(&vm->irq);
    return err;
}

static err_t msr_write(void *opaque, unsigned vcpu, uint32_t msr, uint64_t value)
{
    struct vm *vm = opaque;
    if (!is_lapic_msr(msr))
        return pvclock_msr_write(vm, vcpu, msr, value);
    if (vm->irq.kept != ENGINE_CHIPS_NONE)
        return ERR_INVALID;
    irq_lock(&vm->irq);
    err_t err = lapic_msr_write(vm->vcpu[vcpu].lapic, msr, value);
    irq_unlock(&vm->irq);
    return err;
}

static void tsc_adjusted(void *opaque, unsigned vcpu, uint64_t adjust)
{
    struct vm *vm = opaque;
    irq_lock(&vm->irq);
    vm->vcpu[vcpu].tsc_adjust = adjust;
    lapic_tsc_changed(vm->vcpu[vcpu].lapic);
    irq_unlock(&vm->irq);
}

static int intr_ack(void *opaque, unsigned vcpu)
{
    struct vm *vm = opaque;
    steal_look(&vm->vcpu[vcpu]); // the guest's tick reads it
    return irq_ack(&vm->irq, vcpu);
}

static void eoi(void *opaque, unsigned vcpu, uint8_t vector)
{
    struct vm *vm = opaque;
    irq_eoi(&vm->irq, vector);
}

static uint8_t cr8_read(void *opaque, unsigned vcpu)
{
    struct vm *vm = opaque;
    irq_lock(&vm->irq);
    uint8_t value = lapic_cr8_read(vm->vcpu[vcpu].lapic);
    irq_unlock(&vm->irq);
    return value;
}

static void cr8_write(void *opaque, unsigned vcpu, uint8_t value)
{
    struct vm *vm = opaque;
    irq_lock(&vm->irq);
    lapic_cr8_write(vm->vcpu[vcpu].lapic, value);
    irq_unlock(&vm->irq);
}

static uint64_t hypercall(void *opaque, unsigned vcpu, uint64_t call, const uint64_t arg[4],
                          bool wide)
{
    return hypercall_answer(opaque, call, arg, wide);
}

const struct engine_upcalls vm_upcalls = {
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .tsc_adjusted = tsc_adjusted,
    .intr_ack = intr_ack,
    .hypercall = hypercall,
    .eoi = eoi,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
};
