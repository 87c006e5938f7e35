// Building, starting, stopping and ending a VM. The steps of vm_new() are in the order in which the
// parts need each other.
#include "machine/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/irq/lapic.h"
#include "device/serial/uart.h"
#include "device/virtio/balloon.h"
#include "device/virtio/console.h"
#include "host/cage.h"
#include "host/clock.h"
#include "host/memory.h"
#include "machine/vm_impl.h"
#include "net/net.h"

#define MTRR_ON BIT(11)
#define MTRR_WRITE_BACK 6
#define VGA_HOLE 0xa0000ull
#define VGA_HOLE_END 0xc0000ull
#define HUGE_PAGE (2 * MIB)
#define LEGACY_END 0x100000ull // what is below is the board's to map

// --- choosing an engine --------------------------------------------------------------------------

static err_t choose_named(const char *name, uint32_t debug, const struct engine **out,
                          char why[200], struct error *e)
{
    for (unsigned i = 0; engines[i]; i++) {
        if (strcmp(engines[i]->name, name) != 0)
            continue;
        struct engine_probe probe = {0};
        engines[i]->probe(debug, false, &probe);
        if (!probe.usable)
            return error_set(e, ERR_UNSUPPORTED, "engine '%s' cannot be used: %s%s%s", name,
                             probe.why, probe.fix[0] ? "; " : "", probe.fix);
        *out = engines[i];
        snprintf(why, 200, "asked for");
        return OK;
    }
    return error_set(e, ERR_NOT_FOUND, "no engine is called '%s'; try auto, translate or kvm",
                     name);
}

// The first usable one of `from`; against says what spoke against those before it.
static err_t choose_first(const struct engine *const *from, uint32_t debug, const char *against,
                          const struct engine **out, char why[200], struct error *e)
{
    char reason[200];
    snprintf(reason, sizeof reason, "%s", against);
    for (; *from; from++) {
        struct engine_probe probe = {0};
        (*from)->probe(debug, false, &probe);
        if (probe.usable) {
            *out = *from;
            snprintf(why, 200, "%s", reason[0] ? reason : "the best one here");
            return OK;
        }
        snprintf(reason, sizeof reason, "no %s: %s", (*from)->name, probe.why);
    }
    return error_set(e, ERR_UNSUPPORTED, "no engine can be used here: %s; berth info says more",
                     reason);
}

static bool is_auto(const char *name)
{
    return strcmp(name, "auto") == 0;
}

err_t vm_choose_engine(const char *text, uint32_t debug, const struct engine **out, char why[200],
                       struct error *e)
{
    struct vm_engine engine;
    err_t err = vm_engine_parse(text, &engine, e);
    if (err)
        return err;
    return is_auto(engine.name) ? choose_first(engines, debug, "", out, why, e)
                                : choose_named(engine.name, debug, out, why, e);
}

// --- requests and endings ------------------------------------------------------------------------

static void stop_all(struct vm *vm)
{
    pthread_mutex_lock(&vm->park);
    vm->running = false;
    pthread_mutex_unlock(&vm->park);
    for (unsigned i = 0; i < vm->vcpus; i++)
        vcpu_attend(&vm->vcpu[i], VCPU_PAUSE);
    loop_post(vm->loop, &vm->request_work);
}

void vm_request(struct vm *vm, enum machine_request what, uint32_t argument)
{
    __atomic_store_n(&vm->request_argument[what], argument, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&vm->requests, 1u << what, __ATOMIC_SEQ_CST);
    stop_all(vm);
}

void vm_remap(struct vm *vm)
{
    stop_all(vm); // resuming is what changes the map
}

void vm_fail(struct vm *vm, enum vm_end end, const char *text)
{
    pthread_mutex_lock(&vm->park);
    if (!vm->failed) {
        vm->failed = true;
        vm->result.end = end;
        snprintf(vm->result.text, sizeof vm->result.text, "%s", text);
    }
    pthread_mutex_unlock(&vm->park);
    stop_all(vm);
}

static void end(struct vm *vm, enum vm_end how, uint32_t status, const char *text)
{
    if (vm->ended)
        return;
    vm->ended = true;
    vm->result.end = how;
    vm->result.status = status;
    if (text)
        snprintf(vm->result.text, sizeof vm->result.text, "%s", text);
    vm->hooks.ended(vm->hooks.opaque, &vm->result);
}

static err_t reset(struct vm *vm, struct error *e);

static err_t reboot(struct vm *vm, struct error *e)
{
    board_eject(vm, true);
    err_t err = reset(vm, e);
    if (err) {
        end(vm, VM_END_FAILED, 0, e->text);
        return err;
    }
    if (vm->hooks.rebooted)
        vm->hooks.rebooted(vm->hooks.opaque);
    vm_thaw(vm);
    return OK;
}

// On the main loop: all vCPUs have been told to stop.
static void act_on_requests(void *opaque)
{
    struct vm *vm = opaque;
    uint32_t requests = __atomic_exchange_n(&vm->requests, 0, __ATOMIC_SEQ_CST);
    struct error e = {0};
    vm_freeze(vm);
    bool failed = vm->failed;
    vm->failed = false;
    bool no_reboot = vm->config->no_reboot;
    if (vm->ended)
        return;
    if (requests & 1u << MACHINE_EJECT)
        board_eject(vm, false);
    if (requests & 1u << MACHINE_DEBUG_EXIT)
        end(vm, VM_END_DEBUG_EXIT, vm->request_argument[MACHINE_DEBUG_EXIT], "");
    else if (requests & 1u << MACHINE_POWEROFF)
        end(vm, VM_END_POWEROFF, 0, "");
    else if (requests & 1u << MACHINE_PANIC)
        end(vm, VM_END_PANIC, 0, "the guest says that it crashed");
    else if (failed && (vm->result.end != VM_END_SHUTDOWN || no_reboot))
        end(vm, vm->result.end, 0, NULL);
    else if (requests & 1u << MACHINE_RESET && no_reboot)
        end(vm, VM_END_RESET, 0, "");
    else if (failed || requests & 1u << MACHINE_RESET)
        (void)!reboot(vm, &e);
    else
        vm_thaw(vm);
}

// --- reset ---------------------------------------------------------------------------------------

static err_t initial_state(struct vcpu *vcpu, struct error *e)
{
    struct cpu_state *s = aligned_alloc(64, align_up(sizeof *s, 64));
    if (!s)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's state");
    cpu_state_reset(s, vcpu->index == 0, vcpu->vm->model_id);
    if (!board_has_firmware(vcpu->vm)) // what it would leave: all memory is cached
        s->mtrr_def_type = MTRR_ON | MTRR_WRITE_BACK;
    free(vcpu->initial);
    vcpu->initial = s;
    return OK;
}

// Everything to its power-on state, RAM kept as it is (as a PC does), the kernel loaded anew.
static err_t reset(struct vm *vm, struct error *e)
{
    board_drain_disks(vm);
    devices_reset(vm);
    vm->pvclock = (struct pvclock){0};
    for (unsigned i = 0; i < vm->vcpus; i++) {
        err_t err = initial_state(&vm->vcpu[i], e);
        if (err)
            return err;
    }
    return board_boot(vm, vm->vcpu[0].initial, e);
}

// --- building ------------------------------------------------------------------------------------

static void prepare(struct vm *vm, const struct vm_config *config, struct loop *loop,
                    const struct vm_hooks *hooks)
{
    vm->config = config;
    vm->hooks = *hooks;
    vm->loop = loop;
    vm->request_work = (struct loop_work){.run = act_on_requests, .opaque = vm};
    pthread_mutex_init(&vm->park, NULL);
    pthread_mutex_init(&vm->windows, NULL);
    pthread_cond_init(&vm->parked_changed, NULL);
    bus_init(&vm->pio);
    bus_init(&vm->mmio);
    irq_init(&vm->irq);
    governor_init(&vm->governor, vm);
    vm->irq.intr = vcpu_set_intr;
    vm->irq.event = vcpu_event;
    vm->irq.opaque = vm;
}

static err_t make_clock(struct vm *vm, struct error *e)
{
    struct host_tsc_info tsc;
    host_tsc_calibrate(vm->hooks.begun, &tsc);
    if (!tsc.khz)
        return error_set(e, ERR_UNSUPPORTED,
                         "this host's time-stamp counter has no steady frequency");
    clock_init(&vm->clock, tsc.khz, host_wall_now());
    return OK;
}

static err_t make_cpuid(struct vm *vm, struct error *e)
{
    struct cpuid_table host;
    cpuid_read_host(&host);
    struct cpuid_request request = {
        .model = vm->config->cpu,
        .vcpus = vm->config->vcpus,
        .tsc_khz = vm->clock.tsc_khz,
        .apic_khz = PC_APIC_BUS_KHZ,
        .tsc_reliable = true,
        .pv_clock = true,
        .pv_calls = true,
    };
    err_t err = cpuid_build(&request, &host, &vm->cpuid, e);
    if (err)
        return err;
    uint32_t regs[4];
    cpuid_query(&vm->cpuid, 0, 1, 0, 0, 0, regs);
    vm->model_id = regs[0];
    cpuid_query(&vm->cpuid, 0, 13, 0, 0, 0, regs);
    vm->host_xcr0 = regs[0] | (uint64_t)regs[3] << 32;
    return OK;
}

// The engine after the one that was chosen, which turned out to be held by somebody else.
static err_t choose_next(struct vm *vm, struct error *e)
{
    const struct engine *const *from = engines;
    while (*from != vm->engine)
        from++;
    char against[200];
    snprintf(against, sizeof against, "no %s: %s", vm->engine->name, e->text);
    return choose_first(from + 1, vm->config->debug, against, &vm->engine, vm->why, e);
}

// What speaks against direct execution; NULL: nothing.
static const char *against_direct(const struct vm *vm, enum vm_direct wanted)
{
    if (wanted == VM_DIRECT_OFF)
        return "switched off";
    if (!vm->engine->direct)
        return "the engine has no use for it";
    if (vm->config->memory_huge)
        return "memory of reserved huge pages cannot be shared page by page";
    if (vm->config->memory_merge)
        return "memory that is shared cannot be merged";
    return vm->hooks.cages ? NULL : vm->hooks.no_cages;
}

// Direct execution needs RAM that cages can be given pages of.
static err_t make_ram(struct vm *vm, bool direct, struct error *e)
{
    int from = vm->config->memory_huge ? HOST_RAM_HUGE : HOST_RAM_PRIVATE;
    vm->ram_bytes = vm->config->memory_bytes;
    if (!direct)
        return host_ram_new(vm->ram_bytes, from, &vm->ram, e);
    err_t err = ram_file_init(&vm->ram_file, vm->ram_bytes, e);
    vm->ram = vm->ram_file.at;
    return err;
}

static void free_ram(struct vm *vm)
{
    if (vm->ram_file.at)
        ram_file_release(&vm->ram_file);
    else
        host_ram_free(vm->ram, vm->ram_bytes);
    vm->ram = NULL;
}

static err_t check_options(const struct vm *vm, const struct vm_engine *asked, struct error *e)
{
    if (!vm->engine->irqchip && asked->chips != ENGINE_CHIPS_BEST &&
        asked->chips != ENGINE_CHIPS_NONE)
        return error_set(e, ERR_INVALID,
                         "engine '%s' keeps no interrupt controllers; leave irqchip= away",
                         vm->engine->name);
    if (!vm->engine->direct && asked->direct == VM_DIRECT_ON)
        return error_set(e, ERR_INVALID, "engine '%s' runs all code directly; leave direct= away",
                         vm->engine->name);
    return OK;
}

// RAM comes first, since what it is made of depends on the engine, which is told of it.
static err_t make_ram_and_engine(struct vm *vm, const struct vm_engine *asked, bool direct,
                                 struct error *e)
{
    err_t err = make_ram(vm, direct, e);
    if (err)
        return err;
    const struct engine_vm_config config = {
        .chips = asked->chips,
        .poll_ns = asked->poll_ns,
        .vcpus = vm->config->vcpus,
        .cpuid = &vm->cpuid,
        .tsc_khz = vm->clock.tsc_khz,
        .code_cache_bytes = asked->code_cache_bytes,
        .shared_code_bytes = asked->shared_code_bytes,
        .translation_cache = asked->translation_cache[0] ? asked->translation_cache : NULL,
        .perf_map = asked->perf_map[0] ? asked->perf_map : NULL,
        .debug = vm->config->debug,
        .direct = direct,
        .ram_fd = direct ? vm->ram_file.fd : -1,
        .ram_file = direct ? &vm->ram_file : NULL,
        .ram_host = vm->ram,
        .ram_bytes = vm->ram_bytes,
        .cages = direct ? vm->hooks.cages : NULL,
    };
    err = vm->engine->vm_new(&config, &vm_upcalls, vm, &vm->engine_vm, e);
    if (err)
        free_ram(vm);
    return err;
}

static err_t try_engine(struct vm *vm, const struct vm_engine *asked, struct error *e)
{
    struct error why = {0};
    err_t err = check_options(vm, asked, e);
    if (err)
        return err;
    const char *against = against_direct(vm, asked->direct);
    err = against ? error_set(&why, ERR_UNSUPPORTED, "%s", against)
                  : make_ram_and_engine(vm, asked, true, &why);
    snprintf(vm->indirect, sizeof vm->indirect, "%s", err ? why.text : "");
    if (err == ERR_UNSUPPORTED && asked->direct != VM_DIRECT_ON)
        return make_ram_and_engine(vm, asked, false, e);
    return err ? error_set(e, err, "%s%s", err == ERR_UNSUPPORTED ? "direct execution: " : "",
                           why.text)
               : OK;
}

static void find_chips(struct vm *vm)
{
    vm->irq.chips = vm->engine->irqchip;
    vm->irq.engine_vm = vm->engine_vm;
    if (vm->irq.chips)
        vm->irq.kept = vm->irq.chips->kept(vm->engine_vm);
}

static err_t make_engine(struct vm *vm, struct error *e)
{
    struct vm_engine asked;
    err_t err = vm_engine_parse(vm->config->engine, &asked, e);
    if (err)
        return err;
    vm->poll_ns = asked.poll_ns;
    err = vm_choose_engine(vm->config->engine, vm->config->debug, &vm->engine, vm->why, e);
    if (err)
        return err;
    err = try_engine(vm, &asked, e);
    if (err == ERR_BUSY && is_auto(asked.name)) {
        err = choose_next(vm, e);
        if (!err)
            err = try_engine(vm, &asked, e);
    }
    if (!err)
        find_chips(vm);
    return err;
}

static err_t add_ram(struct vm *vm, gpa_t at, uint64_t len, uint64_t offset, struct error *e)
{
    err_t err = len ? memory_add(&vm->memory, at, len, (uint8_t *)vm->ram + offset) : OK;
    return err ? error_set(e, err, "too many memory ranges") : OK;
}

static err_t map_ram(struct vm *vm, gpa_t at, uint64_t len, uint64_t offset, struct error *e)
{
    return len ? vm->engine->map(vm->engine_vm, at, len, (uint8_t *)vm->ram + offset,
                                 ENGINE_MAP_RAM, e)
               : OK;
}

static void want_huge(struct vm *vm, uint64_t offset, uint64_t len)
{
    if (vm->ram_file.at)
        ram_file_want_large(&vm->ram_file, offset, len);
    else
        host_ram_want_huge((uint8_t *)vm->ram + offset, len);
}

// Not the first huge page, which its holes keep engines from mapping whole, nor that of the ACPI
// tables: zeroing them is much of what starting a small guest takes.
static void want_huge_pages(struct vm *vm, uint64_t low, uint64_t high)
{
    if (low > 2 * HUGE_PAGE)
        want_huge(vm, HUGE_PAGE, low - 2 * HUGE_PAGE);
    if (high)
        want_huge(vm, low, high);
}

// Small pages, since only these can be merged.
static void want_merging(struct vm *vm)
{
    char fix[120];
    if (!host_ram_merge(vm->ram, vm->ram_bytes, fix))
        log_line(LOG_WARN, "equal pages are not merged: %s", fix);
}

// One block for all RAM, without a gap for the VGA window in it: the block's offset is the
// guest-physical address below the PCI hole. Devices reach all of it; what vCPUs see from
// VGA_HOLE_END to LEGACY_END follows later.
static err_t map_memory(struct vm *vm, struct error *e)
{
    uint64_t low = min_u64(vm->ram_bytes, PC_LOW_RAM_MAX), high = vm->ram_bytes - low;
    if (vm->config->memory_merge)
        want_merging(vm);
    else
        want_huge_pages(vm, low, high);
    if (vm->ram_file.at)
        vm->memory.file = &vm->ram_file;
    err_t err = add_ram(vm, 0, VGA_HOLE, 0, e);
    if (!err)
        err = add_ram(vm, VGA_HOLE_END, low - VGA_HOLE_END, VGA_HOLE_END, e);
    if (!err)
        err = add_ram(vm, PC_HIGH_RAM, high, low, e);
    if (!err)
        err = map_ram(vm, 0, VGA_HOLE, 0, e);
    if (!err)
        err = map_ram(vm, LEGACY_END, low - LEGACY_END, LEGACY_END, e);
    if (!err)
        err = map_ram(vm, PC_HIGH_RAM, high, low, e);
    vm->memory.engine = vm->engine;
    vm->memory.engine_vm = vm->engine_vm;
    return err;
}

err_t vm_new(const struct vm_config *config, struct loop *loop, const struct vm_hooks *hooks,
             struct vm **out, struct error *e)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(e, ERR_NO_MEMORY, "no memory for a VM");
    prepare(vm, config, loop, hooks);
    err_t err = make_clock(vm, e);
    if (!err)
        err = make_cpuid(vm, e);
    if (!err)
        err = make_engine(vm, e);
    if (!err)
        err = map_memory(vm, e);
    if (!err)
        err = vcpus_new(vm, e);
    if (!err && config->cpu_pin)
        err = vm_pin(vm, config->cpu_pin, e);
    if (!err)
        err = board_new(vm, e);
    if (!err)
        err = reset(vm, e);
    // Memory first: where the engine keeps interrupt controllers in a kernel, mapping any more
    // waits until that kernel has told all its CPUs of them.
    if (!err)
        err = board_remap(vm, e);
    if (!err)
        err = vcpus_make(vm, e);
    if (err) {
        vm_free(vm);
        return err;
    }
    *out = vm;
    return OK;
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    governor_release(&vm->governor);
    vcpus_free(vm);
    if (vm->board)
        board_close_disks(vm); // nothing in flight comes back to a device that is gone
    devices_free(vm);
    board_free(vm);
    if (vm->engine_vm)
        vm->engine->vm_free(vm->engine_vm);
    free_ram(vm);
    irq_release(&vm->irq);
    bus_release(&vm->mmio);
    bus_release(&vm->pio);
    pthread_cond_destroy(&vm->parked_changed);
    pthread_mutex_destroy(&vm->windows);
    pthread_mutex_destroy(&vm->park);
    free(vm);
}

// --- running -------------------------------------------------------------------------------------

const struct engine *vm_engine(const struct vm *vm)
{
    return vm->engine;
}

bool vm_direct(const struct vm *vm, const char **why)
{
    if (why)
        *why = vm->indirect;
    return !vm->indirect[0];
}

const char *vm_engine_reason(const struct vm *vm)
{
    return vm->why;
}

uint64_t vm_cpu_ns(const struct vm *vm)
{
    return host_cpu_now() + (vm->hooks.cages ? cages_cpu_ns(vm->hooks.cages) : 0);
}

ns_t vm_time(const struct vm *vm)
{
    return clock_now(&vm->clock);
}

err_t vm_start(struct vm *vm, struct error *e)
{
    err_t err = vcpus_start(vm, e);
    if (err)
        return err;
    vm->started = true;
    vm->governor.duty.bound = vm->config->cpu_bound;
    vm_set_cpu_limit(vm, vm->config->cpu_limit);
    return OK;
}

void vm_freeze(struct vm *vm)
{
    struct error e = {0};
    vcpus_pause(vm);
    devices_ring(vm);
    devices_stop_timers(vm);
    signals_take(vm);
    if (chips_take(vm, &e) != OK)
        log_line(LOG_ERROR, "%s", e.text);
    clock_stop(&vm->clock);
}

void vm_thaw(struct vm *vm)
{
    struct error e = {0};
    err_t err = board_remap(vm, &e);
    windows_apply(vm);
    if (vm->paused)
        return;
    clock_start(&vm->clock);
    devices_start_timers(vm);
    if (!err)
        err = chips_give(vm, &e);
    if (err) {
        vm_fail(vm, VM_END_FAILED, e.text);
        return;
    }
    signals_give(vm);
    vcpus_resume(vm);
    if (vm->irq.chips)
        vm->irq.chips->settle(vm->engine_vm);
}

void vm_pause(struct vm *vm)
{
    vm->paused = true;
    vm_freeze(vm);
}

void vm_resume(struct vm *vm)
{
    vm->paused = false;
    vm_thaw(vm);
}

bool vm_paused(const struct vm *vm)
{
    return vm->paused;
}

err_t vm_reset(struct vm *vm, struct error *e)
{
    vm_freeze(vm);
    return reboot(vm, e);
}

void vm_nmi(struct vm *vm, unsigned vcpu)
{
    irq_lock(&vm->irq);
    vcpu_event(vm, vcpu, APIC_EVENT_NMI, 0);
    irq_unlock(&vm->irq);
}

bool vm_power_button(struct vm *vm)
{
    return board_power_button(vm);
}

// --- memory

void vm_set_memory_target(struct vm *vm, uint64_t bytes)
{
    struct device *balloon = board_balloon(vm);
    uint64_t less = vm->ram_bytes - min_u64(bytes, vm->ram_bytes);
    device_lock(balloon);
    virtio_balloon_set_target(balloon, less >> PAGE_SHIFT);
    device_unlock(balloon);
}

void vm_balloon(struct vm *vm, struct balloon_view *out)
{
    struct device *balloon = board_balloon(vm);
    device_lock(balloon);
    virtio_balloon_look(balloon, out);
    device_unlock(balloon);
}

// --- CPU time

void vm_set_cpu_limit(struct vm *vm, uint32_t millis)
{
    vm->governor.duty.limit = millis;
    governor_changed(&vm->governor);
}

void vm_set_cpu_bound(struct vm *vm, uint32_t millis)
{
    vm->governor.duty.bound = millis;
    governor_changed(&vm->governor);
}

void vm_set_cpu_grant(struct vm *vm, uint32_t millis, ns_t lasting)
{
    vm->governor.duty.grant = millis;
    vm->governor.duty.grant_until = host_now() + lasting;
    governor_changed(&vm->governor);
}

void vm_cpu(struct vm *vm, struct vm_cpu *out)
{
    *out = (struct vm_cpu){.limit = vm->governor.duty.limit,
                           .bound = vm->governor.duty.bound,
                           .rate = duty_rate(&vm->governor.duty, host_now())};
    for (unsigned i = 0; i < vm->vcpus; i++)
        out->held_ns += vcpu_held(&vm->vcpu[i]);
}

err_t vm_pin(struct vm *vm, const char *cpus, struct error *e)
{
    cpu_set_t set[VM_VCPUS_MAX], here, both;
    for (unsigned i = 0; i < vm->vcpus; i++)
        set[i] = vm->vcpu[i].cpus;
    err_t err = vm_cpu_pin_parse(cpus, vm->vcpus, set, e);
    if (err)
        return err;
    CPU_ZERO(&here);
    (void)!sched_getaffinity(0, sizeof here, &here);
    for (unsigned i = 0; i < vm->vcpus; i++) {
        CPU_AND(&both, &set[i], &here);
        if (!CPU_COUNT(&both))
            return error_set(e, ERR_INVALID,
                             "cpu_pin: this process may use none of the CPUs in '%.60s'; "
                             "nproc and taskset -p $$ say which there are",
                             cpus);
    }
    for (unsigned i = 0; i < vm->vcpus; i++)
        vcpu_move(&vm->vcpu[i], &set[i]);
    return OK;
}

static void add_counter(struct vm_counter *out, unsigned max, unsigned *n, const char *prefix,
                        const char *name, uint64_t value)
{
    if (*n == max)
        return;
    struct vm_counter *c = &out[(*n)++];
    c->value = value;
    snprintf(c->name, sizeof c->name, "%s%s%s", prefix, *prefix ? "." : "", name);
}

static void add_disk_counters(struct vm *vm, unsigned disk, struct vm_counter *out, unsigned max,
                              unsigned *n)
{
    struct block_counters c;
    char id[16];
    snprintf(id, sizeof id, "disk%u", disk);
    if (!vm_disk_counters(vm, disk, &c))
        return;
    const struct {
        const char *name;
        uint64_t value;
    } all[] = {{"reads", c.reads},     {"read_bytes", c.read_bytes},
               {"writes", c.writes},   {"written_bytes", c.written_bytes},
               {"flushes", c.flushes}, {"discards", c.discards},
               {"at_once", c.at_once}, {"delayed", c.delayed}};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        add_counter(out, max, n, id, all[i].name, all[i].value);
}

static void add_nic_counters(struct vm *vm, unsigned nic, struct vm_counter *out, unsigned max,
                             unsigned *n)
{
    const struct nic_model *model;
    struct device *dev = board_nic(vm, nic, &model);
    if (!dev)
        return;
    device_lock(dev);
    struct vm_nic_counters c = *board_nic_counters(vm, nic);
    device_unlock(dev);
    add_counter(out, max, n, dev->id, "received_packets", c.received_packets);
    add_counter(out, max, n, dev->id, "received_bytes", c.received_bytes);
    add_counter(out, max, n, dev->id, "sent_packets", c.sent_packets);
    add_counter(out, max, n, dev->id, "sent_bytes", c.sent_bytes);
}

// Those of a device only once it was used: a machine has many that a guest never touches.
unsigned vm_counters(struct vm *vm, struct vm_counter *out, unsigned max)
{
    struct engine_counter counter[64];
    unsigned n = 0, engine = 0;
    if (vm->engine->counters)
        engine = vm->engine->counters(vm->engine_vm, counter, ARRAY_LEN(counter));
    for (unsigned i = 0; i < engine && i < ARRAY_LEN(counter); i++)
        add_counter(out, max, &n, "", counter[i].name, counter[i].value);
    for (const struct owned_device *o = vm->devices; o; o = o->next) {
        device_lock(o->dev);
        uint64_t accesses = o->accesses, interrupts = o->interrupts;
        device_unlock(o->dev);
        if (accesses)
            add_counter(out, max, &n, o->dev->id, "accesses", accesses);
        if (interrupts)
            add_counter(out, max, &n, o->dev->id, "interrupts", interrupts);
    }
    for (unsigned i = 0; i < vm->config->disks; i++)
        add_disk_counters(vm, i, out, max, &n);
    for (unsigned i = 0; i < vm->config->nics; i++)
        add_nic_counters(vm, i, out, max, &n);
    return n;
}

size_t vm_serial_in(struct vm *vm, const uint8_t *data, size_t len)
{
    struct device *uart = board_serial(vm);
    device_lock(uart);
    size_t taken = uart_input(uart, data, len);
    device_unlock(uart);
    return taken;
}

void vm_serial_writable(struct vm *vm)
{
    struct device *uart = board_serial(vm);
    device_lock(uart);
    uart_writable(uart);
    device_unlock(uart);
}

size_t vm_console_in(struct vm *vm, const uint8_t *data, size_t len)
{
    struct device *console = board_console(vm);
    if (!console)
        return len;
    device_lock(console);
    size_t taken = virtio_console_input(console, 0, data, len);
    device_unlock(console);
    return taken;
}

void vm_console_writable(struct vm *vm)
{
    struct device *console = board_console(vm);
    if (!console)
        return;
    device_lock(console);
    virtio_console_writable(console, 0);
    device_unlock(console);
}

bool vm_nic_receive(struct vm *vm, unsigned nic, uint8_t *packet, size_t len)
{
    const struct nic_model *model;
    struct device *dev = board_nic(vm, nic, &model);
    if (!dev)
        return true;
    device_lock(dev);
    bool taken = model->receive(dev, packet, len);
    if (taken) {
        struct vm_nic_counters *c = board_nic_counters(vm, nic);
        c->received_packets++;
        c->received_bytes += len - NET_HEADER_BYTES;
    }
    device_unlock(dev);
    return taken;
}

void vm_nic_continue(struct vm *vm, unsigned nic)
{
    const struct nic_model *model;
    struct device *dev = board_nic(vm, nic, &model);
    if (!dev)
        return;
    device_lock(dev);
    model->go_on(dev);
    device_unlock(dev);
}

void vm_nic_set_link(struct vm *vm, unsigned nic, bool up)
{
    const struct nic_model *model;
    struct device *dev = board_nic(vm, nic, &model);
    if (!dev)
        return;
    device_lock(dev);
    model->set_link(dev, up);
    device_unlock(dev);
}

err_t vm_nic_add(struct vm *vm, unsigned nic, unsigned *slot, bool *heard, struct error *e)
{
    *slot = board_free_slot(vm);
    if (!*slot)
        return error_set(e, ERR_NO_MEMORY, "the VM has no free PCI slot; remove a card first");
    vm_freeze(vm);
    err_t err = board_add_nic(vm, nic, *slot, e);
    vm_thaw(vm);
    *heard = !err && board_tell_hotplug(vm, *slot, true);
    return err;
}

err_t vm_nic_remove(struct vm *vm, unsigned nic, bool *heard, struct error *e)
{
    const struct nic_model *model;
    struct device *dev = board_nic(vm, nic, &model);
    if (!dev)
        return error_set(e, ERR_NOT_FOUND, "there is no network card %u", nic);
    *heard = board_tell_hotplug(vm, pci_function_of(dev)->devfn / 8u, false);
    return OK;
}
