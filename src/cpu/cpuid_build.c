// What a guest is shown: a model's features and the leaves that describe its machine.
//
// Features fall into three classes. Native ones run on the host's own units and must be there.
// Emulated ones are Berth's work whatever the host has (paging, MSRs, the APIC). Hidden ones are
// never shown: they cost speed under translation (SMAP), or nobody here implements them. Sources:
// Intel SDM vol. 2 CPUID; AMD APM vol. 3 appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
#include "cpu/cpuid_impl.h"

#include <cpuid.h>
#include <string.h>

#include "cpu/x86.h"
#include "cpu/xsave.h"

#define MAX_BASIC 0x16
#define MAX_EXTENDED 0x80000021
// All that the board has lies below 1 TiB. UEFI maps the whole of what is said here: with 46 bits
// it would need 256 MiB for page tables.
#define PHYS_BITS_MAX 40
#define LINEAR_BITS 48
#define AMD_TOPOEXT BIT(22)     // leaves 8000001d and 8000001e are there
#define HYPER_THREADING BIT(28) // leaf 1: EBX counts logical processors
#define XCR0_ALL (1u | 2u | 4u | 0xe0u)

static const uint16_t emulated[] = {
    FEATURE_FPU,          FEATURE_VME,          FEATURE_DE,         FEATURE_PSE,
    FEATURE_TSC,          FEATURE_MSR,          FEATURE_PAE,        FEATURE_MCE,
    FEATURE_CX8,          FEATURE_APIC,         FEATURE_SEP,        FEATURE_MTRR,
    FEATURE_PGE,          FEATURE_MCA,          FEATURE_PAT,        FEATURE_PSE36,
    FEATURE_CLFLUSH,      FEATURE_SYSCALL,      FEATURE_NX,         FEATURE_LM,
    FEATURE_PDPE1GB,      FEATURE_RDTSCP,       FEATURE_LAHF_LM,    FEATURE_PCID,
    FEATURE_INVPCID,      FEATURE_SMEP,         FEATURE_UMIP,       FEATURE_FSGSBASE,
    FEATURE_X2APIC,       FEATURE_TSC_DEADLINE, FEATURE_TSC_ADJUST, FEATURE_ARAT,
    FEATURE_HYPERVISOR,   FEATURE_ERMS,         FEATURE_FSRM,       FEATURE_RDPID,
    FEATURE_CONSTANT_TSC, FEATURE_SSB_NO,       FEATURE_BTC_NO,     FEATURE_AUTOIBRS,
    FEATURE_SRSO_NO,      FEATURE_TSA_SQ_NO,    FEATURE_TSA_L1_NO,  FEATURE_ARCH_CAPABILITIES,
};

// Shown with every model: the platform's share, and what makes guests use fast paths. Among those
// are promises that guests need not guard themselves against speculation (the last seven). Under
// translation their guards have no effect: a guest's retpolines and safe returns become the same
// jumps of the host as its other branches. KVM takes away what does not hold on its host.
static const uint16_t platform[] = {
    FEATURE_APIC,         FEATURE_X2APIC,     FEATURE_TSC_DEADLINE, FEATURE_TSC_ADJUST,
    FEATURE_ARAT,         FEATURE_HYPERVISOR, FEATURE_ERMS,         FEATURE_FSRM,
    FEATURE_CONSTANT_TSC, FEATURE_SSB_NO,     FEATURE_BTC_NO,       FEATURE_AUTOIBRS,
    FEATURE_SRSO_NO,      FEATURE_TSA_SQ_NO,  FEATURE_TSA_L1_NO,    FEATURE_ARCH_CAPABILITIES};

static const uint16_t hidden[] = {
    FEATURE_SMAP,        FEATURE_LA57, FEATURE_PKU, FEATURE_SVM, FEATURE_MONITOR, FEATURE_XSAVES,
    FEATURE_OSXSAVE,     // follows CR4
    FEATURE_HT,          // follows the number of vCPUs
    FEATURE_CMP_LEGACY,  // likewise
    FEATURE_CR8_LEGACY,  // LOCK MOV CR0 is not decoded
    FEATURE_FXSR_OPT,    // FXSAVE that leaves registers out
    FEATURE_MISALIGNSSE, // a bit in MXCSR that other hosts refuse
};

// Features that go when the one before them goes.
static const struct {
    uint16_t needs, feature;
} dependencies[] = {
    {FEATURE_XSAVE, FEATURE_XSAVEOPT},
    {FEATURE_XSAVE, FEATURE_XSAVEC},
    {FEATURE_XSAVE, FEATURE_XGETBV1},
    {FEATURE_XSAVE, FEATURE_AVX},
    {FEATURE_AVX, FEATURE_AVX2},
    {FEATURE_AVX, FEATURE_FMA},
    {FEATURE_AVX, FEATURE_F16C},
    {FEATURE_AVX, FEATURE_VAES},
    {FEATURE_AVX, FEATURE_VPCLMULQDQ},
    {FEATURE_AVX2, FEATURE_AVX512F},
    {FEATURE_AVX512F, FEATURE_AVX512DQ},
    {FEATURE_AVX512F, FEATURE_AVX512IFMA},
    {FEATURE_AVX512F, FEATURE_AVX512CD},
    {FEATURE_AVX512F, FEATURE_AVX512BW},
    {FEATURE_AVX512F, FEATURE_AVX512VL},
    {FEATURE_AVX512F, FEATURE_AVX512VBMI},
    {FEATURE_AVX512F, FEATURE_AVX512VBMI2},
    {FEATURE_AVX512F, FEATURE_AVX512VNNI},
    {FEATURE_AVX512F, FEATURE_AVX512BITALG},
    {FEATURE_AVX512F, FEATURE_AVX512VPOPCNTDQ},
    {FEATURE_AVX512F, FEATURE_AVX512VP2INTERSECT},
    {FEATURE_AVX512F, FEATURE_AVX512BF16},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void feature_drop(struct feature_set *set, unsigned feature)
{
    set->bits[feature / 64] &= ~BIT(feature % 64);
}

// What could be shown on this host: native ones it has, and ours.
static void available(const struct cpuid_table *host, struct feature_set *out)
{
    const struct cpuid_leaf *xsave = cpuid_find(host, 0xd, 0);
    uint32_t xcr0 = xsave ? xsave->eax : 0;
    cpuid_features(host, out);
    for (size_t i = 0; i < COUNT(emulated); i++)
        feature_add(out, emulated[i]);
    for (size_t i = 0; i < COUNT(hidden); i++)
        feature_drop(out, hidden[i]);
    if ((xcr0 & 3) != 3)
        feature_drop(out, FEATURE_XSAVE);
    if (!(xcr0 & 4))
        feature_drop(out, FEATURE_AVX);
    struct xsave_layout layout;
    xsave_layout_of(host, &layout);
    if ((xcr0 & 0xe0) != 0xe0 || !layout.at[5])
        feature_drop(out, FEATURE_AVX512F);
    for (size_t i = 0; i < COUNT(dependencies); i++) {
        if (!feature_has(out, dependencies[i].needs))
            feature_drop(out, dependencies[i].feature);
    }
}

// --- choosing ------------------------------------------------------------------------------------

static const struct cpu_model *find_model(const char *name, struct error *e)
{
    char names[200] = "";
    size_t used = 0;
    if (!name || strcmp(name, "max") == 0)
        name = "host";
    for (const struct cpu_model *m = cpu_models; m->name; m++) {
        if (strcmp(m->name, name) == 0)
            return m;
        size_t len = strlen(m->name);
        if (used + len + 2 >= sizeof names)
            continue;
        names[used] = ' ';
        memcpy(names + used + 1, m->name, len + 1);
        used += len + 1;
    }
    (void)error_set(e, ERR_NOT_FOUND, "there is no CPU model \"%s\"; there are:%s", name, names);
    return NULL;
}

static err_t choose_features(const struct cpu_model *model, const struct cpuid_table *host,
                             struct feature_set *out, struct error *e)
{
    struct feature_set can;
    available(host, &can);
    *out = (struct feature_set){0};
    if (!model->features)
        *out = can;
    for (const uint16_t *f = model->features; f && *f != FEATURE_NONE; f++) {
        if (!feature_has(&can, *f))
            return error_set(e, ERR_UNSUPPORTED, "CPU model %s needs %s, which this host lacks",
                             model->name, feature_places[*f].name);
        feature_add(out, *f);
    }
    for (size_t i = 0; i < COUNT(platform); i++)
        feature_add(out, platform[i]);
    return OK;
}

// --- leaves --------------------------------------------------------------------------------------

struct build {
    const struct cpuid_request *request;
    const struct cpuid_table *host;
    const struct cpu_model *model;
    struct cpuid_table *out;
    struct feature_set features;
    bool amd;
    unsigned id_bits; // of the core number in an APIC id
};

static struct cpuid_leaf *add(struct build *b, uint32_t function, int index)
{
    return cpuid_add(b->out, function, index);
}

static const struct cpuid_leaf *host_leaf(const struct build *b, uint32_t function, uint32_t index)
{
    static const struct cpuid_leaf none;
    const struct cpuid_leaf *leaf = cpuid_find(b->host, function, index);
    return leaf ? leaf : &none;
}

static void set_vendor(const struct build *b, struct cpuid_leaf *leaf)
{
    leaf->ebx = b->amd ? signature_AMD_ebx : signature_INTEL_ebx;
    leaf->edx = b->amd ? signature_AMD_edx : signature_INTEL_edx;
    leaf->ecx = b->amd ? signature_AMD_ecx : signature_INTEL_ecx;
}

// Family, model and stepping as EAX of leaf 1 packs them.
static uint32_t signature(const struct build *b)
{
    const struct cpu_model *m = b->model;
    if (!m->features)
        return host_leaf(b, 1, 0)->eax & 0x0fff3fff;
    uint32_t family = m->family < 15 ? m->family : 15;
    return (uint32_t)(m->family - family) << 20 | (uint32_t)(m->model >> 4) << 16 | family << 8 |
           (m->model & 15u) << 4 | m->stepping;
}

static void add_basic(struct build *b)
{
    unsigned vcpus = b->request->vcpus;
    struct cpuid_leaf *leaf = add(b, 0, -1);
    leaf->eax = MAX_BASIC;
    set_vendor(b, leaf);
    leaf = add(b, 1, -1);
    leaf->eax = signature(b);
    leaf->ebx = (uint32_t)min_u64(1u << b->id_bits, 255) << 16 | 8 << 8; // CLFLUSH: 64 bytes
    if (vcpus > 1)
        leaf->edx |= HYPER_THREADING;
    leaf = add(b, 2, -1);
    if (!b->amd)
        leaf->eax = 0x00feff01; // "see leaf 4"
    add(b, 6, -1);
    add(b, 7, 0);
    add(b, 7, 1);
}

// Caches as leaf 4 and 8000001d describe them; the last level is shared by all.
static void add_caches(struct build *b)
{
    static const struct {
        uint8_t type, level; // 1 data, 2 instruction, 3 unified
        uint16_t ways, sets;
        uint8_t shared;
    } caches[] = {{1, 1, 8, 64, 0}, {2, 1, 8, 64, 0}, {3, 2, 8, 1024, 0}, {3, 3, 16, 16384, 1}};
    uint32_t function = b->amd ? 0x8000001d : 4;
    unsigned last = b->request->vcpus - 1;
    for (unsigned i = 0; i < COUNT(caches); i++) {
        struct cpuid_leaf *leaf = add(b, function, (int)i);
        leaf->eax = caches[i].type | (uint32_t)caches[i].level << 5 | 1 << 8 |
                    (caches[i].shared ? last & 0xfff : 0) << 14;
        if (!b->amd)
            leaf->eax |= (uint32_t)min_u64((1u << b->id_bits) - 1, 63) << 26;
        leaf->ebx = 63 | (caches[i].ways - 1u) << 22;
        leaf->ecx = caches[i].sets - 1u;
    }
}

// One thread per core, one package.
static void add_topology(struct build *b)
{
    struct cpuid_leaf *leaf = add(b, 0xb, 0);
    leaf->ebx = 1;
    leaf->ecx = 1 << 8; // SMT
    leaf = add(b, 0xb, 1);
    leaf->eax = b->id_bits;
    leaf->ebx = b->request->vcpus;
    leaf->ecx = 2 << 8; // core
}

static void add_xsave(struct build *b)
{
    uint32_t xcr0 = 0, end = 576;
    if (feature_has(&b->features, FEATURE_XSAVE))
        xcr0 = 3;
    if (feature_has(&b->features, FEATURE_AVX))
        xcr0 |= 4;
    if (feature_has(&b->features, FEATURE_AVX512F))
        xcr0 |= 0xe0;
    xcr0 &= XCR0_ALL;
    struct cpuid_leaf *first = add(b, 0xd, 0);
    add(b, 0xd, 1);
    for (uint32_t i = 2; i < 8; i++) {
        if (!(xcr0 >> i & 1))
            continue;
        struct cpuid_leaf *leaf = add(b, 0xd, (int)i);
        const struct cpuid_leaf *from = host_leaf(b, 0xd, i);
        leaf->eax = from->eax;
        leaf->ebx = from->ebx;
        leaf->ecx = from->ecx;
        end = (uint32_t)max_u64(end, (uint64_t)leaf->eax + leaf->ebx);
    }
    first->eax = xcr0;
    first->ecx = xcr0 ? end : 0;
}

// Leaf 15: TSC = crystal * ebx / eax. The crystal is the APIC timer's clock; the ratio is kept so
// small that guests may multiply in 32 bits.
static void add_frequencies(struct build *b)
{
    const struct cpuid_request *r = b->request;
    struct cpuid_leaf *leaf = add(b, 0x15, -1);
    if (r->tsc_khz && r->apic_khz) {
        uint64_t most = UINT32_MAX / r->apic_khz;
        uint64_t den = max_u64(most * r->apic_khz / r->tsc_khz, 1);
        leaf->eax = (uint32_t)den;
        leaf->ebx = (uint32_t)((den * r->tsc_khz + r->apic_khz / 2) / r->apic_khz);
        leaf->ecx = (uint32_t)min_u64((uint64_t)r->apic_khz * 1000, UINT32_MAX);
    }
    leaf = add(b, 0x16, -1);
    leaf->eax = (uint32_t)(r->tsc_khz / 1000 & 0xffff);
    leaf->ebx = leaf->eax;
    leaf->ecx = 100;
}

static void add_paravirtual(struct build *b)
{
    const struct cpuid_request *r = b->request;
    struct cpuid_leaf *leaf = add(b, 0x40000000, -1);
    leaf->eax = 0x40000010;
    memcpy(&leaf->ebx, "KVMK", 4);
    memcpy(&leaf->ecx, "VMKV", 4);
    memcpy(&leaf->edx, "M\0\0\0", 4);
    leaf = add(b, CPUID_KVM_FEATURES, -1);
    if (r->pv_clock)
        leaf->eax =
            KVM_CLOCKSOURCE2 | KVM_STEAL_TIME | (r->tsc_reliable ? KVM_CLOCKSOURCE_STABLE : 0);
    if (r->pv_calls)
        leaf->eax |= KVM_PV_UNHALT | KVM_PV_TLB_FLUSH | KVM_PV_SEND_IPI;
    leaf = add(b, 0x40000010, -1);
    leaf->eax = (uint32_t)r->tsc_khz;
    leaf->ebx = r->apic_khz;
}

static void add_brand(struct build *b)
{
    char text[48] = {0};
    if (b->model->features)
        memcpy(text, b->model->description, min_u64(strlen(b->model->description), 47));
    for (unsigned i = 0; i < 3; i++) {
        struct cpuid_leaf *leaf = add(b, 0x80000002 + i, -1);
        uint32_t words[4];
        memcpy(words, text + 16 * i, sizeof words);
        const struct cpuid_leaf *from = host_leaf(b, 0x80000002 + i, 0);
        bool own = b->model->features != NULL;
        leaf->eax = own ? words[0] : from->eax;
        leaf->ebx = own ? words[1] : from->ebx;
        leaf->ecx = own ? words[2] : from->ecx;
        leaf->edx = own ? words[3] : from->edx;
    }
}

static uint32_t physical_bits(const struct build *b)
{
    uint32_t bits = host_leaf(b, 0x80000008, 0)->eax & 0xff;
    if (bits < 36)
        bits = 36;
    return bits < PHYS_BITS_MAX ? bits : PHYS_BITS_MAX;
}

static void add_extended(struct build *b)
{
    struct cpuid_leaf *leaf = add(b, 0x80000000, -1);
    leaf->eax = MAX_EXTENDED;
    if (b->amd)
        set_vendor(b, leaf);
    leaf = add(b, 0x80000001, -1);
    if (b->amd) {
        leaf->eax = signature(b);
        leaf->ecx = AMD_TOPOEXT;
        if (b->request->vcpus > 1)
            leaf->ecx |= 2; // CMP_LEGACY: the count of leaf 1 is of cores
    }
    add_brand(b);
    leaf = add(b, 0x80000005, -1);
    if (b->amd)
        leaf->ecx = leaf->edx = 32u << 24 | 8 << 16 | 1 << 8 | 64; // L1: 32 KiB, 8 ways
    leaf = add(b, 0x80000006, -1);
    leaf->ecx = 512u << 16 | 6 << 12 | (b->amd ? 1 << 8 : 0) | 64; // L2: 512 KiB, 8 ways
    add(b, 0x80000007, -1);
    leaf = add(b, 0x80000008, -1);
    leaf->eax = physical_bits(b) | LINEAR_BITS << 8;
    if (b->amd) {
        leaf->ecx = (b->request->vcpus - 1) & 0xff;
        leaf->ecx |= b->id_bits << 12;
        add(b, 0x8000001e, -1);
    }
    add(b, 0x80000021, -1);
}

// Sets the bits of all features in leaves that are there.
static void show_features(struct build *b)
{
    for (unsigned f = 1; f < FEATURE_COUNT; f++) {
        const struct feature_place *place = &feature_places[f];
        for (uint32_t i = 0; feature_has(&b->features, f) && i < b->out->count; i++) {
            struct cpuid_leaf *leaf = &b->out->leaf[i];
            if (leaf->function == place->function && leaf->index == place->index)
                *cpuid_reg(leaf, place->reg) |= 1u << place->bit;
        }
    }
    if (!b->amd)
        return;
    // AMD repeats the old features of leaf 1 in leaf 80000001.
    struct cpuid_leaf *one = NULL, *extended = NULL;
    for (uint32_t i = 0; i < b->out->count; i++) {
        if (b->out->leaf[i].function == 1)
            one = &b->out->leaf[i];
        if (b->out->leaf[i].function == 0x80000001)
            extended = &b->out->leaf[i];
    }
    if (one && extended)
        extended->edx |= one->edx & 0x0183f3ff;
}

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;
    while ((1u << bits) < count)
        bits++;
    return bits;
}

err_t cpuid_build(const struct cpuid_request *request, const struct cpuid_table *host,
                  struct cpuid_table *out, struct error *e)
{
    struct build b = {.request = request, .host = host, .out = out};
    if (request->vcpus == 0 || request->vcpus > 255)
        return error_set(e, ERR_INVALID, "a VM has 1 to 255 vCPUs, not %u", request->vcpus);
    b.model = find_model(request->model, e);
    if (!b.model)
        return ERR_NOT_FOUND;
    err_t err = choose_features(b.model, host, &b.features, e);
    if (err)
        return err;
    if (!request->tsc_reliable)
        feature_drop(&b.features, FEATURE_CONSTANT_TSC);
    b.amd = b.model->features ? b.model->vendor_amd : host_leaf(&b, 0, 0)->ebx == signature_AMD_ebx;
    b.id_bits = bits_for(request->vcpus);
    memset(out, 0, sizeof *out);
    out->vcpus = request->vcpus;
    add_basic(&b);
    add_caches(&b);
    add_topology(&b);
    add_xsave(&b);
    add_frequencies(&b);
    add_paravirtual(&b);
    add_extended(&b);
    show_features(&b);
    return OK;
}
