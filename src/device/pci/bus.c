// PCI bus 0: which function sits where, access to their configuration space, and the resource
// assignment that firmware would otherwise do.
//
// Specification: PCI 3.0, 3.2.2.3 (device selection: an absent function reads as all ones).
// Not modelled: bridges to other buses.
#include "base/bits.h"
#include "device/pci/q35.h"
#include "device/platform.h"

void pci_bus_init(struct pci_bus *bus, const struct pci_bus_ops *ops)
{
    *bus = (struct pci_bus){.ops = ops};
}

err_t pci_bus_plug(struct pci_bus *bus, struct pci_function *f, unsigned devfn, struct error *e)
{
    struct pci_function *first = devfn < 256 ? bus->functions[devfn & ~7u] : NULL;

    if (devfn >= 256)
        return error_set(e, ERR_INVALID, "a PCI bus has 32 slots of 8 functions");
    if (bus->functions[devfn])
        return error_set(e, ERR_EXISTS, "PCI slot %u.%u is taken by %s", devfn / 8, devfn % 8,
                         bus->functions[devfn]->dev.id);
    if (devfn % 8 && !first)
        return error_set(e, ERR_INVALID, "PCI slot %u has no function 0", devfn / 8);
    if (devfn % 8)
        pci_set_register(first, PCI_HEADER_TYPE, 1, PCI_HEADER_MULTIFUNCTION, 0);
    f->devfn = (uint8_t)devfn;
    bus->functions[devfn] = f;
    return OK;
}

void pci_bus_unplug(struct pci_bus *bus, const struct pci_function *f)
{
    bus->functions[f->devfn] = NULL;
}

static struct pci_function *enter(struct pci_bus *bus, unsigned bdf)
{
    struct pci_function *f = bdf < 256 ? bus->functions[bdf] : NULL;

    if (f && bus->ops)
        bus->ops->lock(&f->dev);
    return f;
}

static void leave(struct pci_bus *bus, struct pci_function *f)
{
    if (bus->ops)
        bus->ops->unlock(&f->dev);
}

uint32_t pci_bus_read(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size)
{
    struct pci_function *f = enter(bus, bdf);
    uint32_t value;

    if (!f)
        return (uint32_t)size_mask(size);
    value = pci_config_read(f, offset, size);
    leave(bus, f);
    return value;
}

void pci_bus_write(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size,
                   uint32_t value)
{
    struct pci_function *f = enter(bus, bdf);

    if (!f)
        return;
    pci_config_write(f, offset, size, value);
    leave(bus, f);
}

// --- Resource assignment ---

struct window {
    uint64_t next;
    uint64_t end;
};

static err_t take(struct window *w, uint64_t size, uint64_t *at)
{
    *at = align_up(w->next, size);
    if (*at < w->next || *at > w->end || size > w->end - *at)
        return ERR_NO_MEMORY;
    w->next = *at + size;
    return OK;
}

static err_t assign_bars(struct pci_bus *bus, struct pci_function *f, struct window *windows,
                         struct error *e)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        const struct pci_bar *bar = &f->bars[i];
        unsigned offset = PCI_BAR0 + 4 * i;
        uint64_t at;
        if (bar->kind == PCI_BAR_NONE)
            continue;
        if (take(&windows[bar->kind], bar->size, &at) != OK)
            return error_set(e, ERR_NO_MEMORY, "%s: no room for its BAR %u", f->dev.id, i);
        pci_bus_write(bus, f->devfn, offset, 4, (uint32_t)at);
        if (bar->kind == PCI_BAR_MEM64)
            pci_bus_write(bus, f->devfn, offset + 4, 4, (uint32_t)(at >> 32));
    }
    return OK;
}

// PIRQ lines share the two interrupts that nothing else on the board uses.
static unsigned pirq_irq(unsigned pirq)
{
    return pirq & 1 ? 11 : 10;
}

static void assign_interrupt(struct pci_bus *bus, struct pci_function *f)
{
    unsigned pin = f->config[PCI_INTERRUPT_PIN];

    if (pin)
        pci_bus_write(bus, f->devfn, PCI_INTERRUPT_LINE, 1,
                      pirq_irq(PC_PIRQ(f->devfn / 8u, pin - 1)));
}

// Memory-mapped configuration at PC_ECAM, RAM from 0xc0000 to 0xfffff.
static void open_memory(struct pci_bus *bus)
{
    unsigned host = PCI_DEVFN(PC_SLOT_HOST, 0);

    pci_bus_write(bus, host, Q35_PCIEXBAR, 4, (uint32_t)PC_ECAM | 1);
    pci_bus_write(bus, host, Q35_PAM0, 4, 0x33333330);
    pci_bus_write(bus, host, Q35_PAM0 + 4, 2, 0x3333);
    pci_bus_write(bus, host, Q35_PAM0 + 6, 1, 0x33);
}

err_t pci_assign_resources(struct pci_bus *bus, struct error *e)
{
    struct window windows[] = {
        [PCI_BAR_IO] = {PC_IO_BARS, PC_IO_BARS_END},
        [PCI_BAR_MEM32] = {PC_MMIO32, PC_ECAM},
        [PCI_BAR_MEM64] = {PC_MMIO64, PC_MMIO64 + PC_MMIO64_SIZE},
    };

    open_memory(bus);
    for (unsigned pirq = 0; pirq < 8; pirq++)
        pci_bus_write(bus, PCI_DEVFN(PC_SLOT_LPC, 0), ICH9_PIRQ_ROUTE(pirq), 1, pirq_irq(pirq));
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        struct pci_function *f = bus->functions[devfn];
        err_t err;
        if (!f)
            continue;
        err = assign_bars(bus, f, windows, e);
        if (err != OK)
            return err;
        assign_interrupt(bus, f);
    }
    return OK;
}

static bool high_bar(struct pci_bus *bus, const struct pci_function *f, unsigned i, uint64_t *at)
{
    unsigned offset = PCI_BAR0 + 4 * i;

    if (f->bars[i].kind != PCI_BAR_MEM64)
        return false;
    *at = (uint64_t)pci_bus_read(bus, f->devfn, offset + 4, 4) << 32 |
          (pci_bus_read(bus, f->devfn, offset, 4) & ~0xfu);
    return *at >= PC_HIGH_RAM && *at + f->bars[i].size > *at;
}

bool pci_high_bars(struct pci_bus *bus, uint64_t *from, uint64_t *to)
{
    uint64_t at;

    *from = UINT64_MAX;
    *to = 0;
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        const struct pci_function *f = bus->functions[devfn];
        for (unsigned i = 0; f && i < PCI_BARS; i++) {
            if (!high_bar(bus, f, i, &at))
                continue;
            *from = min_u64(*from, at);
            *to = max_u64(*to, at + f->bars[i].size);
        }
    }
    return *to != 0;
}
