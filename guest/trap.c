// Traps of both flavours: the IDT, the task state segment for ring 3, handlers, and try_call().

#include "guest.h"

#define USER_VECTOR 0x80

extern u8 trap_entries[];
extern u8 idt[];
extern u8 idt_pointer[];
unsigned try_enter(void (*fn)(void *), void *arg);
_Noreturn void trap_unwind(void);
void trap_init(void);
void trap_dispatch(struct frame *f);

static trap_handler *handlers[256];
static struct trap caught;
static bool trying;
static u8 trap_stack[2][8192] __attribute__((aligned(16))); // from ring 3; double faults
static u32 tss[26 + 32 / 4]; // 104 bytes, then the interrupt redirection map of V86 mode

#ifdef __x86_64__
static void gate(unsigned vector, word entry, unsigned dpl, unsigned ist)
{
    u64 *p = (u64 *)(idt + 16 * vector);
    p[0] = (entry & 0xffff) | SEL_CODE << 16 | (u64)ist << 32 | (u64)(0x8e | dpl << 5) << 40 |
           (entry >> 16 & 0xffff) << 48;
    p[1] = entry >> 32;
}

static void init_tss(void)
{
    *(u64 *)(void *)((u8 *)tss + 4) = (u64)(trap_stack[0] + sizeof trap_stack[0]);
    *(u64 *)(void *)((u8 *)tss + 36) = (u64)(trap_stack[1] + sizeof trap_stack[1]);
    gate(8, (word)(trap_entries + 16 * 8), 0, 1);
}
#else
static void gate(unsigned vector, word entry, unsigned dpl, unsigned ist)
{
    u32 *p = (u32 *)(void *)(idt + 8 * vector);
    (void)ist;
    p[0] = (entry & 0xffff) | SEL_CODE << 16;
    p[1] = (entry & 0xffff0000) | (0x8e00 | dpl << 13);
}

static void init_tss(void)
{
    tss[1] = (u32)(trap_stack[0] + sizeof trap_stack[0]);
    tss[2] = SEL_DATA;
}
#endif

void trap_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        gate(i, (word)(trap_entries + 16 * i), i == USER_VECTOR || i == 3 ? 3 : 0, 0);
    }
    init_tss();
    tss[25] = 0xffff0000; // I/O map base beyond the limit: no ports for ring 3
    u64 base = (word)tss;
    gdt[SEL_TSS / 8] = 103 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_TSS / 8 + 1] = base >> 32;
    __asm__ volatile("lidt (%0)" ::"r"(idt_pointer));
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
}

void trap_set(unsigned vector, trap_handler *handler)
{
    handlers[vector] = handler;
}

void trap_dispatch(struct frame *f)
{
    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    if (trying) {
        trying = false;
        caught = (struct trap){f->vector, f->error, read_cr2(), f->ip, f->flags, f->cs};
        trap_unwind();
    }
    print("# unexpected trap %u, error 0x%lx, ip 0x%lx, cr2 0x%lx\nnot ok\n", (unsigned)f->vector,
          f->error, f->ip, read_cr2());
    machine_exit(2);
}

unsigned try_call(void (*fn)(void *), void *arg, struct trap *out)
{
    trying = true;
    unsigned trapped = try_enter(fn, arg);
    trying = false;
    if (trapped && out) {
        *out = caught;
    }
    return trapped ? caught.vector : NO_TRAP;
}
