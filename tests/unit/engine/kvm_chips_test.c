// Interrupt controllers that KVM keeps: their state goes in and comes out, their interrupts arrive,
// vCPUs wait inside. Skipped where /dev/kvm does not open.
#include "test.h"

#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/engine.h"

#define RAM_BYTES (1 * MIB)
#define CODE 0x8000
#define HANDLER 0x9000
#define COUNT 0x500 // the handler counts interrupts here
#define WANT 0x502
#define END_PORT 0xf4 // a write ends the run
#define SKIPPED 77
#define LIMIT 60 // seconds

// Registers of the local APIC by offset / 16.
enum { ID = 2, TPR = 8, LDR = 13, DFR = 14, SVR = 15, IRR = 32, LVT_TIMER = 50, LVT_LINT0 = 53 };
enum { LVT_LINT1 = 54, LVT_ERROR = 55, INITIAL = 56, DIVIDE = 62 };

static const struct engine *const kvm = &engine_kvm;

static struct {
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    uint8_t *ram;
    struct cpu_state in, out;
    struct error e;
    int pic_vector; // what intr_ack gives, once
    unsigned eois;
    uint8_t eoi;
} box;

static uint64_t read_nothing(void *opaque, unsigned vcpu, uint16_t port, unsigned size)
{
    return ~0ull;
}

static void pio_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint64_t value)
{
    if (port == END_PORT)
        kvm->kick(box.vcpu);
}

static int intr_ack(void *opaque, unsigned vcpu)
{
    int vector = box.pic_vector;
    box.pic_vector = -1;
    kvm->set_intr(box.vcpu, false);
    return vector;
}

static void eoi(void *opaque, unsigned vcpu, uint8_t vector)
{
    box.eois++;
    box.eoi = vector;
    kvm->kick(box.vcpu);
}

static const struct engine_upcalls upcalls = {
    .pio_read = read_nothing, .pio_write = pio_write, .intr_ack = intr_ack, .eoi = eoi};

static void open_box(enum engine_chips chips)
{
    struct cpuid_table host, table;
    const struct cpuid_request request = {.model = "base", .vcpus = 1, .tsc_khz = 1000000};
    cpuid_read_host(&host);
    CHECK_EQ(cpuid_build(&request, &host, &table, &box.e), OK);
    const struct engine_vm_config config = {
        .vcpus = 1, .cpuid = &table, .tsc_khz = 1000000, .chips = chips};
    box.pic_vector = -1;
    box.eois = 0;
    box.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (kvm->vm_new(&config, &upcalls, NULL, &box.vm, &box.e) != OK ||
        kvm->map(box.vm, 0, RAM_BYTES, box.ram, ENGINE_MAP_RAM, &box.e) != OK ||
        kvm->vcpu_new(box.vm, 0, &box.vcpu, &box.e) != OK ||
        kvm->vcpu_attach(box.vcpu, &box.e) != OK) {
        printf("Bail out! %s\n", box.e.text);
        exit(1);
    }
    cpu_state_reset(&box.in, true, 0);
    CHECK_EQ(kvm->irqchip->kept(box.vm), chips);
}

static void close_box(void)
{
    kvm->vcpu_free(box.vcpu);
    kvm->vm_free(box.vm);
    munmap(box.ram, RAM_BYTES);
}

static void put16(unsigned at, uint16_t value)
{
    memcpy(box.ram + at, &value, 2);
}

static unsigned count(void)
{
    uint16_t value;
    memcpy(&value, box.ram + COUNT, 2);
    return value;
}

// All vectors go to one handler, which counts, ends the interrupt at the PIC, and at the local APIC
// where DS:BX + 0xb0 reaches it.
static void load_handler(bool apic)
{
    static const uint8_t handler[] = {0x50, 0xff, 0x06, 0x00, 0x05,       // push ax; inc [0x500]
                                      0xb0, 0x20, 0xe6, 0x20, 0xe6, 0xa0, // out 0x20, out 0xa0
                                      0xeb, 0x0a};
    static const uint8_t end_apic[] = {0x66, 0x67, 0xc7, 0x05, 0xb0, 0x00,
                                       0xe0, 0xfe, 0,    0,    0,    0, // mov [0xfee000b0], 0
                                       0x58, 0xcf};                     // pop ax; iret
    for (unsigned vector = 0; vector < 256; vector++) {
        put16(vector * 4, HANDLER);
        put16(vector * 4 + 2, 0);
    }
    memcpy(box.ram + HANDLER, handler, sizeof handler);
    box.ram[HANDLER + sizeof handler - 1] = apic ? 0 : 12;
    memcpy(box.ram + HANDLER + sizeof handler, end_apic, sizeof end_apic);
    put16(WANT, 1);
}

static void set_code(const uint8_t *code, size_t len)
{
    memcpy(box.ram + CODE, code, len);
    box.in.seg[SEG_CS].selector = 0;
    box.in.seg[SEG_CS].base = 0;
    box.in.seg[SEG_DS].limit = 0xffffffff;
    box.in.seg[SEG_DS].attr |= SEGA_G;
    box.in.gpr[RSP] = 0x7000;
    box.in.rip = CODE;
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
}

static void give_up(int signal)
{
    kvm->kick(box.vcpu);
}

// What waits for an interrupt that does not come ends all the same.
static enum engine_exit run(void)
{
    signal(SIGALRM, give_up);
    alarm(LIMIT);
    enum engine_exit exit = kvm->run(box.vcpu);
    if (!alarm(0))
        printf("# nothing happened for %d s\n", LIMIT);
    if (exit == ENGINE_FAILED)
        printf("# %s\n", kvm->vcpu_error(box.vcpu));
    kvm->get(box.vcpu, ENGINE_ALL, &box.out);
    return exit;
}

// Waits with interrupts enabled, looking, until the handler has counted up to [WANT]; then ends.
static const uint8_t wait_looking[] = {0xfb,                   // sti
                                       0xa1, 0x00, 0x05,       // mov ax, [0x500]
                                       0x3b, 0x06, 0x02, 0x05, // cmp ax, [0x502]
                                       0x72, 0xf7,             // jb
                                       0xfa, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd};
// After an interrupt that ended a sleep.
static const uint8_t awake[] = {0xfa, 0xe6, 0xf4, 0xeb, 0xfe}; // cli; out; jmp

// As after STI and HLT, which is no way to get there on QEMU's CPU: it may forget the STI's shadow,
// and an interrupt that comes before the HLT does not end it.
static void set_asleep(void)
{
    box.in.activity = CPU_HALTED;
    box.in.rflags |= FLAG_IF;
    set_code(awake, sizeof awake);
}

static struct chip_lapic wired_lapic(void)
{
    struct chip_lapic l = {.base = 0xfee00900};
    l.reg[DFR] = 0xffffffff;
    l.reg[SVR] = 0x1ff;
    for (unsigned i = LVT_TIMER; i <= LVT_ERROR; i++)
        l.reg[i] = 0x10000;
    l.reg[LVT_LINT0] = 0x700; // the PIC
    l.reg[LVT_LINT1] = 0x400;
    return l;
}

static struct chip_board ready_board(void)
{
    struct chip_board b = {.pic = {{.imr = 0xff, .base = 8, .lowest = 7, .icw1 = 0x11},
                                   {.imr = 0xff, .base = 0x70, .lowest = 7, .icw1 = 0x11}}};
    for (unsigned pin = 0; pin < CHIP_IOAPIC_PINS; pin++)
        b.ioapic.entry[pin] = 0x10000;
    for (unsigned n = 0; n < CHIP_PIT_CHANNELS; n++)
        b.pit.channel[n].gate = n != 2;
    return b;
}

static void set_chips(const struct chip_lapic *lapic, const struct chip_board *board)
{
    CHECK_EQ(kvm->irqchip->set_lapic(box.vcpu, lapic, &box.e), OK);
    if (board)
        CHECK_EQ(kvm->irqchip->set_board(box.vm, board, &box.e), OK);
}

// --- state

static void local_apic_comes_back(void)
{
    struct chip_lapic in = wired_lapic(), out;
    open_box(ENGINE_CHIPS_ALL);
    in.reg[TPR] = 0x20;
    in.reg[LDR] = 0x01000000;
    in.reg[IRR + 2] = 0x10; // vector 0x44
    in.reg[LVT_TIMER] = 0x20000 | 0x40;
    in.reg[INITIAL] = 0x70000000;
    in.reg[DIVIDE] = 0xb;
    set_chips(&in, NULL);
    CHECK_EQ(kvm->irqchip->get_lapic(box.vcpu, &out, &box.e), OK);
    CHECK_EQ(out.base, in.base);
    static const uint8_t same[] = {ID,        TPR,       LDR,       DFR,       SVR,     IRR + 2,
                                   LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_ERROR, INITIAL, DIVIDE};
    for (size_t i = 0; i < sizeof same; i++)
        CHECK_EQ(out.reg[same[i]], in.reg[same[i]]);
    close_box();
}

static void x2apic_mode_and_deadline_come_back(void)
{
    struct chip_lapic in = wired_lapic(), out;
    open_box(ENGINE_CHIPS_ALL);
    in.base |= 1 << 10;
    in.reg[LVT_TIMER] = 0x40000 | 0x40;
    in.deadline = ~0ull >> 2;
    set_chips(&in, NULL);
    kvm->tsc_offset(box.vcpu, 0);
    CHECK_EQ(kvm->irqchip->get_lapic(box.vcpu, &out, &box.e), OK);
    CHECK_EQ(out.base, in.base);
    CHECK_EQ(out.deadline, in.deadline);
    CHECK_EQ(out.reg[ID], 0);
    close_box();
}

static void pic_and_ioapic_come_back(void)
{
    struct chip_board in = ready_board(), out;
    open_box(ENGINE_CHIPS_ALL);
    in.pic[0].imr = 0xfe;
    in.pic[0].lowest = 2;
    in.pic[1].isr = 0x10;
    in.pic[1].elcr = 0x0e;
    in.pic[1].special_mask = 1;
    in.pic[1].auto_eoi = 1;
    in.pic[0].step = PIC_ICW3;
    in.ioapic.id = 3;
    in.ioapic.index = 0x12;
    in.ioapic.entry[4] = 0x0100000000000000 | 0x10031;
    in.ioapic.entry[9] = 0x1a044;
    set_chips(&(struct chip_lapic){.base = 0xfee00900}, &in);
    CHECK_EQ(kvm->irqchip->get_board(box.vm, &out, &box.e), OK);
    CHECK_EQ(memcmp(&in.pic, &out.pic, sizeof in.pic), 0);
    CHECK_EQ(memcmp(&in.ioapic.entry, &out.ioapic.entry, sizeof in.ioapic.entry), 0);
    CHECK_EQ(out.ioapic.id, in.ioapic.id);
    CHECK_EQ(out.ioapic.index, in.ioapic.index);
    close_box();
}

static void pit_comes_back(void)
{
    struct chip_board in = ready_board(), out;
    open_box(ENGINE_CHIPS_ALL);
    in.pit.channel[0] = (struct chip_pit_channel){
        .reload = 11932, .control = 0x34, .gate = 1, .latch = 0x1234, .latched = 2};
    in.pit.channel[2] = (struct chip_pit_channel){
        .reload = 0x10000, .control = 0x36, .gate = 1, .write_high = 1, .low = 0x56};
    in.pit.port61 = 3;
    in.pit_muted = true;
    set_chips(&(struct chip_lapic){.base = 0xfee00900}, &in);
    CHECK_EQ(kvm->irqchip->get_board(box.vm, &out, &box.e), OK);
    CHECK_EQ(memcmp(&in.pit, &out.pit, sizeof in.pit), 0);
    CHECK_EQ(out.pit_muted, true);
    close_box();
}

static void sleeping_processor_comes_back(void)
{
    static const uint8_t activities[] = {CPU_HALTED, CPU_WAIT_FOR_SIPI, CPU_RUNNING};
    open_box(ENGINE_CHIPS_ALL);
    for (size_t i = 0; i < sizeof activities; i++) {
        box.in.activity = activities[i];
        CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
        kvm->get(box.vcpu, ENGINE_ALL, &box.out);
        CHECK_EQ(box.out.activity, activities[i]);
    }
    close_box();
}

// --- interrupts

static void pit_interrupts_through_the_pic(void)
{
    struct chip_lapic lapic = wired_lapic();
    struct chip_board board = ready_board();
    open_box(ENGINE_CHIPS_ALL);
    load_handler(false);
    put16(WANT, 5);
    board.pic[0].imr = 0xfe;
    board.pit.channel[0] = (struct chip_pit_channel){.reload = 1193, .control = 0x34, .gate = 1};
    set_chips(&lapic, &board);
    set_code(wait_looking, sizeof wait_looking);
    CHECK_EQ(run(), ENGINE_KICKED);
    CHECK(count() >= 5); // some more where this thread does not get to run
    close_box();
}

static void line_wakes_a_halted_processor(void)
{
    struct chip_lapic lapic = wired_lapic();
    struct chip_board board = ready_board();
    open_box(ENGINE_CHIPS_ALL);
    load_handler(false);
    board.pic[0].imr = 0xef;
    set_chips(&lapic, &board);
    set_asleep();
    kvm->irqchip->pic_line(box.vm, 4, true);
    CHECK_EQ(run(), ENGINE_KICKED);
    CHECK_EQ(count(), 1);
    close_box();
}

// An edge that came before the state was set is not a new one.
static void line_that_stays_up_is_no_new_edge(void)
{
    struct chip_lapic lapic = wired_lapic();
    struct chip_board board = ready_board();
    struct chip_lapic out;
    open_box(ENGINE_CHIPS_ALL);
    board.ioapic.entry[4] = 0x41;
    board.ioapic.lines = 1 << 4;
    set_chips(&lapic, &board);
    CHECK_EQ(kvm->irqchip->get_lapic(box.vcpu, &out, &box.e), OK);
    CHECK_EQ(out.reg[IRR + 2], 0);
    kvm->irqchip->ioapic_pin(box.vm, 4, false);
    kvm->irqchip->ioapic_pin(box.vm, 4, true);
    CHECK_EQ(kvm->irqchip->get_lapic(box.vcpu, &out, &box.e), OK);
    CHECK_EQ(out.reg[IRR + 2], 2);
    close_box();
}

static void message_interrupts(enum engine_chips chips)
{
    struct chip_lapic lapic = wired_lapic();
    struct chip_board board = ready_board();
    open_box(chips);
    load_handler(false);
    set_chips(&lapic, chips == ENGINE_CHIPS_ALL ? &board : NULL);
    set_asleep();
    CHECK(kvm->irqchip->message(box.vm, 0xfee00000, 0x41));
    CHECK_EQ(run(), ENGINE_KICKED);
    CHECK_EQ(count(), 1);
    CHECK(!kvm->irqchip->message(box.vm, 0xfee09000, 0x41)); // there is no such processor
    close_box();
}

static void message_reaches_an_apic_of_all_chips(void)
{
    message_interrupts(ENGINE_CHIPS_ALL);
}

static void message_reaches_an_apic_alone(void)
{
    message_interrupts(ENGINE_CHIPS_LAPIC);
}

static uint64_t added(int fd)
{
    uint64_t value;
    return read(fd, &value, sizeof value) == sizeof value ? value : 0;
}

static void add(int fd)
{
    const uint64_t one = 1;
    CHECK_EQ(write(fd, &one, sizeof one), sizeof one);
}

// Three signals: while on, while off (it stays in the eventfd) and on again with another message.
static void signal_interrupts(enum engine_chips chips)
{
    struct chip_lapic lapic = wired_lapic();
    struct chip_board board = ready_board();
    const struct engine_irqchip *irqchip = kvm->irqchip;
    int fd = eventfd(0, EFD_NONBLOCK);
    open_box(chips);
    load_handler(false);
    set_chips(&lapic, chips == ENGINE_CHIPS_ALL ? &board : NULL);
    CHECK_EQ(irqchip->signal(box.vm, 200, fd, 0xfee00000, 0x41, true, &box.e), OK);
    set_asleep();
    add(fd);
    CHECK_EQ(run(), ENGINE_KICKED);
    CHECK_EQ(count(), 1);
    CHECK_EQ(added(fd), 0);
    CHECK_EQ(irqchip->signal(box.vm, 200, fd, 0, 0, false, &box.e), OK);
    add(fd);
    CHECK_EQ(added(fd), 1);
    set_chips(&lapic, NULL); // the first one was not ended
    set_asleep();
    CHECK_EQ(irqchip->signal(box.vm, 200, fd, 0xfee00000, 0x52, true, &box.e), OK);
    add(fd);
    CHECK_EQ(run(), ENGINE_KICKED);
    CHECK_EQ(count(), 2);
    close_box();
    close(fd);
}

static void signal_reaches_an_apic_of_all_chips(void)
{
    signal_interrupts(ENGINE_CHIPS_ALL);
}

static void signal_reaches_an_apic_alone(void)
{
    signal_interrupts(ENGINE_CHIPS_LAPIC);
}

static void end_of_a_level_interrupt_is_told(void)
{
    struct chip_lapic lapic = wired_lapic();
    open_box(ENGINE_CHIPS_LAPIC);
    load_handler(true);
    set_chips(&lapic, NULL);
    kvm->irqchip->await_eoi(box.vm, 9, 0xfee00000, 0xc041, true);
    set_code(wait_looking, sizeof wait_looking);
    CHECK(kvm->irqchip->message(box.vm, 0xfee00000, 0xc041));
    CHECK_EQ(run(), ENGINE_KICKED);
    CHECK_EQ(box.eois, 1);
    CHECK_EQ(box.eoi, 0x41);
    close_box();
}

static void pic_of_the_machine_wakes_a_halted_processor(void)
{
    struct chip_lapic lapic = wired_lapic();
    open_box(ENGINE_CHIPS_LAPIC);
    load_handler(false);
    set_chips(&lapic, NULL);
    set_asleep();
    box.pic_vector = 0x50;
    kvm->set_intr(box.vcpu, true);
    CHECK_EQ(run(), ENGINE_KICKED);
    CHECK_EQ(count(), 1);
    close_box();
}

// QEMU emulates a CPU that does not load a guest's interrupt shadow (VMRUN leaves int_state alone).
static bool loses_shadows(void)
{
    unsigned max, name[3];
    __cpuid(0x40000000, max, name[0], name[1], name[2]);
    return memcmp(name, "TCGTCGTCGTCG", sizeof name) == 0;
}

// The interrupt is there all the time, but interrupts are enabled in shadows only. On QEMU's CPU so
// long that the kernel's timer ends the guest's turn in one of them; what comes of it is only told.
static void interrupt_waits_for_the_end_of_an_sti_shadow(void)
{
    bool loses = loses_shadows();
    uint8_t shadowed[] = {0x66,
                          0xb9,
                          0,
                          loses ? 0 : 0x40,
                          loses ? 0x80 : 0,
                          0, // mov ecx, ...
                          0xfb,
                          0xfa,
                          0x66,
                          0x49,
                          0x75,
                          0xfa, // sti; cli; dec ecx; jnz
                          0xe6,
                          0xf4,
                          0xeb,
                          0xfe};
    struct chip_lapic lapic = wired_lapic();
    open_box(ENGINE_CHIPS_ALL);
    load_handler(false);
    set_chips(&lapic, NULL);
    set_code(shadowed, sizeof shadowed);
    CHECK(kvm->irqchip->message(box.vm, 0xfee00000, 0x41));
    CHECK_EQ(run(), ENGINE_KICKED);
    if (loses)
        printf("# QEMU's CPU took %u interrupts in the shadow of STI\n", count());
    else
        CHECK_EQ(count(), 0);
    close_box();
}

static const struct test tests[] = {
    TEST(local_apic_comes_back),
    TEST(x2apic_mode_and_deadline_come_back),
    TEST(pic_and_ioapic_come_back),
    TEST(pit_comes_back),
    TEST(sleeping_processor_comes_back),
    TEST(pit_interrupts_through_the_pic),
    TEST(line_wakes_a_halted_processor),
    TEST(line_that_stays_up_is_no_new_edge),
    TEST(message_reaches_an_apic_of_all_chips),
    TEST(message_reaches_an_apic_alone),
    TEST(signal_reaches_an_apic_of_all_chips),
    TEST(signal_reaches_an_apic_alone),
    TEST(end_of_a_level_interrupt_is_told),
    TEST(pic_of_the_machine_wakes_a_halted_processor),
    TEST(interrupt_waits_for_the_end_of_an_sti_shadow),
};

int main(void)
{
    struct engine_probe probe = {0};
    kvm->probe(ENGINE_DEBUG_ANY_KVM, false, &probe);
    if (!probe.usable) {
        printf("1..0 # SKIP %s\n", probe.why);
        return SKIPPED;
    }
    return test_main(tests, ARRAY_LEN(tests));
}
