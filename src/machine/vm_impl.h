// Inside the machine: the VM object and what its parts need of each other.
#pragma once

#include <pthread.h>
#include <sched.h>

#include "device/net/nic.h"
#include "device/pci/pci.h"
#include "host/thread.h"
#include "machine/bus.h"
#include "machine/clock.h"
#include "machine/devices.h"
#include "machine/governor.h"
#include "machine/irq.h"
#include "machine/memory.h"
#include "machine/pvclock.h"
#include "machine/steal.h"
#include "machine/vm.h"

// What a vCPU's thread must look at besides running guest code. [any]
enum vcpu_attention {
    VCPU_PAUSE = 1,
    VCPU_QUIT = 2,
    VCPU_INIT = 4,
    VCPU_SIPI = 8,
    VCPU_HOLD = 16, // out of the guest until it is taken back
    VCPU_MOVE = 32, // to other CPUs of the host
};

struct vcpu {
    struct vm *vm;
    unsigned index;
    struct engine_vcpu *engine;
    struct device *lapic;
    struct host_thread thread;
    uint64_t tsc_adjust; // how far the guest set its TSC ahead (guarded by the router lock)

    uint32_t attention;   // [any] enum vcpu_attention
    uint8_t sipi_vector;  // [any] of the latest VCPU_SIPI
    bool intr;            // [any] level of the INTR input
    bool nmi;             // [any] an NMI or SMI came since the vCPU last ran
    pthread_mutex_t lock; // guards sleeping
    pthread_cond_t wake;
    bool asleep;
    uint32_t poll_ns;    // how long a wait begins by looking for work
    unsigned host_cpus;  // how many there are in cpus
    uint64_t held_ns;    // [any] time that it was ready but held
    uint64_t held_since; // [any] host time; 0: it is not held now
    uint64_t woken_at;   // host time of the first wake() while it sleeps; 0: none (guarded by lock)
    struct steal steal;
    cpu_set_t cpus; // of the host, where it may run (guarded by lock)

    struct cpu_state
        *initial; // reset state to load before the next run; NULL: none (guarded by vm->park)
};

struct vm {
    const struct vm_config *config;
    struct vm_hooks hooks;
    struct loop *loop;
    const struct engine *engine;
    struct engine_vm *engine_vm;
    char why[200]; // this engine

    struct clock clock;
    struct memory memory;
    void *ram; // all of guest RAM, one block
    uint64_t ram_bytes;
    char indirect[200];       // why programs do not run in cages; empty: they may
    struct ram_file ram_file; // the same block, if it is a file; else all zeros
    struct bus pio, mmio;
    struct irq irq;
    struct device *pit;
    struct owned_device *devices;
    uint32_t timers_at_rest; // that wait for a vCPU without work [any]
    unsigned signals;        // of all devices
    pthread_mutex_t windows; // guards all devices' windows; see window.c
    struct cpuid_table cpuid;
    uint64_t host_xcr0; // what XSAVE may hold here
    uint32_t model_id;  // EDX at reset: family, model, stepping
    struct pvclock pvclock;
    struct board *board;

    struct governor governor;
    struct vcpu *vcpu; // config->vcpus of them
    unsigned vcpus;
    unsigned awake;       // vCPUs whose threads do not sleep in a HLT [any]
    uint32_t poll_ns;     // halt-poll=, as engine_vm_config has it
    pthread_mutex_t park; // guards parked and running
    pthread_cond_t parked_changed;
    unsigned parked; // threads that stand at the gate
    bool running;    // the gate is open
    bool started;
    bool paused; // by vm_pause()

    // A device asked for something; acted on by the main loop. [any]
    uint32_t requests; // bits of enum machine_request
    uint32_t request_argument[MACHINE_REQUESTS];
    struct loop_work request_work;
    struct vm_result result; // of the first vCPU that ended (guarded by park)
    bool failed;             // result was set by a vCPU (guarded by park)
    bool ended;
};

// Any thread, device locks may be held: notes the request and stops the vCPUs at their next
// instruction boundary; the main loop does the rest.
void vm_request(struct vm *vm, enum machine_request what, uint32_t argument);
// The same for a change of the memory map, carried out by windows_apply().
void vm_remap(struct vm *vm);
void vm_fail(struct vm *vm, enum vm_end end, const char *text); // from a vCPU's thread

// vcpu.c
err_t vcpus_new(struct vm *vm, struct error *e);  // without the engine's part
err_t vcpus_make(struct vm *vm, struct error *e); // the engine's part, once memory is mapped
err_t vcpus_start(struct vm *vm, struct error *e);
void vcpus_free(struct vm *vm); // joins the threads
void vcpu_fail(struct vcpu *vcpu, const struct error *e);
void vcpus_pause(struct vm *vm);
void vcpus_resume(struct vm *vm);
void vcpus_hold(struct vm *vm, bool held);
uint64_t vcpu_held(const struct vcpu *vcpu);              // ns that it was ready but held
void vcpu_move(struct vcpu *vcpu, const cpu_set_t *cpus); // of the host
void vcpu_attend(struct vcpu *vcpu, uint32_t attention);  // any thread
void vcpu_unhalt(struct vcpu *vcpu);                      // ends a HLT whatever it waits for
void vcpu_set_intr(void *vm, unsigned index, bool level);
void vcpu_event(void *vm, unsigned index, enum apic_event what, uint8_t vector);

// halt.c: the vCPU's run() said that it has halted: returns when it may go on. s is room.
void vcpu_halt(struct vcpu *vcpu, struct cpu_state *s);
// How long the next wait looks for work before the thread sleeps, after one that took `waited`.
uint32_t halt_next_poll(uint32_t poll_ns, uint32_t max, uint64_t waited);

// chips.c: to the engine before vCPUs run, back to the models after they have stopped.
err_t chips_give(struct vm *vm, struct error *e);
err_t chips_take(struct vm *vm, struct error *e);

extern const struct engine_upcalls vm_upcalls; // upcalls.c; opaque is struct vm

// board/pc.c
err_t board_new(struct vm *vm, struct error *e);
err_t board_boot(struct vm *vm, struct cpu_state *bsp, struct error *e); // after every reset
bool board_has_firmware(const struct vm *vm);      // else board_boot() does what it would
err_t board_remap(struct vm *vm, struct error *e); // before the vCPUs go on
void board_drain_disks(struct vm *vm);             // waits for what is in flight
void board_close_disks(struct vm *vm);             // drains them first
void board_free(struct vm *vm);                    // after the devices
bool board_power_button(struct vm *vm);
struct device *board_serial(struct vm *vm);    // COM1
unsigned board_free_slot(const struct vm *vm); // for a card that comes now; 0: there is none
// Tells the guest of a card that has come or is to go. False: it does not listen now.
bool board_tell_hotplug(struct vm *vm, unsigned slot, bool arrived);
void board_eject(struct vm *vm, bool all); // cards the guest let go of; all: that are to go
err_t board_add_nic(struct vm *vm, unsigned nic, unsigned slot, struct error *e); // hot
// NULL: no such network card.
struct device *board_nic(struct vm *vm, unsigned nic, const struct nic_model **model);

// What went through a network card; its device's lock guards it.
struct vm_nic_counters {
    uint64_t received_packets, received_bytes, sent_packets, sent_bytes; // of Ethernet frames
};
struct vm_nic_counters *board_nic_counters(struct vm *vm, unsigned nic);
struct device *board_balloon(struct vm *vm);
struct device *board_console(struct vm *vm); // NULL: no virtio console
struct device *board_vsock(struct vm *vm);   // NULL: no virtio socket device
