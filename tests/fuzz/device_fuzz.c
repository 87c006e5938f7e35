// Drives all chips of the pc board at once as a hostile guest would: any register, any line, any
// time, and streams of their state with bits turned over. Nothing may crash or loop, timers stay
// bounded, and every state that can be reached can be saved and loaded. (virtio_fuzz.c does the
// same to what is on the PCI bus.)
//
// The input is a list of actions with their operands.
#include <stdlib.h>
#include <string.h>

#include "../unit/device/fake_env.h"
#include "base/bytes.h"
#include "device/catalog.h"
#include "device/irq/ioapic.h"
#include "device/irq/lapic.h"
#include "device/irq/pic.h"
#include "device/misc/debugcon.h"
#include "device/misc/flash.h"
#include "device/misc/fw_cfg.h"
#include "device/misc/i8042.h"
#include "device/platform.h"
#include "device/serial/uart.h"
#include "device/timer/hpet.h"
#include "device/timer/pm.h"
#include "device/timer/rtc.h"
#include "input.h"
#include "standalone.h"

#define CPUS 3
#define FIRES_PER_MS (CPUS * 21 + 200) // at most 20 kHz for each of the periodic timers

enum chip { PIC, IOAPIC, LAPIC, UART = LAPIC + CPUS, I8042, PM, SIMPLE, CHIPS = SIMPLE + 11 };

struct world {
    struct fake_env *env;
    struct apic_router router;
    struct device *chip[CHIPS];
    const void *config[CHIPS];
    struct pic_config pic;
    struct ioapic_config ioapic;
    struct lapic_config lapic[CPUS];
    struct uart_config uart;
    size_t uart_room;
};

// --- the board ---

static void attention(void *opaque, unsigned vcpu, enum apic_event what, uint8_t vector)
{
    require(vcpu < CPUS);
}

static void pic_output(void *opaque, bool level)
{
    apic_extint(opaque, level);
}

static bool deliver(void *opaque, const struct apic_message *m)
{
    return apic_send(opaque, m, 0);
}

static uint64_t tsc_now(void *opaque, unsigned index)
{
    return ((struct world *)opaque)->env->now * 3;
}

static size_t uart_take(void *opaque, const uint8_t *data, size_t len)
{
    struct world *w = opaque;
    size_t n = len < w->uart_room ? len : w->uart_room;
    w->uart_room -= n;
    return n;
}

static void add(struct world *w, unsigned n, const char *name, const void *config)
{
    w->config[n] = config;
    w->chip[n] = fake_add(w->env, device_find(name), config);
}

static void connect(struct world *w)
{
    for (unsigned i = 0; i < CPUS; i++)
        w->router.lapic[i] = w->chip[LAPIC + i];
    w->router.lapics = CPUS;
    w->router.pic = w->chip[PIC];
    w->router.ioapic = w->chip[IOAPIC];
}

static void build(struct world *w)
{
    static const struct rtc_config rtc = {GIB, GIB, {1, 2, 3}, CPUS};
    static const struct hpet_config hpet = {PC_HPET};
    static const struct fw_cfg_config fw_cfg = {CPUS, GIB};
    static uint8_t flash_content[2 * FLASH_BLOCK];
    static const struct flash_config flash = {0xffc00000, flash_content, sizeof flash_content};
    static const struct debugcon_config debugcon = {DEBUGCON_PORT, NULL, NULL};
    w->env = fake_env_new();
    w->env->wall_base = 1700000000ll * (int64_t)NS_PER_SEC;
    w->router.attention = attention;
    for (unsigned i = 0; i < CPUS; i++) {
        w->lapic[i] =
            (struct lapic_config){&w->router, i, i, i == 0, PC_APIC_BUS_KHZ, 3000000, tsc_now, w};
        add(w, LAPIC + i, "lapic", &w->lapic[i]);
    }
    connect(w);
    w->pic = (struct pic_config){pic_output, &w->router};
    w->ioapic = (struct ioapic_config){PC_IOAPIC, PC_IOAPIC_ID, deliver, &w->router};
    w->uart = (struct uart_config){PC_PORT_COM1, uart_take, NULL, w};
    add(w, PIC, "pic", &w->pic);
    add(w, IOAPIC, "ioapic", &w->ioapic);
    add(w, UART, "uart", &w->uart);
    add(w, I8042, "i8042", NULL);
    add(w, PM, "pm", NULL);
    add(w, SIMPLE, "pit", NULL);
    add(w, SIMPLE + 1, "rtc", &rtc);
    add(w, SIMPLE + 2, "hpet", &hpet);
    add(w, SIMPLE + 3, "fw-cfg", &fw_cfg);
    add(w, SIMPLE + 4, "panic", NULL);
    add(w, SIMPLE + 5, "debug-exit", NULL);
    add(w, SIMPLE + 6, "debugcon", &debugcon);
    add(w, SIMPLE + 7, "fast-a20", NULL);
    add(w, SIMPLE + 8, "reset-control", NULL);
    add(w, SIMPLE + 9, "flash", &flash);
    add(w, SIMPLE + 10, "pci-hotplug", NULL);
    connect(w);
}

// --- actions ---

// Half of all accesses go near the start of a claim, where registers are dense.
static void access(struct world *w, struct input *in)
{
    const struct fake_claim *c = &w->env->claim[take(in, 1) % FAKE_CLAIMS];
    unsigned how = (unsigned)take(in, 1), size = 1u << (how & 3);
    uint64_t value = take(in, size);
    if (!c->len)
        return;
    uint64_t at = c->at + (how & 4 ? take(in, 2) : how >> 4) % c->len;
    if (c->pio)
        size = size > 4 ? 4 : size;
    if (c->pio && (how & 8))
        fake_out(w->env, (uint16_t)at, size, value);
    else if (c->pio)
        (void)fake_in(w->env, (uint16_t)at, size);
    else if (how & 8)
        fake_mmio_write(w->env, at, size, value);
    else
        (void)fake_mmio_read(w->env, at, size);
}

static void access_lapic(struct world *w, struct input *in)
{
    struct device *lapic = w->chip[LAPIC + take(in, 1) % CPUS];
    unsigned how = (unsigned)take(in, 1);
    uint32_t reg = (uint32_t)take(in, 1);
    uint64_t value = take(in, how & 4 ? 4 : 2);
    uint64_t got;
    err_t err = OK;
    if (how & 1)
        lapic_write(lapic, reg << 4, 4, value);
    else if (how & 2)
        (void)lapic_read(lapic, reg << 4 | how >> 4, 1u << (how >> 2 & 3));
    else if (how & 8)
        err = lapic_msr_write(lapic, 0x800 + (reg & 0x3f), how & 16 ? value << 32 | reg : value);
    else if (how & 16)
        err = lapic_msr_write(lapic, 0x1b, 0xfee00000 | value);
    else if (how & 32)
        err = lapic_msr_write(lapic, 0x6e0, value << (how >> 6) * 8);
    else
        err = lapic_msr_read(lapic, reg & 1 ? 0x6e0 : 0x800 + (reg & 0x3f), &got);
    (void)err;
}

static void interrupt(struct world *w, struct input *in)
{
    unsigned how = (unsigned)take(in, 1), n = (unsigned)take(in, 1);
    unsigned cpu = n % CPUS;
    switch (how & 7) {
    case 0: pic_set_line(w->chip[PIC], n & 31, n & 32); break;
    case 1: ioapic_set_line(w->chip[IOAPIC], n & 31, n & 32); break;
    case 2: apic_send_msi(&w->router, 0xfee00000 | take(in, 3), (uint32_t)take(in, 2)); break;
    case 3: lapic_set_lint(w->chip[LAPIC + cpu], n >> 4 & 1, n & 32); break;
    case 4: lapic_cr8_write(w->chip[LAPIC + cpu], n >> 4); break;
    case 5: lapic_virtual_wire(w->chip[LAPIC + cpu]); break;
    case 6: lapic_write(w->chip[LAPIC + cpu], 0xb0, 4, 0); break;
    default:
        if (apic_intr(&w->router, cpu))
            require(apic_intr_ack(&w->router, cpu) >= 0);
    }
}

static void outside(struct world *w, struct input *in)
{
    unsigned how = (unsigned)take(in, 1), n = (unsigned)take(in, 2);
    uint8_t data[64] = {0};
    switch (how & 7) {
    case 0: (void)uart_input(w->chip[UART], data, n & 63); break;
    case 1: uart_break(w->chip[UART]); break;
    case 2:
        w->uart_room = n & 63;
        uart_writable(w->chip[UART]);
        break;
    case 3: i8042_key(w->chip[I8042], n & 0x3ff, how & 8); break;
    case 4: i8042_mouse(w->chip[I8042], (int16_t)n, n * 70000, -(int)n, how >> 3); break;
    case 5: (void)pm_power_button(w->chip[PM]); break;
    case 6: pm_gpe(w->chip[PM], n); break;
    default: lapic_tsc_changed(w->chip[LAPIC + n % CPUS]); break;
    }
}

static void pass_time(struct world *w, struct input *in)
{
    unsigned how = (unsigned)take(in, 1);
    ns_t by = take(in, 4) & ((1ull << how % 27) - 1);
    if ((how & 0xe0) == 0xe0) // the timers are late, all at once
        w->env->now += take(in, 4) << (how & 7);
    uint32_t before = w->env->timers_fired;
    fake_advance(w->env, by);
    require(w->env->timers_fired - before <= 100 + by * FIRES_PER_MS / NS_PER_MS);
}

static void reload(struct world *w, struct input *in)
{
    unsigned n = take(in, 1) % CHIPS;
    w->chip[n] = fake_reload(w->chip[n], w->config[n]);
    connect(w);
}

// A stream with some bits turned over is refused or makes a device that works.
static void load_damaged(struct world *w, struct input *in)
{
    unsigned n = take(in, 1) % CHIPS, times = (unsigned)take(in, 1) & 7;
    if (!w->chip[n]->type->state)
        return;
    struct buffer stream = BUFFER_EMPTY;
    state_save(w->chip[n]->type->state, w->chip[n], &stream);
    for (unsigned i = 0; i <= times && stream.len; i++)
        stream.data[take(in, 2) % stream.len] ^= (uint8_t)take(in, 1);
    (void)fake_load(&w->chip[n], w->config[n], stream.data, stream.len);
    buffer_release(&stream);
    connect(w);
}

static void reset(struct world *w, struct input *in)
{
    struct device *dev = w->chip[take(in, 1) % CHIPS];
    if (dev->type->reset)
        dev->type->reset(dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        void (*run)(struct world *w, struct input *in);
        uint8_t weight; // of 64
    } actions[] = {{access, 24},   {access_lapic, 12}, {interrupt, 12},   {outside, 6},
                   {pass_time, 6}, {reload, 2},        {load_damaged, 1}, {reset, 1}};
    struct world w = {0};
    struct input in = {data, data + size};
    build(&w);
    while (input_left(&in)) {
        unsigned choice = take(&in, 1) & 63, i = 0;
        while (choice >= actions[i].weight)
            choice -= actions[i++].weight;
        actions[i].run(&w, &in);
    }
    fake_env_free(w.env);
    return 0;
}
