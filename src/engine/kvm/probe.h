// What decides whether KVM can be used, apart from finding it out, so that every case can be
// tested.
#pragma once

#include "engine/engine.h"

struct kvm_need {
    int capability;
    const char *name;
    const char *since; // the first kernel that has it
};

struct kvm_facts {
    int open_error;               // errno of opening the device; 0: it opened
    int version;                  // of KVM's interface
    const struct kvm_need *lacks; // the first that is missing; NULL: none
    int vm_error;                 // errno of making a VM; 0: none, or not tried
    bool virtualizes;             // the CPU shows VT-x or AMD-V
    bool is_virtual;              // it says that it is a virtual machine's
    bool container;
    char group[32]; // of the device, where it may not be opened; may be empty
};

void kvm_explain(const struct kvm_facts *facts, uint32_t debug, struct engine_probe *out);
