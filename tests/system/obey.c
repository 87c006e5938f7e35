// A guest that does what it is told on its serial port, one letter at a time: what the tests of the
// command line need a guest for. Other letters come back.
//   p power off   r reset   t triple fault   x end through the exit device with status 41
//   b heed the power button
#include "guest.h"

#define COM1 0x3f8
#define PM_STATUS 0x600
#define PM_ENABLE 0x602
#define PM_CONTROL 0x604
#define PM_BUTTON 0x100
#define SMI_COMMAND 0xb2
#define ACPI_ENABLE 2
#define PM_S5 (7 << 10 | 0x2000)

static void power_off(void)
{
    outw(PM_CONTROL, PM_S5);
}

static void triple_fault(void)
{
    const struct {
        u16 limit;
        word base;
    } __attribute__((packed)) none = {0, 0};
    __asm__ volatile("lidt %0; int3" ::"m"(none));
}

static void obey(char c)
{
    switch (c) {
    case 'p': power_off(); break;
    case 'r': outb(0xcf9, 6); break;
    case 't': triple_fault(); break;
    case 'x': machine_exit(20); break;
    case 'b':
        outb(SMI_COMMAND, ACPI_ENABLE);
        outw(PM_ENABLE, PM_BUTTON);
        break;
    default: break;
    }
    print("<%c>", c);
}

static void commands_from_the_serial_port_are_obeyed(void)
{
    print("# ready\n");
    for (;;) {
        if (inb(COM1 + 5) & 1)
            obey((char)inb(COM1));
        if (inw(PM_STATUS) & inw(PM_ENABLE) & PM_BUTTON)
            power_off();
        __asm__ volatile("pause");
    }
}

TESTS(TEST(commands_from_the_serial_port_are_obeyed));
