// The CPU models that a VM may ask for by name: which features each shows, and what it calls
// itself. Sources: x86-64 psABI (the levels); Intel and AMD documentation of the generations. Not
// in a model: what the platform adds for every guest (cpuid_build.c) and what is never shown (SMAP,
// VMX, SVM, ...).
#include "cpu/cpuid.h"

#include <stddef.h>

#define F(name) FEATURE_##name

#define LEVEL_1                                                                                  \
    F(FPU), F(VME), F(DE), F(PSE), F(TSC), F(MSR), F(PAE), F(MCE), F(CX8), F(APIC), F(SEP),      \
        F(MTRR), F(PGE), F(MCA), F(CMOV), F(PAT), F(PSE36), F(CLFLUSH), F(MMX), F(FXSR), F(SSE), \
        F(SSE2), F(SYSCALL), F(NX), F(LM), F(RDTSCP), F(SSE3), F(CX16), F(LAHF_LM)
#define LEVEL_2 LEVEL_1, F(SSSE3), F(SSE4_1), F(SSE4_2), F(POPCNT)
#define LEVEL_3 \
    LEVEL_2, F(AVX), F(AVX2), F(BMI1), F(BMI2), F(F16C), F(FMA), F(ABM), F(MOVBE), F(XSAVE)
#define CRYPTO F(AES), F(PCLMULQDQ), F(RDRAND)
#define AMD_EXTRAS F(MMXEXT), F(SSE4A), F(PREFETCHW)

static const uint16_t base[] = {LEVEL_1, FEATURE_NONE};
static const uint16_t v2[] = {LEVEL_2, FEATURE_NONE};
static const uint16_t v3[] = {LEVEL_3, FEATURE_NONE};
static const uint16_t nehalem[] = {LEVEL_2, FEATURE_NONE};
static const uint16_t haswell[] = {LEVEL_3, CRYPTO,      F(PCID), F(INVPCID),    F(FSGSBASE),
                                   F(SMEP), F(XSAVEOPT), F(ERMS), F(TSC_ADJUST), FEATURE_NONE};
static const uint16_t skylake_server[] = {
    LEVEL_3,     CRYPTO,       F(PCID),       F(INVPCID), F(FSGSBASE),   F(SMEP),
    F(XSAVEOPT), F(XSAVEC),    F(XGETBV1),    F(ERMS),    F(TSC_ADJUST), F(ADX),
    F(RDSEED),   F(PREFETCHW), F(CLFLUSHOPT), F(CLWB),    F(PDPE1GB),    FEATURE_NONE};
static const uint16_t epyc[] = {LEVEL_3,     CRYPTO,     AMD_EXTRAS,    F(FSGSBASE), F(SMEP),
                                F(XSAVEOPT), F(XSAVEC),  F(XGETBV1),    F(ADX),      F(RDSEED),
                                F(SHA),      F(PDPE1GB), F(CLFLUSHOPT), FEATURE_NONE};
static const uint16_t epyc_milan[] = {
    LEVEL_3,       CRYPTO,        AMD_EXTRAS, F(FSGSBASE), F(SMEP),     F(XSAVEOPT),
    F(XSAVEC),     F(XGETBV1),    F(ADX),     F(RDSEED),   F(SHA),      F(PDPE1GB),
    F(CLFLUSHOPT), F(CLWB),       F(RDPID),   F(UMIP),     F(PCID),     F(INVPCID),
    F(VAES),       F(VPCLMULQDQ), F(ERMS),    F(FSRM),     FEATURE_NONE};

const struct cpu_model cpu_models[] = {
    {"host", "everything this host has and Berth can run (the default)", NULL, 0, 0, 0, 0},
    {"base", "any x86-64 processor", base, 0, 15, 107, 1},
    {"x86-64-v2", "x86-64 level 2 (SSE4.2, POPCNT)", v2, 0, 15, 107, 1},
    {"x86-64-v3", "x86-64 level 3 (AVX2, BMI2, FMA)", v3, 0, 15, 107, 1},
    {"Nehalem", "Intel Core i7 9xx (Nehalem)", nehalem, 0, 6, 26, 3},
    {"Haswell", "Intel Xeon E5 v3 (Haswell)", haswell, 0, 6, 60, 4},
    {"Skylake-Server", "Intel Xeon (Skylake), without AVX-512", skylake_server, 0, 6, 85, 4},
    {"EPYC", "AMD EPYC (Zen)", epyc, 1, 23, 1, 2},
    {"EPYC-Milan", "AMD EPYC (Zen 3)", epyc_milan, 1, 25, 1, 1},
    {NULL, NULL, NULL, 0, 0, 0, 0},
};
