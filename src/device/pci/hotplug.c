// Hot-plug of PCI slots through ACPI, as guests' operating systems drive it: a general purpose
// event (PC_GPE_HOTPLUG) runs a method of the DSDT (firmware/acpi_dsdt.c), which reads here what
// has changed and notifies the slots; a slot's _EJ0 writes here when the guest has let go of its
// card.
//
// Specification: ACPI 6.4, 5.6.6 (device object notifications), 6.3.3 (_EJx); the registers are
// this board's own, since ACPI leaves them to it. Not modelled: native PCI Express hot-plug, SHPC.
#include "device/pci/hotplug.h"

#include "base/bits.h"
#include "device/platform.h"

struct hotplug {
    struct device dev;
    uint32_t arrived, leaving, ejected; // slots
    uint8_t pad[4];
};

static const struct state_field fields[] = {
    SKIP(struct hotplug, dev, "wiring, rebuilt from configuration"),
    FIELD(struct hotplug, arrived),
    FIELD(struct hotplug, leaving),
    FIELD(struct hotplug, ejected),
    SKIP(struct hotplug, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc state = STATE_DESC("pci-hotplug", struct hotplug, 1, fields);

static struct hotplug *hotplug_of(struct device *dev)
{
    return (struct hotplug *)dev;
}

static uint64_t read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct hotplug *h = hotplug_of(dev);
    const uint32_t value[HOTPLUG_BYTES / 4] = {h->arrived, h->leaving};
    return (uint64_t)value[offset / 4] >> 8 * (offset % 4) & size_mask(size);
}

static void write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct hotplug *h = hotplug_of(dev);
    uint32_t slots = (uint32_t)((value & size_mask(size)) << 8 * (offset % 4));
    switch (offset / 4 * 4) {
    case HOTPLUG_ARRIVED: h->arrived &= ~slots; break;
    case HOTPLUG_LEAVING: h->leaving &= ~slots; break;
    case HOTPLUG_EJECT:
        h->ejected |= slots;
        if (slots)
            dev->env->request(dev, MACHINE_EJECT, 0);
        break;
    }
}

static const struct io_ops ops = {read, write, 1, 4};

void pci_hotplug_tell(struct device *dev, unsigned slot, bool arrived)
{
    struct hotplug *h = hotplug_of(dev);
    if (arrived)
        h->arrived |= 1u << slot;
    else
        h->leaving |= 1u << slot;
}

uint32_t pci_hotplug_take(struct device *dev)
{
    struct hotplug *h = hotplug_of(dev);
    uint32_t slots = h->ejected;
    h->ejected = 0;
    return slots;
}

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_HOTPLUG, HOTPLUG_BYTES, &ops);
    return err ? error_set(e, err, "the ports of PCI hot-plug are taken") : OK;
}

static void reset(struct device *dev)
{
    struct hotplug *h = hotplug_of(dev);
    h->arrived = h->leaving = h->ejected = 0;
}

static err_t loaded(struct device *dev, struct error *e)
{
    if (hotplug_of(dev)->ejected)
        dev->env->request(dev, MACHINE_EJECT, 0);
    return OK;
}

const struct device_type pci_hotplug_type = {.name = "pci-hotplug",
                                             .size = sizeof(struct hotplug),
                                             .state = &state,
                                             .init = init,
                                             .reset = reset,
                                             .loaded = loaded};
