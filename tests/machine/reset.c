// Ways to reset the machine; the option on the command line says which. The machine must go down.

#include "guest.h"

static void triple_fault(void)
{
    static const struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) no_idt = {0, 0};
    __asm__ volatile("lidt %0; int3" ::"m"(no_idt));
}

static void reset(void)
{
    if (boot_option("cf9")) {
        outb(0xcf9, 2);
        outb(0xcf9, 6);
    } else if (boot_option("fast")) {
        outb(0x92, inb(0x92) | 1);
    } else if (boot_option("keyboard")) {
        while (inb(0x64) & 2) {
        }
        outb(0x64, 0xfe);
    } else if (boot_option("triple")) {
        triple_fault();
    } else {
        print("# unknown way: %s\n", boot_cmdline());
        return;
    }
    for (unsigned i = 0; i < 1000; i++) {
        delay_us(1000);
    }
}

static void machine_goes_down(void)
{
    (void)tsc_per_ms();
    print("# expect: reset\n");
    reset();
    CHECK(!"it is down");
}

TESTS(TEST(machine_goes_down));
