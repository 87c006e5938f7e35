// CPUID as data: what the host has, what a named CPU model wants, what a guest is shown.
// Sources: Intel SDM vol. 2 CPUID; AMD APM vol. 3 appendix E; Linux
// Documentation/virt/kvm/x86/cpuid.rst.
#pragma once

#include "base/error.h"
#include "cpu/features.h"

struct cpuid_leaf {
    uint32_t function;
    uint32_t index; // subleaf
    uint32_t eax, ebx, ecx, edx;
    uint8_t has_index; // distinguishes by subleaf
    uint8_t pad[3];
};

#define CPUID_LEAVES 64

struct cpuid_table {
    struct cpuid_leaf leaf[CPUID_LEAVES];
    uint32_t count;
    uint32_t vcpus;
};

// What the guest's machine looks like, as far as CPUID tells it.
struct cpuid_request {
    const char *model; // a name from cpu_models, "max" or "host"; NULL means the default
    unsigned vcpus;
    uint64_t tsc_khz;
    uint32_t apic_khz; // bus clock of the local APIC timer
    bool tsc_reliable; // invariant TSC may be shown
    bool pv_clock;     // show the KVM clock leaves
    bool pv_calls;     // and that there are KVM's hypercalls for IPIs and for waking vCPUs
};

// Reads the host's own leaves with the CPUID instruction.
void cpuid_read_host(struct cpuid_table *out);
// Of them only leaf 0xd's, about XSAVE's components: in a virtual machine each costs microseconds.
void cpuid_read_host_xsave(struct cpuid_table *out);

// Builds the guest's table: the model's features, of which every one must be in host; leaf 1/0xb/4
// topology, frequency and paravirtual leaves. ERR_NOT_FOUND: no such model (the text lists the
// names). ERR_UNSUPPORTED: the host lacks a feature of a named model (the text names it).
err_t cpuid_build(const struct cpuid_request *request, const struct cpuid_table *host,
                  struct cpuid_table *out, struct error *e);

// What CPUID executed on vCPU `vcpu` returns, with the leaves that depend on it and on current CR4
// and XCR0 (OSXSAVE, OSPKE, XSAVE area size in use) patched. Unknown functions give the documented
// answer.
void cpuid_query(const struct cpuid_table *table, unsigned vcpu, uint32_t function, uint32_t index,
                 uint64_t cr4, uint64_t xcr0, uint32_t regs[4]);

// The set of features that a table shows (enum feature bits).
void cpuid_features(const struct cpuid_table *table, struct feature_set *out);

struct cpu_model {
    const char *name;
    const char *description;
    const uint16_t *features; // enum feature, ended by FEATURE_NONE
    uint8_t vendor_amd;
    uint16_t family, model, stepping;
};
extern const struct cpu_model cpu_models[]; // ended by a NULL name
