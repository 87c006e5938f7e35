// CPU features that change what an instruction or register does. One list: name, CPUID function,
// subleaf, register (0 eax .. 3 edx), bit. Names are the ones /proc/cpuinfo uses.
#pragma once

#include "base/bits.h"

// clang-format off
#define CPU_FEATURES(F) \
    F(FPU, "fpu", 1, 0, 3, 0)              F(VME, "vme", 1, 0, 3, 1) \
    F(DE, "de", 1, 0, 3, 2)                F(PSE, "pse", 1, 0, 3, 3) \
    F(TSC, "tsc", 1, 0, 3, 4)              F(MSR, "msr", 1, 0, 3, 5) \
    F(PAE, "pae", 1, 0, 3, 6)              F(MCE, "mce", 1, 0, 3, 7) \
    F(CX8, "cx8", 1, 0, 3, 8)              F(APIC, "apic", 1, 0, 3, 9) \
    F(SEP, "sep", 1, 0, 3, 11)             F(MTRR, "mtrr", 1, 0, 3, 12) \
    F(PGE, "pge", 1, 0, 3, 13)             F(MCA, "mca", 1, 0, 3, 14) \
    F(CMOV, "cmov", 1, 0, 3, 15)           F(PAT, "pat", 1, 0, 3, 16) \
    F(PSE36, "pse36", 1, 0, 3, 17)         F(CLFLUSH, "clflush", 1, 0, 3, 19) \
    F(MMX, "mmx", 1, 0, 3, 23)             F(FXSR, "fxsr", 1, 0, 3, 24) \
    F(SSE, "sse", 1, 0, 3, 25)             F(SSE2, "sse2", 1, 0, 3, 26) \
    F(HT, "ht", 1, 0, 3, 28) \
    F(SSE3, "pni", 1, 0, 2, 0)             F(PCLMULQDQ, "pclmulqdq", 1, 0, 2, 1) \
    F(MONITOR, "monitor", 1, 0, 2, 3)      F(SSSE3, "ssse3", 1, 0, 2, 9) \
    F(FMA, "fma", 1, 0, 2, 12)             F(CX16, "cx16", 1, 0, 2, 13) \
    F(PCID, "pcid", 1, 0, 2, 17)           F(SSE4_1, "sse4_1", 1, 0, 2, 19) \
    F(SSE4_2, "sse4_2", 1, 0, 2, 20)       F(X2APIC, "x2apic", 1, 0, 2, 21) \
    F(MOVBE, "movbe", 1, 0, 2, 22)         F(POPCNT, "popcnt", 1, 0, 2, 23) \
    F(TSC_DEADLINE, "tsc_deadline_timer", 1, 0, 2, 24) F(AES, "aes", 1, 0, 2, 25) \
    F(XSAVE, "xsave", 1, 0, 2, 26)         F(OSXSAVE, "osxsave", 1, 0, 2, 27) \
    F(AVX, "avx", 1, 0, 2, 28)             F(F16C, "f16c", 1, 0, 2, 29) \
    F(RDRAND, "rdrand", 1, 0, 2, 30)       F(HYPERVISOR, "hypervisor", 1, 0, 2, 31) \
    F(ARAT, "arat", 6, 0, 0, 2) \
    F(FSGSBASE, "fsgsbase", 7, 0, 1, 0)    F(TSC_ADJUST, "tsc_adjust", 7, 0, 1, 1) \
    F(BMI1, "bmi1", 7, 0, 1, 3)            F(AVX2, "avx2", 7, 0, 1, 5) \
    F(SMEP, "smep", 7, 0, 1, 7)            F(BMI2, "bmi2", 7, 0, 1, 8) \
    F(ERMS, "erms", 7, 0, 1, 9)            F(INVPCID, "invpcid", 7, 0, 1, 10) \
    F(AVX512F, "avx512f", 7, 0, 1, 16)     F(AVX512DQ, "avx512dq", 7, 0, 1, 17) \
    F(RDSEED, "rdseed", 7, 0, 1, 18)       F(ADX, "adx", 7, 0, 1, 19) \
    F(SMAP, "smap", 7, 0, 1, 20)           F(AVX512IFMA, "avx512ifma", 7, 0, 1, 21) \
    F(CLFLUSHOPT, "clflushopt", 7, 0, 1, 23) F(CLWB, "clwb", 7, 0, 1, 24) \
    F(AVX512CD, "avx512cd", 7, 0, 1, 28)   F(SHA, "sha_ni", 7, 0, 1, 29) \
    F(AVX512BW, "avx512bw", 7, 0, 1, 30)   F(AVX512VL, "avx512vl", 7, 0, 1, 31) \
    F(AVX512VBMI, "avx512vbmi", 7, 0, 2, 1) F(UMIP, "umip", 7, 0, 2, 2) \
    F(PKU, "pku", 7, 0, 2, 3)              F(AVX512VBMI2, "avx512_vbmi2", 7, 0, 2, 6) \
    F(GFNI, "gfni", 7, 0, 2, 8)            F(VAES, "vaes", 7, 0, 2, 9) \
    F(VPCLMULQDQ, "vpclmulqdq", 7, 0, 2, 10) F(AVX512VNNI, "avx512_vnni", 7, 0, 2, 11) \
    F(AVX512BITALG, "avx512_bitalg", 7, 0, 2, 12) F(AVX512VPOPCNTDQ, "avx512_vpopcntdq", 7, 0, 2, 14) \
    F(LA57, "la57", 7, 0, 2, 16)           F(RDPID, "rdpid", 7, 0, 2, 22) \
    F(FSRM, "fsrm", 7, 0, 3, 4) \
    F(ARCH_CAPABILITIES, "arch_capabilities", 7, 0, 3, 29) \
    F(AVX512VP2INTERSECT, "avx512_vp2intersect", 7, 0, 3, 8) F(AVX512BF16, "avx512_bf16", 7, 1, 0, 5) \
    F(XSAVEOPT, "xsaveopt", 13, 1, 0, 0)   F(XSAVEC, "xsavec", 13, 1, 0, 1) \
    F(XGETBV1, "xgetbv1", 13, 1, 0, 2)     F(XSAVES, "xsaves", 13, 1, 0, 3) \
    F(SYSCALL, "syscall", 0x80000001, 0, 3, 11) F(NX, "nx", 0x80000001, 0, 3, 20) \
    F(MMXEXT, "mmxext", 0x80000001, 0, 3, 22) F(FXSR_OPT, "fxsr_opt", 0x80000001, 0, 3, 25) \
    F(PDPE1GB, "pdpe1gb", 0x80000001, 0, 3, 26) F(RDTSCP, "rdtscp", 0x80000001, 0, 3, 27) \
    F(LM, "lm", 0x80000001, 0, 3, 29) \
    F(LAHF_LM, "lahf_lm", 0x80000001, 0, 2, 0) F(CMP_LEGACY, "cmp_legacy", 0x80000001, 0, 2, 1) \
    F(SVM, "svm", 0x80000001, 0, 2, 2)     F(CR8_LEGACY, "cr8_legacy", 0x80000001, 0, 2, 4) \
    F(ABM, "abm", 0x80000001, 0, 2, 5)     F(SSE4A, "sse4a", 0x80000001, 0, 2, 6) \
    F(MISALIGNSSE, "misalignsse", 0x80000001, 0, 2, 7) \
    F(PREFETCHW, "3dnowprefetch", 0x80000001, 0, 2, 8) \
    F(CONSTANT_TSC, "constant_tsc", 0x80000007, 0, 3, 8) \
    F(SSB_NO, "amd_ssb_no", 0x80000008, 0, 1, 26) F(BTC_NO, "btc_no", 0x80000008, 0, 1, 29) \
    F(AUTOIBRS, "autoibrs", 0x80000021, 0, 0, 8) F(SRSO_NO, "srso_no", 0x80000021, 0, 0, 29) \
    F(TSA_SQ_NO, "tsa_sq_no", 0x80000021, 0, 2, 1) F(TSA_L1_NO, "tsa_l1_no", 0x80000021, 0, 2, 2)
// clang-format on

enum feature {
    FEATURE_NONE, // no requirement
#define CPU_FEATURE_ENUM(id, ...) FEATURE_##id,
    CPU_FEATURES(CPU_FEATURE_ENUM)
#undef CPU_FEATURE_ENUM
        FEATURE_COUNT,
};

struct feature_set {
    uint64_t bits[(FEATURE_COUNT + 63) / 64];
};

static inline bool feature_has(const struct feature_set *set, unsigned feature)
{
    return set->bits[feature / 64] >> (feature % 64) & 1;
}

static inline void feature_add(struct feature_set *set, unsigned feature)
{
    set->bits[feature / 64] |= BIT(feature % 64);
}
