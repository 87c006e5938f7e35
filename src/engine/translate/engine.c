// The translator as an engine: probing, VMs and vCPUs, state in and out, requests from other
// threads. Guest code is interpreted and translated in this process, without help from the host's
// kernel or CPU, so it is usable wherever this program runs.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/translate/direct.h"
#include "engine/translate/interp.h"
#include "engine/translate/jit.h"
#include "engine/translate/jit_file.h"
#include "engine/translate/jit_store.h"
#include "engine/translate/lockstep.h"
#include "engine/translate/perfmap.h"
#include "engine/translate/run.h"
#include "engine/translate/simd.h"
#include "engine/translate/system_impl.h"
#include "engine/translate/tlb2.h"

struct engine_vm {
    struct tvm tvm;
};

struct engine_vcpu {
    struct tcpu tcpu;
};

static void probe(uint32_t debug, bool thorough, struct engine_probe *out)
{
    *out = (struct engine_probe){.usable = true};
}

// --- VMs -----------------------------------------------------------------------------------------

// Alone, a vCPU would find programs there that come back in other pages, which saves it no time.
static bool wants_store(const struct engine_vm_config *config)
{
    return !(config->debug & ENGINE_DEBUG_INTERPRET) &&
           (config->vcpus > 1 || config->translation_cache ||
            config->debug & ENGINE_DEBUG_COPY_BLOCKS);
}

static uint64_t store_bytes(const struct engine_vm_config *config)
{
    if (config->debug & ENGINE_DEBUG_TINY_CACHE)
        return 64 * KIB;
    return config->shared_code_bytes ? config->shared_code_bytes : 256 * MIB;
}

static void vm_free(struct engine_vm *vm)
{
    if (!vm)
        return;
    tvm_release(&vm->tvm);
    direct_release(&vm->tvm);
    perf_map_free(vm->tvm.perf);
    jit_file_close(vm->tvm.file, vm->tvm.store);
    jit_store_free(vm->tvm.store);
    free(vm);
}

static err_t vm_new(const struct engine_vm_config *config, const struct engine_upcalls *upcalls,
                    void *opaque, struct engine_vm **out, struct error *e)
{
    if (config->vcpus == 0 || config->vcpus > TVM_VCPUS)
        return error_set(e, ERR_UNSUPPORTED, "the translator runs 1 to %d vCPUs, not %u", TVM_VCPUS,
                         config->vcpus);
    struct engine_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(e, ERR_NO_MEMORY, "no memory for a VM");
    vm->tvm.config = *config;
    vm->tvm.cpuid = *config->cpuid;
    vm->tvm.config.cpuid = &vm->tvm.cpuid;
    vm->tvm.up = upcalls;
    vm->tvm.opaque = opaque;
    err_t err = config->perf_map ? perf_map_new(config->perf_map, &vm->tvm.perf, e) : OK;
    if (!err)
        err = direct_prepare(&vm->tvm, e);
    if (err) {
        vm_free(vm);
        return err;
    }
    if (wants_store(config))
        vm->tvm.store = jit_store_new(store_bytes(config));
    if (vm->tvm.store && config->translation_cache)
        vm->tvm.file = jit_file_open(config->translation_cache, &vm->tvm);
    *out = vm;
    return OK;
}

static err_t map(struct engine_vm *vm, gpa_t at, uint64_t len, void *host,
                 enum engine_map_flags flags, struct error *e)
{
    return tvm_map(&vm->tvm, at, len, host, flags, e);
}

static err_t unmap(struct engine_vm *vm, gpa_t at, uint64_t len, struct error *e)
{
    return tvm_unmap(&vm->tvm, at, len, e);
}

static void written(struct engine_vm *vm, gpa_t at, uint64_t len)
{
    tvm_written(&vm->tvm, NULL, at, len);
}

static err_t log_dirty(struct engine_vm *vm, bool on, struct error *e)
{
    vm->tvm.logging = on;
    vm->tvm.map_changes++; // vCPUs drop their write tags before they run again
    return OK;
}

static err_t take_dirty(struct engine_vm *vm, gpa_t at, uint64_t len, uint64_t *bitmap)
{
    if ((at | len) & PAGE_MASK)
        return ERR_INVALID;
    tvm_take_dirty(&vm->tvm, at, len, bitmap);
    return OK;
}

static unsigned counters(struct engine_vm *vm, struct engine_counter *out, unsigned max)
{
    static const char *const names[COUNTER_COUNT] = {
        [COUNTER_TICKS] = "executed_ticks",
        [COUNTER_INTERPRETED] = "interpreted_instructions",
        [COUNTER_TLB_FILLS] = "tlb_fills",
        [COUNTER_TLB_WALKS] = "page_walks",
        [COUNTER_TLB_FLUSHES] = "tlb_flushes",
        [COUNTER_EXCEPTIONS] = "exceptions",
        [COUNTER_INTERRUPTS] = "interrupts",
        [COUNTER_UPCALLS] = "upcalls",
        [COUNTER_HALTS] = "halts",
        [COUNTER_SPINS] = "spins",
        [COUNTER_BLOCKS] = "translated_blocks",
        [COUNTER_INSNS] = "translated_instructions",
        [COUNTER_COPIED] = "copied_blocks",
        [COUNTER_COPIED_INSNS] = "copied_instructions",
        [COUNTER_LOADED] = "loaded_blocks",
        [COUNTER_REFUSED] = "refused_blocks",
        [COUNTER_ENTRIES] = "code_entries",
        [COUNTER_LINKS] = "links",
        [COUNTER_INDIRECT] = "indirect_misses",
        [COUNTER_PAGE_CHECKS] = "page_checks",
        [COUNTER_SLOW_ACCESSES] = "slow_accesses",
        [COUNTER_TRANSFERS] = "transfers",
        [COUNTER_STEPS] = "steps",
        [COUNTER_STRINGS] = "string_exits",
        [COUNTER_FPU_LOADS] = "vector_loads",
        [COUNTER_POLLS] = "polls",
        [COUNTER_TRAPS] = "host_traps",
        [COUNTER_HOT] = "hot_blocks",
        [COUNTER_LOOPS] = "hot_loops",
        [COUNTER_STRETCHES] = "unchecked_loops",
        [COUNTER_SLOT_MISSES] = "slot_misses",
        [COUNTER_INVALIDATED] = "invalidated_blocks",
        [COUNTER_VERIFYING] = "verifying_blocks",
        [COUNTER_CHANGED] = "changed_blocks",
        [COUNTER_CACHE_FLUSHES] = "cache_flushes",
        [COUNTER_DIRECT] = "direct_runs",
        [COUNTER_DIRECT_TICKS] = "direct_ticks",
        [COUNTER_DIRECT_PAGES] = "direct_pages",
        [COUNTER_DIRECT_MISSES] = "direct_misses",
        [COUNTER_DIRECT_FAULTS] = "direct_faults",
        [COUNTER_DIRECT_SYSCALLS] = "direct_system_calls",
        [COUNTER_DIRECT_TRAPS] = "direct_traps",
        [COUNTER_DIRECT_KICKS] = "direct_kicks",
        [COUNTER_DIRECT_UNFIT] = "direct_unfit",
        [COUNTER_DIRECT_REFUSED] = "direct_refused",
        [COUNTER_LOCKSTEP] = "lockstep_blocks",
    };
    for (unsigned i = 0; i < COUNTER_COUNT && i < max; i++) {
        out[i] = (struct engine_counter){.name = names[i]};
        for (unsigned v = 0; v < vm->tvm.config.vcpus; v++) {
            const struct tcpu *c = vm->tvm.vcpu[v];
            out[i].value += c ? __atomic_load_n(&c->counter[i], __ATOMIC_RELAXED) : 0;
        }
    }
    if (vm->tvm.store && max > COUNTER_REFUSED)
        out[COUNTER_REFUSED].value = jit_store_refused(vm->tvm.store);
    return COUNTER_COUNT;
}

// --- vCPUs ---------------------------------------------------------------------------------------

static void vcpu_free(struct engine_vcpu *vcpu)
{
    if (!vcpu)
        return;
    struct tcpu *c = &vcpu->tcpu;
    c->vm->vcpu[c->index] = NULL;
    jit_free(c->jit);
    lockstep_free(c);
    direct_free(c);
    simd_release(c);
    icache_free(c);
    tlb2_free(c);
    munmap(vcpu, sizeof *vcpu);
}

static void learn_cpuid(struct tcpu *c)
{
    uint32_t regs[4];
    const struct cpuid_table *table = &c->vm->cpuid;
    cpuid_features(table, &c->features);
    feature_add(&c->features, FEATURE_NONE); // what needs nothing is there
    cpuid_query(table, c->index, 0, 0, 0, 1, regs);
    c->vendor_amd =
        regs[1] == 0x68747541 || regs[1] == 0x6f677948; // "Auth"enticAMD, "Hygo"nGenuine
    cpuid_query(table, c->index, 0x80000000, 0, 0, 1, regs);
    unsigned bits = 36;
    if (regs[0] >= 0x80000008) {
        cpuid_query(table, c->index, 0x80000008, 0, 0, 1, regs);
        bits = regs[0] & 0xff;
    }
    cpuid_query(table, c->index, CPUID_KVM_FEATURES, 0, 0, 1, regs);
    c->hypercalls = (regs[0] & (KVM_PV_UNHALT | KVM_PV_SEND_IPI)) && c->vm->up->hypercall;
    bits = bits < 32 ? 32 : bits > 52 ? 52 : bits;
    c->phys_mask = BITS(bits - 1, 12);
}

static err_t vcpu_parts(struct tcpu *c, struct error *e)
{
    err_t err = tlb2_new(c, e);
    if (!err)
        err = icache_new(c, e);
    if (!err)
        err = simd_init(c, e);
    if (err)
        return err;
    err = direct_new(c, e);
    if (err)
        return err;
    if (!(c->vm->config.debug & ENGINE_DEBUG_INTERPRET))
        c->jit = jit_new(c);
    if (c->jit && c->vm->config.debug & ENGINE_DEBUG_LOCKSTEP)
        return lockstep_new(c, e);
    return OK;
}

static err_t vcpu_new(struct engine_vm *vm, unsigned index, struct engine_vcpu **out,
                      struct error *e)
{
    if (index >= vm->tvm.config.vcpus || vm->tvm.vcpu[index])
        return error_set(e, ERR_INVALID, "there is no free vCPU %u", index);
    // Its TLBs are large and thinly used: pages come, as zeroes, when they are touched.
    struct engine_vcpu *vcpu = mmap(NULL, sizeof *vcpu, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (vcpu == MAP_FAILED)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU");
    struct tcpu *c = &vcpu->tcpu;
    c->vm = &vm->tvm;
    c->index = index;
    c->tlb_mask = vm->tvm.config.debug & ENGINE_DEBUG_TINY_TLB ? 0 : TLB_ENTRIES - 1;
    c->hot.pauses = PAUSES_BEFORE_YIELD;
    tvm_leave(c);
    learn_cpuid(c);
    err_t err = vcpu_parts(c, e);
    if (err) {
        vcpu_free(vcpu);
        return err;
    }
    cpu_state_reset(&c->s, index == 0, 0);
    tcpu_update_mode(c);
    vm->tvm.vcpu[index] = c;
    *out = vcpu;
    return OK;
}

static err_t vcpu_attach(struct engine_vcpu *vcpu, struct error *e)
{
    return OK;
}

#define COPY(member) __builtin_memcpy(&to->member, &from->member, sizeof to->member)

static void copy_system(struct cpu_state *to, const struct cpu_state *from)
{
    COPY(seg);
    COPY(ldtr);
    COPY(tr);
    COPY(gdtr);
    COPY(idtr);
    COPY(cr0);
    COPY(cr2);
    COPY(cr3);
    COPY(cr4);
    COPY(pdpte);
    COPY(dr);
    COPY(dr6);
    COPY(dr7);
}

// efer .. mtrr_mask lie together.
static void copy_msrs(struct cpu_state *to, const struct cpu_state *from)
{
    size_t start = offsetof(struct cpu_state, efer), end = offsetof(struct cpu_state, activity);
    memcpy((char *)to + start, (const char *)from + start, end - start);
}

static void copy_events(struct cpu_state *to, const struct cpu_state *from)
{
    size_t start = offsetof(struct cpu_state, activity), end = offsetof(struct cpu_state, pad1);
    memcpy((char *)to + start, (const char *)from + start, end - start);
}

static void copy_groups(struct cpu_state *to, const struct cpu_state *from, unsigned groups)
{
    if (groups & ENGINE_REGS) {
        COPY(gpr);
        COPY(rip);
        COPY(rflags);
    }
    if (groups & ENGINE_SYSTEM)
        copy_system(to, from);
    if (groups & ENGINE_MSRS)
        copy_msrs(to, from);
    if (groups & ENGINE_FPU) {
        COPY(xcr0);
        COPY(xsave);
    }
    if (groups & ENGINE_EVENTS)
        copy_events(to, from);
}

static void get(struct engine_vcpu *vcpu, unsigned groups, struct cpu_state *out)
{
    struct tcpu *c = &vcpu->tcpu;
    c->s.tsc = guest_tsc(c);
    if (__atomic_load_n(&c->pending, __ATOMIC_SEQ_CST) & PENDING_NMI) {
        tcpu_unpend(c, PENDING_NMI);
        c->s.nmi_pending = 1;
    }
    copy_groups(out, &c->s, groups);
    if (groups & ENGINE_FPU)
        xsave_move(out->xsave, simd_layout(c), &xsave_layout_state);
}

static err_t set(struct engine_vcpu *vcpu, unsigned groups, const struct cpu_state *in,
                 struct error *e)
{
    struct tcpu *c = &vcpu->tcpu;
    if (groups & ENGINE_EVENTS && in->smm)
        return error_set(e, ERR_UNSUPPORTED,
                         "the guest is in system management mode, which engine translate does not "
                         "have; let it run on with engine kvm for a moment, then try again");
    struct cpu_state *old = aligned_alloc(64, align_up(sizeof *old, 64));
    if (!old)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's state");
    *old = c->s;
    copy_groups(&c->s, in, groups);
    if (groups & ENGINE_FPU)
        xsave_move(c->s.xsave, &xsave_layout_state, simd_layout(c));
    err_t err = cpu_state_check(&c->s, simd_components(c), e);
    if (err)
        c->s = *old;
    free(old);
    if (err)
        return err;
    if (groups & ENGINE_MSRS)
        c->tsc_offset += c->s.tsc - guest_tsc(c);
    c->s.rflags |= FLAG_FIXED;
    c->in_exception = 0;
    c->rmw_len = 0;
    if (groups & (ENGINE_SYSTEM | ENGINE_MSRS))
        tlb_flush_all(c);
    tcpu_update_mode(c);
    return OK;
}

static void tsc_offset(struct engine_vcpu *vcpu, uint64_t offset)
{
    tsc_base(&vcpu->tcpu, offset);
}

static void flush_tlb(struct engine_vcpu *vcpu)
{
    tlb_flush_all(&vcpu->tcpu);
}

static enum engine_exit run(struct engine_vcpu *vcpu)
{
    return tcpu_run(&vcpu->tcpu);
}

static const char *vcpu_error(struct engine_vcpu *vcpu)
{
    return vcpu->tcpu.error;
}

static err_t watch(struct engine_vcpu *vcpu, const struct engine_watch *watch, struct error *e)
{
    return debug_watch(&vcpu->tcpu, watch, e);
}

static void stopped(struct engine_vcpu *vcpu, struct engine_stop *out)
{
    *out = vcpu->tcpu.debug.stop;
}

static void kick(struct engine_vcpu *vcpu)
{
    tcpu_pend(&vcpu->tcpu, PENDING_KICK);
}

static void set_intr(struct engine_vcpu *vcpu, bool pending)
{
    struct tcpu *c = &vcpu->tcpu;
    __atomic_store_n(&c->intr_level, pending, __ATOMIC_SEQ_CST);
    if (pending)
        tcpu_pend(c, PENDING_INTR);
}

static void nmi(struct engine_vcpu *vcpu)
{
    tcpu_pend(&vcpu->tcpu, PENDING_NMI);
}

static uint64_t cpu_elsewhere(const struct engine_vcpu *vcpu)
{
    return direct_cpu_ns(&vcpu->tcpu);
}

static void moved(struct engine_vcpu *vcpu, const cpu_set_t *cpus)
{
    direct_moved(&vcpu->tcpu, cpus);
}

const struct engine engine_translate = {
    .name = "translate",
    .probe = probe,
    .direct = true,
    .vm_new = vm_new,
    .vm_free = vm_free,
    .map = map,
    .unmap = unmap,
    .written = written,
    .log_dirty = log_dirty,
    .take_dirty = take_dirty,
    .vcpu_new = vcpu_new,
    .vcpu_free = vcpu_free,
    .vcpu_attach = vcpu_attach,
    .get = get,
    .set = set,
    .tsc_offset = tsc_offset,
    .cpu_elsewhere = cpu_elsewhere,
    .moved = moved,
    .flush_tlb = flush_tlb,
    .run = run,
    .vcpu_error = vcpu_error,
    .watch = watch,
    .stopped = stopped,
    .kick = kick,
    .set_intr = set_intr,
    .nmi = nmi,
    .counters = counters,
};
