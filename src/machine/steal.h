// Steal time: how long each vCPU was ready to run and did not, because its VM was held to its limit
// or the host's CPUs were somebody else's. The guest names a page by an MSR and reads it there, so
// that its load averages and `top` do not blame its own programs. Source: Linux
// Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME. The same page says that a vCPU
// does not run, and takes orders to flush its TLB before it does again, so that other vCPUs do not
// wait for it. What a device makes a vCPU wait for counts, too.
#pragma once

#include "base/types.h"

struct vcpu;

// All on the vCPU's thread.
struct steal {
    uint64_t began;  // host time of the thread's start, less what it had used of a CPU
    uint64_t rested; // ns that it had nothing to do, or that the VM was paused
    uint64_t told;   // ns of its time that the guest was told
    uint64_t at;     // host time of the latest look
    bool engine;     // what the host's CPUs make it wait for is told by the engine
};

void steal_begin(struct vcpu *vcpu);
void steal_rested(struct vcpu *vcpu, uint64_t ns);
// The MSR says something else; or the vCPU comes from the gate, where states are loaded.
void steal_changed(struct vcpu *vcpu);
// The vCPU does not run from here to there. Another engine's steal time says so itself.
void steal_away(struct vcpu *vcpu);
void steal_back(struct vcpu *vcpu);
// Tells the guest, if it has been some time. Often.
void steal_look(struct vcpu *vcpu);
