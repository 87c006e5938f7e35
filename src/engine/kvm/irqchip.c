// Interrupt controllers in the kernel: all of a PC's (with its PIT), or the local APICs only, with
// the machine's IOAPIC and PIC beside them. Sources: Linux Documentation/virt/kvm/api.rst, sections
// 4.24 (KVM_CREATE_IRQCHIP), 4.75 (KVM_IRQFD), 4.52 (KVM_SET_GSI_ROUTING), 4.71
// (KVM_CREATE_PIT2), 4.70 (KVM_SIGNAL_MSI) and 7.5 (KVM_CAP_SPLIT_IRQCHIP).
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_impl.h"

#define PIT_GSI 0  // what KVM's PIT drives
#define PIN_GSI 24 // IOAPIC pins; PIC lines are 0..15
#define SIGNAL_GSI (PIN_GSI + CHIP_IOAPIC_PINS)
#define PIT_PIN 2     // where line 0 arrives at the IOAPIC
#define PIC_CASCADE 2 // no line from outside
#define PIC_LINES 16

// --- making them

static bool can(const struct engine_vm *vm, const int *capabilities, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ioctl(vm->fd, KVM_CHECK_EXTENSION, capabilities[i]) <= 0)
            return false;
    return true;
}

static bool can_keep(const struct engine_vm *vm, enum engine_chips chips)
{
    static const int all[] = {KVM_CAP_IRQCHIP,         KVM_CAP_PIT2,       KVM_CAP_PIT_STATE2,
                              KVM_CAP_IRQ_ROUTING,     KVM_CAP_SIGNAL_MSI, KVM_CAP_MP_STATE,
                              KVM_CAP_REINJECT_CONTROL};
    static const int lapic[] = {KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_IRQ_ROUTING, KVM_CAP_SIGNAL_MSI,
                                KVM_CAP_MP_STATE};
    switch (chips) {
    case ENGINE_CHIPS_ALL: return can(vm, all, ARRAY_LEN(all));
    case ENGINE_CHIPS_LAPIC: return can(vm, lapic, ARRAY_LEN(lapic));
    default: return true;
    }
}

static err_t make_all(struct engine_vm *vm, struct error *e)
{
    const struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return kvm_failed(e, errno, "make interrupt controllers");
    return ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0 ? kvm_failed(e, errno, "make an interval timer")
                                                    : OK;
}

static err_t make_lapics(struct engine_vm *vm, struct error *e)
{
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {CHIP_IOAPIC_PINS}};
    return ioctl(vm->fd, KVM_ENABLE_CAP, &split) < 0 ? kvm_failed(e, errno, "make local APICs")
                                                     : OK;
}

// vCPUs that wait in the kernel may look for work before they sleep.
static err_t set_polling(struct engine_vm *vm, struct error *e)
{
    uint32_t ns = vm->config.poll_ns;
    struct kvm_enable_cap poll = {.cap = KVM_CAP_HALT_POLL,
                                  .args = {ns == ENGINE_POLL_NEVER ? 0 : ns}};
    if (!ns || vm->chips == ENGINE_CHIPS_NONE)
        return OK; // the kernel's own setting, or vCPUs wait in the machine
    return ioctl(vm->fd, KVM_ENABLE_CAP, &poll) < 0
               ? kvm_failed(e, errno, "poll before a vCPU sleeps; leave halt-poll= away")
               : OK;
}

// All of them, because every access to one that the machine keeps costs a way out of the kernel.
err_t kvm_choose_chips(struct engine_vm *vm, struct error *e)
{
    bool best = vm->config.chips == ENGINE_CHIPS_BEST;
    vm->chips = best ? ENGINE_CHIPS_ALL : vm->config.chips;
    if (can_keep(vm, vm->chips))
        return set_polling(vm, e);
    vm->chips = ENGINE_CHIPS_NONE;
    return best ? OK
                : error_set(e, ERR_UNSUPPORTED,
                            "this kernel's KVM cannot keep these interrupt controllers; a newer "
                            "kernel may, and --engine kvm,irqchip=user does without");
}

err_t kvm_make_chips(struct engine_vm *vm, struct error *e)
{
    err_t err = OK;
    if (vm->chips_made)
        return OK;
    vm->chips_made = true;
    if (vm->chips == ENGINE_CHIPS_ALL)
        err = make_all(vm, e);
    else if (vm->chips == ENGINE_CHIPS_LAPIC)
        err = make_lapics(vm, e);
    return err || vm->chips == ENGINE_CHIPS_NONE ? err : kvm_set_routes(vm, e);
}

static enum engine_chips kept(const struct engine_vm *vm)
{
    return vm->chips;
}

// --- routes: what a global system interrupt (GSI) of KVM's reaches

// struct kvm_irq_routing with room.
struct routes {
    uint32_t nr, flags;
    struct kvm_irq_routing_entry entry[PIC_LINES + CHIP_IOAPIC_PINS + 1 + ENGINE_SIGNALS];
};
_Static_assert(offsetof(struct routes, entry) == offsetof(struct kvm_irq_routing, entries), "");

static void add_pin(struct routes *routes, unsigned gsi, unsigned chip, unsigned pin)
{
    routes->entry[routes->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

static void add_message(struct routes *routes, unsigned gsi, const struct message *m)
{
    routes->entry[routes->nr++] =
        (struct kvm_irq_routing_entry){.gsi = gsi,
                                       .type = KVM_IRQ_ROUTING_MSI,
                                       .u.msi = {.address_lo = (uint32_t)m->address,
                                                 .address_hi = (uint32_t)(m->address >> 32),
                                                 .data = m->data}};
}

err_t kvm_set_routes(struct engine_vm *vm, struct error *e)
{
    struct routes routes = {0};
    for (unsigned line = 0; line < PIC_LINES && vm->chips == ENGINE_CHIPS_ALL; line++)
        if (line != PIC_CASCADE)
            add_pin(&routes, line, line < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                    line & 7);
    if (vm->chips == ENGINE_CHIPS_ALL)
        add_pin(&routes, PIT_GSI, KVM_IRQCHIP_IOAPIC, PIT_PIN);
    for (unsigned pin = 0; pin < CHIP_IOAPIC_PINS; pin++) {
        if (vm->chips == ENGINE_CHIPS_ALL)
            add_pin(&routes, PIN_GSI + pin, KVM_IRQCHIP_IOAPIC, pin);
        else if (vm->awaited[pin].on)
            add_message(&routes, pin, &vm->awaited[pin]);
    }
    for (unsigned n = 0; n < vm->signals; n++)
        if (vm->signal[n].address)
            add_message(&routes, SIGNAL_GSI + n, &vm->signal[n]);
    return ioctl(vm->fd, KVM_SET_GSI_ROUTING, &routes) < 0
               ? kvm_failed(e, errno, "route interrupts")
               : OK;
}

// KVM keeps the levels, which begin low.
static void set_line(struct engine_vm *vm, unsigned gsi, bool level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level};
    if ((vm->lines >> gsi & 1) == level)
        return;
    vm->lines ^= BIT(gsi);
    if (ioctl(vm->fd, KVM_IRQ_LINE, &line) < 0)
        kvm_log_failed("drive an interrupt line");
}

static void pic_line(struct engine_vm *vm, unsigned line, bool level)
{
    if (line != PIC_CASCADE)
        set_line(vm, line, level);
}

static void ioapic_pin(struct engine_vm *vm, unsigned pin, bool level)
{
    set_line(vm, PIN_GSI + pin, level);
}

static bool message(struct engine_vm *vm, uint64_t address, uint32_t data)
{
    const struct kvm_msi msi = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) > 0;
}

// --- signals: an irqfd each, with a route that stays when the signal is off, so that masking a
// message, or pausing, costs no change of the routes

static err_t bind_signal(struct engine_vm *vm, unsigned n, int eventfd, bool on, struct error *e)
{
    const struct kvm_irqfd bind = {
        .fd = (uint32_t)eventfd, .gsi = SIGNAL_GSI + n, .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};
    return ioctl(vm->fd, KVM_IRQFD, &bind) < 0 ? kvm_failed(e, errno, "bind an interrupt") : OK;
}

// A message that KVM does not take leaves no route: others' must go in after it.
static err_t route_signal(struct engine_vm *vm, unsigned n, uint64_t address, uint32_t data,
                          struct error *e)
{
    struct message *m = &vm->signal[n];
    if (m->address == address && m->data == data)
        return OK;
    *m = (struct message){.address = address, .data = data, .on = m->on};
    if (vm->signals <= n)
        vm->signals = n + 1;
    err_t err = kvm_set_routes(vm, e);
    if (err)
        m->address = 0;
    return err;
}

static err_t set_signal(struct engine_vm *vm, unsigned n, int eventfd, uint64_t address,
                        uint32_t data, bool on, struct error *e)
{
    struct message *m = &vm->signal[n];
    err_t err = on ? route_signal(vm, n, address, data, e) : OK;
    bool bound = on && !err;
    if (m->on != bound && bind_signal(vm, n, eventfd, bound, e) != OK)
        return ERR_IO;
    m->on = bound;
    return err;
}

static void await_eoi(struct engine_vm *vm, unsigned pin, uint64_t address, uint32_t data, bool on)
{
    struct message *m = &vm->awaited[pin];
    struct error e = {0};
    if (m->on == on && (!on || (m->address == address && m->data == data)))
        return;
    *m = (struct message){.address = address, .data = data, .on = on};
    if (kvm_set_routes(vm, &e) != OK)
        log_line(LOG_ERROR, "%s", e.text);
}

// --- PIC

static void pic_to(const struct chip_pic *in, unsigned n, struct kvm_pic_state *out)
{
    uint8_t cascade = n == 0 ? 1u << PIC_CASCADE : 0; // KVM follows the slave itself
    *out = (struct kvm_pic_state){
        .last_irr = in->lines & ~cascade,
        .irr = (uint8_t)((in->latch & ~in->elcr) | (in->lines & in->elcr)) & ~cascade,
        .imr = in->step == PIC_DEAD ? 0xff : in->imr,
        .isr = in->isr,
        .priority_add = (in->lowest + 1) & 7,
        .irq_base = in->base,
        .read_reg_select = in->read_isr,
        .poll = in->poll,
        .special_mask = in->special_mask,
        .init_state = in->step == PIC_DEAD ? PIC_READY : in->step,
        .auto_eoi = in->auto_eoi,
        .rotate_on_auto_eoi = in->rotate_auto,
        .special_fully_nested_mode = in->special_nested,
        .init4 = in->icw1 & 1,
        .elcr = in->elcr,
        .elcr_mask = n == 0 ? 0xf8 : 0xde};
}

static void pic_from(const struct kvm_pic_state *in, struct chip_pic *out)
{
    *out = (struct chip_pic){.lines = in->last_irr,
                             .latch = in->irr,
                             .isr = in->isr,
                             .imr = in->imr,
                             .elcr = in->elcr,
                             .base = in->irq_base & 0xf8,
                             .lowest = (in->priority_add + 7) & 7,
                             .step = in->init_state & 3,
                             .icw1 = 0x10 | (in->init4 != 0),
                             .auto_eoi = in->auto_eoi != 0,
                             .rotate_auto = in->rotate_on_auto_eoi != 0,
                             .special_mask = in->special_mask != 0,
                             .special_nested = in->special_fully_nested_mode != 0,
                             .read_isr = in->read_reg_select != 0,
                             .poll = in->poll != 0};
}

// --- PIT. Where a count stands cannot be set: it begins anew.

#define PIT_NOT_PROGRAMMED 0xff // a mode: KVM's value before the first control word

enum { PIT_IDLE, PIT_LOW, PIT_HIGH, PIT_WORD_LOW, PIT_WORD_HIGH }; // where a two-byte access stands

static uint8_t half(unsigned access, bool second)
{
    return access < PIT_WORD_LOW ? (uint8_t)access : second ? PIT_WORD_HIGH : PIT_WORD_LOW;
}

static void channel_to(const struct chip_pit_channel *in, struct kvm_pit_channel_state *out)
{
    unsigned access = in->control >> 4 & 3, mode = in->control >> 1 & 7;
    *out = (struct kvm_pit_channel_state){
        .count = in->reload ? in->reload : 0x10000,
        .latched_count = in->latch,
        .count_latched = in->latched == 0                             ? PIT_IDLE
                         : in->latched == 1 && access == PIT_WORD_LOW ? PIT_HIGH
                                                                      : (uint8_t)access,
        .status_latched = in->status_latched,
        .status = in->status,
        .read_state = half(access, in->read_high),
        .write_state = half(access, in->write_high),
        .write_latch = in->low,
        .rw_mode = (uint8_t)access,
        .mode = in->reload ? (uint8_t)(mode > 5 ? mode - 4 : mode) : PIT_NOT_PROGRAMMED,
        .bcd = in->control & 1,
        .gate = in->gate};
}

static void channel_from(const struct kvm_pit_channel_state *in, struct chip_pit_channel *out)
{
    bool programmed = in->mode <= 5;
    bool word = in->rw_mode == PIT_WORD_LOW;
    *out = (struct chip_pit_channel){
        .reload = !programmed                              ? 0
                  : in->count >= 1 && in->count <= 0x10000 ? in->count
                                                           : 0x10000,
        .latch = in->latched_count,
        .latched = in->count_latched == PIT_IDLE       ? 0
                   : in->count_latched == PIT_WORD_LOW ? 2
                                                       : 1,
        .status = in->status,
        .status_latched = in->status_latched != 0,
        .control = programmed
                       ? (uint8_t)((in->rw_mode & 3) << 4 | (in->mode & 7) << 1 | (in->bcd & 1))
                       : 0,
        .low = in->write_latch,
        .write_high = in->write_state == PIT_WORD_HIGH,
        .read_high = in->read_state == PIT_WORD_HIGH || (word && in->count_latched == PIT_HIGH),
        .gate = in->gate != 0};
}

static err_t set_pit(struct engine_vm *vm, const struct chip_board *in, struct error *e)
{
    struct kvm_pit_state2 pit = {.flags = (in->pit_muted ? KVM_PIT_FLAGS_HPET_LEGACY : 0) |
                                          (in->pit.port61 & 2 ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0)};
    for (unsigned n = 0; n < CHIP_PIT_CHANNELS; n++)
        channel_to(&in->pit.channel[n], &pit.channels[n]);
    return ioctl(vm->fd, KVM_SET_PIT2, &pit) < 0 ? kvm_failed(e, errno, "set the interval timer")
                                                 : OK;
}

static err_t get_pit(struct engine_vm *vm, struct chip_board *out, struct error *e)
{
    struct kvm_pit_state2 pit = {0};
    if (ioctl(vm->fd, KVM_GET_PIT2, &pit) < 0)
        return kvm_failed(e, errno, "read the interval timer");
    for (unsigned n = 0; n < CHIP_PIT_CHANNELS; n++)
        channel_from(&pit.channels[n], &out->pit.channel[n]);
    out->pit.port61 = (uint8_t)((pit.channels[2].gate != 0) |
                                (pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0));
    out->pit_muted = pit.flags & KVM_PIT_FLAGS_HPET_LEGACY;
    return OK;
}

static void mute_pit(struct engine_vm *vm, bool muted)
{
    struct kvm_pit_state2 pit = {0};
    if (ioctl(vm->fd, KVM_GET_PIT2, &pit) < 0)
        return kvm_log_failed("read the interval timer");
    pit.flags = (uint32_t)(pit.flags & ~KVM_PIT_FLAGS_HPET_LEGACY) |
                (muted ? KVM_PIT_FLAGS_HPET_LEGACY : 0);
    if (ioctl(vm->fd, KVM_SET_PIT2, &pit) < 0)
        kvm_log_failed("set the interval timer");
}

// Ticks that a guest missed are not made up, as the machine's own PIT does not. The kernel waits
// for all its CPUs twice here (10 ms and more), during which only accesses to the PIT wait: not
// while a VM starts.
static void settle(struct engine_vm *vm)
{
    const struct kvm_reinject_control none = {.pit_reinject = 0};
    if (vm->settled || vm->chips != ENGINE_CHIPS_ALL)
        return;
    vm->settled = true;
    if (ioctl(vm->fd, KVM_REINJECT_CONTROL, &none) < 0)
        kvm_log_failed("set up the interval timer");
}

// --- the board's chips

static err_t set_chip(struct engine_vm *vm, const struct kvm_irqchip *chip, struct error *e)
{
    return ioctl(vm->fd, KVM_SET_IRQCHIP, chip) < 0
               ? kvm_failed(e, errno, "set an interrupt controller")
               : OK;
}

static err_t get_chip(struct engine_vm *vm, unsigned which, struct kvm_irqchip *chip,
                      struct error *e)
{
    *chip = (struct kvm_irqchip){.chip_id = which};
    return ioctl(vm->fd, KVM_GET_IRQCHIP, chip) < 0
               ? kvm_failed(e, errno, "read an interrupt controller")
               : OK;
}

static bool is_level(uint64_t entry)
{
    return entry & BIT(15);
}

// An interrupt that an edge has raised is on its way already: only level-triggered pins ask again.
static err_t set_ioapic(struct engine_vm *vm, const struct chip_ioapic *in, bool masked,
                        struct error *e)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    struct kvm_ioapic_state *io = &chip.chip.ioapic;
    io->base_address = 0xfec00000;
    io->ioregsel = in->index;
    io->id = in->id;
    for (unsigned pin = 0; pin < CHIP_IOAPIC_PINS; pin++) {
        io->redirtbl[pin].bits = masked ? BIT(16) : in->entry[pin];
        if (!masked && is_level(in->entry[pin]))
            io->irr |= in->lines & 1u << pin;
    }
    return set_chip(vm, &chip, e);
}

static err_t set_pic(struct engine_vm *vm, const struct chip_board *in, unsigned n, struct error *e)
{
    struct kvm_irqchip chip = {.chip_id = n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER};
    pic_to(&in->pic[n], n, &chip.chip.pic);
    return set_chip(vm, &chip, e);
}

// The lines go in first, with every pin masked, so that one that has been up for long is no edge.
static err_t set_board(struct engine_vm *vm, const struct chip_board *in, struct error *e)
{
    err_t err = set_ioapic(vm, &in->ioapic, true, e);
    for (unsigned line = 0; !err && line < PIC_LINES; line++)
        pic_line(vm, line, in->pic[line / 8].lines >> line % 8 & 1);
    for (unsigned pin = 0; !err && pin < CHIP_IOAPIC_PINS; pin++)
        ioapic_pin(vm, pin, in->ioapic.lines >> pin & 1);
    if (!err)
        err = set_pic(vm, in, 1, e);
    if (!err)
        err = set_pic(vm, in, 0, e);
    if (!err)
        err = set_ioapic(vm, &in->ioapic, false, e);
    return err ? err : set_pit(vm, in, e);
}

static err_t get_board(struct engine_vm *vm, struct chip_board *out, struct error *e)
{
    struct kvm_irqchip chip;
    *out = (struct chip_board){0};
    for (unsigned n = 0; n < 2; n++) {
        err_t err = get_chip(vm, n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, &chip, e);
        if (err)
            return err;
        pic_from(&chip.chip.pic, &out->pic[n]);
    }
    err_t err = get_chip(vm, KVM_IRQCHIP_IOAPIC, &chip, e);
    if (err)
        return err;
    out->ioapic.index = (uint8_t)chip.chip.ioapic.ioregsel;
    out->ioapic.id = (uint8_t)chip.chip.ioapic.id;
    for (unsigned pin = 0; pin < CHIP_IOAPIC_PINS; pin++)
        out->ioapic.entry[pin] = chip.chip.ioapic.redirtbl[pin].bits;
    return get_pit(vm, out, e);
}

// --- local APICs

static err_t get_lapic(struct engine_vcpu *v, struct chip_lapic *out, struct error *e)
{
    struct kvm_lapic_state state;
    if (ioctl(v->fd, KVM_GET_LAPIC, &state) < 0)
        return kvm_failed(e, errno, "read a local APIC");
    for (unsigned i = 0; i < CHIP_LAPIC_REGISTERS; i++)
        memcpy(&out->reg[i], state.regs + 16 * i, 4);
    out->base = kvm_get_msr(v, MSR_APIC_BASE);
    out->deadline = kvm_get_msr(v, MSR_TSC_DEADLINE);
    return OK;
}

// The base goes first: it says how the registers are to be read.
static err_t set_lapic(struct engine_vcpu *v, const struct chip_lapic *in, struct error *e)
{
    struct kvm_lapic_state state = {0};
    for (unsigned i = 0; i < CHIP_LAPIC_REGISTERS; i++)
        memcpy(state.regs + 16 * i, &in->reg[i], 4);
    kvm_set_msr(v, MSR_TSC_DEADLINE, 0);
    if (!kvm_set_msr(v, MSR_APIC_BASE, in->base))
        return error_set(e, ERR_UNSUPPORTED, "KVM does not take %#llx for the APIC base",
                         (unsigned long long)in->base);
    v->deadline = in->deadline;
    return ioctl(v->fd, KVM_SET_LAPIC, &state) < 0 ? kvm_failed(e, errno, "set a local APIC") : OK;
}

void kvm_rearm_deadline(struct engine_vcpu *v)
{
    if (v->vm->chips == ENGINE_CHIPS_NONE)
        return;
    uint64_t deadline = v->deadline ? v->deadline : kvm_get_msr(v, MSR_TSC_DEADLINE);
    v->deadline = 0;
    if (deadline)
        kvm_set_msr(v, MSR_TSC_DEADLINE, deadline);
}

// --- doorbells

err_t kvm_doorbell(struct engine_vm *vm, gpa_t at, int eventfd, bool on, struct error *e)
{
    struct kvm_ioeventfd bell = {
        .addr = at, .fd = eventfd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};
    return ioctl(vm->fd, KVM_IOEVENTFD, &bell) < 0 ? kvm_failed(e, errno, "watch a doorbell") : OK;
}

const struct engine_irqchip kvm_irqchip = {.kept = kept,
                                           .get_lapic = get_lapic,
                                           .set_lapic = set_lapic,
                                           .message = message,
                                           .signal = set_signal,
                                           .await_eoi = await_eoi,
                                           .get_board = get_board,
                                           .set_board = set_board,
                                           .pic_line = pic_line,
                                           .ioapic_pin = ioapic_pin,
                                           .mute_pit = mute_pit,
                                           .settle = settle};
