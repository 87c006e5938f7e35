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
static uint64_t known_components(const struct xsave_layout *layout)
{
    uint64_t components = host_xcr0() & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
    if (!layout->at[2])
        components &= XCR0_X87 | XCR0_SSE;
    if (!layout->at[COMPONENT_OPMASK] || (components & XCR0_AVX512) != XCR0_AVX512)
        components &= ~XCR0_AVX512;
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
    struct cpuid_table host;
    cpuid_read_host_xsave(&host);
    xsave_layout_of(&host, &simd->layout);
    simd->host_components = host_xcr0();
    simd->components = known_components(&simd->layout);
    if (!feature_has(&c->features, FEATURE_AVX512F))
        simd->components &= ~XCR0_AVX512;
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

uint64_t simd_components(const struct tcpu *c)
{
    return c->simd->components;
}

bool simd_is_whole(const struct tcpu *c)
{
    const uint64_t apart = XCR0_PKRU | XCR0_TILES;
    return c->s.xcr0 == c->simd->components &&
           (c->simd->host_components & ~apart) == c->simd->components;
}

bool simd_host_saves_more(const struct tcpu *c)
{
    return c->simd->host_components != c->simd->components;
}

void simd_take(struct tcpu *c, const uint8_t *image, size_t bytes)
{
    copy_bytes(c->s.xsave, image, bytes < CPU_XSAVE_BYTES ? bytes : CPU_XSAVE_BYTES);
    fill_bytes(c->s.xsave + AREA_POINTERS, 0, AREA_MXCSR - AREA_POINTERS);
    uint32_t mxcsr = load_le32(image + AREA_MXCSR) & c->simd->mxcsr_mask & MXCSR_ALL;
    store_le32(c->s.xsave + AREA_MXCSR, mxcsr);
    fill_bytes(c->s.xsave + AREA_SOFTWARE, 0, AREA_BV - AREA_SOFTWARE + XSAVE_HEADER);
    store_le64(c->s.xsave + AREA_BV, load_le64(image + AREA_BV) & c->simd->components);
}

const struct xsave_layout *simd_layout(const struct tcpu *c)
{
    return &c->simd->layout;
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
    components &= c->simd->components & (c->s.xcr0 | ~XCR0_AVX512);
    store_le64(c->s.xsave + AREA_BV, bv | components);
}

// The three parts of a vector register in s.xsave: 16, 16 and 32 bytes; of the upper sixteen, one
// of 64.
static unsigned vector_parts(struct tcpu *c, unsigned n, uint8_t *part[3], unsigned size[3])
{
    const struct simd *simd = c->simd;
    bool avx512 = simd->components & XCR0_AVX512;
    if (n >= 16) {
        part[0] = c->s.xsave + simd->layout.at[COMPONENT_HIGH_ZMM] + VECTOR_MAX * (n - 16);
        size[0] = VECTOR_MAX;
        return avx512 ? 1 : 0;
    }
    part[0] = c->s.xsave + AREA_XMM + 16 * n;
    part[1] = c->s.xsave + AREA_AVX + 16 * n;
    part[2] = c->s.xsave + simd->layout.at[COMPONENT_ZMM_HIGH] + 32 * n;
    size[0] = size[1] = 16;
    size[2] = 32;
    return avx512 ? 3 : 2;
}

void vector_get(struct tcpu *c, unsigned n, uint8_t out[VECTOR_MAX])
{
    uint8_t *part[3];
    unsigned size[3], parts = vector_parts(c, n, part, size);
    fill_bytes(out, 0, VECTOR_MAX);
    for (unsigned i = 0; i < parts; out += size[i++])
        copy_bytes(out, part[i], size[i]);
}

void vector_set(struct tcpu *c, unsigned n, const uint8_t in[VECTOR_MAX])
{
    uint8_t *part[3];
    unsigned size[3], parts = vector_parts(c, n, part, size);
    for (unsigned i = 0; i < parts; in += size[i++])
        copy_bytes(part[i], in, size[i]);
}

static uint8_t *opmask_at(struct tcpu *c, unsigned n)
{
    return c->s.xsave + c->simd->layout.at[COMPONENT_OPMASK] + 8 * (n & 7);
}

uint64_t opmask_get(struct tcpu *c, unsigned n)
{
    return c->simd->components & XCR0_AVX512 ? load_le64(opmask_at(c, n)) : 0;
}

void opmask_set(struct tcpu *c, unsigned n, uint64_t value)
{
    if (c->simd->components & XCR0_AVX512)
        store_le64(opmask_at(c, n), value);
}
