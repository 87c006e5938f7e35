// A small machine for tests of the KVM engine, and what others must do alike: one vCPU in real
// mode, RAM at 0, and upcalls that note what was asked.
#pragma once

#include "engine/engine.h"

#define KVM_BOX_RAM (48 * MIB)
#define KVM_BOX_CODE 0x8000

// The last access of each kind.
struct kvm_box_seen {
    uint16_t port;
    uint64_t port_value;
    gpa_t at;
    uint64_t stored;
    uint32_t msr;
    uint64_t msr_value;
};

struct kvm_box {
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    uint8_t *ram;
    struct cpu_state in, out; // to be set; as it was after the last run
    struct kvm_box_seen seen;
    int vector;        // that intr_ack gives; -1: none
    bool kick_at_port; // a write to any port ends the run
    struct error e;
};

extern struct kvm_box box;
extern const struct engine *kvm; // or another one to compare with
extern uint32_t box_debug;       // of boxes that open_box() makes: enum engine_debug

// Of a VM with one vCPU; fills the table.
struct engine_vm_config kvm_box_config(struct cpuid_table *table);
extern const struct engine_upcalls kvm_box_upcalls;

void open_box(void);
void open_box_with(uint32_t debug); // enum engine_debug
void close_box(void);

// Sets the state with this code at KVM_BOX_CODE and runs it.
enum engine_exit run_code(const uint8_t *code, size_t len);
enum engine_exit go_on(void); // runs, and reads the state

bool ordinary(void); // whether this KVM runs ordinary guests

#define KVM_BOX_SKIPPED 77
bool no_kvm(void); // says so: the test program is to end with that status
