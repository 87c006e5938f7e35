// Guest memory operands: forming the linear address, and the inline look into the soft TLB.
//
// A check passes when the tag of the address's page equals its page and the access ends in the
// page: with the tag page-aligned, (address ^ tag) <= 4096 - size says both. Where the guest's
// flags must survive, the same is said without them: (address - tag + size - 1) >> 12 == 0, by LEA,
// SHRX and JRCXZ. That also lets pass what begins in the page before, which has another index; not
// so in a TLB of one entry, where (address - tag) >> 12 == 0 is asked for first.
#include "engine/translate/jit_trans.h"

static bool fits_i32(int64_t v)
{
    return v == (int32_t)v;
}

static bool segment_of(const struct trans *t, const struct insn *in, uint8_t *segment)
{
    bool based = in->seg == SEG_FS || in->seg == SEG_GS;
    *segment = based ? in->seg : SEG_COUNT;
    return t->code64 || in->seg != SEG_CS;
}

bool trans_address(const struct trans *t, const struct insn *in, struct address *out)
{
    *out = (struct address){.base = in->base, .index = in->index, .scale = in->scale};
    if (in->addrsize == 2 || !segment_of(t, in, &out->segment))
        return false;
    out->width = in->addrsize == 8 ? 8 : 4;
    out->constant = in->index == REG_NONE && (in->base == REG_NONE || in->base == REG_RIP);
    if (out->constant) {
        out->value = (uint64_t)in->disp + (in->base == REG_RIP ? t->next : 0);
        out->relative =
            in->base == REG_RIP ? !trans_disp_stays(t, in, t->next) : trans_disp_moves(t, in);
        if (out->width == 4)
            out->value = (uint32_t)out->value;
    } else if (!fits_i32(in->disp)) {
        return false;
    }
    out->moves = !out->constant && trans_disp_moves(t, in);
    out->disp = (int32_t)in->disp;
    return true;
}

struct address trans_stack_address(const struct trans *t, int32_t disp)
{
    return (struct address){.base = RSP,
                            .index = REG_NONE,
                            .scale = 1,
                            .width = t->code64 ? 8 : 4,
                            .segment = SEG_COUNT,
                            .disp = disp};
}

static unsigned place(const struct trans *t, struct emit *e, unsigned guest, unsigned scratch)
{
    if (guest == REG_NONE)
        return REG_NONE;
    if (host_reg(t, guest) != NO_HOST)
        return host_reg(t, guest);
    emit_load(e, 8, scratch, gpr_slot(t, guest));
    return scratch;
}

// A constant address, or what is less than a page away, as an operand's displacement.
static struct emit_mem linear_at(const struct address *a, unsigned base, int32_t value)
{
    struct emit_mem mem = emit_at(base, value);
    if (a->relative)
        mem.note = a->width == 8 ? NOTE_LINEAR_S32 : NOTE_STUCK;
    return mem;
}

static void load_constant(struct emit *e, const struct address *a)
{
    if (a->relative)
        trans_load_linear(e, T1, a->value);
    else
        emit_mov_ri(e, T1, a->value);
    if (a->relative && a->width == 4) // cut off
        emit_note(e, NOTE_STUCK, 0);
}

void trans_offset(const struct trans *t, struct emit *e, const struct address *a)
{
    if (a->constant) {
        load_constant(e, a);
        return;
    }
    unsigned base = place(t, e, a->base, T1), index = place(t, e, a->index, T0);
    struct emit_mem sum = emit_indexed(base, index, a->scale, a->disp);
    sum.note = a->moves ? NOTE_LINEAR_S32 : 0;
    if (index == REG_NONE && a->disp == 0 && a->width == 8)
        emit_mov_rr(e, 8, T1, base);
    else
        emit_lea(e, a->width, T1, sum);
}

// The linear address into T1; uses T0, and T2 for strings of bits.
static void linear(const struct trans *t, struct emit *e, const struct address *a)
{
    struct emit_mem base =
        emit_gs(offsetof(struct tcpu, s.seg) + a->segment * sizeof(struct cpu_segment) +
                offsetof(struct cpu_segment, base));
    if (a->constant && a->segment != SEG_COUNT && t->code64 && fits_i32((int64_t)a->value)) {
        emit_load(e, 8, T1, base);
        emit_lea(e, 8, T1, linear_at(a, T1, (int32_t)a->value));
        return;
    }
    trans_offset(t, e, a);
    if (a->string) {
        unsigned bit = place(t, e, a->bit, T2);
        emit_mov_ri(e, T0, 6);
        emit_sarx(e, 8, T0, bit, T0);
        emit_lea(e, 8, T1, emit_indexed(T1, T0, 8, 0));
    }
    if (a->segment == SEG_COUNT)
        return;
    emit_load(e, 8, T0, base);
    emit_lea(e, t->code64 ? 8 : 4, T1, emit_indexed(T1, T0, 1, 0));
    if (t->code64)
        return;
    emit_load(
        e, 8, T0,
        emit_gs(offsetof(struct tcpu, hot.barrier) + (a->segment == SEG_GS) * sizeof(uint64_t)));
    emit_lea(e, 8, T1, emit_indexed(T1, T0, 1, 0));
}

static struct emit_mem tlb_array(size_t array)
{
    return (struct emit_mem){
        .base = REG_NONE, .index = T0, .scale = 8, .gs = true, .disp = (int32_t)array};
}

static size_t tlb_field(const struct trans *t, enum access access)
{
    size_t tlb = offsetof(struct tcpu, tlb) + t->c->user * sizeof(struct tlb);
    return tlb +
           (access == ACCESS_WRITE ? offsetof(struct tlb, write) : offsetof(struct tlb, read));
}

static size_t addend_field(const struct trans *t)
{
    return offsetof(struct tcpu, tlb) + t->c->user * sizeof(struct tlb) +
           offsetof(struct tlb, addend);
}

static bool single_entry(const struct trans *t)
{
    return t->c->tlb_mask == 0;
}

// tlb_index() of the address in src into T0. With the flags to be kept, T2 is free.
static void index_of(const struct trans *t, struct emit *e, unsigned src, bool flags_free)
{
    if (single_entry(t)) {
        emit_mov_ri(e, T0, TLB_HALF);
        emit_lea(e, 8, T0, emit_indexed(T0, src, 1, 0));
        if (flags_free) {
            emit_shift_ri(e, SHIFT_SHR, 8, T0, 63);
            return;
        }
        emit_mov_ri(e, T2, 63);
        emit_shrx(e, 8, T0, T0, T2);
        return;
    }
    if (t->jit->bmi2) {
        emit_rorx(e, 4, T0, src, PAGE_SHIFT);
    } else {
        emit_mov_rr(e, 4, T0, src);
        emit_shift_ri(e, SHIFT_SHR, 4, T0, PAGE_SHIFT);
    }
    emit_movzx(e, T0, T0, TLB_BITS / 8);
}

// The cold side of a check: the address once more, and to C.
static const void *miss_stub(struct trans *t, const struct address *a, unsigned size,
                             enum access access, uint32_t resume, bool pop_flags)
{
    const void *at = emit_exec(t->cold);
    if (pop_flags)
        emit_u8(t->cold, 0x9d);
    linear(t, t->cold, a);
    uint32_t site = trans_site(t, access, size);
    if (insn_form(t->in)->flags & FORM_ALIGNED)
        t->jit->site[site].access |= SITE_ALIGNED;
    if (t->in->evex_aaa)
        t->jit->site[site].access |= SITE_MASKED;
    t->jit->site[site].resume = resume;
    trans_load_id(t->cold, NOTE_SITE, site);
    emit_jmp_to(t->cold, t->jit->gate[GATE_SLOW]);
    return at;
}

static bool is_simple(const struct trans *t, const struct address *a)
{
    return !a->constant && !a->string && !a->moves && a->index == REG_NONE && a->base != REG_NONE &&
           a->width == 8 && a->segment == SEG_COUNT && host_reg(t, a->base) != NO_HOST;
}

// After a check that hit, the TLB's index in T0 and, if the address is not simple, T1 the address:
// the operand. What it adds is kept for a group.
static struct emit_mem add_addend(struct trans *t, const struct address *a,
                                  const struct group *keep, bool flags_free)
{
    struct emit *e = t->e;
    bool simple = is_simple(t, a);
    unsigned addend = simple ? T1 : T0;
    if (!simple && !keep && flags_free) {
        emit_alu_rm(e, ALU_ADD, 8, T1, tlb_array(addend_field(t)));
        return emit_at(T1, 0);
    }
    emit_load(e, 8, addend, tlb_array(addend_field(t)));
    if (keep)
        emit_store(e, 8, emit_gs(keep->addend), addend);
    if (simple)
        return emit_indexed(host_reg(t, a->base), T1, 1, a->disp);
    emit_lea(e, 8, T1, emit_indexed(T1, T0, 1, 0));
    return emit_at(T1, 0);
}

// With the flags free, or saved on the host's stack.
static struct emit_mem check_with_flags(struct trans *t, const struct address *a, unsigned size,
                                        enum access access, const struct group *keep,
                                        bool push_flags)
{
    struct emit *e = t->e;
    uint32_t resume = jit_offset(t->jit, e);
    bool simple = is_simple(t, a);
    unsigned address = T1;
    if (push_flags)
        emit_u8(e, 0x9c);
    if (!simple) {
        linear(t, e, a);
    } else if (a->disp) {
        emit_lea(e, 8, T2, emit_at(host_reg(t, a->base), a->disp));
        address = T2;
    } else {
        address = host_reg(t, a->base);
    }
    index_of(t, e, address, true);
    if (address != T2)
        emit_mov_rr(e, 8, T2, address);
    emit_alu_rm(e, ALU_XOR, 8, T2, tlb_array(tlb_field(t, access)));
    emit_alu_ri(e, ALU_CMP, 8, T2, (int32_t)(PAGE_SIZE - size));
    emit_jcc_to(e, COND_A, miss_stub(t, a, size, access, resume, push_flags));
    struct emit_mem mem = add_addend(t, a, keep, true);
    if (push_flags)
        emit_u8(e, 0x9d);
    return mem;
}

uint8_t *trans_check_span(struct trans *t, const struct address *a, unsigned size,
                          enum access access)
{
    struct emit *e = t->e;
    linear(t, e, a);
    index_of(t, e, T1, true);
    emit_mov_rr(e, 8, T2, T1);
    emit_alu_rm(e, ALU_XOR, 8, T2, tlb_array(tlb_field(t, access)));
    emit_alu_ri(e, ALU_CMP, 8, T2, (int32_t)(PAGE_SIZE - size));
    uint8_t *miss = emit_jcc(e, COND_A);
    emit_load(e, 8, T0, tlb_array(addend_field(t)));
    return miss;
}

// Unless T2, an offset from the tag, is within a page. Changes T0, which is 0 after a hit.
static void miss_if_beyond_page(struct emit *e, const void *miss)
{
    emit_mov_ri(e, T0, PAGE_SHIFT);
    emit_shrx(e, 8, T0, T2, T0);
    uint8_t *hit = emit_jrcxz(e);
    emit_jmp_to(e, miss);
    emit_land_short(e, hit);
}

static struct emit_mem check_without_flags(struct trans *t, const struct address *a, unsigned size,
                                           enum access access, const struct group *keep)
{
    struct emit *e = t->e;
    uint32_t resume = jit_offset(t->jit, e);
    bool simple = is_simple(t, a);
    unsigned address = simple && !a->disp ? host_reg(t, a->base) : T1;
    if (address == T1)
        linear(t, e, a);
    index_of(t, e, address, false);
    emit_load(e, 8, T2, tlb_array(tlb_field(t, access)));
    emit_op_rr(e, 8, 0, MAP_ONE, 0xf7, 2, T2); // not: -tag - 1
    const void *miss = miss_stub(t, a, size, access, resume, false);
    if (single_entry(t)) {
        emit_lea(e, 8, T2, emit_indexed(address, T2, 1, 1));
        miss_if_beyond_page(e, miss); // leaves 0, the entry, in T0
        emit_lea(e, 8, T2, emit_at(T2, (int32_t)size - 1));
    } else {
        emit_lea(e, 8, T2, emit_indexed(address, T2, 1, (int32_t)size));
    }
    emit_load(e, 8, simple ? T1 : T0, tlb_array(addend_field(t)));
    if (keep)
        emit_store(e, 8, emit_gs(keep->addend), simple ? T1 : T0);
    if (!simple)
        emit_lea(e, 8, T1, emit_indexed(T1, T0, 1, 0));
    miss_if_beyond_page(e, miss);
    return simple ? emit_indexed(host_reg(t, a->base), T1, 1, a->disp) : emit_at(T1, 0);
}

// --- constant addresses --------------------------------------------------------------------------

static bool in_one_page(const struct address *a, unsigned size)
{
    return a->constant && !a->string && a->segment == SEG_COUNT &&
           (a->value & PAGE_MASK) + size <= PAGE_SIZE;
}

static bool page_fits_i32(gva_t at)
{
    return fits_i32((int64_t)align_down(at, PAGE_SIZE)) && fits_i32((int64_t)(at | PAGE_MASK));
}

static struct emit_mem tlb_entry(const struct trans *t, const struct address *a, size_t array)
{
    struct emit_mem mem = emit_gs(array + 8 * tlb_index(t->c, a->value));
    mem.note = a->relative ? NOTE_TLB : 0;
    return mem;
}

// Compares the tag with the page.
static void compare_tag(struct emit *e, const struct address *a, struct emit_mem tag)
{
    emit_op_rm(e, 8, 0, MAP_ONE, 0x81, ALU_CMP, tag);
    emit_u32(e, (uint32_t)align_down(a->value, PAGE_SIZE)); // always in four bytes
    if (a->relative)
        emit_note(e, NOTE_LINEAR_S32, 4);
}

// Where the page is known, so is its entry, and only the tag is left to ask for.
static struct emit_mem check_constant(struct trans *t, const struct address *a, unsigned size,
                                      enum access access, struct group *keep)
{
    struct emit *e = t->e;
    uint32_t resume = jit_offset(t->jit, e);
    unsigned offset = (unsigned)(a->value & PAGE_MASK);
    struct emit_mem tag = tlb_entry(t, a, tlb_field(t, access)),
                    addend = tlb_entry(t, a, addend_field(t));
    bool near = page_fits_i32(a->value);
    const void *miss = miss_stub(t, a, size, access, resume, false);
    if (!near)
        load_constant(e, a);
    if (t->flags_live) {
        emit_load(e, 8, T0, tag);
        emit_op_rr(e, 8, 0, MAP_ONE, 0xf7, 2, T0); // not: -tag - 1
        emit_lea(e, 8, T0,
                 near ? linear_at(a, T0, (int32_t)(a->value - offset) + 1)
                      : emit_indexed(T0, T1, 1, 1 - (int32_t)offset));
        uint8_t *hit = emit_jrcxz(e);
        emit_jmp_to(e, miss);
        emit_land_short(e, hit);
    } else if (near) {
        compare_tag(e, a, tag);
        emit_jcc_to(e, COND_NE, miss);
    } else {
        emit_lea(e, 8, T2, emit_at(T1, -(int32_t)offset));
        emit_alu_rm(e, ALU_CMP, 8, T2, tag);
        emit_jcc_to(e, COND_NE, miss);
    }
    if (near) {
        emit_load(e, 8, T1, addend);
        if (keep)
            emit_store(e, 8, emit_gs(keep->addend), T1);
        return linear_at(a, T1, (int32_t)a->value);
    }
    emit_load(e, 8, T0, addend);
    emit_lea(e, 8, T1, emit_indexed(T1, T0, 1, 0));
    if (keep) {
        emit_store(e, 8, emit_gs(keep->addend), T1);
        keep->whole = true;
    }
    return emit_at(T1, 0);
}

// --- slots ---------------------------------------------------------------------------------------

bool trans_slot_pays(const struct trans *t, unsigned i)
{
    uint64_t rip = t->b->rip + t->jit->mark[t->b->marks + i].guest;
    return t->b->hot && t->c->user && !t->live[i] && !(*jit_avoid(t->jit, rip) & AVOID_SLOT);
}

static struct emit_mem slot_field(unsigned slot, size_t field)
{
    return emit_gs(offsetof(struct tcpu, hot.slot) + slot * sizeof(struct slot) + field);
}

// In the cold code of an access whose slot has another page, the address in T1: fills the slot from
// the inline TLB and goes back.
static const void *refill_stub(struct trans *t, const struct address *a, unsigned size,
                               enum access access, unsigned slot, uint32_t retry, uint32_t resume)
{
    struct emit *e = t->cold;
    const void *miss = miss_stub(t, a, size, access, retry, false);
    uint32_t site = t->jit->sites - 1;
    t->jit->site[site].slot = (uint16_t)slot;
    const void *hop = trans_stub(t, GATE_HOP, site);
    const void *at = emit_exec(e);
    if (is_simple(t, a))
        emit_lea(e, 8, T1, emit_at(host_reg(t, a->base), a->disp));
    index_of(t, e, T1, true);
    emit_mov_rr(e, 8, T2, T1);
    emit_alu_rm(e, ALU_XOR, 8, T2, tlb_array(tlb_field(t, access)));
    emit_alu_ri(e, ALU_CMP, 8, T2, (int32_t)(PAGE_SIZE - size));
    emit_jcc_to(e, COND_A, miss);
    emit_alu_rr(e, ALU_XOR, 8, T2, T1); // the tag
    if (!t->jit->slots_miss)
        emit_store(e, 8, slot_field(slot, offsetof(struct slot, tag)), T2);
    emit_load(e, 8, T2, tlb_array(addend_field(t)));
    emit_store(e, 8, slot_field(slot, offsetof(struct slot, addend)), T2);
    emit_store_i(e, 1, emit_gs(offsetof(struct tcpu, hot.slot_used) + slot / SLOT_CHUNK), 1);
    emit_alu_mi(e, ALU_SUB, 4, emit_gs(offsetof(struct tcpu, hot.slot_left) + slot * 4), 1);
    emit_jcc_to(e, COND_E, hop);
    emit_jmp_to(e, jit_exec(t->jit, resume));
    return at;
}

static unsigned take_slot(struct trans *t, enum access access)
{
    bool write = access == ACCESS_WRITE;
    unsigned slot = t->jit->slots[write]++ % (SLOTS / 2) + write * (SLOTS / 2);
    t->c->hot.slot_left[slot] = 64;
    return slot;
}

static struct emit_mem check_slot(struct trans *t, const struct address *a, unsigned size,
                                  enum access access, unsigned slot)
{
    struct emit *e = t->e;
    uint32_t retry = jit_offset(t->jit, e);
    bool simple = is_simple(t, a);
    if (!simple)
        linear(t, e, a);
    if (simple && a->disp)
        emit_lea(e, 8, T2, emit_at(host_reg(t, a->base), a->disp));
    else
        emit_mov_rr(e, 8, T2, simple ? host_reg(t, a->base) : T1);
    emit_alu_rm(e, ALU_XOR, 8, T2, slot_field(slot, offsetof(struct slot, tag)));
    emit_alu_ri(e, ALU_CMP, 8, T2, (int32_t)(PAGE_SIZE - size));
    uint8_t *miss = emit_jcc(e, COND_A);
    uint32_t resume = jit_offset(t->jit, e);
    const uint8_t *refill = refill_stub(t, a, size, access, slot, retry, resume);
    if (!e->overflow)
        jit_patch(t->jit, (uint32_t)(miss - t->jit->buf.write),
                  (uint32_t)(refill - t->jit->buf.exec));
    struct emit_mem addend = slot_field(slot, offsetof(struct slot, addend));
    if (simple) {
        emit_load(e, 8, T1, addend);
        return emit_indexed(host_reg(t, a->base), T1, 1, a->disp);
    }
    emit_alu_rm(e, ALU_ADD, 8, T1, addend);
    return emit_at(T1, 0);
}

// --- groups --------------------------------------------------------------------------------------

// A member of a group whose leader has passed.
static struct emit_mem follow(struct trans *t, const struct address *a, const struct group *g)
{
    struct emit *e = t->e;
    bool held = t->held == g;
    t->held = NULL;
    if (is_simple(t, a) || g->whole || (a->constant && page_fits_i32(a->value))) {
        if (!held)
            emit_load(e, 8, T1, emit_gs(g->addend));
        t->held = g;
        return g->whole      ? emit_at(T1, t->member[t->i].at - g->low)
               : a->constant ? linear_at(a, T1, (int32_t)a->value)
                             : emit_indexed(host_reg(t, a->base), T1, 1, a->disp);
    }
    trans_offset(t, e, a);
    emit_load(e, 8, T0, emit_gs(g->addend));
    emit_lea(e, 8, T1, emit_indexed(T1, T0, 1, 0));
    return emit_at(T1, 0);
}

// By the inline TLB.
static struct emit_mem check_tlb(struct trans *t, const struct address *a, unsigned size,
                                 enum access access, struct group *keep)
{
    if (in_one_page(a, size))
        return check_constant(t, a, size, access, keep);
    if (!t->flags_live)
        return check_with_flags(t, a, size, access, keep, false);
    if (!t->jit->bmi2)
        return check_with_flags(t, a, size, access, keep, true);
    return check_without_flags(t, a, size, access, keep);
}

// Checks the group's bytes, lead of them before the instruction's own.
static struct emit_mem check_group(struct trans *t, const struct address *a, struct group *g,
                                   unsigned size, enum access access)
{
    struct address whole = *a;
    unsigned range = (unsigned)(g->high - g->low), lead = (unsigned)(t->member[t->i].at - g->low);
    uint32_t sites = t->jit->sites;
    struct emit_mem mem;
    enum access checked = g->write ? ACCESS_WRITE : access;
    whole.disp -= (int32_t)lead;
    whole.value -= lead;
    if (g->whole) {
        mem = trans_slot_pays(t, t->i)
                  ? check_slot(t, &whole, range, checked, take_slot(t, checked))
                  : check_tlb(t, &whole, range, checked, NULL);
        emit_store(t->e, 8, emit_gs(g->addend), T1); // not simple: T1 is all of the address
    } else if (trans_slot_pays(t, t->i) && !a->constant) {
        unsigned slot = take_slot(t, checked);
        g->addend = offsetof(struct tcpu, hot.slot) + slot * sizeof(struct slot) +
                    offsetof(struct slot, addend);
        mem = check_slot(t, &whole, range, checked, slot);
    } else {
        mem = check_tlb(t, &whole, range, checked, g);
    }
    for (uint32_t i = sites; i < t->jit->sites; i++) {
        struct jit_site *site = &t->jit->site[i];
        uint8_t bits = site->access & (uint8_t)~SITE_ACCESS;
        site->access = (uint8_t)(bits | access | SITE_GROUP | (checked != access ? SITE_MIXED : 0));
        site->size = (uint16_t)size;
        site->lead = (uint16_t)lead;
    }
    g->ready = true;
    if (g->whole || is_simple(t, &whole) || in_one_page(&whole, range))
        t->held = g;
    mem.disp += (int32_t)lead;
    return mem;
}

static struct emit_mem check(struct trans *t, const struct address *a, unsigned size,
                             enum access access)
{
    struct emit_mem stream;
    if (t->copying && trans_stream(t, a, size, access, &stream))
        return stream;
    struct group *g = trans_group(t, a, size, access);
    if (g && g->ready)
        return follow(t, a, g);
    t->held = NULL;
    t->kept_before = NO_HOST; // T2 is needed, and what misses comes back without it
    if (g && t->i == g->first)
        return check_group(t, a, g, size, access);
    if (trans_slot_pays(t, t->i) && !a->constant)
        return check_slot(t, a, size, access, take_slot(t, access));
    return check_tlb(t, a, size, access, NULL);
}

struct emit_mem trans_check(struct trans *t, const struct address *a, unsigned size,
                            enum access access)
{
    struct emit_mem mem = check(t, a, size, access);
    if (access == ACCESS_WRITE && t->b->verifies)
        trans_spare_block(t, mem, size);
    return mem;
}
