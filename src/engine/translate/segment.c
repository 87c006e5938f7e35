// Segmentation: linear addresses, descriptors, loading of segment registers.
// Source: Intel SDM vol. 3 chapters 3 and 5, vol. 2 MOV, LDS. Null FS and GS loads clear the base,
// as processors do since Zen 2. Not modelled: EFER.LMSLE.
#include "base/bytes.h"
#include "engine/translate/system_impl.h"

bool segment_in_limit(const struct cpu_segment *seg, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;
    bool down = (seg->attr & (SEGA_CODE | SEGA_DOWN | SEGA_S)) == (SEGA_DOWN | SEGA_S);
    if (!down)
        return last <= seg->limit;
    return offset > seg->limit && last <= (seg->attr & SEGA_DB ? 0xffffffff : 0xffff);
}

static bool access_allowed(const struct tcpu *c, const struct cpu_segment *seg, enum access access)
{
    if (!(seg->attr & SEGA_P))
        return false;
    if (!(c->mode & MODE_PROTECTED) || (c->mode & MODE_V86))
        return true;
    bool code = seg->attr & SEGA_CODE, w = seg->attr & SEGA_WRITABLE;
    if (access == ACCESS_EXEC)
        return code;
    return access == ACCESS_WRITE ? !code && w : !code || w;
}

static inline void alignment_check(struct tcpu *c, gva_t at, unsigned size)
{
    if (__builtin_expect(c->mode & MODE_ALIGN, 0) && is_power_of_two(size) && size <= 8 &&
        (at & (size - 1)))
        cpu_raise(c, VEC_AC, 0);
}

gva_t seg_linear(struct tcpu *c, unsigned seg, uint64_t offset, unsigned size, enum access access)
{
    const struct cpu_segment *s = &c->s.seg[seg];
    gva_t at;
    if ((c->mode & MODE_CODE_SIZE) == MODE_CODE64) {
        at = seg >= SEG_FS ? s->base + offset : offset;
        if (!is_canonical(at) || !is_canonical(at + size - 1))
            cpu_raise(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
    } else {
        if (!access_allowed(c, s, access) || !segment_in_limit(s, offset, size))
            cpu_raise(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
        at = (uint32_t)(s->base + offset);
    }
    alignment_check(c, at, size);
    return at;
}

// --- descriptors ---------------------------------------------------------------------------------

bool descriptor_read(struct tcpu *c, uint16_t selector, bool wide, struct descriptor *out)
{
    uint64_t base = c->s.gdtr.base, limit = c->s.gdtr.limit;
    if (selector & 4) {
        if (!(c->s.ldtr.attr & SEGA_P))
            return false;
        base = c->s.ldtr.base;
        limit = c->s.ldtr.limit;
    }
    unsigned offset = selector & ~7u;
    if (offset + 7 > limit)
        return false;
    out->at = base + offset;
    if (!(c->mode & MODE_LONG))
        out->at = (uint32_t)out->at;
    uint64_t raw = mem_read_system(c, out->at, 8);
    out->lo = (uint32_t)raw;
    out->hi = (uint32_t)(raw >> 32);
    out->upper = 0;
    if (wide && (c->mode & MODE_LONG) && !(out->hi & BIT(12))) {
        if (offset + 15 > limit)
            return false;
        out->upper = mem_read_system(c, out->at + 8, 8);
    }
    return true;
}

void descriptor_set_accessed(struct tcpu *c, struct descriptor *d)
{
    if (d->hi & BIT(8))
        return;
    d->hi |= BIT(8);
    mem_write_system(c, d->at + 5, 1, d->hi >> 8 & 0xff);
}

struct cpu_segment descriptor_segment(uint16_t selector, const struct descriptor *d)
{
    struct cpu_segment s = {.selector = selector};
    s.base = (d->lo >> 16) | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
    s.limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
    s.attr = (uint16_t)(d->hi >> 8 & 0xf0ff);
    if (s.attr & SEGA_G)
        s.limit = s.limit << 12 | 0xfff;
    return s;
}

struct cpu_segment descriptor_system(uint16_t selector, const struct descriptor *d)
{
    struct cpu_segment s = descriptor_segment(selector, d);
    s.base |= d->upper << 32;
    return s;
}

// --- segment registers ---------------------------------------------------------------------------

struct cpu_segment segment_v86(uint16_t selector)
{
    return (struct cpu_segment){
        .base = (uint32_t)selector << 4, .limit = 0xffff, .selector = selector, .attr = 0xf3};
}

// Real mode changes selector and base only: limits stay what protected mode made them.
void segment_load_real(struct tcpu *c, unsigned seg, uint16_t selector)
{
    struct cpu_segment *s = &c->s.seg[seg];
    s->selector = selector;
    s->base = (uint32_t)selector << 4;
    s->attr |= SEGA_P | SEGA_S | SEGA_WRITABLE | SEGA_ACCESSED;
}

static void load_ss(struct tcpu *c, uint16_t selector)
{
    unsigned level = cpl(c);
    struct descriptor d;
    if (selector_null(selector)) {
        if ((c->mode & MODE_CODE_SIZE) != MODE_CODE64 || level == 3 || (selector & 3) != level)
            cpu_raise(c, VEC_GP, 0);
        c->s.seg[SEG_SS] =
            (struct cpu_segment){.selector = selector, .attr = (uint16_t)(level << 5)};
        return;
    }
    if (!descriptor_read(c, selector, false, &d) || (selector & 3) != level ||
        !DESC_WRITABLE_DATA(descriptor_type(&d)) || descriptor_dpl(&d) != level)
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_SS, selector & ~3u);
    descriptor_set_accessed(c, &d);
    c->s.seg[SEG_SS] = descriptor_segment(selector, &d);
}

static void load_data(struct tcpu *c, unsigned seg, uint16_t selector)
{
    struct descriptor d;
    if (selector_null(selector)) {
        c->s.seg[seg] = (struct cpu_segment){.selector = selector};
        return;
    }
    if (!descriptor_read(c, selector, false, &d))
        cpu_raise(c, VEC_GP, selector & ~3u);
    unsigned type = descriptor_type(&d), dpl = descriptor_dpl(&d);
    if (!DESC_READABLE(type))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!DESC_CONFORMING(type) && (dpl < cpl(c) || dpl < (selector & 3u)))
        cpu_raise(c, VEC_GP, selector & ~3u);
    if (!descriptor_present(&d))
        cpu_raise(c, VEC_NP, selector & ~3u);
    descriptor_set_accessed(c, &d);
    c->s.seg[seg] = descriptor_segment(selector, &d);
}

void seg_load(struct tcpu *c, unsigned seg, uint16_t selector)
{
    if (c->mode & MODE_V86)
        c->s.seg[seg] = segment_v86(selector);
    else if (!(c->mode & MODE_PROTECTED))
        segment_load_real(c, seg, selector);
    else if (seg == SEG_SS)
        load_ss(c, selector);
    else
        load_data(c, seg, selector);
    if (seg == SEG_SS)
        tcpu_pend(c, PENDING_EVENT); // for the shadow that MOV and POP leave
    tcpu_update_mode(c);
}

void segments_drop_inner(struct tcpu *c)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < sizeof data; i++) {
        struct cpu_segment *s = &c->s.seg[data[i]];
        bool conforming = (s->attr & (SEGA_CODE | SEGA_DOWN)) == (SEGA_CODE | SEGA_DOWN);
        if ((s->attr & SEGA_P) && !conforming && bits_get(s->attr, 6, 5) < cpl(c))
            *s = (struct cpu_segment){0};
    }
}
