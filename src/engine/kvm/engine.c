// KVM as an engine: the Linux kernel runs guest code with the CPU's own virtualization. VMs and
// vCPUs, and requests from other threads. See docs/engine-kvm.md.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/kvm_impl.h"

// Pages that KVM needs on older Intel CPUs: below the ROM, where no board has anything.
#define IDENTITY_MAP 0xfeffc000ull
#define TSS_ADDRESS 0xfeffd000ull

// --- VMs

static int has(const struct engine_vm *vm, int capability)
{
    int value = ioctl(vm->fd, KVM_CHECK_EXTENSION, capability);
    return value > 0 ? value : 0;
}

// What this KVM and its CPU can do beyond what the engine needs.
static void look_around(struct engine_vm *vm)
{
    struct cpuid_table host;
    cpuid_read_host_xsave(&host);
    xsave_layout_of(&host, &vm->layout);
    vm->xsave_bytes = max_u64((uint64_t)has(vm, KVM_CAP_XSAVE2), sizeof(struct kvm_xsave));
    vm->tsc_offset = has(vm, KVM_CAP_VCPU_ATTRIBUTES);
    vm->scales_tsc = has(vm, KVM_CAP_TSC_CONTROL);
    vm->guest_debug = (uint32_t)has(vm, KVM_CAP_SET_GUEST_DEBUG2);
    vm->spaces = has(vm, KVM_CAP_X86_SMM) && has(vm, KVM_CAP_MULTI_ADDRESS_SPACE) > 1 ? 2 : 1;
}

// No CPU model has performance counters, yet KVM gives them to guests of AMD's CPUs: what they hold
// is not part of the state. Kernels before 5.18 cannot be told.
static void forgo_counters(struct engine_vm *vm)
{
    const struct kvm_enable_cap none = {.cap = KVM_CAP_PMU_CAPABILITY,
                                        .args = {KVM_PMU_CAP_DISABLE}};
    if (has(vm, KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE &&
        ioctl(vm->fd, KVM_ENABLE_CAP, &none) < 0)
        kvm_log_failed("keep performance counters from the guest");
}

static err_t make_vm(struct engine_vm *vm, struct error *e)
{
    const uint64_t identity = IDENTITY_MAP;
    vm->kvm = kvm_open(e);
    if (vm->kvm < 0)
        return ERR_UNSUPPORTED;
    err_t err = kvm_ask_features(vm, e);
    if (err)
        return err;
    vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        return kvm_failed(e, errno, "make a VM");
    int most = has(vm, KVM_CAP_MAX_VCPUS);
    if (vm->config.vcpus > (unsigned)most)
        return error_set(e, ERR_UNSUPPORTED, "this host's KVM runs 1 to %d vCPUs, not %u", most,
                         vm->config.vcpus);
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) < 0)
        return kvm_failed(e, errno, "place its own pages");
    int bytes = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (bytes < (int)sizeof(struct kvm_run))
        return kvm_failed(e, bytes < 0 ? errno : EINVAL, "say how large a vCPU's page is");
    vm->run_bytes = (size_t)bytes;
    look_around(vm);
    forgo_counters(vm);
    if (!(vm->config.debug & ENGINE_DEBUG_DIRTY_BITMAP))
        kvm_ring_choose(vm);
    err = kvm_choose_chips(vm, e);
    return err ? err : kvm_filter_msrs(vm, e);
}

static void vm_free(struct engine_vm *vm)
{
    if (!vm)
        return;
    for (unsigned i = 0; i < KVM_SLOTS; i++)
        free(vm->slot[i].dirty);
    kvm_free_features(vm);
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->kvm >= 0)
        close(vm->kvm);
    pthread_mutex_destroy(&vm->dirty_lock);
    free(vm->vcpu);
    free(vm);
}

static void kicked(int signal)
{
}

static err_t vm_new(const struct engine_vm_config *config, const struct engine_upcalls *upcalls,
                    void *opaque, struct engine_vm **out, struct error *e)
{
    const struct sigaction action = {.sa_handler = kicked}; // no SA_RESTART: KVM_RUN must end
    struct engine_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(e, ERR_NO_MEMORY, "no memory for a VM");
    vm->kvm = vm->fd = -1;
    vm->config = *config;
    vm->cpuid = *config->cpuid;
    vm->config.cpuid = &vm->cpuid;
    vm->up = upcalls;
    vm->opaque = opaque;
    pthread_mutex_init(&vm->dirty_lock, NULL);
    vm->vcpu = calloc(config->vcpus, sizeof *vm->vcpu);
    err_t err = vm->vcpu ? make_vm(vm, e) : error_set(e, ERR_NO_MEMORY, "no memory for a VM");
    if (err) {
        vm_free(vm);
        return err;
    }
    sigaction(KVM_KICK_SIGNAL, &action, NULL);
    *out = vm;
    return OK;
}

static unsigned counters(struct engine_vm *vm, struct engine_counter *out, unsigned max)
{
    static const char *const names[COUNTER_COUNT] = {[COUNTER_EXITS] = "exits",
                                                     [COUNTER_PORTS] = "port_accesses",
                                                     [COUNTER_MMIO] = "mmio_accesses",
                                                     [COUNTER_MSRS] = "msr_accesses",
                                                     [COUNTER_HALTS] = "halts",
                                                     [COUNTER_INTERRUPTS] = "interrupts",
                                                     [COUNTER_WINDOWS] = "interrupt_windows",
                                                     [COUNTER_SIGNALS] = "interrupted_runs",
                                                     [COUNTER_EOIS] = "ioapic_eois"};
    for (unsigned i = 0; i < COUNTER_COUNT && i < max; i++) {
        out[i] = (struct engine_counter){.name = names[i]};
        for (unsigned n = 0; n < vm->config.vcpus; n++)
            if (vm->vcpu[n])
                out[i].value += __atomic_load_n(&vm->vcpu[n]->counter[i], __ATOMIC_RELAXED);
    }
    return COUNTER_COUNT;
}

// --- vCPUs

static void vcpu_free(struct engine_vcpu *v)
{
    if (!v)
        return;
    v->vm->vcpu[v->index] = NULL;
    kvm_ring_unmap(v);
    if (v->run)
        munmap(v->run, v->vm->run_bytes);
    if (v->fd >= 0)
        close(v->fd);
    free(v->xsave);
    free(v);
}

static err_t make_vcpu(struct engine_vcpu *v, struct error *e)
{
    v->xsave = aligned_alloc(64, align_up(v->vm->xsave_bytes, 64));
    if (!v->xsave)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's extended state");
    v->fd = ioctl(v->vm->fd, KVM_CREATE_VCPU, (unsigned long)v->index);
    if (v->fd < 0)
        return kvm_failed(e, errno, "make a vCPU");
    void *page = mmap(NULL, v->vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (page == MAP_FAILED)
        return kvm_failed(e, errno, "share a vCPU's page");
    v->run = page;
    int khz = ioctl(v->fd, KVM_GET_TSC_KHZ);
    v->vm->host_khz = khz > 0 ? (uint64_t)khz : v->vm->config.tsc_khz;
    err_t err = kvm_ring_map(v, e);
    if (!err)
        err = kvm_set_cpuid(v, e);
    if (!err && v->index == 0)
        kvm_learn_msrs(v);
    return err;
}

static err_t vcpu_new(struct engine_vm *vm, unsigned index, struct engine_vcpu **out,
                      struct error *e)
{
    if (index >= vm->config.vcpus || vm->vcpu[index])
        return error_set(e, ERR_INVALID, "there is no free vCPU %u", index);
    struct engine_vcpu *v = calloc(1, sizeof *v);
    if (!v)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU");
    v->vm = vm;
    v->index = index;
    v->fd = -1;
    v->stale = true;
    v->external = -1;
    v->activity = index == 0 ? CPU_RUNNING : CPU_WAIT_FOR_SIPI;
    err_t err = kvm_make_chips(vm, e);
    if (!err)
        err = make_vcpu(v, e);
    if (err) {
        vcpu_free(v);
        return err;
    }
    vm->vcpu[index] = v;
    *out = v;
    return OK;
}

static err_t vcpu_attach(struct engine_vcpu *v, struct error *e)
{
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    v->thread = gettid();
    return OK;
}

static const char *vcpu_error(struct engine_vcpu *v)
{
    return v->error;
}

// --- requests, from any thread

// Makes the vCPU look at what was just noted. One that is not inside looks before it goes in.
static void poke(struct engine_vcpu *v)
{
    if (!__atomic_load_n(&v->inside, __ATOMIC_SEQ_CST) || v->thread == gettid())
        return;
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    tgkill(getpid(), v->thread, KVM_KICK_SIGNAL);
}

static void kick(struct engine_vcpu *v)
{
    __atomic_fetch_or(&v->pending, PENDING_KICK, __ATOMIC_SEQ_CST);
    poke(v);
}

static void set_intr(struct engine_vcpu *v, bool pending)
{
    __atomic_store_n(&v->intr, pending, __ATOMIC_SEQ_CST);
    if (pending)
        poke(v);
}

static void smi(struct engine_vcpu *v)
{
    __atomic_fetch_or(&v->pending, PENDING_SMI, __ATOMIC_SEQ_CST);
    poke(v);
}

static void nmi(struct engine_vcpu *v)
{
    __atomic_fetch_or(&v->pending, PENDING_NMI, __ATOMIC_SEQ_CST);
    poke(v);
}

const struct engine engine_kvm = {
    .name = "kvm",
    .probe = kvm_probe,
    .vm_new = vm_new,
    .vm_free = vm_free,
    .map = kvm_map,
    .unmap = kvm_unmap,
    .written = kvm_written,
    .log_dirty = kvm_log_dirty,
    .take_dirty = kvm_take_dirty,
    .doorbell = kvm_doorbell,
    .vcpu_new = vcpu_new,
    .vcpu_free = vcpu_free,
    .vcpu_attach = vcpu_attach,
    .get = kvm_get,
    .set = kvm_set,
    .scale_tsc = kvm_scale_tsc,
    .tsc_offset = kvm_tsc_offset,
    .steal_time = kvm_steal_time,
    .run = kvm_run,
    .vcpu_error = vcpu_error,
    .watch = kvm_watch,
    .stopped = kvm_stopped,
    .kick = kick,
    .set_intr = set_intr,
    .nmi = nmi,
    .smi = smi,
    .irqchip = &kvm_irqchip,
    .counters = counters,
};
