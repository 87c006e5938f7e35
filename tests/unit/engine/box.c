// The small machine of box.h.
#include "box.h"

#include <stdlib.h>
#include <sys/mman.h>

static uint64_t pio_read(void *opaque, unsigned vcpu, uint16_t port, unsigned size)
{
    return port;
}

static void pio_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint64_t value)
{
}

static uint64_t mmio_read(void *opaque, unsigned vcpu, gpa_t at, unsigned size)
{
    struct box *b = opaque;
    b->mmio_at = at;
    b->mmio_size = size;
    b->mmio_reads++;
    return b->mmio_value;
}

static void mmio_write(void *opaque, unsigned vcpu, gpa_t at, unsigned size, uint64_t value)
{
    struct box *b = opaque;
    b->mmio_at = at;
    b->mmio_size = size;
    b->mmio_value = value;
    b->mmio_writes++;
}

static err_t msr_read(void *opaque, unsigned vcpu, uint32_t msr, uint64_t *value)
{
    return ERR_NOT_FOUND;
}

static err_t msr_write(void *opaque, unsigned vcpu, uint32_t msr, uint64_t value)
{
    return ERR_NOT_FOUND;
}

static int intr_ack(void *opaque, unsigned vcpu)
{
    struct box *b = opaque;
    engine_translate.set_intr(b->vcpu, false);
    return b->vector;
}

static uint8_t cr8_read(void *opaque, unsigned vcpu)
{
    return 0;
}

static void cr8_write(void *opaque, unsigned vcpu, uint8_t value)
{
}

static const struct engine_upcalls upcalls = {.pio_read = pio_read,
                                              .pio_write = pio_write,
                                              .mmio_read = mmio_read,
                                              .mmio_write = mmio_write,
                                              .msr_read = msr_read,
                                              .msr_write = msr_write,
                                              .intr_ack = intr_ack,
                                              .cr8_read = cr8_read,
                                              .cr8_write = cr8_write};

static struct cpuid_leaf *leaf(struct cpuid_table *t, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < t->count; i++) {
        if (t->leaf[i].function == function && t->leaf[i].index == index)
            return &t->leaf[i];
    }
    t->leaf[t->count] = (struct cpuid_leaf){
        .function = function, .index = index, .has_index = function == 7 || function == 13};
    return &t->leaf[t->count++];
}

// A CPU that has what the tests speak of, with 40 physical address bits; Intel's, by name.
static void fill_cpuid(struct cpuid_table *t)
{
    static const struct {
        uint8_t feature;
        uint32_t function, index;
        uint8_t reg, bit;
    } all[] = {
#define ROW(id, name, fn, ix, r, b) {FEATURE_##id, fn, ix, r, b},
        CPU_FEATURES(ROW)
#undef ROW
    };
    t->vcpus = 1;
    struct cpuid_leaf *zero = leaf(t, 0, 0), *sizes;
    zero->eax = 13;
    zero->ebx = 0x756e6547, zero->edx = 0x49656e69, zero->ecx = 0x6c65746e;
    leaf(t, 0x80000000, 0)->eax = 0x80000008;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        unsigned f = all[i].feature;
        if (f == FEATURE_LA57 || f == FEATURE_SMAP || f == FEATURE_SVM || f == FEATURE_PKU ||
            (f >= FEATURE_AVX512F && all[i].function == 7 && all[i].bit != 18 && all[i].bit != 2))
            continue;
        struct cpuid_leaf *l = leaf(t, all[i].function, all[i].index);
        uint32_t *regs[] = {&l->eax, &l->ebx, &l->ecx, &l->edx};
        *regs[all[i].reg] |= (uint32_t)BIT(all[i].bit);
    }
    sizes = leaf(t, 0x80000008, 0);
    sizes->eax = 0x3028;
}

struct box *box_new(uint32_t debug)
{
    return box_new_caged(debug, NULL);
}

struct box *box_new_caged(uint32_t debug, struct cages *cages)
{
    struct box *b = aligned_alloc(64, align_up(sizeof *b, 64));
    struct cpuid_table *table = calloc(1, sizeof *table);
    memset(b, 0, sizeof *b);
    b->vector = -1;
    fill_cpuid(table);
    struct engine_vm_config config = {
        .vcpus = 1, .cpuid = table, .tsc_khz = 1000000, .debug = debug};
    struct error e = {0};
    if (ram_file_init(&b->file, BOX_RAM, &e)) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    b->ram = b->file.at;
    config.direct = cages;
    config.cages = cages;
    config.ram_fd = b->file.fd;
    config.ram_file = &b->file;
    config.ram_host = b->ram;
    config.ram_bytes = BOX_RAM;
    if (engine_translate.vm_new(&config, &upcalls, b, &b->vm, &e) ||
        engine_translate.map(b->vm, 0, BOX_RAM, b->ram, ENGINE_MAP_RAM, &e) ||
        engine_translate.vcpu_new(b->vm, 0, &b->vcpu, &e) ||
        engine_translate.vcpu_attach(b->vcpu, &e)) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    free(table);
    b->c = (struct tcpu *)(void *)b->vcpu;
    engine_translate.get(b->vcpu, ENGINE_ALL, &b->s);
    return b;
}

void box_free(struct box *b)
{
    engine_translate.vcpu_free(b->vcpu);
    engine_translate.vm_free(b->vm);
    ram_file_release(&b->file);
    free(b);
}

void box_put(struct box *b, uint64_t at, const void *bytes, size_t len)
{
    memcpy(b->ram + at, bytes, len);
    engine_translate.written(b->vm, at, len);
}

uint64_t box_read(struct box *b, uint64_t at, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, b->ram + at, size);
    return v;
}

void box_write(struct box *b, uint64_t at, unsigned size, uint64_t value)
{
    box_put(b, at, &value, size);
}

void box_gdt(struct box *b, unsigned selector, uint32_t base, uint32_t limit, unsigned attr)
{
    uint64_t d = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
                 (uint64_t)(attr & 0xff) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
                 (uint64_t)(attr >> 12 & 15) << 52 | (uint64_t)(base >> 24) << 56;
    box_write(b, BOX_GDT + selector, 8, d);
}

void box_gate(struct box *b, unsigned vector, unsigned type_dpl, unsigned selector, uint32_t offset)
{
    bool wide = b->s.efer & EFER_LMA;
    uint64_t low = (offset & 0xffff) | selector << 16 | (uint64_t)type_dpl << 40 |
                   (uint64_t)(offset >> 16) << 48;
    box_write(b, BOX_IDT + vector * (wide ? 16 : 8), 8, low);
    if (wide)
        box_write(b, BOX_IDT + vector * 16 + 8, 8, 0);
}

static struct cpu_segment segment(unsigned selector, unsigned attr, uint32_t limit)
{
    return (struct cpu_segment){
        .limit = limit, .selector = (uint16_t)selector, .attr = (uint16_t)attr};
}

static void handlers(struct box *b, unsigned type_dpl)
{
    for (unsigned v = 0; v < 64; v++) {
        box_gate(b, v, type_dpl, SEL_CODE, BOX_HANDLER + 16 * v);
        box_write(b, BOX_HANDLER + 16 * v, 1, 0xf4);
    }
    b->s.idtr = (struct cpu_table){.base = BOX_IDT, .limit = 0x7ff};
    b->s.gdtr = (struct cpu_table){.base = BOX_GDT, .limit = 0xff};
}

static void begin(struct box *b)
{
    cpu_state_reset(&b->s, true, 0);
    b->s.rip = BOX_CODE;
    b->s.gpr[RSP] = BOX_STACK;
}

void box_real(struct box *b)
{
    begin(b);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        b->s.seg[i] = segment(0, i == SEG_CS ? 0x9b : 0x93, 0xffff);
    b->s.idtr = (struct cpu_table){.base = 0, .limit = 0x3ff};
    for (unsigned v = 0; v < 64; v++) {
        box_write(b, v * 4, 4, BOX_HANDLER + 16 * v);
        box_write(b, BOX_HANDLER + 16 * v, 1, 0xf4);
    }
}

static void segments(struct box *b, unsigned code_attr)
{
    unsigned user_code = code_attr | 0x60;
    box_gdt(b, SEL_CODE, 0, 0xfffff, code_attr);
    box_gdt(b, SEL_DATA, 0, 0xfffff, 0xc093);
    box_gdt(b, SEL_UCODE, 0, 0xfffff, user_code);
    box_gdt(b, SEL_UDATA, 0, 0xfffff, 0xc0f3);
    box_gdt(b, SEL_CODE16, 0, 0xffff, 0x009b);
    box_gdt(b, SEL_TSS, BOX_TSS, 0x6fff, 0x008b);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        b->s.seg[i] = segment(SEL_DATA, 0xc093, 0xffffffff);
    b->s.seg[SEG_CS] = segment(SEL_CODE, code_attr, 0xffffffff);
    b->s.tr = segment(SEL_TSS, 0x8b, 0x6f);
    b->s.tr.base = BOX_TSS;
}

void box_protected(struct box *b)
{
    begin(b);
    b->s.cr0 = CR0_PE | CR0_ET | CR0_NE;
    segments(b, 0xc09b);
    handlers(b, 0x8e);
    box_write(b, BOX_TSS + 4, 4, BOX_STACK);
    box_write(b, BOX_TSS + 8, 4, SEL_DATA);
    box_write(b, BOX_TSS + 102, 2, 0x68);
}

uint64_t *box_pte(struct box *b, gva_t at)
{
    return (uint64_t *)(void *)(b->ram + BOX_TABLES + 0x3000) + (at >> 12);
}

void box_long(struct box *b)
{
    begin(b);
    b->s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
    b->s.cr4 = CR4_PAE | CR4_PGE;
    b->s.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    b->s.cr3 = BOX_TABLES;
    for (unsigned level = 0; level < 3; level++)
        box_write(b, BOX_TABLES + 0x1000 * level, 8, (BOX_TABLES + 0x1000 * (level + 1)) | 7);
    for (unsigned i = 0; i < 512; i++)
        *box_pte(b, (gva_t)i << 12) = (uint64_t)i << 12 | 7;
    segments(b, 0xa09b);
    handlers(b, 0x8e);
    box_write(b, BOX_GDT + SEL_TSS + 8, 8, 0);
    box_write(b, BOX_TSS + 4, 8, BOX_STACK);
    box_write(b, BOX_TSS + 36, 8, 0x5000); // IST 1
    box_write(b, BOX_TSS + 102, 2, 0x68);
}

void box_ring3(struct box *b)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        b->s.seg[i] = segment(SEL_UDATA | 3, 0xc0f3, 0xffffffff);
    b->s.seg[SEG_CS] = segment(SEL_UCODE | 3, b->s.efer & EFER_LMA ? 0xa0fb : 0xc0fb, 0xffffffff);
    b->s.gpr[RSP] = BOX_USTACK;
}

enum engine_exit box_run(struct box *b, const void *code, size_t len)
{
    struct error e = {0};
    b->s.activity = CPU_RUNNING;
    if (len)
        box_put(b, b->s.seg[SEG_CS].base + b->s.rip, code, len);
    if (engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e)) {
        printf("# the state is refused: %s\n", e.text);
        test_failures++;
        return ENGINE_FAILED;
    }
    enum engine_exit exit = engine_translate.run(b->vcpu);
    engine_translate.get(b->vcpu, ENGINE_ALL, &b->s);
    return exit;
}

int box_stopped_in(const struct box *b)
{
    uint64_t offset = b->s.rip - 1 - BOX_HANDLER;
    return offset < 64 * 16 && offset % 16 == 0 ? (int)(offset / 16) : -1;
}

uint64_t box_access(struct box *b, gva_t at, enum access access, bool user)
{
    struct tcpu *c = b->c;
    struct error e = {0};
    if (engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e)) {
        printf("# the state is refused: %s\n", e.text);
        test_failures++;
        return ~0ull - 1;
    }
    tvm_enter(c);
    c->s.event_pending = 0;
    if (setjmp(c->unwind) == 0) {
        c->user = user;
        if (access == ACCESS_READ)
            mem_read(c, at, 1);
        else if (access == ACCESS_WRITE)
            mem_write(c, at, 1, 0x5a);
        else
            mem_probe_exec(c, at);
    }
    tvm_leave(c);
    if (!c->s.event_pending)
        return 0;
    c->s.event_pending = 0;
    return c->s.event_vector == VEC_PF ? 1 + c->s.event_error : ~0ull;
}
