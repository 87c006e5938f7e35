// CPUID tables: reading the host's, looking features up, answering the guest.
//
// Sources: Intel SDM volume 2 CPUID; AMD APM volume 3 appendix E.
#include "cpu/cpuid_impl.h"

#include <cpuid.h>
#include <string.h>

const struct feature_place feature_places[FEATURE_COUNT] = {
#define PLACE(id, text, fn, sub, reg_, bit_) \
    [FEATURE_##id] = {.name = text, .function = fn, .index = sub, .reg = reg_, .bit = bit_},
    CPU_FEATURES(PLACE)
#undef PLACE
};

uint32_t *cpuid_reg(struct cpuid_leaf *leaf, unsigned reg)
{
    uint32_t *regs[4] = {&leaf->eax, &leaf->ebx, &leaf->ecx, &leaf->edx};
    return regs[reg & 3];
}

const struct cpuid_leaf *cpuid_find(const struct cpuid_table *table, uint32_t function,
                                    uint32_t index)
{
    for (uint32_t i = 0; i < table->count && i < CPUID_LEAVES; i++) {
        const struct cpuid_leaf *leaf = &table->leaf[i];
        if (leaf->function == function && (!leaf->has_index || leaf->index == index))
            return leaf;
    }
    return NULL;
}

struct cpuid_leaf *cpuid_add(struct cpuid_table *table, uint32_t function, int index)
{
    if (table->count == CPUID_LEAVES)
        table->count--; // never reached: a table needs about 40
    struct cpuid_leaf *leaf = &table->leaf[table->count++];
    *leaf = (struct cpuid_leaf){
        .function = function, .index = index < 0 ? 0 : (uint32_t)index, .has_index = index >= 0};
    return leaf;
}

// --- the host ------------------------------------------------------------------------------------

static void read_leaf(struct cpuid_table *out, uint32_t function, int index)
{
    struct cpuid_leaf *leaf = cpuid_add(out, function, index);
    __cpuid_count(function, index < 0 ? 0 : index, leaf->eax, leaf->ebx, leaf->ecx, leaf->edx);
}

// What the operating system has not turned on in XCR0 is of no use.
static void mask_xcr0(struct cpuid_table *out)
{
    const struct cpuid_leaf *one = cpuid_find(out, 1, 0);
    uint32_t low = 0, high;
    if (one && one->ecx & bit_OSXSAVE)
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    for (uint32_t i = 0; i < out->count; i++) {
        if (out->leaf[i].function == 0xd && out->leaf[i].index == 0)
            out->leaf[i].eax &= low;
    }
}

// Only what there is: where the CPU is virtual, each leaf costs an exit.
static void read_xsave(struct cpuid_table *out)
{
    read_leaf(out, 0xd, 0);
    uint32_t components = out->leaf[out->count - 1].eax;
    for (int i = 2; i < 8; i++)
        if (components >> i & 1)
            read_leaf(out, 0xd, i);
}

void cpuid_read_host(struct cpuid_table *out)
{
    static const uint32_t plain[] = {0,          1,          6,          0x80000000,
                                     0x80000001, 0x80000002, 0x80000003, 0x80000004,
                                     0x80000005, 0x80000006, 0x80000007, 0x80000008};
    uint32_t basic = __get_cpuid_max(0, NULL), extended = __get_cpuid_max(0x80000000, NULL);
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (plain[i] <= (plain[i] >> 31 ? extended : basic))
            read_leaf(out, plain[i], -1);
    }
    if (basic >= 7) {
        read_leaf(out, 7, 0);
        read_leaf(out, 7, 1);
    }
    if (basic >= 0xd) {
        read_leaf(out, 0xd, 1);
        read_xsave(out);
    }
    mask_xcr0(out);
}

void cpuid_read_host_xsave(struct cpuid_table *out)
{
    memset(out, 0, sizeof *out);
    if (__get_cpuid_max(0, NULL) >= 0xd)
        read_xsave(out);
}

void cpuid_features(const struct cpuid_table *table, struct feature_set *out)
{
    memset(out, 0, sizeof *out);
    for (unsigned f = 1; f < FEATURE_COUNT; f++) {
        const struct feature_place *place = &feature_places[f];
        const struct cpuid_leaf *leaf = cpuid_find(table, place->function, place->index);
        if (!leaf)
            continue;
        struct cpuid_leaf copy = *leaf;
        if (*cpuid_reg(&copy, place->reg) >> place->bit & 1)
            feature_add(out, f);
    }
}

// --- the guest's answers -------------------------------------------------------------------------

// Size of the XSAVE area for the components in xcr0: where the last one ends, or (compacted) the
// sum.
static uint32_t xsave_size(const struct cpuid_table *table, uint64_t xcr0, bool compacted)
{
    uint32_t size = 576;
    for (uint32_t i = 2; i < 8; i++) {
        const struct cpuid_leaf *leaf = cpuid_find(table, 0xd, i);
        if (!leaf || !(xcr0 >> i & 1))
            continue;
        if (!compacted)
            size = (uint32_t)max_u64(size, (uint64_t)leaf->eax + leaf->ebx);
        else
            size = (leaf->ecx & 2 ? (uint32_t)align_up(size, 64) : size) + leaf->eax;
    }
    return size;
}

static void patch(const struct cpuid_table *table, unsigned vcpu, uint32_t function, uint32_t index,
                  uint64_t cr4, uint64_t xcr0, uint32_t regs[4])
{
    switch (function) {
    case 1:
        regs[1] |= vcpu << 24;
        if (cr4 & BIT(18) && regs[2] & bit_XSAVE)
            regs[2] |= bit_OSXSAVE;
        break;
    case 0xb: // every subleaf has the x2APIC id; those past the last level give their number back
        regs[2] |= index & 0xff;
        regs[3] = vcpu;
        break;
    case 0xd:
        if (index == 0 && regs[0])
            regs[1] = xsave_size(table, xcr0, false);
        else if (index == 1 && regs[0] & 2)
            regs[1] = xsave_size(table, xcr0, true);
        break;
    case 0x8000001e:
        regs[0] = vcpu;
        regs[1] |= vcpu & 0xff;
        break;
    default: break;
    }
}

// Intel processors answer for functions beyond the last with the last basic one's data; AMD's with
// 0.
static uint32_t clamp_function(const struct cpuid_table *table, uint32_t function)
{
    const struct cpuid_leaf *zero = cpuid_find(table, 0, 0);
    const struct cpuid_leaf *range = cpuid_find(table, function & 0xf0000000, 0);
    if (!zero || (function >> 28) == 4 || (range && function <= range->eax))
        return function;
    return zero->ebx == signature_INTEL_ebx ? zero->eax : function;
}

void cpuid_query(const struct cpuid_table *table, unsigned vcpu, uint32_t function, uint32_t index,
                 uint64_t cr4, uint64_t xcr0, uint32_t regs[4])
{
    function = clamp_function(table, function);
    const struct cpuid_leaf *leaf = cpuid_find(table, function, index);
    memset(regs, 0, 4 * sizeof *regs);
    if (leaf) {
        regs[0] = leaf->eax;
        regs[1] = leaf->ebx;
        regs[2] = leaf->ecx;
        regs[3] = leaf->edx;
    }
    if (leaf || function == 0xb)
        patch(table, vcpu, function, index, cr4, xcr0, regs);
}
