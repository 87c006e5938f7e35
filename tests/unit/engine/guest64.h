// A tiny 64-bit guest for tests of the translator: 2 MiB of identity-mapped memory, which are at
// two addresses far up as well (GUEST_HIGH), where kernels have them, an interrupt table whose
// handlers halt, and code given as bytes. Runs until HLT in one of the engine's modes.
//
//   0x1000 page tables   0x6000 IDT   0x7000 handlers (16 bytes each)   0x8000 TSS-free GDT
//   0x10000 code         0x20000 stack top         0x30000..0x3ffff data
#pragma once

#include <stdlib.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "engine/engine.h"
#include "host/cage.h"
#include "host/ram_file.h"

#define GUEST_BYTES (2 * MIB)
#define GUEST_GUARD (16 * MIB)
#define GUEST_CODE 0x10000u
#define GUEST_STACK 0x20000u
#define GUEST_DATA 0x30000u
#define GUEST_HANDLERS 0x7000u
#define GUEST_HIGH(n) (0xffffffff81000000u + (n)*0x200000u) // 0 or 1

struct guest {
    uint8_t *ram;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct cpu_state state; // before and after a run
    struct ram_file file;   // where `ram` is, if the guest has cages
};

// Guests are shown GFNI, whether the host has it or not.
static bool guest_claims_gfni;
static const char *guest_translations; // file of the next guest
static struct cages *guest_cages;      // of the next guest, for direct execution

static uint64_t guest_mmio_read(void *opaque, unsigned vcpu, gpa_t at, unsigned size)
{
    return 0x1122334455667788 ^ at;
}

static void guest_mmio_write(void *opaque, unsigned vcpu, gpa_t at, unsigned size, uint64_t value)
{
}

static uint64_t guest_pio_read(void *opaque, unsigned vcpu, uint16_t port, unsigned size)
{
    return port;
}

static void guest_pio_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size,
                            uint64_t value)
{
}

static err_t guest_msr_read(void *opaque, unsigned vcpu, uint32_t msr, uint64_t *value)
{
    return ERR_NOT_FOUND;
}

static err_t guest_msr_write(void *opaque, unsigned vcpu, uint32_t msr, uint64_t value)
{
    return ERR_NOT_FOUND;
}

static int guest_intr_ack(void *opaque, unsigned vcpu)
{
    struct guest *g = opaque;
    engine_translate.set_intr(g->vcpu, false);
    return 0x21;
}

static uint8_t guest_cr8_read(void *opaque, unsigned vcpu)
{
    return 0;
}

static void guest_cr8_write(void *opaque, unsigned vcpu, uint8_t value)
{
}

static const struct engine_upcalls guest_upcalls = {
    .pio_read = guest_pio_read,
    .pio_write = guest_pio_write,
    .mmio_read = guest_mmio_read,
    .mmio_write = guest_mmio_write,
    .msr_read = guest_msr_read,
    .msr_write = guest_msr_write,
    .intr_ack = guest_intr_ack,
    .cr8_read = guest_cr8_read,
    .cr8_write = guest_cr8_write,
};

static inline void guest_tables(struct guest *g)
{
    store_le64(g->ram + 0x1000, 0x2000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x2000, 0x3000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x3000, 0x4000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x1000 + 8 * 511, 0x2000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x2000 + 8 * 510, 0x3000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x3000 + 8 * 8, 0x4000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x3000 + 8 * 9, 0x4000 | PTE_P | PTE_W | PTE_U);
    for (uint64_t i = 0; i < 512; i++) // 4 KiB pages; the last 64 lead to MMIO
        store_le64(g->ram + 0x4000 + 8 * i,
                   (i < 448 ? i << 12 : 0x80000000 + (i << 12)) | PTE_P | PTE_W | PTE_U);
    for (uint64_t i = 0; i < 256; i++) {
        uint64_t handler = GUEST_HANDLERS + 16 * i;
        store_le64(g->ram + 0x6000 + 16 * i,
                   (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (handler >> 16) << 48);
        g->ram[handler] = 0xf4; // hlt
    }
    store_le64(g->ram + 0x8008, 0x00af9b000000ffff);
    store_le64(g->ram + 0x8010, 0x00cf93000000ffff);
    store_le64(g->ram + 0x8018, 0x00cf9b000000ffff); // 32-bit code
}

static inline struct cpu_segment guest_segment(unsigned selector, unsigned attr)
{
    return (struct cpu_segment){
        .base = 0, .limit = ~0u, .selector = (uint16_t)selector, .attr = (uint16_t)attr};
}

static inline void guest_registers(struct guest *g, bool code64)
{
    struct cpu_state *s = &g->state;
    cpu_state_reset(s, true, 0x600);
    s->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_WP | CR0_MP | CR0_ET;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    s->cr3 = 0x1000;
    s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = guest_segment(0x10, 0xc093);
    s->seg[SEG_CS] = code64 ? guest_segment(8, 0xa09b) : guest_segment(0x18, 0xc09b);
    s->gdtr = (struct cpu_table){.base = 0x8000, .limit = 0x1f};
    s->idtr = (struct cpu_table){.base = 0x6000, .limit = 0xfff};
    store_le16(s->xsave, 0x37f); // as FNINIT leaves it
    s->rip = GUEST_CODE;
    s->rflags = FLAG_FIXED;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = GUEST_DATA + 0x1000 + 64 * i;
    s->gpr[RSP] = GUEST_STACK;
}

// The guest begins in ring 3; what halts or faults there halts in ring 0.
static inline void guest_user(struct guest *g, bool code64)
{
    struct cpu_state *s = &g->state;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = guest_segment(0x33, 0xc0f3);
    s->seg[SEG_CS] = code64 ? guest_segment(0x2b, 0xa0fb) : guest_segment(0x3b, 0xc0fb);
    s->tr = (struct cpu_segment){.base = 0x8100, .limit = 0x67, .selector = 0x40, .attr = 0x8b};
    store_le64(g->ram + 0x8104, GUEST_STACK + 0x3000);
}

// The guest begins in ring 3, with selectors as 64-bit Linux has them.
static inline void guest_linux_user(struct guest *g)
{
    static const uint64_t descriptor[] = {0x00cffb000000ffff, 0x00cff3000000ffff,
                                          0x00affb000000ffff};
    guest_user(g, true);
    struct cpu_state *s = &g->state;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct cpu_segment){0};
    s->seg[SEG_CS] = guest_segment(0x33, 0xa0fb);
    s->seg[SEG_SS] = guest_segment(0x2b, 0xc0f3);
    memcpy(g->ram + 0x8020, descriptor, sizeof descriptor);
    s->gdtr.limit = 0x37;
    s->rflags |= FLAG_IF;
}

// Guarded: a stray access near the guest's memory is noticed.
static inline uint8_t *guest_memory(void)
{
    uint8_t *reserved =
        mmap(NULL, GUEST_BYTES + 2 * GUEST_GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(reserved + GUEST_GUARD, GUEST_BYTES, PROT_READ | PROT_WRITE);
    return reserved + GUEST_GUARD;
}

// The caller makes all vCPUs but the first.
static inline bool guest_init_smp(struct guest *g, uint32_t debug, bool code64, unsigned vcpus)
{
    struct error e = {0};
    *g = (struct guest){0};
    if (guest_cages && ram_file_init(&g->file, GUEST_BYTES, &e)) {
        printf("# %s\n", e.text);
        return false;
    }
    g->ram = guest_cages ? g->file.at : guest_memory();
    struct cpuid_table host, *table = calloc(1, sizeof *table);
    struct cpuid_request request = {.model = "max", .vcpus = vcpus, .tsc_khz = 1000000};
    cpuid_read_host(&host);
    for (uint32_t i = 0; i < host.count; i++)
        if (host.leaf[i].function == 7 && host.leaf[i].index == 0)
            host.leaf[i].ecx |= guest_claims_gfni ? 1u << 8 : 0;
    if (cpuid_build(&request, &host, table, &e) != OK) {
        printf("# %s\n", e.text);
        return false;
    }
    struct engine_vm_config config = {.vcpus = vcpus,
                                      .cpuid = table,
                                      .tsc_khz = 1000000,
                                      .debug = debug,
                                      .translation_cache = guest_translations,
                                      .direct = guest_cages,
                                      .cages = guest_cages,
                                      .ram_fd = guest_cages ? g->file.fd : -1,
                                      .ram_file = &g->file,
                                      .ram_host = g->ram,
                                      .ram_bytes = GUEST_BYTES};
    bool ok = engine_translate.vm_new(&config, &guest_upcalls, g, &g->vm, &e) == OK &&
              engine_translate.map(g->vm, 0, GUEST_BYTES, g->ram, ENGINE_MAP_RAM, &e) == OK &&
              engine_translate.vcpu_new(g->vm, 0, &g->vcpu, &e) == OK &&
              engine_translate.vcpu_attach(g->vcpu, &e) == OK;
    free(table);
    if (!ok)
        printf("# %s\n", e.text);
    guest_tables(g);
    guest_registers(g, code64);
    return ok;
}

static inline bool guest_init(struct guest *g, uint32_t debug, bool code64)
{
    return guest_init_smp(g, debug, code64, 1);
}

static inline void guest_code(struct guest *g, const void *code, size_t len)
{
    memcpy(g->ram + GUEST_CODE, code, len);
    engine_translate.written(g->vm, GUEST_CODE, len);
}

// Component images that XSTATE_BV calls initial are what they are, however they came to be so.
static inline void guest_settle_xsave(struct cpu_state *s)
{
    uint64_t bv = load_le64(s->xsave + 512);
    if (!(bv & XCR0_X87)) {
        memset(s->xsave, 0, 24);
        memset(s->xsave + 32, 0, 128);
        store_le16(s->xsave, 0x37f);
    }
    if (!(bv & XCR0_SSE))
        memset(s->xsave + 160, 0, 256);
    if (!(bv & XCR0_AVX))
        memset(s->xsave + 576, 0, 256);
    memset(s->xsave + 6, 0, 18); // the last x87 instruction: lost when the host switches threads
    memset(s->xsave + 28, 0, 4); // MXCSR_MASK
    memset(s->xsave + 512, 0, 64);
}

// Runs from g->state until HLT; the state after it is in g->state.
static inline enum engine_exit guest_run(struct guest *g)
{
    struct error e = {0};
    if (engine_translate.set(g->vcpu, ENGINE_ALL, &g->state, &e) != OK) {
        printf("# %s\n", e.text);
        return ENGINE_FAILED;
    }
    enum engine_exit exit = engine_translate.run(g->vcpu);
    engine_translate.get(g->vcpu, ENGINE_ALL, &g->state);
    guest_settle_xsave(&g->state);
    if (exit == ENGINE_FAILED)
        printf("# %s\n", engine_translate.vcpu_error(g->vcpu));
    return exit;
}

static inline void guest_release(struct guest *g)
{
    engine_translate.vcpu_free(g->vcpu);
    engine_translate.vm_free(g->vm);
    if (g->file.at)
        ram_file_release(&g->file);
    else
        munmap(g->ram - GUEST_GUARD, GUEST_BYTES + 2 * GUEST_GUARD);
}

static inline uint64_t guest_counter(struct guest *g, const char *name)
{
    struct engine_counter counter[64];
    unsigned n = engine_translate.counters(g->vm, counter, 64);
    for (unsigned i = 0; i < n && i < 64; i++)
        if (strcmp(counter[i].name, name) == 0)
            return counter[i].value;
    return 0;
}

// Assembles `text` into name_start..name_end.
#define SNIPPET(name, text)                                                         \
    extern const uint8_t name##_start[], name##_end[];                              \
    __asm__(".pushsection .rodata\n.intel_syntax noprefix\n" #name "_start:\n" text \
            "\nhlt\n" #name "_end:\n.att_syntax\n.popsection\n")
