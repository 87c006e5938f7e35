// A guest that computes without end, or sleeps, as its serial port says: what is divided among VMs
// shows in how far it has counted.
//   w work   s sleep   c say the count   m touch 64 MiB of memory
#include "guest.h"

#define COM1 0x3f8
#define IRQ_COM1 4
#define AT (32u << 20)
#define TOUCHED (64u << 20)

static volatile bool working;
static volatile u64 count;

static void obey(char c)
{
    switch (c) {
    case 'w': working = true; break;
    case 's': working = false; break;
    case 'm':
        for (u64 at = AT; at < AT + TOUCHED; at += 4096)
            write64(at, at);
        break;
    default: break;
    }
    print("<%c %lu>\n", c, (unsigned long)count);
}

static void on_com1(struct frame *f)
{
    (void)f;
    while ((inb(COM1 + 2) & 1) == 0 && (inb(COM1 + 5) & 1))
        obey((char)inb(COM1));
    pic_eoi(IRQ_COM1);
}

// About a microsecond of a translated guest's time.
static void work(void)
{
    static volatile u64 state = 1;
    u64 x = state;
    for (unsigned i = 0; i < 1000; i++)
        x = x * 6364136223846793005ull + 1442695040888963407ull;
    state = x;
    count++;
}

static void letters_from_the_serial_port_are_obeyed(void)
{
    pic_init();
    trap_set(PIC_BASE + IRQ_COM1, on_com1);
    pic_unmask(IRQ_COM1);
    outb(COM1 + 4, 0x0b); // OUT2 lets the line through
    outb(COM1 + 1, 1);    // received data
    print("# ready\n");
    for (;;) {
        if (!working) {
            sti_hlt_cli();
        } else {
            sti();
            while (working)
                work();
            cli();
        }
    }
}

TESTS(TEST(letters_from_the_serial_port_are_obeyed));
