// x87 and vector instructions: who may run them, exceptions without host signals, masked accesses,
// and the state images.
#include "fake_cpu.h"
#include "test.h"

#include "base/bytes.h"

#define DATA (FAKE_BASE + PAGE_SIZE)

static struct tcpu *start(unsigned mode)
{
    fake_memory_reset();
    struct tcpu *c = fake_cpu_new(mode);
    c->s.gpr[RBX] = DATA;
    c->s.gpr[RDI] = DATA;
    return c;
}

static uint8_t *xmm(struct tcpu *c, unsigned n)
{
    c->s.xsave[512] |= 7;
    return c->s.xsave + 160 + 16 * n;
}

static uint8_t *ymm_high(struct tcpu *c, unsigned n)
{
    c->s.xsave[512] |= 7;
    return c->s.xsave + 576 + 16 * n;
}

static void set_mxcsr(struct tcpu *c, uint32_t value)
{
    store_le32(c->s.xsave + 24, value);
}

static uint32_t mxcsr(struct tcpu *c)
{
    return load_le32(c->s.xsave + 24);
}

// --- who may run what ----------------------------------------------------------------------------

static void task_switched_units_are_not_available(void)
{
    struct tcpu *c = start(8);
    c->s.cr0 |= CR0_TS;
    CHECK_EQ(RUN(c, "\x0f\x58\xc1").vector, VEC_NM);     // addps
    CHECK_EQ(RUN(c, "\xd9\xe8").vector, VEC_NM);         // fld1
    CHECK_EQ(RUN(c, "\x0f\xae\x03").vector, VEC_NM);     // fxsave
    CHECK_EQ(RUN(c, "\xc5\xf8\x58\xc1").vector, VEC_NM); // vaddps
    CHECK_EQ(RUN(c, "\x9b").vector, VEC_NM);             // fwait, with CR0.MP
    c->s.cr0 &= ~CR0_MP;
    CHECK(!RUN(c, "\x9b").raised);
    fake_cpu_free(c);
}

static void control_bits_make_vector_instructions_undefined(void)
{
    struct tcpu *c = start(8);
    c->s.cr4 &= ~CR4_OSFXSR;
    CHECK_EQ(RUN(c, "\x0f\x58\xc1").vector, VEC_UD);
    CHECK(!RUN(c, "\x0f\xae\x03").raised); // fxsave does not need it
    c->s.cr4 |= CR4_OSFXSR;
    c->mode &= ~MODE_AVX;
    CHECK_EQ(RUN(c, "\xc5\xf8\x58\xc1").vector, VEC_UD);
    c->s.cr0 |= CR0_EM;
    CHECK_EQ(RUN(c, "\x0f\x58\xc1").vector, VEC_UD);
    CHECK_EQ(RUN(c, "\x0f\xfc\xc1").vector, VEC_UD); // paddb mm
    CHECK_EQ(RUN(c, "\xd9\xe8").vector, VEC_NM);
    fake_cpu_free(c);
}

static void features_that_are_not_shown_are_undefined(void)
{
    struct tcpu *c = start(8);
    c->features = (struct feature_set){0};
    CHECK_EQ(RUN(c, "\x0f\x58\xc1").vector, VEC_UD);
    CHECK_EQ(RUN(c, "\xc5\xf8\x58\xc1").vector, VEC_UD);
    fake_cpu_free(c);
}

static void avx_512_is_undefined_unless_shown_and_turned_on(void)
{
    struct tcpu *c = start(8);
    c->features = (struct feature_set){0};
    feature_add(&c->features, FEATURE_AVX512F);
    CHECK_EQ(RUN(c, "\x62\xf1\x74\x48\x58\xc2").vector, VEC_UD); // vaddps zmm0, zmm1, zmm2
    CHECK_EQ(RUN(c, "\xc5\xf8\x92\xc8").vector, VEC_UD);         // kmovw k1, eax
    c->mode |= MODE_AVX512;
    CHECK_EQ(RUN(c, "\x62\xf1\x74\x28\x58\xc2").vector, VEC_UD); // the same with ymm
    c->features = (struct feature_set){0};
    CHECK_EQ(RUN(c, "\x62\xf1\x74\x48\x58\xc2").vector, VEC_UD);
    CHECK_EQ(RUN(c, "\xc5\xf8\x92\xc8").vector, VEC_UD);
    fake_cpu_free(c);
}

static void misaligned_operands_of_legacy_sse_are_protection_faults(void)
{
    struct tcpu *c = start(8);
    CHECK_EQ(RUN(c, "\x0f\x58\x43\x08").vector, VEC_GP);     // addps xmm0, [rbx+8]
    CHECK(!RUN(c, "\x0f\x10\x43\x08").raised);               // movups
    CHECK(!RUN(c, "\xc5\xf8\x58\x43\x08").raised);           // vaddps
    CHECK_EQ(RUN(c, "\xc5\xf8\x28\x43\x08").vector, VEC_GP); // vmovaps
    fake_cpu_free(c);
}

// --- exceptions ----------------------------------------------------------------------------------

static void unmasked_simd_exceptions_are_raised_before_anything_changes(void)
{
    struct tcpu *c = start(8);
    uint8_t before[16];
    set_mxcsr(c, 0x1f80 & ~(1u << 9)); // division by zero unmasked
    for (unsigned i = 0; i < 4; i++)
        store_le32(xmm(c, 0) + 4 * i, 0x3f800000);
    memcpy(before, xmm(c, 0), 16);
    struct fake_fault fault = RUN(c, "\x0f\x5e\xc1"); // divps xmm0, xmm1 (zero)
    CHECK_EQ(fault.vector, VEC_XM);
    CHECK_EQ(memcmp(xmm(c, 0), before, 16), 0);
    CHECK_EQ(mxcsr(c) & 0x3f, 4);
    c->s.cr4 &= ~CR4_OSXMMEXCPT;
    CHECK_EQ(RUN(c, "\x0f\x5e\xc1").vector, VEC_UD);
    fake_cpu_free(c);
}

static void masked_exceptions_set_flags_beside_unmasked_others(void)
{
    struct tcpu *c = start(8);
    set_mxcsr(c, (0x1f80 & ~(1u << 7)) | 1); // invalid unmasked, its flag set from before
    for (unsigned i = 0; i < 4; i++)
        store_le32(xmm(c, 0) + 4 * i, 0x3f800000);
    CHECK(!RUN(c, "\x0f\x5e\xc1").raised);
    CHECK_EQ(mxcsr(c), (0x1f80 & ~(1u << 7)) | 1 | 4);
    CHECK_EQ(load_le32(xmm(c, 0)), 0x7f800000);
    fake_cpu_free(c);
}

static void x87_exceptions_wait_for_the_next_waiting_instruction(void)
{
    struct tcpu *c = start(8);
    store_le16((void *)DATA, 0x37b);   // division by zero unmasked
    RUN(c, "\xd9\x2b");                // fldcw [rbx]
    RUN(c, "\xd9\xe8");                // fld1
    RUN(c, "\xd9\xee");                // fldz
    CHECK(!RUN(c, "\xd8\xf9").raised); // fdivr st0, st1: 1 / 0
    CHECK(!RUN(c, "\xdf\xe0").raised); // fnstsw ax
    CHECK_EQ(c->s.gpr[RAX] & 0x84, 0x84);
    CHECK_EQ(RUN(c, "\xd9\xe8").vector, VEC_MF);
    CHECK_EQ(RUN(c, "\x9b").vector, VEC_MF);
    CHECK_EQ(RUN(c, "\x0f\xfc\xc1").vector, VEC_MF); // MMX waits, too
    CHECK(!RUN(c, "\xdb\xe2").raised);               // fnclex
    CHECK(!RUN(c, "\xd9\xe8").raised);
    fake_cpu_free(c);
}

static void an_unmasked_x87_store_leaves_memory_alone(void)
{
    struct tcpu *c = start(8);
    store_le16((void *)DATA, 0x37e); // invalid operation unmasked
    store_le32((void *)(DATA + 8), 0x12345678);
    RUN(c, "\xd9\x2b");     // fldcw
    RUN(c, "\xd9\x5b\x08"); // fstp dword [rbx+8] of an empty register
    CHECK_EQ(load_le32((void *)(DATA + 8)), 0x12345678);
    CHECK_EQ(RUN(c, "\x9b").vector, VEC_MF);
    fake_cpu_free(c);
}

static void ldmxcsr_refuses_reserved_bits(void)
{
    struct tcpu *c = start(8);
    store_le32((void *)DATA, 0x80001f80);
    CHECK_EQ(RUN(c, "\x0f\xae\x13").vector, VEC_GP);
    CHECK_EQ(mxcsr(c), 0x1f80);
    store_le32((void *)DATA, 0x9fc0);
    CHECK(!RUN(c, "\x0f\xae\x13").raised);
    CHECK_EQ(mxcsr(c), 0x9fc0);
    fake_cpu_free(c);
}

// --- memory --------------------------------------------------------------------------------------

static void a_vector_store_that_faults_writes_nothing(void)
{
    struct tcpu *c = start(8);
    memset(xmm(c, 0), 0xee, 16);
    fake_protect(2, true, false);
    c->s.gpr[RBX] = DATA + PAGE_SIZE - 8;
    CHECK_EQ(RUN(c, "\x0f\x11\x03").vector, VEC_PF); // movups [rbx], xmm0
    CHECK_EQ(load_le64((void *)(DATA + PAGE_SIZE - 8)), 0);
    fake_cpu_free(c);
}

static void masked_moves_touch_selected_elements_only(void)
{
    struct tcpu *c = start(8);
    fake_protect(2, false, false);
    c->s.gpr[RBX] = DATA + PAGE_SIZE - 8;
    store_le64((void *)(DATA + PAGE_SIZE - 8), 0x2222222211111111);
    memset(xmm(c, 1), 0, 16);
    xmm(c, 1)[3] = xmm(c, 1)[7] = 0x80; // elements 0 and 1 of xmm1
    memset(xmm(c, 0), 0xff, 16);
    CHECK(!RUN(c, "\xc4\xe2\x71\x2c\x03").raised); // vmaskmovps xmm0, xmm1, [rbx]
    CHECK_EQ(load_le64(xmm(c, 0)), 0x2222222211111111);
    CHECK_EQ(load_le64(xmm(c, 0) + 8), 0);
    xmm(c, 1)[11] = 0x80;
    CHECK_EQ(RUN(c, "\xc4\xe2\x71\x2c\x03").vector, VEC_PF);
    memset(xmm(c, 0), 0x77, 16);
    CHECK_EQ(RUN(c, "\xc4\xe2\x71\x2e\x03").vector, VEC_PF); // vmaskmovps [rbx], xmm1, xmm0
    CHECK_EQ(load_le64((void *)(DATA + PAGE_SIZE - 8)), 0x2222222211111111);
    xmm(c, 1)[11] = xmm(c, 1)[3] = 0;
    CHECK(!RUN(c, "\xc4\xe2\x71\x2e\x03").raised);
    CHECK_EQ(load_le64((void *)(DATA + PAGE_SIZE - 8)), 0x7777777711111111);
    fake_cpu_free(c);
}

static void maskmovdqu_writes_selected_bytes(void)
{
    struct tcpu *c = start(8);
    memset(xmm(c, 0), 0x55, 16);
    memset(xmm(c, 1), 0, 16);
    xmm(c, 1)[2] = 0x80;
    RUN(c, "\x66\x0f\xf7\xc1");
    CHECK_EQ(load_le64((void *)DATA), 0x550000);
    fake_cpu_free(c);
}

static void maskmovq_turns_the_stack_to_top_zero(void)
{
    struct tcpu *c = start(8);
    store_le64((void *)DATA, 0x0102030405060708);
    RUN(c, "\x0f\x6f\x03"); // movq mm0, [rbx]
    RUN(c, "\x0f\x76\xc9"); // pcmpeqd mm1, mm1
    RUN(c, "\x0f\x77");     // emms
    RUN(c, "\xd9\xf6");     // fdecstp: top is 7 while mm0 stays register 0
    c->s.gpr[RDI] = DATA + 64;
    RUN(c, "\x0f\xf7\xc1"); // maskmovq mm0, mm1
    CHECK_EQ(load_le64((void *)(DATA + 64)), 0x0102030405060708);
    CHECK_EQ(load_le16(c->s.xsave + 2) >> 11 & 7, 0);
    CHECK_EQ(c->s.xsave[4], 0xff);
    fake_cpu_free(c);
}

static void gathers_load_by_mask_and_clear_it(void)
{
    struct tcpu *c = start(8);
    if (!feature_has(&c->features, FEATURE_AVX2)) {
        fake_cpu_free(c);
        return;
    }
    for (unsigned i = 0; i < 16; i++)
        store_le32((void *)(DATA + 4 * i), 0x100 + i);
    for (unsigned i = 0; i < 4; i++) {
        store_le32(xmm(c, 1) + 4 * i, 3 * i);
        store_le32(xmm(c, 2) + 4 * i, i == 2 ? 0 : 0x80000000);
    }
    store_le32(xmm(c, 1) + 8, 0x10000000); // not selected: would fault
    memset(xmm(c, 0), 0xff, 16);
    memset(ymm_high(c, 0), 0xff, 16);
    CHECK(!RUN(c, "\xc4\xe2\x69\x90\x04\x8b").raised); // vpgatherdd xmm0, [rbx+xmm1*4], xmm2
    CHECK_EQ(load_le32(xmm(c, 0)), 0x100);
    CHECK_EQ(load_le32(xmm(c, 0) + 4), 0x103);
    CHECK_EQ(load_le32(xmm(c, 0) + 8), 0xffffffff);
    CHECK_EQ(load_le32(xmm(c, 0) + 12), 0x109);
    CHECK_EQ(load_le64(xmm(c, 2) + 8), 0);
    CHECK_EQ(load_le64(ymm_high(c, 0)), 0);
    fake_cpu_free(c);
}

// --- images --------------------------------------------------------------------------------------

static void fxsave_shows_no_host_pointers_and_fxrstor_takes_its_image_back(void)
{
    struct tcpu *c = start(8);
    memset(xmm(c, 3), 0x33, 16);
    RUN(c, "\xd9\xe8");
    CHECK(!RUN(c, "\x0f\xae\x03").raised);
    uint8_t *image = (uint8_t *)DATA;
    CHECK_EQ(load_le64(image + 8), 0);
    CHECK_EQ(load_le64(image + 16), 0);
    CHECK_EQ(load_le16(image + 6), 0);
    CHECK_EQ(image[4], 0x80); // one register in use
    CHECK_EQ(load_le32(image + 24), 0x1f80);
    memset(xmm(c, 3), 0, 16);
    RUN(c, "\xdb\xe3"); // fninit
    CHECK(!RUN(c, "\x0f\xae\x0b").raised);
    CHECK_EQ(load_le64(xmm(c, 3)), 0x3333333333333333);
    CHECK_EQ(c->s.xsave[4], 0x80);
    store_le32(image + 24, 0x10000);
    CHECK_EQ(RUN(c, "\x0f\xae\x0b").vector, VEC_GP);
    c->s.gpr[RBX] = DATA + 8;
    CHECK_EQ(RUN(c, "\x0f\xae\x03").vector, VEC_GP);
    fake_cpu_free(c);
}

static void fnsave_has_both_layouts_and_initializes(void)
{
    struct tcpu *c = start(8);
    uint8_t *image = (uint8_t *)DATA;
    RUN(c, "\xd9\xe8");
    memset(image, 0xaa, 128);
    RUN(c, "\xdd\x33"); // fnsave
    CHECK_EQ(load_le16(image), 0x37f);
    CHECK_EQ(load_le16(image + 8), 0x3fff); // tags: register 7 valid
    CHECK_EQ(load_le32(image + 12), 0);     // FIP
    CHECK_EQ(load_le32(image + 20), 0);     // FDP
    CHECK_EQ(load_le16(image + 28 + 8), 0x3fff);
    CHECK_EQ(image[108], 0xaa);
    CHECK_EQ(c->s.xsave[4], 0);
    RUN(c, "\xdd\x23"); // frstor
    CHECK_EQ(c->s.xsave[4], 0x80);
    memset(image, 0xaa, 128);
    RUN(c, "\x66\xdd\x33");
    CHECK_EQ(load_le16(image + 4), 0x3fff);
    CHECK_EQ(image[94], 0xaa);
    fake_cpu_free(c);
}

static void xsave_writes_what_is_asked_for_and_xrstor_checks_its_header(void)
{
    struct tcpu *c = start(8);
    uint8_t *image = (uint8_t *)DATA;
    memset(ymm_high(c, 5), 0x5a, 16);
    memset(image, 0xaa, 512);
    c->s.gpr[RAX] = 4, c->s.gpr[RDX] = 0;
    CHECK(!RUN(c, "\x0f\xae\x23").raised);
    CHECK_EQ(image[0], 0xaa);   // x87 was not asked for
    CHECK_EQ(image[160], 0xaa); // nor SSE
    CHECK_EQ(load_le32(image + 24), 0x1f80);
    CHECK_EQ(load_le64(image + 512), 4);
    CHECK_EQ(image[576 + 80], 0x5a);
    memset(ymm_high(c, 5), 0, 16);
    CHECK(!RUN(c, "\x0f\xae\x2b").raised);
    CHECK_EQ(*ymm_high(c, 5), 0x5a);

    static const struct {
        unsigned at;
        uint8_t value;
    } bad[] = {{512, 8}, {519, 0x80}, {520, 1}, {528, 1}, {535, 1}, {27, 1}, {527, 0x81}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t old = image[bad[i].at];
        image[bad[i].at] = bad[i].value;
        CHECK_EQ(RUN(c, "\x0f\xae\x2b").vector, VEC_GP);
        image[bad[i].at] = old;
    }
    c->s.gpr[RBX] = DATA + 32;
    CHECK_EQ(RUN(c, "\x0f\xae\x2b").vector, VEC_GP);
    c->s.cr4 &= ~CR4_OSXSAVE;
    CHECK_EQ(RUN(c, "\x0f\xae\x2b").vector, VEC_UD);
    fake_cpu_free(c);
}

static void xrstor_of_absent_components_makes_them_initial(void)
{
    struct tcpu *c = start(8);
    store_le32((void *)(DATA + 24), 0x1f80);
    RUN(c, "\xd9\xe8");
    memset(xmm(c, 1), 0x11, 16);
    memset(ymm_high(c, 1), 0x11, 16);
    c->s.gpr[RAX] = 3, c->s.gpr[RDX] = 0;
    CHECK(!RUN(c, "\x0f\xae\x2b").raised);
    CHECK_EQ(load_le64(xmm(c, 1)), 0);
    CHECK_EQ(load_le64(ymm_high(c, 1)), 0x1111111111111111);
    CHECK_EQ(load_le16(c->s.xsave), 0x37f);
    CHECK_EQ(c->s.xsave[4], 0);
    fake_cpu_free(c);
}

static void xsavec_marks_its_image_compacted_and_xrstor_reads_it(void)
{
    struct tcpu *c = start(8);
    uint8_t *image = (uint8_t *)DATA;
    if (feature_has(&c->features, FEATURE_XSAVEC)) {
        memset(xmm(c, 2), 0x22, 16);
        c->s.gpr[RAX] = 7, c->s.gpr[RDX] = 0;
        CHECK(!RUN(c, "\x0f\xc7\x23").raised);
        CHECK_EQ(load_le64(image + 520), 7 | BIT(63));
        memset(xmm(c, 2), 0, 16);
        CHECK(!RUN(c, "\x0f\xae\x2b").raised);
        CHECK_EQ(load_le64(xmm(c, 2)), 0x2222222222222222);
        image[512] |= 2, image[520] &= ~2; // in use, but not in the image
        CHECK_EQ(RUN(c, "\x0f\xae\x2b").vector, VEC_GP);
    }
    fake_cpu_free(c);
}

static void thirty_two_bit_code_saves_eight_registers(void)
{
    struct tcpu *c = start(4);
    uint8_t *image = (uint8_t *)DATA;
    memset(image, 0xaa, 512);
    memset(xmm(c, 7), 0x77, 16);
    memset(xmm(c, 8), 0x88, 16);
    CHECK(!RUN(c, "\x0f\xae\x03").raised);
    CHECK_EQ(image[160 + 7 * 16], 0x77);
    CHECK_EQ(image[160 + 8 * 16], 0xaa);
    memset(image + 160, 0, 128);
    CHECK(!RUN(c, "\x0f\xae\x0b").raised);
    CHECK_EQ(*xmm(c, 7), 0);
    CHECK_EQ(*xmm(c, 8), 0x88);
    fake_cpu_free(c);
}

static void more_instructions_than_stubs_still_run(void)
{
    struct tcpu *c = start(8);
    char code[] = "\x66\x0f\x73\xf0\x00";    // psllq xmm0, imm8
    char shuffle[] = "\x66\x0f\x70\xc1\x00"; // pshufd xmm0, xmm1, imm8
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < 256; i++)
            for (unsigned reg = 0; reg < 4; reg++) {
                code[3] = (char)(0xf0 | reg), code[4] = (char)i;
                shuffle[3] = (char)(0xc1 | reg << 3), shuffle[4] = (char)i;
                CHECK(!fake_run_bytes(c, code, 5).raised);
                CHECK(!fake_run_bytes(c, shuffle, 5).raised);
            }
    for (unsigned i = 0; i < 4; i++)
        store_le32(xmm(c, 1) + 4 * i, i);
    RUN(c, "\x66\x0f\x70\xc1\x1b");
    CHECK_EQ(load_le32(xmm(c, 0)), 3);
    fake_cpu_free(c);
}

TEST_MAIN(TEST(task_switched_units_are_not_available),
          TEST(control_bits_make_vector_instructions_undefined),
          TEST(features_that_are_not_shown_are_undefined),
          TEST(avx_512_is_undefined_unless_shown_and_turned_on),
          TEST(misaligned_operands_of_legacy_sse_are_protection_faults),
          TEST(unmasked_simd_exceptions_are_raised_before_anything_changes),
          TEST(masked_exceptions_set_flags_beside_unmasked_others),
          TEST(x87_exceptions_wait_for_the_next_waiting_instruction),
          TEST(an_unmasked_x87_store_leaves_memory_alone), TEST(ldmxcsr_refuses_reserved_bits),
          TEST(a_vector_store_that_faults_writes_nothing),
          TEST(masked_moves_touch_selected_elements_only), TEST(maskmovdqu_writes_selected_bytes),
          TEST(maskmovq_turns_the_stack_to_top_zero), TEST(gathers_load_by_mask_and_clear_it),
          TEST(fxsave_shows_no_host_pointers_and_fxrstor_takes_its_image_back),
          TEST(fnsave_has_both_layouts_and_initializes),
          TEST(xsave_writes_what_is_asked_for_and_xrstor_checks_its_header),
          TEST(xrstor_of_absent_components_makes_them_initial),
          TEST(xsavec_marks_its_image_compacted_and_xrstor_reads_it),
          TEST(thirty_two_bit_code_saves_eight_registers),
          TEST(more_instructions_than_stubs_still_run))
