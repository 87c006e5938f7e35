// The runtime of test guests: small kernels, one for each property of the machine or the processor,
// started by a multiboot or PVH loader. They report in TAP on COM1 and end through the debug-exit
// port. There is one 64-bit flavour (4 GiB mapped one to one with 2 MiB pages) and one 32-bit one
// (no paging).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef unsigned long word; // a register

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

// --- Tests ---------------------------------------------------------------------------------------

struct test {
    const char *name;
    void (*run)(void);
};

#define TEST(fn) \
    {            \
#fn, fn  \
    }
#define TESTS(...) const struct test tests[] = {__VA_ARGS__, {NULL, NULL}}
extern const struct test tests[]; // each guest defines it

void test_failed(const char *file, int line, const char *what);
void test_differs(const char *file, int line, const char *what, u64 got, u64 want);
void test_skip(const char *why); // says so; the caller returns

#define CHECK(cond) ((cond) ? (void)0 : test_failed(__FILE__, __LINE__, #cond))
#define CHECK_EQ(got, want)                                      \
    do {                                                         \
        u64 got_ = (u64)(got), want_ = (u64)(want);              \
        if (got_ != want_)                                       \
            test_differs(__FILE__, __LINE__, #got, got_, want_); \
    } while (0)

// --- Output, the end -----------------------------------------------------------------------------

void print(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));   // %s %c %d %u %x, l, ll; %lx
_Noreturn void machine_exit(unsigned value); // status (value << 1) | 1

// --- What the loader said ------------------------------------------------------------------------

#define MULTIBOOT_MAGIC 0x2badb002
#define PVH_MAGIC 0x336ec578

extern u32 boot_magic;
extern u32 boot_info; // physical address
const char *boot_cmdline(void);
bool boot_option(const char *word); // one of the command line's words

// --- Ports, registers ----------------------------------------------------------------------------

static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u16 inw(u16 port)
{
    u16 v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u32 inl(u16 port)
{
    u32 v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(u16 port, u16 v)
{
    __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(u16 port, u32 v)
{
    __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}

static inline u32 read32(u64 at)
{
    return *(volatile u32 *)(word)at;
}
static inline void write32(u64 at, u32 v)
{
    *(volatile u32 *)(word)at = v;
}
static inline u64 read64(u64 at)
{
    return *(volatile u64 *)(word)at;
}
static inline void write64(u64 at, u64 v)
{
    *(volatile u64 *)(word)at = v;
}

static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 msr, u64 v)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

struct cpuid {
    u32 eax, ebx, ecx, edx;
};
static inline struct cpuid cpuid(u32 function, u32 index)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(function), "c"(index));
    return r;
}

#define CR_ACCESSORS(n)                                             \
    static inline word read_cr##n(void)                             \
    {                                                               \
        word v;                                                     \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory"); \
        return v;                                                   \
    }                                                               \
    static inline void write_cr##n(word v)                          \
    {                                                               \
        __asm__ volatile("mov %0, %%cr" #n ::"r"(v) : "memory");    \
    }
CR_ACCESSORS(0)
CR_ACCESSORS(2)
CR_ACCESSORS(3)
CR_ACCESSORS(4)

static inline void invlpg(word at)
{
    __asm__ volatile("invlpg (%0)" ::"r"(at) : "memory");
}
static inline void sti(void)
{
    __asm__ volatile("sti" ::: "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" ::: "memory");
}
static inline void sti_hlt_cli(void) // waits for one interrupt, without a race
{
    __asm__ volatile("sti; hlt; cli" ::: "memory");
}
static inline void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

// --- Traps ---------------------------------------------------------------------------------------

struct frame {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8;
#endif
    word di, si, bp, sp_unused, bx, dx, cx, ax;
    word vector, error;
    word ip, cs, flags;
    word sp, ss; // 32-bit: only when the trap came from ring 3 or V86
};

typedef void trap_handler(struct frame *f);

// Called for this vector instead of failing the guest; NULL takes it back.
void trap_set(unsigned vector, trap_handler *handler);

// What ended a try_call().
struct trap {
    unsigned vector;
    word error;
    word cr2;
    word ip;
    word flags;
    word cs;
};
#define NO_TRAP 256u

// Calls fn(arg). Returns NO_TRAP when it returned; else the vector of the trap without a handler
// that ended it, with the details in *out (may be NULL). Calls do not nest.
unsigned try_call(void (*fn)(void *), void *arg, struct trap *out);

#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_USER_CODE32 0x23
#define SEL_USER_DATA 0x2b
#define SEL_USER_CODE 0x33 // 64-bit guests: 64-bit code
#define SEL_USER_DATA2 0x3b
#define SEL_TSS 0x40
#define SEL_CODE32 0x50
#define SEL_FREE 0x58 // the first of eight descriptors for tests
extern u64 gdt[];

// --- Interrupt controllers -----------------------------------------------------------------------

#define PIC_BASE 0x20 // vectors of the 8259s' lines 0..15

void pic_init(void); // all lines masked
void pic_unmask(unsigned irq);
void pic_eoi(unsigned irq);

#define LAPIC 0xfee00000u
#define IOAPIC 0xfec00000u
#define LAPIC_SPURIOUS_VECTOR 0xff
void lapic_enable(void);
void lapic_eoi(void);
static inline u32 lapic_read(u32 reg)
{
    return read32(LAPIC + reg);
}
static inline void lapic_write(u32 reg, u32 v)
{
    write32(LAPIC + reg, v);
}
u32 ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, u32 v);
void ioapic_route(unsigned pin, u32 low, u32 high); // the whole redirection entry

// --- Time ----------------------------------------------------------------------------------------

u64 tsc_per_ms(void); // measured once against the PIT's channel 2
void delay_us(unsigned us);
// A clock and the TSC read together: the closest pair of several, because the processor's thread
// may lose the host's CPU between the two.
struct sample {
    u64 tsc;
    u64 value;
};
struct sample sample(u64 (*clock)(void));
// Lets interrupts in until *flag is not zero or so much time has passed; true when it is not zero.
bool wait_for(volatile unsigned *flag, unsigned ms);

// --- Memory --------------------------------------------------------------------------------------

void *page_alloc(void); // zeroed, never freed
void *memset(void *to, int c, size_t len);
void *memcpy(void *to, const void *from, size_t len);
int memcmp(const void *a, const void *b, size_t len);
size_t strlen(const char *s);

#ifdef __x86_64__
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
// Maps one page (level 1: 4 KiB, 2: 2 MiB, 3: 1 GiB) in the running tables; returns its entry.
// Flags go into the last entry; those above allow everything.
u64 *page_map(u64 at, u64 physical, u64 flags, unsigned level);
u64 *page_entry(u64 at, unsigned level); // the entry at that level, or NULL

// Ring 3: jumps to ip with this stack pointer; ends by a trap (int $0x80 is allowed), within
// try_call.
void user_enter(u64 ip, u64 sp, u64 flags);

// Starts another processor at fn(arg), in the same page tables and IDT, with its own stack. True
// when it has begun within a second.
bool smp_start(u32 apic_id, void (*fn)(void *), void *arg);
#endif
