// Where the guest's x87 and vector registers are: in s.xsave or in the machine. Source: Intel SDM
// volume 1, chapter 13. Not modelled: FOP, FIP and FDP. The host's would name Berth's own code, so
// they read as zero, as on processors that keep them only while an exception is pending.
#include "engine/translate/simd_impl.h"

#include <cpuid.h>
#include <stdlib.h>

#include "base/bytes.h"

static uint64_t host_xcr0(void)
{
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static uint32_t host_mxcsr_mask(struct simd *simd)
{
    asm volatile("fxsave64 (%0)" : : "r"(simd->image) : "memory");
    uint32_t mask = load_le32(simd->image + AREA_MXCSR_MASK);
    return mask ? mask : 0xffbf;
}

// AVX state follows the header on every processor so far; one that puts it elsewhere does without.
static uint64_t known_components(void)
{
    uint32_t size, offset, ecx, edx;
    uint64_t components = host_xcr0() & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
    __cpuid_count(0xd, 2, size, offset, ecx, edx);
    if (size != AVX_BYTES || offset != AREA_AVX)
        components &= ~XCR0_AVX;
    return components;
}

err_t simd_init(struct tcpu *c, struct error *e)
{
    uint32_t eax, ebx, ecx = 0, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
        return error_set(e, ERR_UNSUPPORTED, "the host's CPU or kernel does not offer XSAVE");
    struct simd *simd = aligned_alloc(64, align_up(sizeof *simd, 64));
    if (!simd)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's vector unit");
    fill_bytes(simd, 0, sizeof *simd);
    c->simd = simd;
    simd->components = known_components();
    simd->mxcsr_mask = host_mxcsr_mask(simd);
    return codebuf_init(&simd->code, STUB_SLOTS * STUB_BYTES, e);
}

void simd_release(struct tcpu *c)
{
    if (!c->simd)
        return;
    codebuf_release(&c->simd->code);
    free(c->simd);
    c->simd = NULL;
}

void fpu_to_machine(struct tcpu *c)
{
    if (c->fpu_live)
        return;
    host_xrstor(c->s.xsave, c->simd->components);
    c->fpu_live = 1;
}

void fpu_to_memory(struct tcpu *c)
{
    if (!c->fpu_live)
        return;
    host_xsave(c->s.xsave, c->simd->components);
    fill_bytes(c->s.xsave + AREA_POINTERS, 0, AREA_MXCSR - AREA_POINTERS);
    // What C code expects. FNINIT also drops what exceptions the guest left pending.
    asm volatile("fninit");
    mxcsr_write(MXCSR_DEFAULT);
    c->fpu_live = 0;
}

// Through the machine, because XSAVE writes a component's initial values where its XSTATE_BV bit is
// clear.
void fpu_open(struct tcpu *c, uint64_t components)
{
    fpu_to_machine(c);
    fpu_to_memory(c);
    uint64_t bv = load_le64(c->s.xsave + AREA_BV);
    store_le64(c->s.xsave + AREA_BV, bv | (components & c->simd->components));
}

void vector_get(struct tcpu *c, unsigned n, unsigned size, void *out)
{
    copy_bytes(out, c->s.xsave + AREA_XMM + 16 * n, 16);
    if (size > 16)
        copy_bytes((uint8_t *)out + 16, c->s.xsave + AREA_AVX + 16 * n, 16);
}

void vector_set(struct tcpu *c, unsigned n, unsigned size, const void *in)
{
    copy_bytes(c->s.xsave + AREA_XMM + 16 * n, in, 16);
    if (size > 16)
        copy_bytes(c->s.xsave + AREA_AVX + 16 * n, (const uint8_t *)in + 16, 16);
}
