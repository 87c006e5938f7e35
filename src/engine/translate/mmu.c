// Linear memory: the way from a linear address to host memory or to an MMIO upcall, and all mem_*
// functions. Every host address made here comes from tvm_host(), that is, from inside a slot, for
// one page; nothing else in this folder turns a guest's number into a pointer. Sources: Intel SDM
// vol. 3 chapters 4 and 18 (data breakpoints). Not modelled: memory types; accesses that cross a
// page are two accesses (also where LOCKed).
#include "base/bytes.h"
#include "engine/translate/interp_impl.h"
#include "engine/translate/lockstep.h"
#include "engine/translate/tlb2.h"

// --- translation ---------------------------------------------------------------------------------

// The translation for an access, or false with the page-fault code.
static bool translate_or(struct tcpu *c, gva_t at, enum access access, bool user,
                         struct translation *out, uint32_t *error)
{
    if (tlb2_find(c, at, out) && rights_allow(c, out->rights, access, user) &&
        (access != ACCESS_WRITE || (out->rights & RIGHT_DIRTY)))
        return true;
    c->counter[COUNTER_TLB_WALKS]++;
    if (!walk(c, at, access, user, out, error))
        return false;
    tlb2_insert(c, out);
    return true;
}

static void translate(struct tcpu *c, gva_t at, enum access access, bool user,
                      struct translation *out)
{
    uint32_t error;
    if ((c->mode & MODE_LONG) && !is_canonical(at))
        cpu_raise(c, VEC_GP, 0);
    if (!translate_or(c, at, access, user, out, &error)) {
        tlb2_drop(c, at, tlb2_pcid(c), true); // a fault ends what the TLB knew of the page
        cpu_raise_pf(c, at, error);
    }
}

bool mem_allows(struct tcpu *c, gva_t at, enum access access)
{
    struct translation t;
    uint32_t error;
    return translate_or(c, at, access, true, &t, &error);
}

static bool page_watched(const struct tcpu *c, gva_t page)
{
    for (unsigned i = 0; i < 4; i++) {
        if ((points_dr7(c) >> (2 * i) & 3) && align_down(points_at(c, i), PAGE_SIZE) == page)
            return true;
    }
    return false;
}

// Data breakpoints that [at, at + size) touches become a trap after the instruction.
static void watch(struct tcpu *c, gva_t at, unsigned size, enum access access)
{
    uint64_t dr7 = points_dr7(c);
    for (unsigned i = 0; i < 4; i++) {
        unsigned type = bits_get(dr7, 17 + 4 * i, 16 + 4 * i);
        static const uint8_t bytes[4] = {1, 2, 8, 4};
        unsigned len = bytes[bits_get(dr7, 19 + 4 * i, 18 + 4 * i)];
        gva_t start = align_down(points_at(c, i), len);
        bool kind = type == 3 || (type == 1 && access == ACCESS_WRITE);
        if (kind && (dr7 >> (2 * i) & 3) && at < start + len && start < at + size)
            debug_hit(c, i);
    }
}

bool page_write_unseen(const struct tvm *vm, const struct tvm_slot *slot, gpa_t gpa)
{
    const uint8_t *at = &slot->flags[(gpa - slot->at) >> PAGE_SHIFT];
    uint8_t flags = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    return !slot->rom && !(flags & PAGE_CODE) && (!tvm_logs(vm, slot) || (flags & PAGE_DIRTY));
}

// The interpreter tries a block: no store reaches memory, and no access goes unnoticed.
static inline bool trying(const struct tcpu *c)
{
    return c->lockstep && c->lockstep->trying;
}

// Sets the inline tag for the access if the page needs nothing but the bytes.
static bool tag_set(struct tcpu *c, const struct translation *t, enum access access, bool user)
{
    if (t->host && access == ACCESS_WRITE)
        tlb_note_writable(c, t->gpa);
    if (!t->host || (access == ACCESS_WRITE && !page_write_unseen(c->vm, t->slot, t->gpa)))
        return false;
    if (trying(c) && access != ACCESS_EXEC)
        return false;
    if (c->watch && access != ACCESS_EXEC && page_watched(c, t->page))
        return false;
    struct tlb *tlb = &c->tlb[user];
    unsigned i = tlb_index(c, t->page);
    tlb_claim(c, i, user, t);
    uint64_t *tag = access == ACCESS_READ    ? tlb->read
                    : access == ACCESS_WRITE ? tlb->write
                                             : tlb->exec;
    tag[i] = t->page;
    return true;
}

bool tlb_fill(struct tcpu *c, gva_t at, enum access access, bool user)
{
    struct translation t;
    c->counter[COUNTER_TLB_FILLS]++;
    translate(c, at, access, user, &t);
    return tag_set(c, &t, access, user);
}

bool tlb_fill_writable(struct tcpu *c, gva_t at, bool user)
{
    struct translation t;
    return tlb2_find(c, at, &t) && t.rights & RIGHT_DIRTY &&
           rights_allow(c, t.rights, ACCESS_WRITE, user) && tag_set(c, &t, ACCESS_WRITE, user);
}

// --- bytes ---------------------------------------------------------------------------------------

// One access of 1, 2, 4 or 8 bytes is one host access, so that guests see it whole.
static inline uint64_t host_load(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    switch (size) {
    case 1: return *p;
    case 2: return load_le16(p);
    case 4: return load_le32(p);
    case 8: return load_le64(p);
    default:
        for (unsigned i = 0; i < size; i++)
            v |= (uint64_t)p[i] << (8 * i);
        return v;
    }
}

static inline void host_store(uint8_t *p, unsigned size, uint64_t v)
{
    switch (size) {
    case 1: *p = (uint8_t)v; break;
    case 2: store_le16(p, (uint16_t)v); break;
    case 4: store_le32(p, (uint32_t)v); break;
    case 8: store_le64(p, v); break;
    default:
        for (unsigned i = 0; i < size; i++)
            p[i] = (uint8_t)(v >> (8 * i));
    }
}

static uint64_t mmio_read(struct tcpu *c, gpa_t at, unsigned size)
{
    if (trying(c))
        lockstep_give_up(c->lockstep);
    c->counter[COUNTER_UPCALLS]++;
    fpu_to_memory(c);
    tvm_leave(c);
    uint64_t v = 0;
    if (is_power_of_two(size)) {
        v = c->vm->up->mmio_read(c->vm->opaque, c->index, at, size) & size_mask(size);
    } else {
        for (unsigned i = 0; i < size; i++)
            v |= (c->vm->up->mmio_read(c->vm->opaque, c->index, at + i, 1) & 0xff) << (8 * i);
    }
    tvm_enter(c);
    return v;
}

static void mmio_write(struct tcpu *c, gpa_t at, unsigned size, uint64_t v)
{
    if (trying(c))
        lockstep_give_up(c->lockstep);
    c->counter[COUNTER_UPCALLS]++;
    fpu_to_memory(c);
    tvm_leave(c);
    if (is_power_of_two(size)) {
        c->vm->up->mmio_write(c->vm->opaque, c->index, at, size, v & size_mask(size));
    } else {
        for (unsigned i = 0; i < size; i++)
            c->vm->up->mmio_write(c->vm->opaque, c->index, at + i, 1, v >> (8 * i) & 0xff);
    }
    tvm_enter(c);
}

// The address n bytes on: 32-bit linear addresses wrap.
static gva_t onward(const struct tcpu *c, gva_t at, unsigned n)
{
    return c->mode & MODE_LONG ? at + n : (uint32_t)(at + n);
}

static unsigned to_page_end(gva_t at)
{
    return (unsigned)(PAGE_SIZE - (at & PAGE_MASK));
}

// Within one page.
static uint64_t read_part(struct tcpu *c, gva_t at, unsigned size, bool user)
{
    struct translation t;
    translate(c, at, ACCESS_READ, user, &t);
    tag_set(c, &t, ACCESS_READ, user);
    if (c->watch)
        watch(c, at, size, ACCESS_READ);
    if (!t.host)
        return mmio_read(c, t.gpa + (at & PAGE_MASK), size);
    if (trying(c))
        return lockstep_read(c->lockstep, t.host + (at & PAGE_MASK), size);
    return host_load(t.host + (at & PAGE_MASK), size);
}

static void write_part(struct tcpu *c, gva_t at, unsigned size, bool user, uint64_t v)
{
    struct translation t;
    translate(c, at, ACCESS_WRITE, user, &t);
    if (c->watch)
        watch(c, at, size, ACCESS_WRITE);
    gpa_t gpa = t.gpa + (at & PAGE_MASK);
    if (!t.host || t.slot->rom) {
        mmio_write(c, gpa, size, v);
        return;
    }
    if (trying(c)) {
        lockstep_write(c->lockstep, t.host + (at & PAGE_MASK), size, v);
        return;
    }
    host_store(t.host + (at & PAGE_MASK), size, v);
    if (!tag_set(c, &t, ACCESS_WRITE, user)) {
        tvm_written(c->vm, c, gpa, size);
        tag_set(c, &t, ACCESS_WRITE, user); // the page may be plain now
    }
}

static __attribute__((noinline)) uint64_t read_slow(struct tcpu *c, gva_t at, unsigned size,
                                                    bool user)
{
    unsigned first = to_page_end(at);
    if (size <= first)
        return read_part(c, at, size, user);
    uint64_t low = read_part(c, at, first, user);
    return low | read_part(c, onward(c, at, first), size - first, user) << (8 * first);
}

static __attribute__((noinline)) void write_slow(struct tcpu *c, gva_t at, unsigned size, bool user,
                                                 uint64_t v)
{
    unsigned first = to_page_end(at);
    if (size <= first) {
        write_part(c, at, size, user, v);
        return;
    }
    struct translation t;
    translate(c, at, ACCESS_WRITE, user, &t); // both pages before either changes
    translate(c, onward(c, at, first), ACCESS_WRITE, user, &t);
    write_part(c, at, first, user, v);
    write_part(c, onward(c, at, first), size - first, user, v >> (8 * first));
}

static inline bool tagged(const uint64_t *tag, unsigned i, gva_t at, unsigned size)
{
    return tag[i] == align_down(at, PAGE_SIZE) && (at & PAGE_MASK) + size <= PAGE_SIZE;
}

static inline uint64_t read_as(struct tcpu *c, gva_t at, unsigned size, bool user)
{
    const struct tlb *t = &c->tlb[user];
    unsigned i = tlb_index(c, at);
    if (tagged(t->read, i, at, size))
        return host_load((const uint8_t *)(uintptr_t)(at + t->addend[i]), size);
    return read_slow(c, at, size, user);
}

static inline void write_as(struct tcpu *c, gva_t at, unsigned size, bool user, uint64_t v)
{
    const struct tlb *t = &c->tlb[user];
    unsigned i = tlb_index(c, at);
    if (tagged(t->write, i, at, size))
        host_store((uint8_t *)(uintptr_t)(at + t->addend[i]), size, v);
    else
        write_slow(c, at, size, user, v);
}

uint64_t mem_read(struct tcpu *c, gva_t at, unsigned size)
{
    return read_as(c, at, size, c->user);
}

void mem_write(struct tcpu *c, gva_t at, unsigned size, uint64_t value)
{
    write_as(c, at, size, c->user, value);
}

uint64_t mem_read_system(struct tcpu *c, gva_t at, unsigned size)
{
    return read_as(c, at, size, false);
}

void mem_write_system(struct tcpu *c, gva_t at, unsigned size, uint64_t value)
{
    write_as(c, at, size, false, value);
}

// --- larger operands -----------------------------------------------------------------------------

static uint64_t *tag_at(struct tcpu *c, gva_t at, enum access access)
{
    struct tlb *t = &c->tlb[c->user];
    unsigned i = tlb_index(c, at);
    return access == ACCESS_READ    ? &t->read[i]
           : access == ACCESS_WRITE ? &t->write[i]
                                    : &t->exec[i];
}

static void probe(struct tcpu *c, gva_t at, unsigned len, enum access access)
{
    while (len) {
        struct translation t;
        unsigned chunk = to_page_end(at) < len ? to_page_end(at) : len;
        if (*tag_at(c, at, access) != align_down(at, PAGE_SIZE))
            translate(c, at, access, c->user, &t);
        at = onward(c, at, chunk);
        len -= chunk;
    }
}

void mem_probe_write(struct tcpu *c, gva_t at, unsigned len)
{
    probe(c, at, len, ACCESS_WRITE);
}

void mem_probe_read(struct tcpu *c, gva_t at, unsigned len)
{
    probe(c, at, len, ACCESS_READ);
}

void mem_probe_exec(struct tcpu *c, gva_t at)
{
    probe(c, at, 1, ACCESS_EXEC);
}

static unsigned step_size(gva_t at, unsigned len)
{
    for (unsigned size = 8; size > 1; size /= 2) {
        if (len >= size && !(at & (size - 1)))
            return size;
    }
    return 1;
}

void mem_read_block(struct tcpu *c, gva_t at, void *out, unsigned len)
{
    uint8_t *p = out;
    probe(c, at, len, ACCESS_READ);
    while (len) {
        unsigned size = step_size(at, len);
        host_store(p, size, mem_read(c, at, size));
        p += size;
        at = onward(c, at, size);
        len -= size;
    }
}

void mem_write_block(struct tcpu *c, gva_t at, const void *in, unsigned len)
{
    const uint8_t *p = in;
    probe(c, at, len, ACCESS_WRITE);
    while (len) {
        unsigned size = step_size(at, len);
        mem_write(c, at, size, host_load(p, size));
        p += size;
        at = onward(c, at, size);
        len -= size;
    }
}

void *mem_host(struct tcpu *c, gva_t at, unsigned len, enum access access)
{
    if (len > to_page_end(at) || trying(c))
        return NULL;
    const uint64_t *addend = &c->tlb[c->user].addend[tlb_index(c, at)];
    if (*tag_at(c, at, access) != align_down(at, PAGE_SIZE) && !tlb_fill(c, at, access, c->user)) {
        struct translation x;
        translate(c, at, access, c->user, &x);
        if (!x.host || access != ACCESS_WRITE || x.slot->rom ||
            (c->watch && page_watched(c, x.page)))
            return NULL;
        tvm_written(c->vm, c, x.gpa + (at & PAGE_MASK), len); // marks it dirty, drops code
        if (!tag_set(c, &x, access, c->user))
            return NULL;
    }
    return (void *)(uintptr_t)(at + *addend);
}

void *mem_host_rmw(struct tcpu *c, gva_t at, unsigned len)
{
    if (len > to_page_end(at) || trying(c))
        return NULL;
    const struct tlb *tlb = &c->tlb[c->user];
    unsigned i = tlb_index(c, at);
    if (tlb->write[i] == align_down(at, PAGE_SIZE) && tlb->read[i] == align_down(at, PAGE_SIZE))
        return (void *)(uintptr_t)(at + tlb->addend[i]);
    struct translation t;
    translate(c, at, ACCESS_WRITE, c->user, &t); // read rights follow from write rights
    if (!t.host || t.slot->rom)
        return NULL;
    if (c->watch)
        watch(c, at, len, ACCESS_WRITE);
    if (tag_set(c, &t, ACCESS_WRITE, c->user)) {
        tag_set(c, &t, ACCESS_READ, c->user);
    } else {
        // The bytes change after this returns: say so now, and again at the next boundary for
        // readers that look in between.
        tvm_written(c->vm, c, t.gpa + (at & PAGE_MASK), len);
        c->rmw_at = t.gpa + (at & PAGE_MASK);
        c->rmw_len = (uint8_t)len;
        tcpu_pend(c, PENDING_INVALIDATE);
    }
    return t.host + (at & PAGE_MASK);
}

// --- code ----------------------------------------------------------------------------------------

void mem_copy_code(uint8_t *to, const uint8_t *host, unsigned len)
{
    unsigned in_word = (uintptr_t)host % sizeof(uint64_t);
    const uint64_t *from = (const uint64_t *)(const void *)(host - in_word);
    uint64_t word = 0;
    for (unsigned i = 0; i < len; i++, in_word++) {
        if (i == 0 || in_word % sizeof word == 0)
            word = __atomic_load_n(from++, __ATOMIC_RELAXED) >> in_word % sizeof word * 8;
        to[i] = (uint8_t)word;
        word >>= 8;
    }
}

static void fetch_part(struct tcpu *c, const struct translation *t, gva_t at, uint8_t *out,
                       unsigned len)
{
    unsigned offset = at & PAGE_MASK;
    if (t->host)
        mem_copy_code(out, t->host + offset, len);
    else
        for (unsigned i = 0; i < len; i++)
            out[i] = (uint8_t)mmio_read(c, t->gpa + offset + i, 1);
}

unsigned mem_fetch(struct tcpu *c, gva_t at, uint8_t *out)
{
    struct translation t;
    unsigned len = to_page_end(at) < INSN_MAX ? to_page_end(at) : INSN_MAX;
    translate(c, at, ACCESS_EXEC, c->user, &t);
    tag_set(c, &t, ACCESS_EXEC, c->user);
    fetch_part(c, &t, at, out, len);
    return len;
}

unsigned mem_fetch_on(struct tcpu *c, gva_t at, uint8_t *out, unsigned have)
{
    struct translation t;
    uint32_t error;
    gva_t next = onward(c, at, have);
    if (have == INSN_MAX || ((c->mode & MODE_LONG) && !is_canonical(next)) ||
        !translate_or(c, next, ACCESS_EXEC, c->user, &t, &error))
        return have;
    fetch_part(c, &t, next, out + have, INSN_MAX - have);
    return INSN_MAX;
}

gpa_t mem_code_gpa(struct tcpu *c, gva_t at, uint8_t **host_page)
{
    struct translation t;
    translate(c, at, ACCESS_EXEC, c->user, &t);
    tag_set(c, &t, ACCESS_EXEC, c->user);
    *host_page = t.host;
    return t.gpa + (at & PAGE_MASK);
}
