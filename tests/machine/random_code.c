// Random bytes run as code in ring 3, 64-bit and 32-bit: whatever they do, a trap ends them, the
// kernel keeps running and its memory stays as it was. With "trace" on the command line every
// case's sum over registers and memory is printed: they are the same on every mode of the engine,
// but for cases that the timer ended and the few that use undefined flags.

#include "guest.h"

#define CODE_VA 0x80000000u // beyond RAM: the identity map is replaced here
#define DATA_VA 0x80002000u
#define VECTOR 0xe0
#define CASES 3000u
#define CODE_BYTES 64
#define CR4_TSD 4ul
#define ARITHMETIC 0x8d5ul

static u64 noise = 0x2545f4914f6cdd1dull;
static u8 *code, *data;
static u64 case_sum;
static unsigned ended_by_timer;
static bool timer_ended;

extern u64 back_sp;
void run_in_ring_3(u64 ip, u64 cs, const u64 *registers);
// Saves our registers, loads the guest's from the array (15 of them, then rsp) and leaves; the trap
// handler comes back to ring_3_ends.
__asm__(".pushsection .data\n .globl back_sp\n back_sp: .quad 0\n .popsection\n"
        ".globl run_in_ring_3, ring_3_ends\n"
        "run_in_ring_3:\n"
        "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "  mov %rsp, back_sp\n"
        "  pushq $0x2b; pushq 120(%rdx); pushq $0x202; pushq %rsi; pushq %rdi\n"
        "  mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es; xor %eax, %eax; mov %eax, %fs; mov %eax, "
        "%gs\n"
        "  mov 0(%rdx), %rax; mov 8(%rdx), %rbx; mov 16(%rdx), %rcx; mov 32(%rdx), %rsi\n"
        "  mov 40(%rdx), %rdi; mov 48(%rdx), %rbp; mov 56(%rdx), %r8; mov 64(%rdx), %r9\n"
        "  mov 72(%rdx), %r10; mov 80(%rdx), %r11; mov 88(%rdx), %r12; mov 96(%rdx), %r13\n"
        "  mov 104(%rdx), %r14; mov 112(%rdx), %r15; mov 24(%rdx), %rdx\n"
        "  iretq\n"
        "ring_3_ends:\n"
        "  mov $0x18, %eax; mov %eax, %ds; mov %eax, %es\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "  ret\n");
extern u8 ring_3_ends[];

static u64 draw(void)
{
    noise ^= noise << 13;
    noise ^= noise >> 7;
    noise ^= noise << 17;
    return noise;
}

static void mix(u64 v)
{
    case_sum = (case_sum ^ v) * 0x100000001b3ull;
    case_sum ^= case_sum >> 29;
}

static void on_any(struct frame *f)
{
    if ((f->cs & 3) != 3) {
        print("# trap %lu in the kernel, ip 0x%lx, error 0x%lx\nnot ok\n", f->vector, f->ip,
              f->error);
        machine_exit(2);
    }
    timer_ended = f->vector == VECTOR;
    if (timer_ended) {
        lapic_eoi();
    }
    const word *registers = (const word *)f;
    for (unsigned i = 0; i < 16; i++) {
        mix(i == 11 ? 0 : registers[i]); // not the handler's own stack pointer
    }
    mix(f->vector);
    mix(f->error);
    mix(f->ip);
    mix(f->cs);
    mix(f->flags & ~ARITHMETIC); // some are undefined, some dead where a fault restarts
    mix(f->sp);
    mix(f->vector == 14 ? read_cr2() : 0);
    f->ip = (word)ring_3_ends;
    f->cs = SEL_CODE;
    f->ss = SEL_DATA;
    f->sp = back_sp;
    f->flags = 2;
}

// RDRAND and RDSEED (0f c7 /6 and /7) would make outcomes differ.
static void remove_random_numbers(void)
{
    for (unsigned i = 0; i + 2 < CODE_BYTES; i++) {
        if (code[i] == 0x0f && code[i + 1] == 0xc7 && (code[i + 2] & 0x30) == 0x30) {
            code[i] = 0x90;
        }
    }
}

// Random bytes, with common opcodes more often than chance has them.
static void make_code(void)
{
    static const u8 common[] = {0x01, 0x03, 0x0f, 0x10, 0x11, 0x19, 0x29, 0x31, 0x33, 0x39,
                                0x48, 0x49, 0x66, 0x83, 0x85, 0x89, 0x8b, 0x8d, 0xa4, 0xab,
                                0xc1, 0xd1, 0xd3, 0xf2, 0xf3, 0xf7, 0xff, 0x50, 0x58, 0x74,
                                0x0f, 0xe8, 0xeb, 0x6f, 0x7f, 0xef, 0xf6, 0xb6, 0xaf, 0xc0};
    for (unsigned i = 0; i < CODE_BYTES; i++) {
        u64 r = draw();
        code[i] = r & 1 ? common[(r >> 8) % ARRAY_LEN(common)] : (u8)(r >> 16);
    }
    for (unsigned i = CODE_BYTES; i < 4096; i++) {
        code[i] = 0xcc;
    }
    remove_random_numbers();
}

static void make_registers(u64 registers[16])
{
    for (unsigned i = 0; i < 15; i++) {
        u64 r = draw();
        registers[i] = r & 1 ? DATA_VA + (r >> 8 & 0xff8) : r >> (r >> 58);
    }
    registers[15] = DATA_VA + 2048;
}

static void reset_vector_unit(void)
{
    static u8 clean[512] __attribute__((aligned(16)));
    *(u16 *)(void *)clean = 0x37f;
    *(u32 *)(void *)(clean + 24) = 0x1f80;
    __asm__ volatile("fxrstor64 %0" ::"m"(clean));
}

static void mix_vector_unit(void)
{
    static u8 area[512] __attribute__((aligned(16)));
    __asm__ volatile("fxsave64 %0" : "=m"(area));
    for (unsigned i = 160; i < 416; i += 8) {
        mix(*(u64 *)(void *)(area + i));
    }
}

static u8 reference[4096];

static void run_case(bool wide)
{
    u64 registers[16];
    make_code();
    make_registers(registers);
    for (unsigned i = 0; i < 4096; i += 8) {
        *(u64 *)(void *)(data + i) = i * 0x9e3779b97f4a7c15ull;
    }
    reset_vector_unit();
    case_sum = 0;
    lapic_write(0x380, 2000000); // 2 ms
    run_in_ring_3(CODE_VA, wide ? SEL_USER_CODE : SEL_USER_CODE32, registers);
    lapic_write(0x380, 0);
    mix_vector_unit();
    for (unsigned i = 0; i < 4096; i += 8) {
        mix(*(u64 *)(void *)(data + i));
        mix(*(u64 *)(void *)(code + i));
    }
}

static void setup(void)
{
    for (const char *p = boot_cmdline(); *p; p++) {
        noise = noise * 31 + (u8)*p;
    }
    code = page_alloc();
    data = page_alloc();
    page_map(CODE_VA, (u64)code, PTE_P | PTE_W | PTE_U, 1);
    page_map(DATA_VA, (u64)data, PTE_P | PTE_W | PTE_U, 1);
    write_cr4(read_cr4() | CR4_TSD | 0x600);
    write_cr0((read_cr0() & ~0xcul) | 2);
    for (unsigned v = 0; v < 256; v++) {
        trap_set(v, on_any);
    }
    lapic_enable();
    trap_set(LAPIC_SPURIOUS_VECTOR, on_any);
    lapic_write(0x80, 0);
    lapic_write(0x3e0, 0xb);
    lapic_write(0x320, VECTOR);
    memcpy(reference, (const void *)0x100000, sizeof reference);
}

static void run_cases(bool wide)
{
    ended_by_timer = 0;
    for (unsigned i = 0; i < CASES; i++) {
        run_case(wide);
        ended_by_timer += timer_ended;
        if (boot_option("trace") && !timer_ended) {
            print("# case %u 0x%llx\n", i, (unsigned long long)case_sum);
        }
    }
    print("# %u of %u ended by the timer\n", ended_by_timer, CASES);
    CHECK_EQ(memcmp(reference, (const void *)0x100000, sizeof reference), 0);
}

static void random_64_bit_code_is_contained(void)
{
    setup();
    run_cases(true);
}

static void random_32_bit_code_is_contained(void)
{
    run_cases(false);
}

TESTS(TEST(random_64_bit_code_is_contained), TEST(random_32_bit_code_is_contained));
