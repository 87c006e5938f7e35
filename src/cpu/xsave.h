// Where the components of extended state are in an XSAVE area of the standard form. x87, SSE and
// AVX have the same place on every processor; Intel's and AMD's disagree about AVX-512. cpu_state
// holds the layout below, and engines move the components between it and what their host uses.
//
// Source: Intel SDM volume 1 section 13.4; CPUID leaf 0xd. Not here: PKRU and supervisor
// components.
#pragma once

#include "cpu/cpuid.h"

#define XSAVE_COMPONENTS 8

struct xsave_layout {
    uint16_t
        at[XSAVE_COMPONENTS]; // 0: not there (and for x87 and SSE, which are before the header)
};

// Bytes of a component, 0 for those that no guest has.
unsigned xsave_component_bytes(unsigned component);

// The layout of cpu_state.
extern const struct xsave_layout xsave_layout_state;

// A processor's layout, by its CPUID table. Components of other sizes than expected, or that would
// not fit into cpu_state, are left out; AVX-512's three are there together or not at all.
void xsave_layout_of(const struct cpuid_table *table, struct xsave_layout *out);

// Moves the components of an area of CPU_XSAVE_BYTES from one layout to another.
void xsave_move(uint8_t *area, const struct xsave_layout *from, const struct xsave_layout *to);
