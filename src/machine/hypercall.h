// Paravirtual calls that guests know from KVM: interrupts to many processors at once, and waking a
// processor that halted with interrupts off (Linux: waiting spinlocks do). Source: Linux
// Documentation/virt/kvm/x86/hypercalls.rst. Not offered: yielding, clock pairing, page encryption.
#pragma once

#include "base/types.h"

struct vm;

// What the call returns to the guest. wide: it runs 64-bit code, else arguments have 32 bits.
uint64_t hypercall_answer(struct vm *vm, uint64_t call, const uint64_t arg[4], bool wide);
