// vCPU threads: run guest code, stand at the gate while the VM is paused, and follow INIT and SIPI.
#include <sched.h>
#include <stdlib.h>

#include "device/irq/lapic.h"
#include "host/clock.h"
#include "machine/vm_impl.h"

static uint32_t take_attention(struct vcpu *vcpu, uint32_t bits)
{
    return __atomic_fetch_and(&vcpu->attention, ~bits, __ATOMIC_SEQ_CST) & bits;
}

static void wake(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->asleep) {
        vcpu->woken_at = vcpu->woken_at ? vcpu->woken_at : host_now();
        pthread_cond_signal(&vcpu->wake);
    }
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_attend(struct vcpu *vcpu, uint32_t attention)
{
    __atomic_fetch_or(&vcpu->attention, attention, __ATOMIC_SEQ_CST);
    if (vcpu->engine)
        vcpu->vm->engine->kick(vcpu->engine);
    wake(vcpu);
}

void vcpu_unhalt(struct vcpu *vcpu)
{
    __atomic_store_n(&vcpu->vm->pvclock.unhalted[vcpu->index], 1, __ATOMIC_SEQ_CST);
    wake(vcpu);
}

// --- what the interrupt controllers say (router lock held) ---------------------------------------

void vcpu_set_intr(void *opaque, unsigned index, bool level)
{
    struct vm *vm = opaque;
    struct vcpu *vcpu = &vm->vcpu[index];
    if (__atomic_exchange_n(&vcpu->intr, level, __ATOMIC_SEQ_CST) == level || !vcpu->engine)
        return;
    vm->engine->set_intr(vcpu->engine, level);
    if (level)
        wake(vcpu);
}

void vcpu_event(void *opaque, unsigned index, enum apic_event what, uint8_t vector)
{
    struct vm *vm = opaque;
    struct vcpu *vcpu = &vm->vcpu[index];
    switch (what) {
    case APIC_EVENT_NMI:
        vm->engine->nmi(vcpu->engine);
        __atomic_store_n(&vcpu->nmi, true, __ATOMIC_SEQ_CST);
        wake(vcpu);
        break;
    case APIC_EVENT_SMI:
        if (!vm->engine->smi)
            break;
        vm->engine->smi(vcpu->engine);
        __atomic_store_n(&vcpu->nmi, true, __ATOMIC_SEQ_CST);
        wake(vcpu);
        break;
    case APIC_EVENT_INIT: vcpu_attend(vcpu, VCPU_INIT); break;
    case APIC_EVENT_SIPI:
        __atomic_store_n(&vcpu->sipi_vector, vector, __ATOMIC_SEQ_CST);
        vcpu_attend(vcpu, VCPU_SIPI);
        break;
    case APIC_EVENT_INTR: break;
    }
}

// --- the thread ----------------------------------------------------------------------------------

void vcpu_fail(struct vcpu *vcpu, const struct error *e)
{
    vm_fail(vcpu->vm, VM_END_FAILED, e->text);
}

// INIT: back to the reset vector; an application processor then waits for SIPI. SDM vol. 3
// section 9.4.
static void do_init(struct vcpu *vcpu, struct cpu_state *s)
{
    struct vm *vm = vcpu->vm;
    struct error e = {0};
    vm->engine->get(vcpu->engine, ENGINE_ALL, s);
    cpu_state_init(s, vcpu->index == 0, vm->model_id);
    if (vm->engine->set(vcpu->engine, ENGINE_ALL, s, &e) != OK)
        vcpu_fail(vcpu, &e);
}

static void do_sipi(struct vcpu *vcpu, struct cpu_state *s)
{
    struct vm *vm = vcpu->vm;
    struct error e = {0};
    vm->engine->get(vcpu->engine, ENGINE_ALL, s);
    if (s->activity != CPU_WAIT_FOR_SIPI)
        return;
    uint8_t vector = __atomic_load_n(&vcpu->sipi_vector, __ATOMIC_SEQ_CST);
    s->activity = CPU_RUNNING;
    s->seg[SEG_CS].selector = (uint16_t)(vector << 8);
    s->seg[SEG_CS].base = (uint64_t)vector << 12;
    s->rip = 0;
    if (vm->engine->set(vcpu->engine, ENGINE_ALL, s, &e) != OK)
        vcpu_fail(vcpu, &e);
}

// A vCPU that is ready to run stands here while its VM's budget is spent. What else the machine
// wants of it is done meanwhile.
static void stand_held(struct vcpu *vcpu)
{
    uint64_t since = host_now();
    __atomic_store_n(&vcpu->held_since, since, __ATOMIC_RELAXED);
    pthread_mutex_lock(&vcpu->lock);
    vcpu->asleep = true;
    while (__atomic_load_n(&vcpu->attention, __ATOMIC_SEQ_CST) == VCPU_HOLD)
        pthread_cond_wait(&vcpu->wake, &vcpu->lock);
    vcpu->asleep = false;
    pthread_mutex_unlock(&vcpu->lock);
    __atomic_store_n(&vcpu->held_since, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&vcpu->held_ns, host_now() - since, __ATOMIC_RELAXED);
}

// By the thread itself: a filter that lets it move itself lets it move nobody else. A set of CPUs
// that the host has lost since it was checked changes nothing.
static void move(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    cpu_set_t cpus = vcpu->cpus;
    pthread_mutex_unlock(&vcpu->lock);
    vcpu->host_cpus = (unsigned)CPU_COUNT(&cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) == 0 && vcpu->vm->engine->moved)
        vcpu->vm->engine->moved(vcpu->engine, &cpus);
}

// Returns when the gate is open; takes over the reset state that the main loop left.
static void wait_at_gate(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    struct error e = {0};
    uint64_t since = host_now();
    pthread_mutex_lock(&vm->park);
    vm->parked++;
    pthread_cond_broadcast(&vm->parked_changed);
    while (!vm->running && !(__atomic_load_n(&vcpu->attention, __ATOMIC_SEQ_CST) & VCPU_QUIT))
        pthread_cond_wait(&vm->parked_changed, &vm->park);
    vm->parked--;
    struct cpu_state *initial = vcpu->initial;
    vcpu->initial = NULL;
    pthread_mutex_unlock(&vm->park);
    if (initial && vm->engine->set(vcpu->engine, ENGINE_ALL, initial, &e) != OK)
        vcpu_fail(vcpu, &e);
    free(initial);
    steal_rested(vcpu, host_now() - since);
    steal_changed(vcpu);
}

// The TSC follows virtual time across pauses.
static void follow_clock(struct vcpu *vcpu, struct cpu_state *s)
{
    struct vm *vm = vcpu->vm;
    if (vm->engine->tsc_offset) {
        vm->engine->tsc_offset(vcpu->engine, clock_tsc_offset(&vm->clock));
        return;
    }
    vm->engine->get(vcpu->engine, ENGINE_MSRS, s);
    s->tsc = clock_tsc(&vm->clock) + s->tsc_adjust;
    (void)!vm->engine->set(vcpu->engine, ENGINE_MSRS, s, NULL);
    vm_upcalls.tsc_adjusted(vm, vcpu->index, s->tsc_adjust);
}

static void act_on_exit(struct vcpu *vcpu, enum engine_exit exit, struct cpu_state *s)
{
    struct vm *vm = vcpu->vm;
    switch (exit) {
    case ENGINE_KICKED:
    case ENGINE_STOPPED: break; // for who watches
    case ENGINE_HALTED:
        devices_rest(vm);
        vcpu_halt(vcpu, s);
        break;
    case ENGINE_SHUTDOWN:
        vm_fail(vm, VM_END_SHUTDOWN, "the guest's processor shut down after a triple fault");
        break;
    case ENGINE_FAILED: vm_fail(vm, VM_END_FAILED, vm->engine->vcpu_error(vcpu->engine)); break;
    }
}

static void vcpu_main(void *opaque)
{
    struct vcpu *vcpu = opaque;
    struct vm *vm = vcpu->vm;
    struct error e = {0};
    struct cpu_state *s = aligned_alloc(64, align_up(sizeof *s, 64));
    if (!s || vm->engine->vcpu_attach(vcpu->engine, &e) != OK)
        vm_fail(vm, VM_END_FAILED, s ? e.text : "no memory for a vCPU's state");
    host_thread_confine(HOST_THREAD_VCPU);
    steal_begin(vcpu);
    while (s && !(__atomic_load_n(&vcpu->attention, __ATOMIC_SEQ_CST) & VCPU_QUIT)) {
        if (take_attention(vcpu, VCPU_PAUSE)) {
            wait_at_gate(vcpu);
            follow_clock(vcpu, s);
            continue;
        }
        if (take_attention(vcpu, VCPU_INIT)) {
            do_init(vcpu, s);
            follow_clock(vcpu, s); // time went on since the state was read
        }
        if (take_attention(vcpu, VCPU_SIPI)) {
            do_sipi(vcpu, s);
            follow_clock(vcpu, s);
        }
        if (take_attention(vcpu, VCPU_MOVE))
            move(vcpu);
        if (__atomic_load_n(&vcpu->attention, __ATOMIC_SEQ_CST) & VCPU_HOLD) {
            stand_held(vcpu);
            continue;
        }
        steal_look(vcpu);
        __atomic_store_n(&vcpu->nmi, false, __ATOMIC_SEQ_CST);
        act_on_exit(vcpu, vm->engine->run(vcpu->engine), s);
    }
    free(s);
}

// --- all of them ---------------------------------------------------------------------------------

err_t vcpus_new(struct vm *vm, struct error *e)
{
    vm->vcpu = calloc(vm->config->vcpus, sizeof *vm->vcpu);
    if (!vm->vcpu)
        return error_set(e, ERR_NO_MEMORY, "no memory for %u vCPUs", vm->config->vcpus);
    for (unsigned i = 0; i < vm->config->vcpus; i++) {
        struct vcpu *vcpu = &vm->vcpu[i];
        vcpu->vm = vm;
        vcpu->index = i;
        vcpu->attention = VCPU_PAUSE;
        (void)!sched_getaffinity(0, sizeof vcpu->cpus, &vcpu->cpus);
        vcpu->host_cpus = (unsigned)CPU_COUNT(&vcpu->cpus);
        pthread_mutex_init(&vcpu->lock, NULL);
        pthread_cond_init(&vcpu->wake, NULL);
        vm->vcpus++;
    }
    vm->awake = vm->vcpus;
    return OK;
}

err_t vcpus_make(struct vm *vm, struct error *e)
{
    for (unsigned i = 0; i < vm->vcpus; i++) {
        struct vcpu *vcpu = &vm->vcpu[i];
        if (vm->engine->vcpu_new(vm->engine_vm, i, &vcpu->engine, e) != OK)
            return error_in(e, "vCPU %u", i);
        if (vcpu->intr)
            vm->engine->set_intr(vcpu->engine, true);
    }
    return OK;
}

err_t vcpus_start(struct vm *vm, struct error *e)
{
    for (unsigned i = 0; i < vm->vcpus; i++) {
        char name[16] = "vcpu";
        name[4] = (char)('0' + i / 10);
        name[5] = (char)('0' + i % 10);
        if (host_thread_start(&vm->vcpu[i].thread, name, vcpu_main, &vm->vcpu[i], e) != OK)
            return error_in(e, "vCPU %u", i);
    }
    return OK;
}

static void open_gate(struct vm *vm, bool open)
{
    pthread_mutex_lock(&vm->park);
    vm->running = open;
    pthread_cond_broadcast(&vm->parked_changed);
    pthread_mutex_unlock(&vm->park);
}

void vcpus_pause(struct vm *vm)
{
    open_gate(vm, false);
    for (unsigned i = 0; i < vm->vcpus; i++)
        vcpu_attend(&vm->vcpu[i], VCPU_PAUSE);
    pthread_mutex_lock(&vm->park);
    while (vm->started && vm->parked < vm->vcpus)
        pthread_cond_wait(&vm->parked_changed, &vm->park);
    pthread_mutex_unlock(&vm->park);
}

void vcpus_resume(struct vm *vm)
{
    open_gate(vm, true);
}

void vcpus_hold(struct vm *vm, bool held)
{
    for (unsigned i = 0; i < vm->vcpus; i++) {
        struct vcpu *vcpu = &vm->vcpu[i];
        if (held) {
            vcpu_attend(vcpu, VCPU_HOLD);
        } else {
            __atomic_fetch_and(&vcpu->attention, ~VCPU_HOLD, __ATOMIC_SEQ_CST);
            wake(vcpu);
        }
    }
}

uint64_t vcpu_held(const struct vcpu *vcpu)
{
    uint64_t now = host_now(), since = __atomic_load_n(&vcpu->held_since, __ATOMIC_RELAXED);
    uint64_t held = __atomic_load_n(&vcpu->held_ns, __ATOMIC_RELAXED);
    return held + (since && now > since ? now - since : 0);
}

void vcpu_move(struct vcpu *vcpu, const cpu_set_t *cpus)
{
    pthread_mutex_lock(&vcpu->lock);
    vcpu->cpus = *cpus;
    pthread_mutex_unlock(&vcpu->lock);
    vcpu_attend(vcpu, VCPU_MOVE);
}

void vcpus_free(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpus; i++)
        if (vm->vcpu[i].engine)
            vcpu_attend(&vm->vcpu[i], VCPU_QUIT);
    open_gate(vm, false);
    for (unsigned i = 0; i < vm->vcpus; i++) {
        host_thread_join(&vm->vcpu[i].thread);
        vm->engine->vcpu_free(vm->vcpu[i].engine);
        pthread_cond_destroy(&vm->vcpu[i].wake);
        pthread_mutex_destroy(&vm->vcpu[i].lock);
        free(vm->vcpu[i].initial);
    }
    free(vm->vcpu);
    vm->vcpu = NULL;
    vm->vcpus = 0;
}
