// The AHCI host bus adapter: its PCI function, global registers and interrupts.
//
// Specification: AHCI 1.3.1, chapters 2 and 3; 5.3.2 (HBA reset), 10.6 (interrupts); Intel ICH9
// datasheet for the ids. Not modelled: IDE mode (AHCI is always on), port multipliers, command
// completion coalescing, enclosure management, staggered spin-up, link power management, hot plug
// of drives (discs can be changed).
#include "device/storage/ahci.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "device/storage/ahci_impl.h"

enum {
    BAR_ABAR = 5,
    BAR_BYTES = 4096,
    PORTS = 0x100, // registers of the first port
    PORT_BYTES = 0x80,

    HBA_CAP = 0x00,
    HBA_GHC = 0x04,
    HBA_IS = 0x08,
    HBA_PI = 0x0c,
    HBA_VS = 0x10,
    HBA_CAP2 = 0x24,

    GHC_HR = 1,
    GHC_IE = 2,
    VERSION = 0x00010301,
};
#define GHC_AE 0x80000000u

// 64-bit addresses, queued commands, command list override, AHCI only, 6 Gbit/s, 32 slots.
#define CAP 0xc1340000u

static const struct state_field ahci_fields[] = {
    SUB(struct ahci, pci, pci_function_state),
    SKIP(struct ahci, enter, "wiring, rebuilt from configuration"),
    SUB_ARRAY(struct ahci, ports, ahci_port_state),
    SKIP(struct ahci, serials, "configuration"),
    SKIP(struct ahci, drives, "configuration"),
    FIELD(struct ahci, ghc),
    FIELD(struct ahci, is),
    SKIP(struct ahci, pad, "padding"),
    FIELDS_END,
};
static const struct state_desc ahci_state = STATE_DESC("ahci", struct ahci, 1, ahci_fields);

static struct ahci *ahci_of(struct device *dev)
{
    return container_of(pci_function_of(dev), struct ahci, pci);
}

static uint32_t implemented(const struct ahci *hba)
{
    return (uint32_t)BITS(hba->drives - 1, 0);
}

// --- Interrupts ---

static uint32_t port_pending(struct ahci *hba)
{
    uint32_t ports = 0;

    for (unsigned i = 0; i < hba->drives; i++)
        if (port_read(&hba->ports[i], 0x10) & hba->ports[i].ie)
            ports |= 1u << i;
    return ports;
}

// A message goes out for every port that begins to wait (10.6.2); the pin follows IS.
static void signal(struct ahci *hba, uint32_t seen)
{
    uint32_t pending = hba->ghc & GHC_IE ? hba->is : 0;

    if (pending & ~seen)
        pci_send_msi(&hba->pci);
    pci_set_intx(&hba->pci, pending);
}

// --- Reset ---

// Ends once every port has (what is in flight cannot be called back).
static void continue_reset(struct ahci *hba)
{
    for (unsigned i = 0; i < hba->drives; i++)
        if (hba->ports[i].resetting)
            return;
    hba->ghc = GHC_AE;
    hba->is = 0;
}

static void start_reset(struct ahci *hba)
{
    hba->ghc = GHC_AE | GHC_HR;
    for (unsigned i = 0; i < hba->drives; i++) {
        struct ahci_port *port = &hba->ports[i];
        port->ie = port->is = port->cmd = port->sctl = 0;
        port_reset_link(port);
    }
    continue_reset(hba);
}

void ahci_update(struct ahci *hba)
{
    uint32_t seen = hba->ghc & GHC_IE ? hba->is : 0;

    if (hba->ghc & GHC_HR)
        continue_reset(hba);
    hba->is |= port_pending(hba);
    signal(hba, seen);
}

// --- Registers ---

static uint32_t hba_read(struct ahci *hba, unsigned offset)
{
    switch (offset) {
    case HBA_CAP: return CAP | (AHCI_SLOTS - 1) << 8 | (hba->drives - 1);
    case HBA_GHC: return hba->ghc;
    case HBA_IS: return hba->is;
    case HBA_PI: return implemented(hba);
    case HBA_VS: return VERSION;
    default: return 0;
    }
}

static void hba_write(struct ahci *hba, unsigned offset, uint32_t value)
{
    uint32_t seen = 0;

    if (offset == HBA_GHC) {
        seen = hba->ghc & GHC_IE ? hba->is : 0;
        hba->ghc = GHC_AE | (hba->ghc & GHC_HR) | (value & GHC_IE);
        if (value & GHC_HR)
            start_reset(hba);
    } else if (offset == HBA_IS) {
        hba->is &= ~value;
    } else {
        return;
    }
    hba->is |= port_pending(hba);
    signal(hba, seen);
}

static struct ahci_port *port_at(struct ahci *hba, uint64_t offset)
{
    return offset >= PORTS && offset < PORTS + (uint64_t)PORT_BYTES * hba->drives
               ? &hba->ports[(offset - PORTS) / PORT_BYTES]
               : NULL;
}

static uint64_t abar_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct ahci *hba = ahci_of(dev);
    struct ahci_port *port = port_at(hba, offset);

    if (offset % 4)
        return 0;
    return port ? port_read(port, offset % PORT_BYTES) : hba_read(hba, (unsigned)offset);
}

static void abar_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct ahci *hba = ahci_of(dev);
    struct ahci_port *port = port_at(hba, offset);

    if (offset % 4)
        return;
    if (!port) {
        hba_write(hba, (unsigned)offset, (uint32_t)value);
        return;
    }
    port_write(port, offset % PORT_BYTES, (uint32_t)value);
    ahci_update(hba);
}

static const struct io_ops abar_ops = {abar_read, abar_write, .min_size = 4, .max_size = 4};

// --- Life ---

static void init_function(struct ahci *hba)
{
    static const struct pci_id id = {.vendor = 0x8086,
                                     .device = 0x2922,
                                     .subsystem_vendor = 0x1af4,
                                     .subsystem = 0x1100,
                                     .class_code = 0x010601,
                                     .revision = 2,
                                     .pin = 1};
    unsigned sata;

    pci_init(&hba->pci, &id, NULL);
    pci_add_bar(&hba->pci, BAR_ABAR, PCI_BAR_MEM32, BAR_BYTES, &abar_ops);
    pci_add_msi(&hba->pci);
    sata = pci_add_capability(&hba->pci, 0x12, 8); // SATA capability 1.0, no index and data pair
    pci_set_register(&hba->pci, sata + 2, 2, 0x10, 0);
}

static err_t init_port(struct ahci *hba, unsigned i, const struct ahci_drive_config *config,
                       struct error *e)
{
    struct ahci_port *port = &hba->ports[i];

    if (!config->cdrom && !config->block)
        return error_set(e, ERR_INVALID, "drive %u is a disk without an image", i);
    port->hba = hba;
    port->block = config->block;
    port->cdrom = config->cdrom;
    port->serial = hba->serials[i];
    memcpy(port->serial, config->serial, strnlen(config->serial, AHCI_SERIAL));
    port->slots = calloc(AHCI_SLOTS, sizeof *port->slots);
    if (!port->slots)
        return error_set(e, ERR_NO_MEMORY, "no memory for the commands of drive %u", i);
    for (unsigned n = 0; n < AHCI_SLOTS; n++)
        port->slots[n].port = port;
    return OK;
}

static err_t ahci_init(struct device *dev, const void *config, struct error *e)
{
    const struct ahci_config *c = config;
    struct ahci *hba = ahci_of(dev);

    if (c->drives < 1 || c->drives > AHCI_DRIVES_MAX)
        return error_set(e, ERR_INVALID, "an AHCI adapter has 1 to %d drives", AHCI_DRIVES_MAX);
    hba->drives = c->drives;
    hba->enter = c->enter;
    init_function(hba);
    for (unsigned i = 0; i < c->drives; i++) {
        err_t err = init_port(hba, i, &c->drive[i], e);
        if (err != OK)
            return err;
    }
    return OK;
}

static void ahci_reset(struct device *dev)
{
    struct ahci *hba = ahci_of(dev);

    hba->ghc = GHC_AE;
    hba->is = 0;
    for (unsigned i = 0; i < hba->drives; i++)
        port_power_on(&hba->ports[i]);
    pci_reset(&hba->pci);
}

static err_t ahci_loaded(struct device *dev, struct error *e)
{
    struct ahci *hba = ahci_of(dev);

    if (!(hba->ghc & GHC_AE) || hba->ghc & ~(GHC_AE | GHC_IE) || hba->is & ~implemented(hba))
        return error_set(e, ERR_CORRUPT, "the AHCI adapter's registers have impossible values");
    for (unsigned i = 0; i < hba->drives; i++) {
        err_t err = port_loaded(&hba->ports[i], e);
        if (err != OK)
            return err;
    }
    return pci_loaded(&hba->pci, e);
}

static void ahci_fini(struct device *dev)
{
    struct ahci *hba = ahci_of(dev);

    pci_fini(&hba->pci);
    for (unsigned i = 0; i < AHCI_DRIVES_MAX; i++) {
        free(hba->ports[i].slots);
        hba->ports[i].slots = NULL;
    }
}

bool ahci_set_disc(struct device *dev, unsigned drive, struct block *block)
{
    struct ahci *hba = ahci_of(dev);
    struct ahci_port *port = drive < hba->drives ? &hba->ports[drive] : NULL;

    if (!port || !port->cdrom || (port->drive.tray_locked && port->block))
        return false;
    port->block = block;
    port->drive.tray_open = 0;
    port->drive.attention = CD_CHANGED;
    port->drive.media_event = block ? 2 : 3; // new media; media removal
    return true;
}

const struct device_type ahci_type = {
    .name = "ahci",
    .size = sizeof(struct ahci),
    .lines = 1,
    .state = &ahci_state,
    .init = ahci_init,
    .reset = ahci_reset,
    .loaded = ahci_loaded,
    .fini = ahci_fini,
};
