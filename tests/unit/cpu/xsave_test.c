// Layouts of XSAVE areas: where AVX-512's components are on Intel's and on AMD's processors, and
// that state moves between them unharmed.
#include "cpu/xsave.h"

#include <string.h>

#include "cpu/cpu_state.h"
#include "test.h"

// Leaf 0xd as a processor with these places has it; 0 leaves a component out.
static void table_of(struct cpuid_table *t, const uint16_t at[XSAVE_COMPONENTS])
{
    memset(t, 0, sizeof *t);
    for (uint32_t i = 2; i < XSAVE_COMPONENTS; i++) {
        if (!at[i])
            continue;
        t->leaf[t->count++] = (struct cpuid_leaf){.function = 0xd,
                                                  .index = i,
                                                  .has_index = 1,
                                                  .eax = xsave_component_bytes(i),
                                                  .ebx = at[i]};
    }
}

static const uint16_t intel[XSAVE_COMPONENTS] = {0, 0, 576, 0, 0, 1088, 1152, 1664};
static const uint16_t amd[XSAVE_COMPONENTS] = {0, 0, 576, 0, 0, 832, 896, 1408};

static void layouts_come_from_cpuid(void)
{
    static struct cpuid_table t;
    struct xsave_layout l;
    table_of(&t, intel);
    xsave_layout_of(&t, &l);
    CHECK(memcmp(&l, &xsave_layout_state, sizeof l) == 0);
    table_of(&t, amd);
    xsave_layout_of(&t, &l);
    CHECK(memcmp(l.at, amd, sizeof amd) == 0);
}

static void components_that_would_not_fit_are_left_out(void)
{
    static struct cpuid_table t;
    struct xsave_layout l;
    uint16_t odd[XSAVE_COMPONENTS];
    memcpy(odd, amd, sizeof odd);
    odd[7] = CPU_XSAVE_BYTES - 1023;
    table_of(&t, odd);
    xsave_layout_of(&t, &l);
    CHECK_EQ(l.at[2], 576);
    CHECK_EQ(l.at[5] | l.at[6] | l.at[7], 0); // all three or none
    table_of(&t, intel);
    t.leaf[0].ebx = 640;
    xsave_layout_of(&t, &l);
    CHECK_EQ(l.at[2], 0);
}

static void state_survives_a_move_there_and_back(void)
{
    struct xsave_layout other;
    uint8_t area[CPU_XSAVE_BYTES], before[CPU_XSAVE_BYTES] = {0};
    memcpy(other.at, amd, sizeof amd);
    for (unsigned i = 0; i < 832; i++)
        before[i] = (uint8_t)(i * 7 + 1);
    for (unsigned i = 1088; i < 2688; i++)
        before[i] = (uint8_t)(i * 13 + i / 256);
    memcpy(area, before, sizeof area);
    xsave_move(area, &xsave_layout_state, &other);
    CHECK(memcmp(area, before, 832) == 0);
    CHECK(memcmp(area + 832, before + 1088, 64) == 0);
    CHECK(memcmp(area + 896, before + 1152, 512) == 0);
    CHECK(memcmp(area + 1408, before + 1664, 1024) == 0);
    xsave_move(area, &other, &xsave_layout_state);
    CHECK(memcmp(area, before, sizeof area) == 0);
}

static void a_host_without_avx_512_moves_nothing(void)
{
    struct xsave_layout none = {{0, 0, 576}};
    uint8_t area[CPU_XSAVE_BYTES];
    memset(area, 0x5a, sizeof area);
    xsave_move(area, &none, &xsave_layout_state);
    xsave_move(area, &xsave_layout_state, &none);
    for (unsigned i = 0; i < sizeof area; i++)
        CHECK_EQ(area[i], 0x5a);
}

TEST_MAIN(TEST(layouts_come_from_cpuid), TEST(components_that_would_not_fit_are_left_out),
          TEST(state_survives_a_move_there_and_back), TEST(a_host_without_avx_512_moves_nothing))
