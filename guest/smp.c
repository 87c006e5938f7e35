// Starting application processors of 64-bit guests: INIT, SIPI, SIPI through the local APIC.

#include "guest.h"

#define TRAMPOLINE 0x8000
#define ICR_LOW 0x300
#define ICR_HIGH 0x310

extern u8 ap_trampoline[], ap_trampoline_end[];
extern u64 ap_stack;
void ap_start(void);

static void (*volatile ap_function)(void *);
static void *volatile ap_argument;
static volatile unsigned ap_started;

void ap_start(void)
{
    void (*fn)(void *) = ap_function;
    void *arg = ap_argument;
    __atomic_store_n(&ap_started, 1, __ATOMIC_SEQ_CST);
    fn(arg);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

static void send(u32 apic_id, u32 command)
{
    lapic_write(ICR_HIGH, apic_id << 24);
    lapic_write(ICR_LOW, command);
    while (lapic_read(ICR_LOW) & 0x1000) {
        pause();
    }
}

static bool started_within(unsigned us)
{
    for (unsigned t = 0; t < us && !ap_started; t += 100) {
        delay_us(100);
    }
    return ap_started;
}

bool smp_start(u32 apic_id, void (*fn)(void *), void *arg)
{
    memcpy((void *)TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    ap_stack = (u64)page_alloc() + 4096;
    ap_function = fn;
    ap_argument = arg;
    ap_started = 0;
    lapic_enable();
    send(apic_id, 0x4500); // INIT
    delay_us(10000);
    send(apic_id, 0x4600 | TRAMPOLINE >> 12); // startup
    if (started_within(1000)) {
        return true;
    }
    send(apic_id, 0x4600 | TRAMPOLINE >> 12);
    return started_within(1000000);
}
