// The guest of move_test.c: works for ever on state of every kind, and counts in a mailbox in its
// RAM what it did and what came out wrong. It must not notice that it is stopped, saved and
// continued under another engine.

#include "moved.h"
#include "guest.h"

#define VECTOR 0x50
#define REG_LVT_TIMER 0x320
#define REG_TIMER_INITIAL 0x380
#define REG_TIMER_DIVIDE 0x3e0
#define MSR_LSTAR 0xc0000082
#define MSR_KERNEL_GS_BASE 0xc0000102
#define CR0_EM_TS 0xcul
#define CR4_OSFXSR 0x200ul
#define PIT_HZ 1193182

static volatile struct mailbox mailbox
    __attribute__((aligned(4096))) = {.magic = {MAILBOX_MAGIC0, MAILBOX_MAGIC1}};
static u8 data[65536];

static void on_apic_timer(struct frame *f)
{
    (void)f;
    mailbox.apic_ticks++;
    lapic_eoi();
}

static void on_pit(struct frame *f)
{
    (void)f;
    mailbox.pit_ticks++;
    pic_eoi(0);
}

static u64 checksum(void)
{
    u64 sum = 0xcbf29ce484222325;
    for (unsigned i = 0; i < sizeof data; i++)
        sum = (sum ^ data[i]) * 0x100000001b3;
    return sum;
}

static void fill(void)
{
    u64 x = 88172645463325252;
    for (unsigned i = 0; i < sizeof data; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        data[i] = (u8)x;
    }
}

static const u64 pattern[2] = {0x0123456789abcdef, 0xfedcba9876543210};

static void load_registers(void)
{
    write_cr0((read_cr0() & ~CR0_EM_TS) | 2);
    write_cr4(read_cr4() | CR4_OSFXSR);
    __asm__ volatile("movups %0, %%xmm7; fninit; fldpi" ::"m"(pattern));
    __asm__ volatile("mov %0, %%dr1" ::"r"(0x1234567ul));
    wrmsr(MSR_LSTAR, 0xffffffff81234560);
    wrmsr(MSR_KERNEL_GS_BASE, 0x7f0012345000);
    write_cr2(0xabcdef000);
}

static bool registers_kept(void)
{
    u64 got[2], dr1;
    u8 pi[10];
    __asm__ volatile("movups %%xmm7, %0" : "=m"(got));
    __asm__ volatile("fld %%st(0); fstpt %0" : "=m"(pi));
    __asm__ volatile("mov %%dr1, %0" : "=r"(dr1));
    static const u8 want[10] = {0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40};
    return got[0] == pattern[0] && got[1] == pattern[1] && dr1 == 0x1234567 &&
           memcmp(pi, want, sizeof pi) == 0 && rdmsr(MSR_LSTAR) == 0xffffffff81234560 &&
           rdmsr(MSR_KERNEL_GS_BASE) == 0x7f0012345000 && read_cr2() == 0xabcdef000;
}

static void start_timers(void)
{
    trap_set(VECTOR, on_apic_timer);
    trap_set(PIC_BASE, on_pit);
    pic_init();
    pic_unmask(0);
    outb(0x43, 0x34); // channel 0, both bytes, mode 2
    outb(0x40, (u8)(PIT_HZ / 50));
    outb(0x40, (u8)(PIT_HZ / 50 >> 8));
    lapic_enable();
    lapic_write(REG_TIMER_DIVIDE, 0xb); // by 1
    lapic_write(REG_LVT_TIMER, 0x20000 | VECTOR);
    lapic_write(REG_TIMER_INITIAL, 20000000); // 20 ms at 1 GHz
}

static void work_for_ever(void)
{
    fill();
    load_registers();
    start_timers();
    u64 right = checksum(), last = rdtsc();
    sti();
    for (;;) {
        u64 now = rdtsc();
        mailbox.wrong_clock += now < last;
        last = now;
        mailbox.wrong_sums += checksum() != right;
        mailbox.wrong_registers += !registers_kept();
        mailbox.rounds++;
    }
}

TESTS(TEST(work_for_ever));
