// Stack frames of far transfers: pushes and pops that change nothing of the CPU until
// frame_commit(), and the stacks that a TSS holds for inner rings. Source: Intel SDM vol. 3
// sections 5.8.5, 6.12, 6.14, 7.2.
#include "base/bytes.h"
#include "engine/translate/system_impl.h"

void frame_current(struct tcpu *c, unsigned size, struct frame *out)
{
    *out = (struct frame){.ss = c->s.seg[SEG_SS],
                          .sp = c->s.gpr[RSP],
                          .error = c->event_ext,
                          .size = (uint8_t)size,
                          .system = !c->user,
                          .wide = (c->mode & MODE_CODE_SIZE) == MODE_CODE64};
}

static gva_t frame_address(struct tcpu *c, const struct frame *f, uint64_t sp)
{
    if (f->wide) {
        if (!is_canonical(sp) || !is_canonical(sp + f->size - 1))
            cpu_raise(c, VEC_SS, f->error);
        return sp;
    }
    if (!(f->ss.attr & SEGA_P) || !segment_in_limit(&f->ss, sp, f->size))
        cpu_raise(c, VEC_SS, f->error);
    return (uint32_t)(f->ss.base + sp);
}

static uint64_t frame_mask(const struct frame *f)
{
    return f->wide ? ~0ull : f->ss.attr & SEGA_DB ? 0xffffffffull : 0xffffull;
}

void frame_push(struct tcpu *c, struct frame *f, uint64_t value)
{
    uint64_t mask = frame_mask(f), sp = (f->sp - f->size) & mask;
    gva_t at = frame_address(c, f, sp);
    value &= size_mask(f->size);
    if (f->system)
        mem_write_system(c, at, f->size, value);
    else
        mem_write(c, at, f->size, value);
    f->sp = (f->sp & ~mask) | sp;
}

uint64_t frame_pop(struct tcpu *c, struct frame *f)
{
    uint64_t mask = frame_mask(f);
    gva_t at = frame_address(c, f, f->sp & mask);
    uint64_t value = f->system ? mem_read_system(c, at, f->size) : mem_read(c, at, f->size);
    f->sp = (f->sp & ~mask) | ((f->sp + f->size) & mask);
    return value;
}

void frame_pop_long(struct tcpu *c, struct frame *f, uint64_t *out, unsigned n)
{
    const struct tlb *t = &c->tlb[!f->system];
    unsigned i = tlb_index(c, f->sp);
    bool plain =
        t->read[i] == align_down(f->sp, PAGE_SIZE) && (f->sp & PAGE_MASK) + 8ul * n <= PAGE_SIZE;
    const uint8_t *host = (const uint8_t *)(uintptr_t)(f->sp + t->addend[i]);
    for (unsigned k = 0; k < n; k++)
        out[k] = plain ? load_le64(host + 8ul * k) : frame_pop(c, f);
    f->sp += plain ? 8ul * n : 0;
}

void frame_commit(struct tcpu *c, const struct frame *f)
{
    c->s.seg[SEG_SS] = f->ss;
    c->s.gpr[RSP] = f->sp;
}

static _Noreturn void bad_tss(struct tcpu *c)
{
    cpu_raise(c, VEC_TS, selector_error(c, c->s.tr.selector));
}

// rsp of ring dpl in a 64-bit TSS; SS becomes null.
static void inner64(struct tcpu *c, unsigned dpl, struct frame *f)
{
    unsigned offset = 4 + 8 * dpl;
    if (offset + 7 > c->s.tr.limit)
        bad_tss(c);
    f->sp = mem_read_system(c, c->s.tr.base + offset, 8);
    f->ss = (struct cpu_segment){.selector = (uint16_t)dpl, .attr = (uint16_t)(dpl << 5)};
    f->wide = true;
    f->error = c->event_ext;
}

static uint16_t inner_pointer(struct tcpu *c, unsigned dpl, struct frame *f)
{
    bool wide = (c->s.tr.attr & SEGA_TYPE) >= SYS_TSS;
    unsigned offset = wide ? 4 + 8 * dpl : 2 + 4 * dpl, size = wide ? 4 : 2;
    if (offset + 2 * size - 1 > c->s.tr.limit)
        bad_tss(c);
    gva_t at = (uint32_t)(c->s.tr.base + offset);
    f->sp = mem_read_system(c, at, size);
    return (uint16_t)mem_read_system(c, (uint32_t)(at + size), 2);
}

void frame_inner(struct tcpu *c, unsigned dpl, unsigned size, struct frame *out)
{
    *out = (struct frame){.size = (uint8_t)size, .system = true};
    if (c->mode & MODE_LONG) {
        inner64(c, dpl, out);
        return;
    }
    uint16_t ss = inner_pointer(c, dpl, out);
    struct descriptor d;
    if (selector_null(ss))
        cpu_raise(c, VEC_TS, c->event_ext);
    if (!descriptor_read(c, ss, false, &d) || (ss & 3u) != dpl || descriptor_dpl(&d) != dpl ||
        !DESC_WRITABLE_DATA(descriptor_type(&d)))
        cpu_raise(c, VEC_TS, selector_error(c, ss));
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_SS, selector_error(c, ss));
    descriptor_set_accessed(c, &d);
    out->ss = descriptor_segment(ss, &d);
    out->error = selector_error(c, ss);
}
