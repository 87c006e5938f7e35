// What a guest's CPUID shows: the machine's table, without the features that this KVM cannot give.
// Source: Linux Documentation/virt/kvm/api.rst, KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2. KVM itself
// keeps OSXSAVE and the sizes in leaf 0xd up to date. What KVM can give is asked by a thread of its
// own while the VM is built: KVM asks the CPU leaf by leaf, and in a virtual machine each costs an
// exit.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "cpu/features.h"
#include "cpu/x86.h"
#include "engine/kvm/kvm_impl.h"

#define ENTRIES 256

// struct kvm_cpuid2 with room.
struct entries {
    uint32_t nent, padding;
    struct kvm_cpuid_entry2 entry[ENTRIES];
};
_Static_assert(offsetof(struct entries, entry) == offsetof(struct kvm_cpuid2, entries), "layout");

// The question and its answer, which belongs to the thread until that has been joined.
struct kvm_features {
    struct host_thread thread;
    int kvm, failed; // errno
    struct entries can;
};

enum reg { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

// Registers that list features, and those bits that the machine provides, whatever KVM says: the
// local APIC's are in user space, and so is the sign that there is a hypervisor.
static const struct {
    uint32_t function, index;
    enum reg reg;
    uint32_t ours;
} lists[] = {
    {1, 0, REG_ECX, 1u << 21 | 1u << 24 | 1u << 31}, // x2APIC, TSC deadline, hypervisor
    {1, 0, REG_EDX, 1u << 9},                        // APIC
    {7, 0, REG_EBX, 0},
    {7, 0, REG_ECX, 0},
    {7, 0, REG_EDX, 0},
    {7, 1, REG_EAX, 0},
    {0xd, 0, REG_EAX, 0},
    {0xd, 0, REG_EDX, 0},
    {0xd, 1, REG_EAX, 0},
    {CPUID_KVM_FEATURES, 0, REG_EAX, KVM_CLOCKSOURCE2 | KVM_CLOCKSOURCE_STABLE},
    {0x80000001, 0, REG_ECX, 0},
    {0x80000001, 0, REG_EDX, 1u << 9}, // APIC
    {0x80000008, 0, REG_EBX, 0},
    {0x80000021, 0, REG_EAX, 0},
    {0x80000021, 0, REG_ECX, 0},
};

static uint32_t *entry_reg(struct kvm_cpuid_entry2 *entry, enum reg reg)
{
    uint32_t *const regs[] = {&entry->eax, &entry->ebx, &entry->ecx, &entry->edx};
    return regs[reg];
}

static struct kvm_cpuid_entry2 *find(struct entries *in, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < in->nent; i++)
        if (in->entry[i].function == function && in->entry[i].index == index)
            return &in->entry[i];
    return NULL;
}

static void mask(struct kvm_cpuid_entry2 *entry, struct entries *supported, bool kernel_lapics)
{
    struct kvm_cpuid_entry2 *can = find(supported, entry->function, entry->index);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        if (lists[i].function != entry->function || lists[i].index != entry->index)
            continue;
        *entry_reg(entry, lists[i].reg) &=
            (can ? *entry_reg(can, lists[i].reg) : 0) | lists[i].ours;
    }
    // KVM answers these calls itself, for local APICs of its own.
    if (entry->function == CPUID_KVM_FEATURES && !kernel_lapics)
        entry->eax &= ~(uint32_t)(KVM_PV_UNHALT | KVM_PV_SEND_IPI);
}

static void fill(struct engine_vcpu *v, struct entries *supported, struct entries *out)
{
    const struct cpuid_table *table = &v->vm->cpuid;
    for (uint32_t i = 0; i < table->count && i < ENTRIES; i++) {
        const struct cpuid_leaf *leaf = &table->leaf[i];
        uint32_t regs[4];
        cpuid_query(table, v->index, leaf->function, leaf->index, 0, 1, regs);
        struct kvm_cpuid_entry2 *entry = &out->entry[out->nent++];
        *entry = (struct kvm_cpuid_entry2){
            .function = leaf->function,
            .index = leaf->index,
            .flags = leaf->has_index ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = regs[0],
            .ebx = regs[1],
            .ecx = regs[2],
            .edx = regs[3]};
        mask(entry, supported, v->vm->chips != ENGINE_CHIPS_NONE);
    }
}

// Into the log: features of the CPU model that the guest does not get here. Not the promises about
// speculation, which are the host's to make.
static void tell_withheld(const struct engine_vcpu *v, struct entries *out)
{
#define ROW(id, text, function, index, place, number) {text, function, index, place, number},
    static const struct {
        const char *name;
        uint32_t function;
        uint8_t index, place, number;
    } features[] = {CPU_FEATURES(ROW)};
#undef ROW
    char names[400] = "";
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        uint32_t wanted[4];
        cpuid_query(&v->vm->cpuid, v->index, features[i].function, features[i].index, 0, 1, wanted);
        struct kvm_cpuid_entry2 *given = find(out, features[i].function, features[i].index);
        uint32_t bit = 1u << features[i].number;
        bool promise = features[i].function >= 0x80000008;
        if (!given || promise || !(wanted[features[i].place] & bit) ||
            *entry_reg(given, features[i].place) & bit || used >= sizeof names)
            continue;
        used += (size_t)snprintf(names + used, sizeof names - used, " %s", features[i].name);
    }
    if (used && v->index == 0)
        log_line(LOG_INFO, "KVM does not give the guest:%s", names);
}

// --- what this KVM can give

static void ask(void *opaque)
{
    struct kvm_features *features = opaque;
    features->can.nent = ENTRIES;
    features->failed =
        ioctl(features->kvm, KVM_GET_SUPPORTED_CPUID, &features->can) < 0 ? errno : 0;
}

err_t kvm_ask_features(struct engine_vm *vm, struct error *e)
{
    vm->features = calloc(1, sizeof *vm->features);
    if (!vm->features)
        return error_set(e, ERR_NO_MEMORY, "no memory for CPUID's answers");
    vm->features->kvm = vm->kvm;
    return host_thread_start(&vm->features->thread, "kvm-features", ask, vm->features, e);
}

void kvm_free_features(struct engine_vm *vm)
{
    if (vm->features)
        host_thread_join(&vm->features->thread);
    free(vm->features);
}

err_t kvm_set_cpuid(struct engine_vcpu *v, struct error *e)
{
    struct kvm_features *features = v->vm->features;
    host_thread_join(&features->thread);
    if (features->failed)
        return kvm_failed(e, features->failed, "say which CPU features it has");
    struct entries *shown = calloc(1, sizeof *shown);
    if (!shown)
        return error_set(e, ERR_NO_MEMORY, "no memory for CPUID's answers");
    fill(v, &features->can, shown);
    const struct kvm_cpuid_entry2 *entry = find(shown, 0x80000021, 0);
    v->auto_ibrs = entry && entry->eax & 1u << 8;
    tell_withheld(v, shown);
    err_t err = ioctl(v->fd, KVM_SET_CPUID2, shown) < 0
                    ? kvm_failed(e, errno, "show the guest this CPU model")
                    : OK;
    free(shown);
    return err;
}
