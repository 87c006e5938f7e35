// Runs test cases under an engine: a long-mode guest with the world's pages at the world's
// addresses, user segments as Linux has them, and an interrupt table whose handlers halt on a stack
// of their own.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "engine/engine.h"
#include "oracle.h"

#define RAM_BYTES 0x80000u
#define TABLES 0x1000u // PML4, PDPT, then page directories and tables
#define IDT 0x10000u
#define HANDLERS 0x12000u
#define GDT 0x14000u
#define TSS 0x15000u
#define IST_TOP 0x18000u
#define CODE_GPA 0x40000u
#define DATA_GPA 0x50000u
#define READ_ONLY_GPA 0x54000u

struct guest {
    const struct engine *engine;
    uint8_t *ram;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct cpu_state start; // of every case, before its registers
    uint8_t data[WORLD_DATA_BYTES];
    unsigned tables; // page-table pages in use
    bool avx512;
};

static uint64_t no_pio(void *opaque, unsigned vcpu, uint16_t port, unsigned size)
{
    return ~0ull;
}

static void no_pio_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint64_t value)
{
}

static uint64_t no_mmio(void *opaque, unsigned vcpu, gpa_t at, unsigned size)
{
    return ~0ull;
}

static void no_mmio_write(void *opaque, unsigned vcpu, gpa_t at, unsigned size, uint64_t value)
{
}

static err_t no_msr(void *opaque, unsigned vcpu, uint32_t msr, uint64_t *value)
{
    return ERR_NOT_FOUND;
}

static err_t no_msr_write(void *opaque, unsigned vcpu, uint32_t msr, uint64_t value)
{
    return ERR_NOT_FOUND;
}

static int no_interrupt(void *opaque, unsigned vcpu)
{
    return -1;
}

static uint8_t cr8_read(void *opaque, unsigned vcpu)
{
    return 0;
}

static void cr8_write(void *opaque, unsigned vcpu, uint8_t value)
{
}

static void no_adjust(void *opaque, unsigned vcpu, uint64_t value)
{
}

static const struct engine_upcalls upcalls = {
    .pio_read = no_pio,
    .pio_write = no_pio_write,
    .mmio_read = no_mmio,
    .mmio_write = no_mmio_write,
    .msr_read = no_msr,
    .msr_write = no_msr_write,
    .tsc_adjusted = no_adjust,
    .intr_ack = no_interrupt,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
};

// Maps one 4-KiB page; makes the tables above it as needed.
static void map_page(struct guest *g, uint64_t linear, uint64_t gpa, uint64_t flags)
{
    uint64_t table = TABLES;
    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint8_t *entry = g->ram + table + 8 * (linear >> shift & 511);
        if (!(load_le64(entry) & PTE_P))
            store_le64(entry, (TABLES + 4096 * ++g->tables) | PTE_P | PTE_W | PTE_U);
        table = load_le64(entry) & ~4095ull;
    }
    store_le64(g->ram + table + 8 * (linear >> 12 & 511), gpa | flags | PTE_P);
}

static void make_tables(struct guest *g)
{
    for (uint64_t at = IDT; at < IST_TOP; at += PAGE)
        map_page(g, at, at, PTE_W);
    map_page(g, WORLD_CODE, CODE_GPA, PTE_W | PTE_U);
    map_page(g, WORLD_DATA, DATA_GPA, PTE_W | PTE_U);
    map_page(g, WORLD_DATA + PAGE, DATA_GPA + PAGE, PTE_W | PTE_U);
    map_page(g, WORLD_READ_ONLY, READ_ONLY_GPA, PTE_U);
    for (uint64_t v = 0; v < 256; v++) {
        uint64_t handler = HANDLERS + 16 * v;
        store_le64(g->ram + IDT + 16 * v,
                   (handler & 0xffff) | 8 << 16 | 0xee01ull << 32 | (handler >> 16) << 48);
        g->ram[handler] = 0xf4;
    }
    store_le64(g->ram + GDT + 8, 0x00af9b000000ffff);
    store_le64(g->ram + GDT + SELECTOR_CODE32 - 3, 0x00cffb000000ffff);
    store_le64(g->ram + GDT + SELECTOR_DATA - 3, 0x00cff3000000ffff);
    store_le64(g->ram + GDT + SELECTOR_CODE64 - 3, 0x00affb000000ffff);
    store_le64(g->ram + TSS + 4, IST_TOP);
    store_le64(g->ram + TSS + 0x24, IST_TOP);
    store_le16(g->ram + TSS + 0x66, 0x68); // no I/O permission bitmap
}

static struct cpu_segment user_segment(unsigned selector, unsigned attr)
{
    return (struct cpu_segment){
        .limit = ~0u, .selector = (uint16_t)selector, .attr = (uint16_t)attr};
}

static void make_start(struct guest *g)
{
    struct cpu_state *s = &g->start;
    cpu_state_reset(s, true, 0x600);
    s->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_WP | CR0_MP | CR0_ET | CR0_AM;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    s->xcr0 = world_components(g->avx512);
    s->cr3 = TABLES;
    s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = user_segment(SELECTOR_DATA, 0xc0f3);
    s->seg[SEG_FS] = s->seg[SEG_GS] = (struct cpu_segment){0};
    s->ldtr = (struct cpu_segment){0};
    s->gdtr = (struct cpu_table){.base = GDT, .limit = 0x7f};
    s->idtr = (struct cpu_table){.base = IDT, .limit = 0xfff};
    s->tr = (struct cpu_segment){
        .base = TSS, .limit = 0x67, .selector = 0x40, .attr = SEGA_P | SYS_TSS_BUSY};
}

static bool make_vm(struct guest *g, uint32_t debug, struct error *e)
{
    struct cpuid_table host, *table = calloc(1, sizeof *table);
    struct cpuid_request request = {.vcpus = 1, .tsc_khz = 1000000};
    cpuid_read_host(&host);
    bool ok = table && cpuid_build(&request, &host, table, e) == OK;
    struct feature_set features;
    if (ok)
        cpuid_features(table, &features);
    g->avx512 = ok && feature_has(&features, FEATURE_AVX512F);
    struct engine_vm_config config = {
        .vcpus = 1, .cpuid = table, .tsc_khz = 1000000, .debug = debug};
    ok = ok && g->engine->vm_new(&config, &upcalls, g, &g->vm, e) == OK &&
         g->engine->map(g->vm, 0, RAM_BYTES, g->ram, ENGINE_MAP_RAM, e) == OK &&
         g->engine->vcpu_new(g->vm, 0, &g->vcpu, e) == OK &&
         g->engine->vcpu_attach(g->vcpu, e) == OK;
    free(table);
    return ok;
}

struct guest *guest_new(const struct engine *engine, uint32_t debug)
{
    struct error e = {0};
    struct guest *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->engine = engine;
    g->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->ram == MAP_FAILED || !make_vm(g, debug, &e)) {
        printf("# %s\n", e.text);
        return NULL;
    }
    make_tables(g);
    make_start(g);
    world_data(g->data);
    memcpy(g->ram + READ_ONLY_GPA, g->data, PAGE);
    g->engine->written(g->vm, 0, RAM_BYTES);
    return g;
}

static void enter(struct guest *g, const struct test_case *c, struct cpu_state *s)
{
    memset(g->ram + CODE_GPA + CODE_BYTES, 0xcc, PAGE - CODE_BYTES);
    memcpy(g->ram + CODE_GPA, c->code, CODE_BYTES);
    memcpy(g->ram + DATA_GPA, g->data, WORLD_DATA_BYTES);
    memcpy(g->ram + DATA_GPA + c->patch_at, c->patch, c->patch_len);
    g->engine->written(g->vm, CODE_GPA, PAGE);
    g->engine->written(g->vm, DATA_GPA, WORLD_DATA_BYTES);
    *s = g->start;
    memcpy(s->gpr, c->in.gpr, sizeof s->gpr);
    s->rip = c->in.rip;
    s->rflags = c->in.rflags;
    s->seg[SEG_CS] = c->mode == 8 ? user_segment(SELECTOR_CODE64, 0xa0fb)
                                  : user_segment(SELECTOR_CODE32, 0xc0fb);
    memcpy(s->xsave, c->in.xsave, XSAVE_BYTES);
}

// The handler halted; the interrupted registers are in its frame.
static bool capture(struct guest *g, struct test_case *c, const struct cpu_state *s)
{
    struct outcome *o = &c->guest;
    uint64_t vector = (s->rip - 1 - HANDLERS) / 16, sp = s->gpr[RSP];
    if (vector > 255 || (sp != IST_TOP - 40 && sp != IST_TOP - 48))
        return false;
    bool has_error = sp == IST_TOP - 48;
    const uint8_t *frame = g->ram + sp + (has_error ? 8 : 0);
    memcpy(o->regs.gpr, s->gpr, sizeof o->regs.gpr);
    o->regs.gpr[RSP] = load_le64(frame + 24);
    o->regs.rip = load_le64(frame);
    o->regs.rflags = load_le64(frame + 16);
    memcpy(o->regs.xsave, s->xsave, XSAVE_BYTES);
    o->vector = (uint32_t)vector;
    o->error = has_error ? load_le32(g->ram + sp) : 0;
    o->cr2 = s->cr2;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        o->selector[i] = s->seg[i].selector;
    o->selector[SEG_CS] = load_le16(frame + 8);
    o->selector[SEG_SS] = load_le16(frame + 32);
    memcpy(o->data, g->ram + DATA_GPA, WORLD_DATA_BYTES);
    return true;
}

bool guest_run(struct guest *g, struct test_case *c)
{
    struct cpu_state s;
    struct error e = {0};
    enter(g, c, &s);
    if (g->engine->set(g->vcpu, ENGINE_ALL, &s, &e) != OK) {
        printf("# %s\n", e.text);
        return false;
    }
    enum engine_exit exit = g->engine->run(g->vcpu);
    g->engine->get(g->vcpu, ENGINE_ALL, &s);
    if (exit != ENGINE_HALTED || !capture(g, c, &s)) {
        printf("# the engine stopped with exit %d at rip %#llx: %s\n", exit,
               (unsigned long long)s.rip,
               exit == ENGINE_FAILED ? g->engine->vcpu_error(g->vcpu) : "");
        return false;
    }
    return true;
}

void guest_free(struct guest *g)
{
    if (!g)
        return;
    g->engine->vcpu_free(g->vcpu);
    g->engine->vm_free(g->vm);
    munmap(g->ram, RAM_BYTES);
    free(g);
}
