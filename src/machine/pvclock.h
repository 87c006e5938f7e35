// The paravirtual clock that Linux knows as kvm-clock: two MSRs name guest pages into which the
// machine writes how to turn the TSC into system time and what the wall clock was at system time 0.
// Source: Linux Documentation/virt/kvm/x86/msr.rst. Virtual time and the TSC are one clock here, so
// the pages never need another update.
#pragma once

#include "base/error.h"
#include "state/state.h"

struct vm;

#define PVCLOCK_VCPUS 64

struct pvclock {
    uint64_t wall_clock;                 // MSR value
    uint64_t system_time[PVCLOCK_VCPUS]; // MSR values; bit 0 enables
    uint64_t steal_time[PVCLOCK_VCPUS];  // likewise (steal.h)
    uint8_t unhalted[PVCLOCK_VCPUS];     // [any] the vCPU's next HLT, or this one, ends at once
};

extern const struct state_desc pvclock_state;

// Anything but OK is the guest's #GP.
err_t pvclock_msr_read(struct vm *vm, unsigned vcpu, uint32_t msr, uint64_t *value);
err_t pvclock_msr_write(struct vm *vm, unsigned vcpu, uint32_t msr, uint64_t value);
