// Inside the KVM engine: VMs, vCPUs, and what its parts need of each other. See docs/engine-kvm.md.
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include "base/bits.h"
#include "base/log.h"
#include "cpu/xsave.h"
#include "engine/engine.h"
#include "host/thread.h"

#define KVM_SLOTS 32
#define KVM_MSRS 48        // of the state
#define KVM_SPACE 0x10000u // the number of a slot in the next space of memory is so much higher
// AMD's hardware configuration: the TSC runs at the frequency of P0. Older KVMs say that it does
// not.
#define KVM_AMD_HWCR 0xc0010015
#define KVM_AMD_HWCR_TSC BIT(24)
#define KVM_KICK_SIGNAL SIGUSR1 // interrupts KVM_RUN; its handler does nothing

struct slot {
    gpa_t at;
    uint64_t len; // 0: free
    void *host;
    uint32_t flags; // KVM_MEM_*
    bool logged;    // ENGINE_MAP_LOGGED
    uint64_t
        *dirty; // pages changed since take_dirty(); while the log is on (guarded by dirty_lock)
};

// A level-triggered message of which the machine's IOAPIC wants to see the end, or that of a
// signal.
struct message {
    uint64_t address;
    uint32_t data;
    bool on;
};

struct engine_vm {
    struct engine_vm_config config;
    struct cpuid_table cpuid;
    const struct engine_upcalls *up;
    void *opaque;
    int kvm, fd;
    struct kvm_features *features; // which this KVM can give, once they are needed
    enum engine_chips chips;       // which are in the kernel
    bool chips_made, settled;
    uint64_t lines; // by GSI: levels of the chips' inputs as KVM has them
    struct message awaited[CHIP_IOAPIC_PINS];
    struct message signal[ENGINE_SIGNALS]; // off: its route (if any) is not used
    unsigned signals;                      // how many of them have ever had a route
    size_t run_bytes;                      // of a vCPU's shared page
    size_t xsave_bytes;                    // of KVM's extended state
    struct xsave_layout layout;            // of KVM's extended state: the host's
    unsigned spaces;                       // of memory: 2 where system management mode has its own
    uint32_t guest_debug;                  // KVM_GUESTDBG_* that this kernel says it has
    uint64_t host_khz;                     // the host's TSC, as its kernel knows it
    struct tsc_ratio tsc_ratio;            // from the host's TSC to the guest's
    bool scales_tsc;                       // the CPU can
    bool tsc_offset;                       // the TSC's offset can be set, not only its value
    uint32_t ring_entries;                 // of each vCPU's dirty ring; 0: the log is KVM's bitmaps
    bool logging;
    bool msr_lacking[KVM_MSRS]; // by place in msr.c: this KVM does not have it
    pthread_mutex_t dirty_lock;
    struct slot slot[KVM_SLOTS];
    struct engine_vcpu **vcpu; // config.vcpus of them
};

enum vcpu_pending { PENDING_KICK = 1, PENDING_NMI = 2, PENDING_SMI = 4 };

enum kvm_counter {
    COUNTER_EXITS,
    COUNTER_PORTS,
    COUNTER_MMIO,
    COUNTER_MSRS,
    COUNTER_HALTS,
    COUNTER_INTERRUPTS,
    COUNTER_WINDOWS,
    COUNTER_SIGNALS,
    COUNTER_EOIS,
    COUNTER_COUNT
};

struct engine_vcpu {
    struct engine_vm *vm;
    unsigned index;
    int fd;
    struct kvm_run *run;
    struct kvm_xsave *xsave;    // vm->xsave_bytes
    struct kvm_dirty_gfn *ring; // NULL: none (guarded by dirty_lock, with ring_next)
    uint32_t ring_next;         // entry to look at next, of an endless ring
    int thread;                 // its number, for signals

    uint32_t pending; // [any] enum vcpu_pending
    bool intr;        // [any] level of the INTR input (with APICs in the kernel: of the PIC)
    bool inside;      // [any] at or in KVM_RUN: a signal is needed to get it out

    bool incomplete; // the last exit's access is finished by the next KVM_RUN
    bool ready;      // an interrupt can be injected
    bool stale;      // `ready` is not known: state was set
    int external;    // PIC's vector that KVM may not have delivered yet (APIC in the kernel), or -1
    bool open;       // RFLAGS.IF, while halted
    bool auto_ibrs;  // the guest has automatic IBRS
    bool nmi;        // one, or an SMI, was given to KVM since the vCPU last ran
    uint8_t activity;             // enum cpu_activity
    uint8_t cr8;                  // as KVM knows it
    uint64_t smbase;              // kept for a KVM without system management mode
    uint64_t offset;              // guest TSC - host TSC (scaled), adjust included
    uint64_t adjust;              // TSC_ADJUST
    uint64_t deadline;            // the APIC's, to be armed when the offset is known
    struct kvm_guest_debug debug; // what a debugger watches
    unsigned points;              // how many of it are addresses
    struct engine_stop stop;
    enum engine_exit exit;
    char error[200];
    uint64_t counter[COUNTER_COUNT]; // written by its thread only
};

// words.c: what failed, why, what to do about it. Returns the error's class.
err_t kvm_failed(struct error *e, int number, const char *what);
void kvm_log_failed(const char *what); // the same into the log, for errno

// probe.c
void kvm_probe(uint32_t debug, bool thorough, struct engine_probe *out);
int kvm_open(struct error *e); // /dev/kvm, checked for its version and capabilities; -1 with words

// memory.c
err_t kvm_map(struct engine_vm *vm, gpa_t at, uint64_t len, void *host, enum engine_map_flags flags,
              struct error *e);
err_t kvm_unmap(struct engine_vm *vm, gpa_t at, uint64_t len, struct error *e);
void kvm_written(struct engine_vm *vm, gpa_t at, uint64_t len);
err_t kvm_log_dirty(struct engine_vm *vm, bool on, struct error *e);
err_t kvm_take_dirty(struct engine_vm *vm, gpa_t at, uint64_t len, uint64_t *bitmap);

// ring.c
void kvm_ring_choose(struct engine_vm *vm); // before there are vCPUs
err_t kvm_ring_map(struct engine_vcpu *v, struct error *e);
void kvm_ring_unmap(struct engine_vcpu *v);
err_t kvm_ring_harvest(struct engine_vm *vm); // empties all rings into the slots' bitmaps
err_t kvm_ring_harvest_locked(struct engine_vm *vm);

// cpuid.c
err_t kvm_ask_features(struct engine_vm *vm, struct error *e); // waits for nothing
void kvm_free_features(struct engine_vm *vm);
err_t kvm_set_cpuid(struct engine_vcpu *v, struct error *e);

// irqchip.c
extern const struct engine_irqchip kvm_irqchip;
err_t kvm_choose_chips(struct engine_vm *vm, struct error *e);
// Before the first vCPU, and after the memory that is mapped from the start: what comes after it
// has to wait until the kernel (since 6.18) has told all its CPUs of the chips.
err_t kvm_make_chips(struct engine_vm *vm, struct error *e);
err_t kvm_set_routes(struct engine_vm *vm, struct error *e);
err_t kvm_doorbell(struct engine_vm *vm, gpa_t at, int eventfd, bool on, struct error *e);
void kvm_rearm_deadline(struct engine_vcpu *v); // the guest's TSC has moved

// msr.c
void kvm_learn_msrs(struct engine_vcpu *v); // with the first vCPU: which of them there are
uint64_t kvm_get_msr(struct engine_vcpu *v, uint32_t msr); // 0: there is none
bool kvm_set_msr(struct engine_vcpu *v, uint32_t msr, uint64_t value);
err_t kvm_filter_msrs(struct engine_vm *vm, struct error *e);
void kvm_get_msrs(struct engine_vcpu *v, struct cpu_state *out);
err_t kvm_set_msrs(struct engine_vcpu *v, const struct cpu_state *in, struct error *e);
err_t kvm_scale_tsc(struct engine_vm *vm, uint64_t khz, struct tsc_ratio *out, struct error *e);
struct tsc_ratio kvm_tsc_ratio(uint64_t host_khz, uint64_t guest_khz, bool intel);
void kvm_tsc_offset(struct engine_vcpu *v, uint64_t offset);
bool kvm_steal_time(struct engine_vcpu *v, uint64_t msr);
bool kvm_write_tsc(struct engine_vcpu *v, uint32_t msr, uint64_t value); // false: another register

// state.c, event.c
void kvm_get(struct engine_vcpu *v, unsigned groups, struct cpu_state *out);
err_t kvm_set(struct engine_vcpu *v, unsigned groups, const struct cpu_state *in, struct error *e);
void kvm_get_events(struct engine_vcpu *v, struct cpu_state *out);
err_t kvm_set_events(struct engine_vcpu *v, const struct cpu_state *in, struct error *e);

// debug.c
err_t kvm_watch(struct engine_vcpu *v, const struct engine_watch *watch, struct error *e);
void kvm_stopped(struct engine_vcpu *v, struct engine_stop *out);
void kvm_step_from_here(struct engine_vcpu *v);
void kvm_note_stop(struct engine_vcpu *v); // the last exit was for a debugger

// run.c
enum engine_exit kvm_run(struct engine_vcpu *v);
void kvm_deliver_nmi(struct engine_vcpu *v); // one that nmi() left
