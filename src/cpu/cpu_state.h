// The architectural state of one logical processor: all that is needed to move a running vCPU from
// one engine to another. The local APIC (TPR, APIC base, deadline included) is a device, not here.
//
// Sources: Intel SDM volume 3 chapters 2, 3, 11 and 17; XSAVE layout volume 1 chapter 13.
#pragma once

#include "cpu/x86.h"
#include "state/state.h"

struct cpu_segment {
    uint64_t base;
    uint32_t limit; // in bytes, granularity already applied
    uint16_t selector;
    uint16_t attr; // SEGA_*
};

struct cpu_table { // GDTR, IDTR
    uint64_t base;
    uint32_t limit;
    uint32_t pad;
};

// What happens at the next instruction boundary instead of the next instruction.
enum cpu_activity {
    CPU_RUNNING,
    CPU_HALTED,        // HLT: waits for an interrupt, NMI, INIT
    CPU_WAIT_FOR_SIPI, // after INIT on an application processor
    CPU_SHUTDOWN,      // triple fault
};

#define CPU_MTRR_VARIABLE 8
#define CPU_MTRR_FIXED 11
// Room for x87, SSE, AVX, AVX-512, PKRU in the standard (not compacted) XSAVE layout. Where
// components are is xsave_layout_state (xsave.h), whatever the host's layout.
#define CPU_XSAVE_BYTES 2752

struct cpu_state {
    uint64_t gpr[16]; // indexed by enum gpr
    uint64_t rip;
    uint64_t rflags;
    struct cpu_segment seg[SEG_COUNT]; // CPL is the DPL of SS
    struct cpu_segment ldtr;
    struct cpu_segment tr;
    struct cpu_table gdtr;
    struct cpu_table idtr;
    uint64_t cr0;
    uint64_t cr2;
    uint64_t cr3;
    uint64_t cr4;
    uint64_t xcr0;
    uint64_t pdpte[4]; // PAE paging holds its four top entries in the CPU
    uint64_t dr[4];    // DR0..DR3
    uint64_t dr6;
    uint64_t dr7;

    uint64_t efer;
    uint64_t star;
    uint64_t lstar;
    uint64_t cstar;
    uint64_t sfmask;
    uint64_t kernel_gs_base;
    uint64_t sysenter_cs;
    uint64_t sysenter_esp;
    uint64_t sysenter_eip;
    uint64_t pat;
    uint64_t tsc; // guest TSC at the moment of get(); an engine keeps an offset while running
    uint64_t tsc_adjust;
    uint64_t tsc_aux;
    uint64_t misc_enable;
    uint64_t spec_ctrl;
    uint64_t mcg_status;
    uint64_t mtrr_def_type;
    uint64_t mtrr_fixed[CPU_MTRR_FIXED]; // 64K, 16K (2), 4K (8)
    uint64_t mtrr_base[CPU_MTRR_VARIABLE];
    uint64_t mtrr_mask[CPU_MTRR_VARIABLE];

    uint8_t activity;         // enum cpu_activity
    uint8_t interrupt_shadow; // 1: after STI, 2: after MOV SS or POP SS
    uint8_t nmi_blocked;      // between an NMI and its IRET
    uint8_t nmi_pending;
    // An event that delivery had begun on when the vCPU was stopped: delivered first on resume.
    uint8_t event_pending;
    uint8_t event_vector;
    uint8_t event_type; // enum cpu_event_type
    uint8_t event_has_error;
    uint32_t event_error;
    uint8_t smm; // bits of enum cpu_smm
    uint8_t smi_pending;
    uint8_t pad0[2];
    uint64_t pending_dbg; // DR6 bits to report at the next boundary
    uint64_t smbase;      // where system management mode has its memory

    uint64_t pad1[3];
    uint8_t xsave[CPU_XSAVE_BYTES] __attribute__((aligned(64)));
};

// System management mode: in it; it began inside an NMI's handler; an INIT waits for its end.
enum cpu_smm { CPU_SMM = 1, CPU_SMM_IN_NMI = 2, CPU_SMM_INIT_WAITS = 4 };

enum cpu_event_type { CPU_EVENT_INTR, CPU_EVENT_NMI, CPU_EVENT_EXCEPTION, CPU_EVENT_SOFT_INT };

extern const struct state_desc cpu_state_desc;

// The state after RESET (bsp: the boot processor runs; others wait for SIPI). model_id is EDX's
// value at reset (family, model, stepping). SDM vol. 3 table 10-1.
void cpu_state_reset(struct cpu_state *s, bool bsp, uint32_t model_id);

// The state after INIT: like RESET, but x87, SSE, MSRs, CR0.CD/NW, MTRRs, TSC are kept.
void cpu_state_init(struct cpu_state *s, bool bsp, uint32_t model_id);

// Makes a stream from outside fit to run: refuses what no CPU can hold (reserved bits,
// non-canonical bases, LMA without PAE, XSAVE headers that XRSTOR would refuse).
err_t cpu_state_check(const struct cpu_state *s, uint64_t host_xcr0, struct error *e);
