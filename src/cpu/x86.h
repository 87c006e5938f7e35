// Architectural constants of x86-64. Sources: Intel SDM volumes 3 and 4, AMD APM volume 2.
#pragma once

#include "base/bits.h"

enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum segment { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

// RFLAGS
#define FLAG_CF BIT(0)
#define FLAG_FIXED BIT(1) // always one
#define FLAG_PF BIT(2)
#define FLAG_AF BIT(4)
#define FLAG_ZF BIT(6)
#define FLAG_SF BIT(7)
#define FLAG_TF BIT(8)
#define FLAG_IF BIT(9)
#define FLAG_DF BIT(10)
#define FLAG_OF BIT(11)
#define FLAG_IOPL BITS(13, 12)
#define FLAG_NT BIT(14)
#define FLAG_RF BIT(16)
#define FLAG_VM BIT(17)
#define FLAG_AC BIT(18)
#define FLAG_VIF BIT(19)
#define FLAG_VIP BIT(20)
#define FLAG_ID BIT(21)
#define FLAGS_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)
#define EFER_SVME BIT(12)
#define EFER_FFXSR BIT(14)
#define EFER_AUTOIBRS BIT(21)

#define XCR0_X87 BIT(0)
#define XCR0_SSE BIT(1)
#define XCR0_AVX BIT(2)
#define XCR0_AVX512 BITS(7, 5)
#define XCR0_PKRU BIT(9)
#define XCR0_TILES BITS(18, 17)

enum vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19,
};

// Page-fault error code
#define PF_PRESENT BIT(0)
#define PF_WRITE BIT(1)
#define PF_USER BIT(2)
#define PF_RESERVED BIT(3)
#define PF_FETCH BIT(4)

// Page-table entries (all paging modes use these places)
#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_PWT BIT(3)
#define PTE_PCD BIT(4)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)

// Segment attributes: bits 8..15 and 20..23 of a descriptor's second word, packed as in VMX access
// rights: 3..0 type, 4 S, 6..5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G. P clear marks an unusable
// segment.
#define SEGA_TYPE BITS(3, 0)
#define SEGA_ACCESSED BIT(0)
#define SEGA_WRITABLE BIT(1) // data; for code: readable
#define SEGA_DOWN BIT(2)     // data: expand-down; for code: conforming
#define SEGA_CODE BIT(3)
#define SEGA_S BIT(4)
#define SEGA_DPL BITS(6, 5)
#define SEGA_P BIT(7)
#define SEGA_AVL BIT(12)
#define SEGA_L BIT(13)
#define SEGA_DB BIT(14)
#define SEGA_G BIT(15)

// System descriptor types
#define SYS_TSS16 1
#define SYS_LDT 2
#define SYS_TSS16_BUSY 3
#define SYS_CALL_GATE16 4
#define SYS_TASK_GATE 5
#define SYS_INT_GATE16 6
#define SYS_TRAP_GATE16 7
#define SYS_TSS 9
#define SYS_TSS_BUSY 11
#define SYS_CALL_GATE 12
#define SYS_INT_GATE 14
#define SYS_TRAP_GATE 15

#define DR6_FIXED 0xffff0ff0u
#define DR6_BD BIT(13)
#define DR6_BS BIT(14)
#define DR6_BT BIT(15)
#define DR7_FIXED BIT(10)
#define DR7_GD BIT(13)

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_TSC_ADJUST 0x3b
#define MSR_SPEC_CTRL 0x48
#define MSR_PRED_CMD 0x49
#define MSR_UCODE_REV 0x8b
#define MSR_MTRR_CAP 0xfe
#define MSR_ARCH_CAPABILITIES 0x10a
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_MISC_ENABLE 0x1a0
#define MSR_MTRR_PHYSBASE0 0x200
#define MSR_MTRR_FIX64K 0x250
#define MSR_MTRR_FIX16K_0 0x258
#define MSR_MTRR_FIX16K_1 0x259
#define MSR_MTRR_FIX4K_0 0x268
#define MSR_PAT 0x277
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_BASE 0x800
#define MSR_X2APIC_LAST 0x8ff
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

#define MSR_KVM_WALL_CLOCK 0x4b564d00
#define MSR_KVM_SYSTEM_TIME 0x4b564d01
#define MSR_KVM_STEAL_TIME 0x4b564d03

// KVM's paravirtual features, EAX of their CPUID leaf; hypercalls and their errors. Linux
// Documentation/virt/kvm/x86/cpuid.rst and hypercalls.rst.
#define CPUID_KVM_FEATURES 0x40000001
#define KVM_CLOCKSOURCE2 BIT(3)
#define KVM_STEAL_TIME BIT(5)
#define KVM_PV_UNHALT BIT(7)
#define KVM_PV_TLB_FLUSH BIT(9)
#define KVM_PV_SEND_IPI BIT(11)
#define KVM_CLOCKSOURCE_STABLE BIT(24)
#define KVM_CALL_KICK_CPU 5
#define KVM_CALL_SEND_IPI 10
#define KVM_CALL_UNKNOWN (-1000)
#define KVM_CALL_DENIED (-1)
#define KVM_CALL_INVALID (-22)
