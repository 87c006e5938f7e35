// See fake_cpu.h. Stands in for mmu.c, segment.c, control.c and interp.c.
#include "fake_cpu.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "engine/translate/tvm.h"

static struct {
    uint8_t *memory;
    bool unreadable[FAKE_PAGES], unwritable[FAKE_PAGES];
    bool hide_host;
    struct fake_fault fault;
} fake;

uint8_t *fake_memory(void)
{
    if (!fake.memory)
        fake.memory = mmap((void *)FAKE_BASE, FAKE_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return fake.memory;
}

void fake_protect(unsigned page, bool readable, bool writable)
{
    fake.unreadable[page] = !readable;
    fake.unwritable[page] = !writable;
}

void fake_hide_host(bool hide)
{
    fake.hide_host = hide;
}

void fake_memory_reset(void)
{
    memset(fake_memory(), 0, FAKE_BYTES);
    for (unsigned i = 0; i < FAKE_PAGES; i++)
        fake_protect(i, true, true);
    fake_hide_host(false);
}

static void read_features(struct feature_set *out)
{
    uint32_t regs[4];
#define ADD_FEATURE(id, name, function, index, reg, bit)                \
    __cpuid_count(function, index, regs[0], regs[1], regs[2], regs[3]); \
    if (regs[reg] >> (bit)&1)                                           \
        feature_add(out, FEATURE_##id);
    CPU_FEATURES(ADD_FEATURE)
}

struct tcpu *fake_cpu_new(unsigned mode)
{
    struct tcpu *c = aligned_alloc(64, align_up(sizeof *c, 64));
    struct tvm *vm = calloc(1, sizeof *vm);
    struct error e;
    memset(c, 0, sizeof *c);
    read_features(&c->features);
    c->vm = vm;
    c->mode = mode == 8   ? MODE_CODE64 | MODE_LONG
              : mode == 4 ? MODE_CODE32 | MODE_STACK32
                          : MODE_CODE16;
    c->mode |= MODE_PROTECTED | MODE_FLAT | MODE_CPL0 | MODE_SSE | MODE_AVX;
    c->s.cr0 = CR0_PE | CR0_NE | CR0_MP;
    c->s.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    c->s.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    c->s.rflags = FLAG_FIXED;
    store_le16(c->s.xsave, 0x37f);
    store_le32(c->s.xsave + 24, 0x1f80);
    if (simd_init(c, &e) != OK)
        abort();
    return c;
}

void fake_cpu_free(struct tcpu *c)
{
    simd_release(c);
    free(c->vm);
    free(c);
}

bool fake_run(struct tcpu *c, const uint8_t *code, unsigned len, struct fake_fault *fault)
{
    struct insn insn;
    unsigned size = c->mode & MODE_CODE_SIZE;
    if (insn_decode(code, len,
                    size == MODE_CODE64   ? 8
                    : size == MODE_CODE32 ? 4
                                          : 2,
                    &insn) != INSN_OK)
        return false;
    const struct insn_form *form = insn_form(&insn);
    fake.fault = (struct fake_fault){0};
    c->insn_rip = c->s.rip;
    if (!setjmp(c->unwind)) {
        c->s.rip += insn.len;
        bool vector = form->flags & (FORM_X87 | FORM_MMX | FORM_SSE | FORM_AVX | FORM_AVX512);
        if (vector || (form->feature >= FEATURE_XSAVEOPT && form->feature <= FEATURE_XSAVES) ||
            form->feature == FEATURE_XSAVE)
            simd_insn(c, &insn);
        else if (interp_integer[insn.op])
            interp_integer[insn.op](c, &insn);
        else
            cpu_raise(c, VEC_UD, 0);
    }
    fpu_to_memory(c);
    *fault = fake.fault;
    return true;
}

struct fake_fault fake_run_bytes(struct tcpu *c, const char *code, unsigned len)
{
    struct fake_fault fault;
    if (!fake_run(c, (const uint8_t *)code, len, &fault))
        abort();
    return fault;
}

// --- memory --------------------------------------------------------------------------------------

// This file uses vector registers, as whatever answers an MMIO access would.
static void check(struct tcpu *c, gva_t at, unsigned len, bool write)
{
    fpu_to_memory(c);
    for (unsigned i = 0; i < len; i++) {
        uint64_t offset = at + i - FAKE_BASE;
        if (offset >= FAKE_BYTES || fake.unreadable[offset / PAGE_SIZE])
            cpu_raise_pf(c, at + i, write ? PF_WRITE : 0);
        if (write && fake.unwritable[offset / PAGE_SIZE])
            cpu_raise_pf(c, at + i, PF_WRITE | PF_PRESENT);
    }
}

void mem_read_block(struct tcpu *c, gva_t at, void *out, unsigned len)
{
    check(c, at, len, false);
    memcpy(out, (void *)at, len);
}

void mem_write_block(struct tcpu *c, gva_t at, const void *in, unsigned len)
{
    check(c, at, len, true);
    memcpy((void *)at, in, len);
}

uint64_t mem_read(struct tcpu *c, gva_t at, unsigned size)
{
    check(c, at, size, false);
    return load_le((void *)at, size);
}

void mem_write(struct tcpu *c, gva_t at, unsigned size, uint64_t value)
{
    check(c, at, size, true);
    store_le((void *)at, size, value);
}

void mem_probe_write(struct tcpu *c, gva_t at, unsigned len)
{
    check(c, at, len, true);
}

void mem_probe_read(struct tcpu *c, gva_t at, unsigned len)
{
    check(c, at, len, false);
}

void *mem_host(struct tcpu *c, gva_t at, unsigned len, enum access access)
{
    check(c, at, len, access == ACCESS_WRITE);
    return fake.hide_host ? NULL : (void *)at;
}

void *mem_host_rmw(struct tcpu *c, gva_t at, unsigned len)
{
    return mem_host(c, at, len, ACCESS_WRITE);
}

// --- segments and control ------------------------------------------------------------------------

gva_t seg_linear(struct tcpu *c, unsigned seg, uint64_t offset, unsigned size, enum access access)
{
    if ((int64_t)(offset << 16) >> 16 != (int64_t)offset)
        cpu_raise(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
    return offset + c->s.seg[seg].base;
}

void seg_load(struct tcpu *c, unsigned seg, uint16_t selector)
{
    c->s.seg[seg].selector = selector;
}

void jump_near(struct tcpu *c, uint64_t target, unsigned opsize)
{
    target &= size_mask(opsize);
    if ((int64_t)(target << 16) >> 16 != (int64_t)target)
        cpu_raise(c, VEC_GP, 0);
    c->s.rip = target;
}

bool condition_holds(uint64_t rflags, unsigned condition)
{
    bool cf = rflags & FLAG_CF, zf = rflags & FLAG_ZF, sf = rflags & FLAG_SF, of = rflags & FLAG_OF;
    bool holds[] = {of, cf, zf, cf || zf, sf, rflags & FLAG_PF, sf != of, zf || sf != of};
    return holds[condition >> 1] != (condition & 1);
}

_Noreturn void cpu_raise(struct tcpu *c, unsigned vector, uint32_t error)
{
    fpu_to_memory(c);
    fake.fault.raised = true;
    fake.fault.vector = vector;
    fake.fault.error = error;
    c->s.rip = c->insn_rip;
    longjmp(c->unwind, 1);
}

_Noreturn void cpu_raise_pf(struct tcpu *c, gva_t at, uint32_t error)
{
    fake.fault.address = at;
    cpu_raise(c, VEC_PF, error);
}
