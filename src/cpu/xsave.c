// Layouts of XSAVE areas: see xsave.h.
#include "cpu/xsave.h"

#include <string.h>

#include "cpu/cpu_state.h"
#include "cpu/cpuid_impl.h"

#define FIRST_MOVABLE 5
#define AVX512_BYTES (64 + 512 + 1024)

const struct xsave_layout xsave_layout_state = {{0, 0, 576, 0, 0, 1088, 1152, 1664}};

unsigned xsave_component_bytes(unsigned component)
{
    static const uint16_t bytes[XSAVE_COMPONENTS] = {0, 0, 256, 0, 0, 64, 512, 1024};
    return component < XSAVE_COMPONENTS ? bytes[component] : 0;
}

static uint16_t place(const struct cpuid_table *table, unsigned component)
{
    const struct cpuid_leaf *leaf = cpuid_find(table, 0xd, component);
    unsigned bytes = xsave_component_bytes(component);
    bool fits = leaf && bytes && leaf->eax == bytes && leaf->ebx >= 576 &&
                (uint64_t)leaf->ebx + bytes <= CPU_XSAVE_BYTES;
    return fits ? (uint16_t)leaf->ebx : 0;
}

void xsave_layout_of(const struct cpuid_table *table, struct xsave_layout *out)
{
    for (unsigned i = 0; i < XSAVE_COMPONENTS; i++)
        out->at[i] = place(table, i);
    if (out->at[2] != xsave_layout_state.at[2])
        out->at[2] = 0;
    if (!out->at[5] || !out->at[6] || !out->at[7])
        out->at[5] = out->at[6] = out->at[7] = 0;
}

void xsave_move(uint8_t *area, const struct xsave_layout *from, const struct xsave_layout *to)
{
    uint8_t parts[AVX512_BYTES];
    size_t used = 0;
    if (!from->at[FIRST_MOVABLE] || !to->at[FIRST_MOVABLE] || memcmp(from, to, sizeof *from) == 0)
        return;
    for (unsigned i = FIRST_MOVABLE; i < XSAVE_COMPONENTS; i++) {
        memcpy(parts + used, area + from->at[i], xsave_component_bytes(i));
        used += xsave_component_bytes(i);
    }
    memset(area + xsave_layout_state.at[2] + xsave_component_bytes(2), 0,
           CPU_XSAVE_BYTES - xsave_layout_state.at[2] - xsave_component_bytes(2));
    for (unsigned i = FIRST_MOVABLE, at = 0; i < XSAVE_COMPONENTS; i++) {
        memcpy(area + to->at[i], parts + at, xsave_component_bytes(i));
        at += xsave_component_bytes(i);
    }
}
