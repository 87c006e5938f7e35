// Model-specific registers into KVM and back, and which of them the machine keeps itself.
// Source: Linux Documentation/virt/kvm/api.rst, sections 4.3 (KVM_GET_MSR_INDEX_LIST), 4.18
// (KVM_GET_MSRS) and 4.97 (KVM_X86_SET_MSR_FILTER), devices/vcpu.rst (TSC offset).
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_impl.h"

#define OLD_WALL_CLOCK 0x11
#define MSR_SMBASE 0x9e

struct place {
    uint32_t index;
    uint32_t offset; // in struct cpu_state
    const char *name;
};

// struct kvm_msrs with room.
struct msrs {
    uint32_t nmsrs, pad;
    struct kvm_msr_entry entry[KVM_MSRS];
};
_Static_assert(offsetof(struct msrs, entry) == offsetof(struct kvm_msrs, entries), "layout");

#define PLACE(msr, member)                            \
    {                                                 \
        msr, offsetof(struct cpu_state, member), #msr \
    }
static const struct place places[] = {
    PLACE(MSR_STAR, star),
    PLACE(MSR_LSTAR, lstar),
    PLACE(MSR_CSTAR, cstar),
    PLACE(MSR_SFMASK, sfmask),
    PLACE(MSR_KERNEL_GS_BASE, kernel_gs_base),
    PLACE(MSR_SYSENTER_CS, sysenter_cs),
    PLACE(MSR_SYSENTER_ESP, sysenter_esp),
    PLACE(MSR_SYSENTER_EIP, sysenter_eip),
    PLACE(MSR_PAT, pat),
    PLACE(MSR_TSC_AUX, tsc_aux),
    PLACE(MSR_MISC_ENABLE, misc_enable),
    PLACE(MSR_SPEC_CTRL, spec_ctrl),
    PLACE(MSR_MCG_STATUS, mcg_status),
    PLACE(MSR_MTRR_DEF_TYPE, mtrr_def_type),
    PLACE(MSR_MTRR_FIX64K, mtrr_fixed[0]),
    PLACE(MSR_MTRR_FIX16K_0, mtrr_fixed[1]),
    PLACE(MSR_MTRR_FIX16K_1, mtrr_fixed[2]),
    PLACE(MSR_MTRR_FIX4K_0, mtrr_fixed[3]),
    PLACE(MSR_MTRR_FIX4K_0 + 1, mtrr_fixed[4]),
    PLACE(MSR_MTRR_FIX4K_0 + 2, mtrr_fixed[5]),
    PLACE(MSR_MTRR_FIX4K_0 + 3, mtrr_fixed[6]),
    PLACE(MSR_MTRR_FIX4K_0 + 4, mtrr_fixed[7]),
    PLACE(MSR_MTRR_FIX4K_0 + 5, mtrr_fixed[8]),
    PLACE(MSR_MTRR_FIX4K_0 + 6, mtrr_fixed[9]),
    PLACE(MSR_MTRR_FIX4K_0 + 7, mtrr_fixed[10]),
};
_Static_assert(ARRAY_LEN(places) + 2 * CPU_MTRR_VARIABLE <= KVM_MSRS, "room for all MSRs");

static struct place place_of(size_t i)
{
    if (i < ARRAY_LEN(places))
        return places[i];
    size_t range = (i - ARRAY_LEN(places)) / 2, mask = (i - ARRAY_LEN(places)) % 2;
    size_t base =
        mask ? offsetof(struct cpu_state, mtrr_mask) : offsetof(struct cpu_state, mtrr_base);
    return (struct place){MSR_MTRR_PHYSBASE0 + (uint32_t)(2 * range + mask),
                          (uint32_t)(base + 8 * range), "MSR_MTRR_PHYSBASE0 and following"};
}

static const size_t place_count = ARRAY_LEN(places) + 2 * CPU_MTRR_VARIABLE;

static uint64_t host_tsc(const struct engine_vm *vm)
{
    return tsc_scaled(&vm->tsc_ratio, __builtin_ia32_rdtsc());
}

// --- which of them this KVM has

#define LIST_MAX 1024

// struct kvm_msr_list with room.
struct list {
    uint32_t nmsrs, index[LIST_MAX];
};
_Static_assert(offsetof(struct list, index) == offsetof(struct kvm_msr_list, indices), "layout");

static bool listed(const struct list *list, uint32_t msr)
{
    for (uint32_t i = 0; i < list->nmsrs && i < LIST_MAX; i++)
        if (list->index[i] == msr)
            return true;
    return false;
}

// Kernels leave some registers out of the list that they have, memory types among them: those are
// tried. KVM reads as many of those asked for as it has, up to the first that it does not have.
static void try_lacking(struct engine_vcpu *v)
{
    bool *lacking = v->vm->msr_lacking;
    for (size_t i = 0; i < place_count;) {
        struct msrs msrs = {0};
        size_t at[KVM_MSRS];
        for (size_t k = i; k < place_count; k++) {
            at[msrs.nmsrs] = k;
            if (lacking[k])
                msrs.entry[msrs.nmsrs++] = (struct kvm_msr_entry){.index = place_of(k).index};
        }
        int got = msrs.nmsrs ? ioctl(v->fd, KVM_GET_MSRS, &msrs) : 0;
        for (int k = 0; k < got; k++)
            lacking[at[k]] = false;
        if (got < 0 || (uint32_t)got >= msrs.nmsrs)
            return;
        i = at[got] + 1;
    }
}

// Into the log, for who wonders why a state from elsewhere is refused.
static void tell_lacking(const struct engine_vm *vm)
{
    char names[400] = "";
    size_t used = 0;
    const char *last = NULL;
    for (size_t i = 0; i < place_count; i++) {
        const char *name = place_of(i).name;
        if (vm->msr_lacking[i] && name != last && used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, " %s", name + 4);
        if (vm->msr_lacking[i])
            last = name;
    }
    if (used)
        log_line(LOG_INFO, "KVM has no such model-specific registers here; they stay 0:%s", names);
}

void kvm_learn_msrs(struct engine_vcpu *v)
{
    struct engine_vm *vm = v->vm;
    struct list list = {.nmsrs = LIST_MAX};
    if (ioctl(vm->kvm, KVM_GET_MSR_INDEX_LIST, &list) < 0)
        list.nmsrs = 0;
    for (size_t i = 0; i < place_count; i++)
        vm->msr_lacking[i] = !listed(&list, place_of(i).index);
    try_lacking(v);
    tell_lacking(vm);
}

// --- state out

// The registers that this KVM has, to be read.
static void gather(const struct engine_vm *vm, struct msrs *out)
{
    out->nmsrs = 0;
    for (size_t i = 0; i < place_count; i++)
        if (!vm->msr_lacking[i])
            out->entry[out->nmsrs++] = (struct kvm_msr_entry){.index = place_of(i).index};
}

void kvm_get_msrs(struct engine_vcpu *v, struct cpu_state *out)
{
    struct msrs msrs;
    size_t next = 0;
    gather(v->vm, &msrs);
    int got = ioctl(v->fd, KVM_GET_MSRS, &msrs);
    if (got != (int)msrs.nmsrs)
        kvm_log_failed("read model-specific registers");
    for (size_t i = 0; i < place_count; i++) {
        uint64_t value = v->vm->msr_lacking[i] ? 0 : msrs.entry[next++].data;
        memcpy((char *)out + place_of(i).offset, &value, 8);
    }
    out->tsc = host_tsc(v->vm) + v->offset;
    out->tsc_adjust = v->adjust;
    out->smbase = v->vm->spaces > 1 ? kvm_get_msr(v, MSR_SMBASE) : v->smbase;
}

uint64_t kvm_get_msr(struct engine_vcpu *v, uint32_t msr)
{
    struct msrs msrs = {.nmsrs = 1, .entry[0].index = msr};
    return ioctl(v->fd, KVM_GET_MSRS, &msrs) == 1 ? msrs.entry[0].data : 0;
}

bool kvm_set_msr(struct engine_vcpu *v, uint32_t msr, uint64_t value)
{
    struct msrs msrs = {.nmsrs = 1, .entry[0] = {.index = msr, .data = value}};
    return ioctl(v->fd, KVM_SET_MSRS, &msrs) == 1;
}

// --- the TSC

#define NOT_SCALED_PPM 250 // KVM leaves so small a difference as it is
#define SHIFT_VMX 48
#define SHIFT_SVM 32

struct tsc_ratio kvm_tsc_ratio(uint64_t host_khz, uint64_t guest_khz, bool intel)
{
    uint64_t most = host_khz * (1000000 + NOT_SCALED_PPM) / 1000000;
    uint64_t least = host_khz * (1000000 - NOT_SCALED_PPM) / 1000000;
    struct tsc_ratio ratio = {.shift = intel ? SHIFT_VMX : SHIFT_SVM};
    if (guest_khz >= least && guest_khz <= most)
        return (struct tsc_ratio){0};
    ratio.mult = (uint64_t)(((unsigned __int128)guest_khz << ratio.shift) / host_khz);
    return ratio;
}

// The CPU's vendor decides how many bits the ratio has after its point.
static bool is_intel(void)
{
    uint32_t max, name[3];
    __cpuid(0, max, name[0], name[2], name[1]);
    return memcmp(name, "GenuineIntel", sizeof name) == 0;
}

err_t kvm_scale_tsc(struct engine_vm *vm, uint64_t khz, struct tsc_ratio *out, struct error *e)
{
    if (!vm->scales_tsc)
        return error_set(e, ERR_UNSUPPORTED,
                         "this CPU cannot scale the TSC; use a host that can, or one of that "
                         "frequency");
    *out = kvm_tsc_ratio(vm->host_khz, khz, is_intel());
    for (unsigned i = 0; i < vm->config.vcpus; i++)
        if (ioctl(vm->vcpu[i]->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0)
            return kvm_failed(e, errno, "scale the TSC");
    vm->tsc_ratio = *out;
    return OK;
}

static void set_offset(struct engine_vcpu *v, uint64_t offset)
{
    v->offset = offset;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    if (!v->vm->tsc_offset || ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr) < 0)
        kvm_set_msr(v, MSR_TSC, host_tsc(v->vm) + offset);
}

static void set_adjust(struct engine_vcpu *v, uint64_t adjust, uint64_t offset)
{
    v->adjust = adjust;
    set_offset(v, offset);
    kvm_rearm_deadline(v);
    if (v->vm->up->tsc_adjusted)
        v->vm->up->tsc_adjusted(v->vm->opaque, v->index, adjust);
}

void kvm_tsc_offset(struct engine_vcpu *v, uint64_t offset)
{
    set_adjust(v, v->adjust, offset + v->adjust);
}

bool kvm_steal_time(struct engine_vcpu *v, uint64_t msr)
{
    if (v->vm->chips == ENGINE_CHIPS_NONE)
        return false;
    (void)!kvm_set_msr(v, MSR_KVM_STEAL_TIME, msr); // a kernel that does not count says nothing
    return true;
}

// A write to either register moves the other along, as on a real CPU. SDM vol. 3 section 18.17.3.
bool kvm_write_tsc(struct engine_vcpu *v, uint32_t msr, uint64_t value)
{
    if (msr != MSR_TSC && msr != MSR_TSC_ADJUST)
        return false;
    uint64_t now = msr == MSR_TSC ? host_tsc(v->vm) + v->offset : v->adjust;
    set_adjust(v, v->adjust + value - now, v->offset + value - now);
    return true;
}

// --- setting

// A register that this KVM does not have may only hold 0.
static err_t fill(const struct engine_vm *vm, const struct cpu_state *in, struct msrs *out,
                  struct error *e)
{
    size_t next = 0;
    gather(vm, out);
    for (size_t i = 0; i < place_count; i++) {
        struct place place = place_of(i);
        uint64_t value;
        memcpy(&value, (const char *)in + place.offset, 8);
        if (!vm->msr_lacking[i])
            out->entry[next++].data = value;
        else if (value)
            return error_set(e, ERR_UNSUPPORTED,
                             "this host's KVM has no register %s (MSR %#x), which the guest uses; "
                             "move it to another host, or to engine translate",
                             place.name + 4, place.index);
    }
    return OK;
}

err_t kvm_set_msrs(struct engine_vcpu *v, const struct cpu_state *in, struct error *e)
{
    struct msrs msrs;
    err_t err = fill(v->vm, in, &msrs, e);
    int set = err ? 0 : ioctl(v->fd, KVM_SET_MSRS, &msrs);
    if (err)
        return err;
    if (set < (int)msrs.nmsrs) {
        const struct kvm_msr_entry *refused = &msrs.entry[set < 0 ? 0 : set];
        return error_set(e, ERR_UNSUPPORTED, "KVM does not take %#llx for MSR %#x",
                         (unsigned long long)refused->data, refused->index);
    }
    v->smbase = in->smbase;
    if (v->vm->spaces > 1 && !kvm_set_msr(v, MSR_SMBASE, in->smbase))
        return error_set(e, ERR_UNSUPPORTED, "KVM does not take %#llx for SMBASE",
                         (unsigned long long)in->smbase);
    v->adjust = in->tsc_adjust;
    set_offset(v, in->tsc - host_tsc(v->vm));
    return OK;
}

// What the machine answers itself: the paravirtual clock, KVM's old one included; the local APIC's
// registers where it is not in the kernel; and what moves the TSC, of which the machine is told.
// Unknown and refused accesses come by themselves.
err_t kvm_filter_msrs(struct engine_vm *vm, struct error *e)
{
    static const uint8_t none[1] = {0};
    const uint32_t both = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    uint8_t *bitmap = (uint8_t *)none;
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
                                    .ranges = {{both, 2, OLD_WALL_CLOCK, bitmap},
                                               {KVM_MSR_FILTER_WRITE, 1, MSR_TSC, bitmap},
                                               {both, 1, MSR_TSC_ADJUST, bitmap},
                                               {KVM_MSR_FILTER_READ, 1, KVM_AMD_HWCR, bitmap},
                                               {both, 8, MSR_KVM_WALL_CLOCK, bitmap}}};
    if (vm->chips == ENGINE_CHIPS_NONE) {
        filter.ranges[5] = (struct kvm_msr_filter_range){both, 1, MSR_APIC_BASE, bitmap};
        filter.ranges[6] = (struct kvm_msr_filter_range){both, 1, MSR_TSC_DEADLINE, bitmap};
    }
    struct kvm_enable_cap exits = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
                                   .args = {KVM_MSR_EXIT_REASON_INVAL |
                                            KVM_MSR_EXIT_REASON_UNKNOWN |
                                            KVM_MSR_EXIT_REASON_FILTER}};
    if (ioctl(vm->fd, KVM_ENABLE_CAP, &exits) < 0)
        return kvm_failed(e, errno, "hand over model-specific registers");
    return ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &filter) < 0
               ? kvm_failed(e, errno, "filter model-specific registers")
               : OK;
}
