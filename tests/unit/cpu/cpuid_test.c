// CPUID: what each model shows on a made-up host, and the leaves that depend on who asks.
#include "cpu/cpuid.h"

#include "test.h"

// A host with AVX2 and nothing of what Berth emulates.
static void make_host(struct cpuid_table *t, bool avx)
{
    memset(t, 0, sizeof *t);
    t->leaf[t->count++] = (struct cpuid_leaf){
        .function = 0, .eax = 0x16, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65};
    t->leaf[t->count++] = (struct cpuid_leaf){.function = 1,
                                              .eax = 0x00a00f11,
                                              .ecx = 0x66fa3203 | (avx ? 1u << 28 : 0),
                                              .edx = 0x178bfbff};
    t->leaf[t->count++] =
        (struct cpuid_leaf){.function = 7, .has_index = 1, .ebx = 0x219c07ab, .ecx = 0x00400684};
    t->leaf[t->count++] =
        (struct cpuid_leaf){.function = 0xd, .has_index = 1, .eax = 7, .ebx = 832, .ecx = 832};
    t->leaf[t->count++] =
        (struct cpuid_leaf){.function = 0xd, .index = 1, .has_index = 1, .eax = 15};
    t->leaf[t->count++] =
        (struct cpuid_leaf){.function = 0xd, .index = 2, .has_index = 1, .eax = 256, .ebx = 576};
    t->leaf[t->count++] =
        (struct cpuid_leaf){.function = 0x80000001, .ecx = 0x3f7, .edx = 0x2fd3fbff};
    t->leaf[t->count++] = (struct cpuid_leaf){.function = 0x80000008, .eax = 0x3030};
}

static err_t build(struct cpuid_table *out, const char *model, unsigned vcpus, bool avx,
                   struct error *e)
{
    struct cpuid_table host;
    make_host(&host, avx);
    struct cpuid_request request = {.model = model,
                                    .vcpus = vcpus,
                                    .tsc_khz = 2449998,
                                    .apic_khz = 1000000,
                                    .tsc_reliable = true,
                                    .pv_calls = true,
                                    .pv_clock = true};
    return cpuid_build(&request, &host, out, e);
}

static void default_model_is_the_host_without_what_is_hidden(void)
{
    struct cpuid_table t;
    struct feature_set f;
    struct error e;
    CHECK_EQ(build(&t, NULL, 1, true, &e), OK);
    cpuid_features(&t, &f);
    static const uint16_t shown[] = {FEATURE_AVX2,         FEATURE_FMA,    FEATURE_SHA,
                                     FEATURE_ERMS,         FEATURE_FSRM,   FEATURE_PCID,
                                     FEATURE_TSC_DEADLINE, FEATURE_X2APIC, FEATURE_SMEP,
                                     FEATURE_HYPERVISOR,   FEATURE_XSAVEC, FEATURE_CONSTANT_TSC};
    static const uint16_t hidden[] = {FEATURE_SMAP,    FEATURE_LA57,   FEATURE_PKU,
                                      FEATURE_SVM,     FEATURE_XSAVES, FEATURE_MONITOR,
                                      FEATURE_AVX512F, FEATURE_OSXSAVE};
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++)
        CHECK(feature_has(&f, shown[i]));
    for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++)
        CHECK(!feature_has(&f, hidden[i]));
}

static void guests_need_not_guard_against_speculation(void)
{
    static const char *const models[] = {"host", "Skylake-Server", "EPYC"};
    static const uint16_t promises[] = {FEATURE_SSB_NO,    FEATURE_BTC_NO,
                                        FEATURE_AUTOIBRS,  FEATURE_SRSO_NO,
                                        FEATURE_TSA_SQ_NO, FEATURE_ARCH_CAPABILITIES};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct cpuid_table t;
        struct feature_set f;
        struct error e;
        uint32_t r[4];
        CHECK_EQ(build(&t, models[i], 1, true, &e), OK);
        cpuid_features(&t, &f);
        for (size_t k = 0; k < sizeof promises / sizeof promises[0]; k++)
            CHECK(feature_has(&f, promises[k]));
        cpuid_query(&t, 0, 0x80000000, 0, 0, 1, r);
        CHECK_EQ(r[0], 0x80000021);
    }
}

static void features_follow_what_the_host_turned_on(void)
{
    struct cpuid_table t;
    struct feature_set f;
    struct error e;
    CHECK_EQ(build(&t, NULL, 1, false, &e), OK);
    cpuid_features(&t, &f);
    CHECK(feature_has(&f, FEATURE_XSAVE));
    CHECK(!feature_has(&f, FEATURE_AVX));
    CHECK(!feature_has(&f, FEATURE_AVX2));
    CHECK(!feature_has(&f, FEATURE_FMA));
}

static void named_models_need_their_features(void)
{
    struct cpuid_table t;
    struct feature_set f;
    struct error e;
    CHECK_EQ(build(&t, "Nehalem", 1, false, &e), OK);
    cpuid_features(&t, &f);
    CHECK(feature_has(&f, FEATURE_SSE4_2));
    CHECK(!feature_has(&f, FEATURE_AES));
    CHECK_EQ(t.leaf[0].ebx, 0x756e6547); // Genu
    CHECK_EQ(build(&t, "Haswell", 1, false, &e), ERR_UNSUPPORTED);
    CHECK(strstr(e.text, "Haswell") && strstr(e.text, "avx"));
    CHECK_EQ(build(&t, "Skylake-Server", 1, true, &e), OK);
    CHECK_EQ(build(&t, "EPYC-Milan", 1, true, &e), OK);
    CHECK_EQ(build(&t, "Pentium", 1, true, &e), ERR_NOT_FOUND);
    CHECK(strstr(e.text, "x86-64-v3") != NULL);
}

static void some_leaves_depend_on_who_asks(void)
{
    struct cpuid_table t;
    struct error e;
    uint32_t r[4];
    CHECK_EQ(build(&t, NULL, 4, true, &e), OK);
    cpuid_query(&t, 3, 1, 0, 0, 1, r);
    CHECK_EQ(r[1] >> 24, 3);
    CHECK_EQ(r[1] >> 16 & 0xff, 4);
    CHECK_EQ(r[2] >> 27 & 1, 0);
    cpuid_query(&t, 3, 1, 0, BIT(18), 1, r);
    CHECK_EQ(r[2] >> 27 & 1, 1);
    cpuid_query(&t, 2, 0xb, 1, 0, 1, r);
    CHECK_EQ(r[0], 2);
    CHECK_EQ(r[1], 4);
    CHECK_EQ(r[3], 2);
    cpuid_query(&t, 0, 0xd, 0, 0, 3, r);
    CHECK_EQ(r[1], 576);
    cpuid_query(&t, 0, 0xd, 0, 0, 7, r);
    CHECK_EQ(r[1], 832);
    CHECK_EQ(r[2], 832);
}

static void frequencies_fit_32_bit_arithmetic(void)
{
    struct cpuid_table t;
    struct error e;
    uint32_t r[4];
    CHECK_EQ(build(&t, NULL, 1, true, &e), OK);
    cpuid_query(&t, 0, 0x15, 0, 0, 1, r);
    uint64_t product = (uint64_t)(r[2] / 1000) * r[1];
    CHECK(product <= UINT32_MAX);
    uint64_t khz = product / r[0];
    CHECK(khz > 2449000 && khz < 2451000);
    cpuid_query(&t, 0, 0x40000000, 0, 0, 1, r);
    CHECK_EQ(memcmp(&r[1], "KVMKVMKVM\0\0\0", 12), 0);
    cpuid_query(&t, 0, 0x40000001, 0, 0, 1, r);
    CHECK_EQ(r[0], BIT(3) | BIT(5) | BIT(7) | BIT(9) | BIT(11) | BIT(24));
    cpuid_query(&t, 0, 0x40000010, 0, 0, 1, r);
    CHECK_EQ(r[0], 2449998);
}

static void unknown_functions_answer_as_their_vendor_does(void)
{
    struct cpuid_table t;
    struct error e;
    uint32_t r[4];
    CHECK_EQ(build(&t, "EPYC", 1, true, &e), OK);
    cpuid_query(&t, 0, 0x20, 0, 0, 1, r);
    CHECK_EQ(r[0] | r[1] | r[2] | r[3], 0);
    CHECK_EQ(build(&t, "Nehalem", 1, true, &e), OK);
    cpuid_query(&t, 0, 0x20, 0, 0, 1, r);
    CHECK_EQ(r[2], 100); // leaf 16, the last
}

static void this_hosts_own_table_builds(void)
{
    struct cpuid_table host, t;
    struct error e;
    struct cpuid_request request = {.vcpus = 255, .tsc_khz = 3000000, .apic_khz = 1000000};
    cpuid_read_host(&host);
    CHECK_EQ(cpuid_build(&request, &host, &t, &e), OK);
    CHECK(t.count < CPUID_LEAVES);
}

// Adds AVX-512 and where its state is; turned_on: by the host's system.
static void add_avx512(struct cpuid_table *t, bool turned_on)
{
    static const uint16_t bytes[] = {64, 512, 1024}, at[] = {832, 896, 1408};
    for (unsigned i = 0; i < t->count; i++) {
        if (t->leaf[i].function == 7)
            t->leaf[i].ebx |= 0xd0230000;
        if (t->leaf[i].function == 0xd && t->leaf[i].index == 0)
            t->leaf[i].eax |= turned_on ? 0xe0 : 0;
    }
    for (unsigned i = 0; i < 3; i++)
        t->leaf[t->count++] = (struct cpuid_leaf){
            .function = 0xd, .index = 5 + i, .has_index = 1, .eax = bytes[i], .ebx = at[i]};
}

static void avx_512_is_shown_where_the_host_keeps_its_state(void)
{
    struct cpuid_request request = {.vcpus = 1, .tsc_khz = 2449998, .apic_khz = 1000000};
    struct cpuid_table host, t;
    struct feature_set f;
    struct error e;
    uint32_t r[4];
    for (unsigned on = 0; on < 2; on++) {
        make_host(&host, true);
        add_avx512(&host, on);
        CHECK_EQ(cpuid_build(&request, &host, &t, &e), OK);
        cpuid_features(&t, &f);
        CHECK_EQ(feature_has(&f, FEATURE_AVX512F), on);
        CHECK_EQ(feature_has(&f, FEATURE_AVX512VL), on);
        cpuid_query(&t, 0, 0xd, 0, 0, on ? 0xe7 : 7, r);
        CHECK_EQ(r[0], on ? 0xe7 : 7);
        CHECK_EQ(r[1], on ? 2432 : 832);
        CHECK_EQ(r[2], on ? 2432 : 832);
        cpuid_query(&t, 0, 0xd, 7, 0, 7, r);
        CHECK_EQ(r[1], on ? 1408 : 0);
    }
}

TEST_MAIN(TEST(default_model_is_the_host_without_what_is_hidden),
          TEST(guests_need_not_guard_against_speculation),
          TEST(features_follow_what_the_host_turned_on), TEST(named_models_need_their_features),
          TEST(some_leaves_depend_on_who_asks), TEST(frequencies_fit_32_bit_arithmetic),
          TEST(unknown_functions_answer_as_their_vendor_does),
          TEST(avx_512_is_shown_where_the_host_keeps_its_state), TEST(this_hosts_own_table_builds))
